"""The same decoding by Hugging Face transformers and by us, in turns, on one GPU: a JSON object a line.

    compare_transformers.py --bench GPU_MODEL_BENCH [--sizes 125m,1.3b] [--rounds 3] [--seconds 1] [--device cuda] [--smoke]

An OPT of random f16 weights, made on the device, decodes one token a step for one sequence, greedily, from 128 tokens of
context on; the figure is the median over rounds of a round's median step. A round is theirs and then ours, which is
gpu_model_bench in a process of its own. Eager PyTorch as transformers' OPTForCausalLM; where transformers is missing, the
same in a few lines of plain PyTorch, and the figure's name says so. Ends with 77 where torch is missing or has no GPU.
"""

import argparse
import json
import math
import statistics
import subprocess
import sys
import time

# name: layers, hidden size, heads
SIZES = {"125m": (12, 768, 12), "1.3b": (24, 2048, 32), "6.7b": (32, 4096, 32), "13b": (40, 5120, 40),
         "smoke": (2, 256, 16)}
CONTEXT, LAST_CONTEXT, NOT_RUN = 128, 256, 77


def not_run(why):
    print(why)
    sys.exit(NOT_RUN)


try:
    import torch
except ImportError:
    torch = None
try:
    import transformers
except ImportError:
    transformers = None


class Transformers:
    """OPTForCausalLM with its own cache."""

    def __init__(self, layers, hidden, heads, vocab):
        config = transformers.OPTConfig(num_hidden_layers=layers, hidden_size=hidden, num_attention_heads=heads,
                                        ffn_dim=4 * hidden, word_embed_proj_dim=hidden, vocab_size=vocab, dropout=0.0)
        self.model = transformers.OPTForCausalLM(config).eval()
        self.name = f"transformers {transformers.__version__}"

    def start(self, tokens):
        self.length = tokens.shape[1]
        return self._run(tokens, None)

    def step(self, token):
        self.length += 1
        return self._run(token, self.past)

    def _run(self, tokens, past):
        mask = torch.ones(1, self.length, dtype=torch.long, device=tokens.device)
        out = self.model(input_ids=tokens, attention_mask=mask, past_key_values=past, use_cache=True)
        self.past = out.past_key_values
        return out.logits[:, -1].argmax(-1, keepdim=True)


