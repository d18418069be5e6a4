"""The three tasks of tasks/, evaluated by lm-eval with any of its models."""

import os
import pathlib

# Before lm-eval is imported: nothing is fetched, and nothing is cached outside of the run.
os.environ.update(HF_HUB_OFFLINE="1", HF_DATASETS_OFFLINE="1", TOKENIZERS_PARALLELISM="false")

import lm_eval  # noqa: E402  (the environment comes first)
import yaml  # noqa: E402
from lm_eval.tasks import TaskManager  # noqa: E402

TASKS = pathlib.Path(__file__).resolve().parent / "tasks"
CONTEXT = 1024  # tokens, of the demo model
WINDOW = CONTEXT - 2  # what lm-eval's API models make of it for long texts


def _task(name, cache):
    config = yaml.safe_load((TASKS / f"{name}.yaml").read_text())
    config["dataset_kwargs"]["data_files"] = {"test": str(TASKS / f"{name}.jsonl")}
    config["dataset_kwargs"]["cache_dir"] = str(cache)
    return config


def evaluate(model, model_args, cache, names=("choice", "rolling", "generate"), **options):
    """Returns {task: {"metrics": {name: value}, "answers": [what the model said to each request of each sample]}}.

    An answer is [log likelihood, is greedy], a log likelihood, or a text.
    """
    results = lm_eval.simple_evaluate(
        model=model, model_args=model_args, tasks=[_task(name, cache) for name in names], log_samples=True,
        task_manager=TaskManager(include_defaults=False), bootstrap_iters=0, random_seed=1, numpy_random_seed=1,
        torch_random_seed=1, fewshot_random_seed=1, **options)
    answers = {}
    for name in names:
        task = f"optserve_{name}"
        metrics = {key.removesuffix(",none"): float(value) for key, value in results["results"][task].items()
                   if isinstance(value, float) and "stderr" not in key}
        samples = sorted(results["samples"][task], key=lambda sample: sample["doc_id"])
        answers[name] = {"metrics": metrics, "answers": [sample["filtered_resps"] for sample in samples]}
    return answers
