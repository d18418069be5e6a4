"""Makes reference.json: what Hugging Face transformers says about deploy/demo-model, in f32, greedy.

    pip install torch==2.6.0 transformers==4.57.6
    python tests/data/golden/demo-model/make.py > tests/data/golden/demo-model/reference.json

Per case: the prompt and its ids; the ids, text and log probabilities of `max_tokens` greedy tokens; the log probability
of every prompt token but the first; and `margin`, the smallest gap between the two best logits at any generated step,
which says how much rounding the ids can bear.
"""

import json
import pathlib

import torch
import transformers

MODEL = pathlib.Path(__file__).resolve().parents[4] / "deploy" / "demo-model"
PROMPTS = [
    ("It is a truth universally acknowledged", 40),
    ("Call me Ishmael.", 40),
    ("In the beginning God created", 40),
    ("Fellow-citizens of the Senate", 40),
    ("a", 24),
    ("The ship \u2014 na\u00efve caf\u00e9 \U0001f40b \u9be8", 24),
    ("\n\n  two  spaces\tand a tab", 24),
    ("She was a woman of mean understanding, little information, and uncertain temper. " * 12, 24),
]


def run_case(tokenizer, model, prompt, max_tokens):
    prompt_ids = tokenizer(prompt)["input_ids"]
    ids, logprobs, margins = list(prompt_ids), [], []
    for _ in range(max_tokens):
        logits = model(torch.tensor([ids])).logits[0, -1]
        best = torch.topk(logits, 2)
        margins.append(float(best.values[0] - best.values[1]))
        logprobs.append(float(torch.log_softmax(logits, -1)[best.indices[0]]))
        ids.append(int(best.indices[0]))
        if ids[-1] == model.config.eos_token_id:
            break
    scores = torch.log_softmax(model(torch.tensor([prompt_ids])).logits[0], -1)
    return {
        "prompt": prompt,
        "prompt_ids": prompt_ids,
        "prompt_logprobs": [round(float(scores[i, token]), 6) for i, token in enumerate(prompt_ids[1:])],
        "max_tokens": max_tokens,
        "ids": ids[len(prompt_ids):],
        "text": tokenizer.decode(ids[len(prompt_ids):], skip_special_tokens=True, clean_up_tokenization_spaces=False),
        "logprobs": [round(value, 6) for value in logprobs],
        "margin": round(min(margins), 6),
    }


def main():
    tokenizer = transformers.AutoTokenizer.from_pretrained(MODEL)
    model = transformers.AutoModelForCausalLM.from_pretrained(MODEL, torch_dtype=torch.float32).eval()
    with torch.inference_mode():
        cases = [run_case(tokenizer, model, prompt, max_tokens) for prompt, max_tokens in PROMPTS]
    print(json.dumps({"made_with": f"torch {torch.__version__}, transformers {transformers.__version__}, float32",
                      "cases": cases}, indent=1, ensure_ascii=True))


if __name__ == "__main__":
    main()