class PlainTorch:
    """What OPTForCausalLM computes, eagerly, with keys and values in place."""

    def __init__(self, layers, hidden, heads, vocab):
        make = lambda *shape: torch.randn(*shape) * 0.02
        self.heads = heads
        self.embed, self.positions = make(vocab, hidden), make(LAST_CONTEXT + 2, hidden)
        shapes = {"qkv": (3 * hidden, hidden), "out": (hidden, hidden), "fc1": (4 * hidden, hidden), "fc2": (hidden, 4 * hidden)}
        self.layers = [{name: (make(*shape), make(shape[0])) for name, shape in shapes.items()} for _ in range(layers)]
        self.norm = (make(hidden), make(hidden))
        size = (layers, 2, 1, heads, LAST_CONTEXT, hidden // heads)
        self.cache, self.name = torch.zeros(*size), "plain torch"

    def start(self, tokens):
        self.length = 0
        return self.step(tokens)

    def step(self, tokens):
        functional = torch.nn.functional
        begin, self.length = self.length, self.length + tokens.shape[1]
        count = self.length - begin
        x = self.embed[tokens] + self.positions[begin + 2:self.length + 2]
        norm = lambda v: functional.layer_norm(v, v.shape[-1:], *self.norm)
        future = torch.ones(count, self.length, dtype=torch.bool, device=x.device).triu(begin + 1)
        for layer, cache in zip(self.layers, self.cache):
            q, k, v = functional.linear(norm(x), *layer["qkv"]).view(1, count, 3, self.heads, -1).permute(2, 0, 3, 1, 4)
            cache[0, :, :, begin:self.length], cache[1, :, :, begin:self.length] = k, v
            scores = q @ cache[0, :, :, :self.length].transpose(-1, -2) / math.sqrt(q.shape[-1])
            weights = scores.masked_fill(future, -math.inf).softmax(-1, dtype=torch.float32).to(x.dtype)
            attended = (weights @ cache[1, :, :, :self.length]).transpose(1, 2).reshape(1, count, -1)
            x = x + functional.linear(attended, *layer["out"])
            x = x + functional.linear(functional.linear(norm(x), *layer["fc1"]).relu(), *layer["fc2"])
        return functional.linear(norm(x[:, -1]), self.embed).argmax(-1, keepdim=True)


def median_step(model, device, seconds):
    """Seconds of one decoding step, the result on the host."""
    wait = torch.cuda.synchronize if device == "cuda" else lambda: None
    tokens = torch.arange(10, 10 + CONTEXT, device=device).view(1, -1)
    token, times = model.start(tokens), []
    wait()
    for warm_up in (True, False):
        begin = time.perf_counter()
        while time.perf_counter() - begin < (min(seconds, 0.3) if warm_up else seconds) or (not warm_up and len(times) < 5):
            if model.length + 1 == LAST_CONTEXT:
                token = model.start(tokens)
                wait()
            before = time.perf_counter()
            token = model.step(token)
            int(token)  # as ours, which hands out every token
            if not warm_up:
                times.append(time.perf_counter() - before)
    return statistics.median(times)


def ours(bench, size, seconds, smoke):
    command = [bench, "--sizes", size, "--batches", "1", "--prompts", "", "--seconds", str(seconds), *(["--smoke"] if smoke else [])]
    ended = subprocess.run(command, capture_output=True, text=True)
    for line in ended.stdout.splitlines():
        figure = json.loads(line)
        if "us" in figure:
            return figure["us"] * 1e-6
    sys.exit(f"{' '.join(command)} measured nothing: {ended.stdout}{ended.stderr}")


def figure(name, seconds, achieved, unit):
    print(json.dumps({"name": name, "us": seconds * 1e6, "achieved": achieved, "unit": unit}), flush=True)


def compare(size, options):
    layers, hidden, heads = SIZES[size]
    kind = Transformers if transformers is not None else PlainTorch
    torch.set_default_dtype(torch.float16)
    with torch.inference_mode(), torch.device(options.device):
        model = kind(layers, hidden, heads, vocab=512 if options.smoke else 50272)
        rounds = [(median_step(model, options.device, options.seconds), ours(options.bench, size, options.seconds, options.smoke))
                  for _ in range(options.rounds)]
        their_time, our_time = (statistics.median(times) for times in zip(*rounds))
        figure(f"{size} decode, batch 1: {model.name}, torch {torch.__version__}, eager", their_time, 1 / their_time, "tokens/s")
        figure(f"{size} decode, batch 1: ours beside it", our_time, 1 / our_time, "tokens/s")
        against = "transformers" if kind is Transformers else "plain torch"
        figure(f"{size} decode, batch 1: against {against}", our_time, statistics.median(t / o for t, o in rounds), "times as fast")
    del model
    if options.device == "cuda":
        torch.cuda.empty_cache()


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--bench", required=True)
    parser.add_argument("--sizes", default="")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=1.0)
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--smoke", action="store_true")
    options = parser.parse_args()
    if torch is None:
        not_run(f"no torch in {sys.executable}; PYTHON may name another")
    if options.device == "cuda" and not torch.cuda.is_available():
        not_run(f"torch {torch.__version__} of {sys.executable} sees no GPU")
    if options.smoke:
        options.rounds, options.seconds = 1, 0.05
    for size in (options.sizes or ("smoke" if options.smoke else "125m,1.3b,6.7b,13b")).split(","):
        try:
            compare(size, options)
        except torch.cuda.OutOfMemoryError as error:
            print(json.dumps({"name": f"{size} decode, batch 1: against transformers", "missing": str(error).splitlines()[0]}))


if __name__ == "__main__":
    main()
