"""Makes reference.json: the tasks' scores by lm-eval's own Hugging Face model, in f32.

    pip install lm-eval==0.4.13 torch==2.6.0 transformers==4.57.6 accelerate
    python tests/clients/lm_eval_test/make_reference.py > tests/clients/lm_eval_test/reference.json

"ids": prompts are what the tokenizer makes of the text, without BOS, which is what lm-eval sends when it sends ids.
"text": with BOS, which the server puts in front of texts.
"""

import json
import pathlib
import tempfile

from evaluation import WINDOW, evaluate

MODEL = pathlib.Path(__file__).resolve().parents[3] / "deploy" / "demo-model"


def main():
    reference = {}
    with tempfile.TemporaryDirectory() as cache:
        for name, add_bos_token in (("ids", False), ("text", True)):
            args = {"pretrained": str(MODEL), "dtype": "float32", "add_bos_token": add_bos_token,
                    "max_length": WINDOW}
            reference[name] = evaluate("hf", args, cache, device="cpu", batch_size=1)
    # One line for each task.
    blocks = []
    for name, scores in reference.items():
        lines = [f'  "{task}": {json.dumps(score)}' for task, score in scores.items()]
        blocks.append(f' "{name}": {{\n' + ",\n".join(lines) + "\n }")
    print("{\n" + ",\n".join(blocks) + "\n}")


if __name__ == "__main__":
    main()
