"""Scores texts with lm-evaluation-harness: the perplexity of a JSON lines file of {"page": text}.

    python score_lm_eval.py http://127.0.0.1:8000 pages.jsonl

Nothing is downloaded: the texts are the file's, and the tokenizer is the server's. The harness's own tasks work the same
way: `lm_eval --model local-completions --tasks lambada_openai --model_args base_url=.../v1/completions,...`.
"""

import os
import pathlib
import sys
import tempfile

os.environ.update(HF_HUB_OFFLINE="1", HF_DATASETS_OFFLINE="1")  # before lm_eval is imported

import lm_eval  # noqa: E402
import requests  # noqa: E402
from lm_eval.tasks import TaskManager  # noqa: E402


def main(server, pages):
    key = os.environ.get("OPENAI_API_KEY", "")
    listed = requests.get(f"{server}/v1/models", headers={"Authorization": f"Bearer {key}"}, timeout=10).json()["data"][0]
    with tempfile.TemporaryDirectory() as cache:
        task = {
            "task": "pages", "dataset_path": "json", "test_split": "test", "output_type": "loglikelihood_rolling",
            "dataset_kwargs": {"data_files": {"test": str(pathlib.Path(pages).resolve())}, "cache_dir": cache},
            "doc_to_text": "", "doc_to_target": "{{page}}",
            "metric_list": [{"metric": "word_perplexity"}, {"metric": "byte_perplexity"}, {"metric": "bits_per_byte"}],
        }
        results = lm_eval.simple_evaluate(
            model="local-completions", tasks=[task], batch_size=8, bootstrap_iters=0,
            task_manager=TaskManager(include_defaults=False),
            model_args={"model": listed["id"], "base_url": f"{server}/v1/completions", "tokenizer_backend": "remote",
                        "max_length": listed["max_model_len"]})
    for name, value in results["results"]["pages"].items():
        if name.endswith(",none") and isinstance(value, float):
            print(f"{name.removesuffix(',none')}\t{value:.4f}")


if __name__ == "__main__":
    main(*sys.argv[1:])
