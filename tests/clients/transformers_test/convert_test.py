"""What `optserve convert` writes opens in Hugging Face transformers, with the logits of the model that it was made from.

Every golden model is converted and run. Where transformers opens the source too, the logits are the same to the bit: metaseq's
files hold the tensors of a model that it opens. Where it does not (it refuses some names, and passes over old spellings in a
config.json), they are those that are known of the model.
"""

import json
import math
import os
import pathlib
import subprocess

import pytest
import torch
from transformers import OPTForCausalLM

ROOT = pathlib.Path(__file__).resolve().parents[3]
GOLDEN = ROOT / "tests/data/golden"
BINARY = os.environ.get("OPTSERVE_BINARY", ROOT / "build/release/optserve")
CASES = {case["name"]: case for case in json.loads((GOLDEN / "cases.json").read_text())}
NOT_OPENED_BY_TRANSFORMERS = {"noprefix_lmhead_bf16", "galactica_old_keys"}
TOLERANCE = 5e-5  # of the known numbers, which another version of torch made

torch.set_num_threads(1)


def logits(folder, prompts):
    """Raises if a tensor is missing, too many, or of another shape."""
    model, info = OPTForCausalLM.from_pretrained(folder, torch_dtype=torch.float32, output_loading_info=True,
                                                 local_files_only=True)
    assert not info["missing_keys"] and not info["unexpected_keys"] and not info["mismatched_keys"], info
    with torch.no_grad():
        return [model.eval()(torch.tensor([ids])).logits[0] for ids in prompts]


def twin(name):
    """The model that transformers opens and that has the same tensors, if there is one."""
    known_by = (GOLDEN / CASES[name]["expected"]).parent.name
    return None if known_by in NOT_OPENED_BY_TRANSFORMERS or name in NOT_OPENED_BY_TRANSFORMERS else known_by


@pytest.mark.parametrize("name", CASES)
def test_transformers_computes_the_same(name, tmp_path):
    prompts = json.loads((GOLDEN / CASES[name]["expected"]).read_text())["prompts"]
    ids = [prompt["ids"] for prompt in prompts]
    written = subprocess.run([BINARY, "convert", GOLDEN / CASES[name]["path"], tmp_path, "--max-shard-size", "100KiB"],
                             capture_output=True, text=True, timeout=60)
    assert written.returncode == 0, written.stderr
    ours = logits(tmp_path, ids)
    if twin(name):
        theirs = logits(GOLDEN / CASES[twin(name)]["path"], ids)
        assert all(torch.equal(a, b) for a, b in zip(ours, theirs))
    for prompt, found in zip(prompts, ours):
        known = prompt["logits_last"]
        assert found[-1].argmax() == known["argmax"]
        assert math.isclose(found[-1].logsumexp(0).item(), known["logsumexp"], abs_tol=TOLERANCE)
        assert (found[-1][:16] - torch.tensor(known["first16"])).abs().max() < TOLERANCE


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32"])
def test_the_dtype_is_the_one_that_was_asked_for(dtype, tmp_path):
    subprocess.run([BINARY, "convert", GOLDEN / "models/preln_d64", tmp_path, "--dtype", dtype], check=True, timeout=60,
                   capture_output=True)
    model = OPTForCausalLM.from_pretrained(tmp_path, torch_dtype="auto", local_files_only=True)
    assert model.dtype == getattr(torch, dtype)
