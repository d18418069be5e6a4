"""guidellm and aiperf, pointed at our server: every request answered, every token counted. run.sh makes their environments."""

import json
import os
import subprocess

import pytest

from harness import MODEL, ROOT

REQUESTS, CONCURRENCY, PROMPT, OUTPUT = 24, 4, 32, 16


def run(*command, **environment):
    ended = subprocess.run([str(word) for word in command], capture_output=True, text=True, timeout=300,
                           env={**os.environ, "HF_HUB_OFFLINE": "1", **environment})
    assert ended.returncode == 0, ended.stdout[-4000:] + ended.stderr[-4000:]


def test_guidellm(server, tmp_path):
    run(ROOT / "build/guidellm-venv/bin/guidellm", "run",
        "--backend", f"kind=openai_http,target={server.url},model={server.model},request_format=/v1/completions",
        "--profile", f"kind=concurrent,streams={CONCURRENCY}", "--constraint", f"kind=max_requests,count={REQUESTS}",
        "--tokenizer", f"kind=huggingface_auto,model={MODEL}",
        "--data", f"kind=synthetic_text,prompt_tokens={PROMPT},output_tokens={OUTPUT}",
        "--output", f"kind=json,path={tmp_path / 'report.json'}", "--disable-console")
    benchmark, = json.loads((tmp_path / "report.json").read_text())["benchmarks"]
    metrics = benchmark["metrics"]
    assert metrics["request_totals"] == {"successful": REQUESTS, "errored": 0, "incomplete": 0, "total": REQUESTS}
    assert metrics["output_token_count"]["successful"]["total_sum"] == REQUESTS * OUTPUT


@pytest.fixture
def model_cache(tmp_path):
    """The demo model as `hf download` leaves one: aiperf takes no directory for its tokenizer."""
    commit = "0" * 40
    entry = tmp_path / "cache" / "models--optserve--demo-model"
    for folder in ("refs", "snapshots"):
        (entry / folder).mkdir(parents=True)
    (entry / "refs" / "main").write_text(commit)
    (entry / "snapshots" / commit).symlink_to(MODEL)
    return tmp_path / "cache"


def test_aiperf(server, tmp_path, model_cache):
    run(ROOT / "build/aiperf-venv/bin/aiperf", "profile", "-m", server.model, "--url", server.url,
        "--endpoint-type", "completions", "--streaming", "--tokenizer", "optserve/demo-model",
        "--request-count", REQUESTS, "--concurrency", CONCURRENCY, "--isl", PROMPT, "--osl", OUTPUT,
        "--extra-inputs", "ignore_eos:true", "--output-artifact-dir", tmp_path / "report", "--ui", "simple",
        HF_HUB_CACHE=str(model_cache))
    report = json.loads(next((tmp_path / "report").glob("profile_export*.json")).read_text())
    assert report["request_count"]["avg"] == REQUESTS
    # It tokenizes the answers again, and two tokens may then be one.
    assert report["output_sequence_length"]["avg"] == pytest.approx(OUTPUT, abs=1)
    assert report["time_to_first_token"]["avg"] > 0
