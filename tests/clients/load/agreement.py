"""Does `optserve bench serve` see what an independent client sees? The same closed loop, ours and another's in turns, against
one server, and the ratios of what they report: `run.sh agreement`, options are this program's.

Each round gives a ratio for each figure; the median of the rounds counts, because what else runs on a machine comes and
goes. The model is of OPT-125M's shape with random weights, big enough that what a client costs is small beside it. Exit code
1 when a median is further than --within from 1, or the loads were not the same.
"""

import argparse
import contextlib
import dataclasses
import json
import os
import pathlib
import shutil
import statistics
import subprocess
import sys
import tempfile

ROOT = pathlib.Path(__file__).resolve().parents[3]
sys.path.insert(0, str(ROOT / "tests" / "e2e"))

from harness import BINARY, Server  # noqa: E402  (the path above comes first)


@dataclasses.dataclass
class Load:
    requests: int
    warm_up: int
    concurrency: int
    prompt: int  # with the BOS that the server puts in front of a text
    output: int


@dataclasses.dataclass
class Seen:
    """What a client reports of a load, in milliseconds and tokens per second."""

    ttft_p50: float
    ttft_p90: float
    itl_mean: float  # of an answer: from its first to its last token by the tokens after the first; the mean over answers
    e2e_p50: float
    output_rate: float
    answered: int


def run(command, **environment):
    ended = subprocess.run([str(word) for word in command], capture_output=True, text=True, timeout=1200,
                           env={**os.environ, **environment})
    if ended.returncode != 0:
        raise RuntimeError(f"{command[0]} failed\n{ended.stdout[-3000:]}{ended.stderr[-3000:]}")


def optserve_bench(server, model, load, seed, folder):
    report = folder / "report.json"
    run([BINARY, "bench", "serve", "--url", server.url, "--no-roof", "--seed", seed, "--requests", load.requests,
         "--warm-up", load.warm_up, "--concurrency", load.concurrency, "--prompt-tokens", load.prompt,
         "--output-tokens", load.output, "--vocab-size", vocabulary(model), "--json", report])
    summary = json.loads(report.read_text())["runs"][0]["summary"]
    latency = summary["latency"]
    return Seen(latency["ttft_ms"]["p50"], latency["ttft_ms"]["p90"], latency["tpot_ms"]["mean"],
                latency["e2e_ms"]["p50"], summary["output_tokens_per_second"], summary["answered"])


def aiperf(server, model, load, seed, folder):
    # It looks its tokenizer up as the Hub's libraries do, and takes no directory.
    entry = folder / "cache" / "models--optserve--model"
    commit = "0" * 40
    (entry / "refs").mkdir(parents=True)
    (entry / "snapshots").mkdir()
    (entry / "refs" / "main").write_text(commit)
    (entry / "snapshots" / commit).symlink_to(model)
    run([ROOT / "build/aiperf-venv/bin/aiperf", "profile", "-m", server.model, "--url", server.url,
         "--endpoint-type", "completions", "--streaming", "--use-server-token-count", "--tokenizer", "optserve/model",
         "--request-count", load.requests, "--num-warmup-requests", load.warm_up, "--concurrency", load.concurrency,
         "--num-dataset-entries", load.requests + load.warm_up, "--random-seed", seed,
         "--isl", load.prompt - 1, "--osl", load.output, "--extra-inputs", "ignore_eos:true", "temperature:0",
         "--no-server-metrics", "--no-gpu-telemetry", "--output-artifact-dir", folder / "report", "--ui", "none"],
        HF_HUB_CACHE=str(folder / "cache"), HF_HUB_OFFLINE="1")
    report = json.loads((folder / "report" / "profile_export_aiperf.json").read_text())
    ttft = report["time_to_first_token"]
    return Seen(ttft["p50"], ttft["p90"], report["inter_token_latency"]["avg"], report["request_latency"]["p50"],
                report["output_token_throughput"]["avg"], round(report["request_count"]["avg"]))


def guidellm(server, model, load, seed, folder):  # pylint: disable=unused-argument  (its prompts are the same each time)
    report = folder / "report.json"
    run([ROOT / "build/guidellm-venv/bin/guidellm", "run",
         "--backend", f"kind=openai_http,target={server.url},model={server.model},request_format=/v1/completions",
         "--profile", f"kind=concurrent,streams={load.concurrency}",
         "--constraint", f"kind=max_requests,count={load.requests}",
         "--tokenizer", f"kind=huggingface_auto,model={model}",
         "--data", f"kind=synthetic_text,prompt_tokens={load.prompt - 1},output_tokens={load.output}",
         "--output", f"kind=json,path={report}", "--disable-console"], HF_HUB_OFFLINE="1")
    metrics = json.loads(report.read_text())["benchmarks"][0]["metrics"]
    ttft = metrics["time_to_first_token_ms"]["successful"]
    return Seen(ttft["percentiles"]["p50"], ttft["percentiles"]["p90"],
                metrics["inter_token_latency_ms"]["successful"]["mean"],
                1e3 * metrics["request_latency"]["successful"]["median"],
                metrics["output_tokens_per_second"]["successful"]["mean"], metrics["request_totals"]["successful"])


OTHERS = {"aiperf": aiperf, "guidellm": guidellm}
FIGURES = {"ttft_p50": "TTFT p50 ms", "ttft_p90": "TTFT p90 ms", "itl_mean": "ITL mean ms", "e2e_p50": "E2E p50 ms",
           "output_rate": "output tokens/s"}


def vocabulary(model):
    """Ids below it have a text: the tokenizer's, where the embedding has more."""
    tokens = json.loads((pathlib.Path(model) / "vocab.json").read_text())
    return min(len(tokens), json.loads((pathlib.Path(model) / "config.json").read_text())["vocab_size"])


def make_model():
    folder = ROOT / "build" / "agreement" / "opt-125m"
    if not (folder / "config.json").exists():
        run([sys.executable, ROOT / "tests/bench/make_checkpoint.py", "125m", "safetensors", folder])
        for file in (ROOT / "tests" / "data" / "opt-tokenizer").iterdir():
            shutil.copy(file, folder)
    return folder


def measure(client, server, model, load, seed):
    """What the client reports, after checking that the server had the load that was meant."""
    before = [server.metric(f"optserve_{name}_tokens_total") for name in ("prompt", "generation")]
    with tempfile.TemporaryDirectory() as folder:
        seen = client(server, model, load, seed, pathlib.Path(folder))
    if seen.answered != load.requests:
        raise RuntimeError(f"{client.__name__}: {seen.answered} of {load.requests} requests answered")
    server.wait_for_metric("optserve_requests_running", 0)
    prompts, outputs = (server.metric(f"optserve_{name}_tokens_total") - was
                        for name, was in zip(("prompt", "generation"), before))
    requests = outputs / load.output  # the warm-up's too
    if not load.requests <= requests <= load.requests + load.warm_up + load.concurrency:
        raise RuntimeError(f"{client.__name__}: the server made {outputs:.0f} tokens, {requests:.2f} answers")
    if abs(prompts / requests - load.prompt) > 0.1 * load.prompt:
        raise RuntimeError(f"{client.__name__}: {prompts / requests:.1f} tokens a prompt instead of {load.prompt}")
    return seen


def processors_apart(num_of_server):
    """The server's processors and the clients', so that a client's own work does not slow what it measures."""
    all_of_them = sorted(os.sched_getaffinity(0))
    if num_of_server >= len(all_of_them):
        return set(all_of_them), set(all_of_them)
    return set(all_of_them[:num_of_server]), set(all_of_them[num_of_server:])


def compare(name, server, model, load, rounds):
    """Prints the rounds and what they say together; returns the medians of the ratios."""
    ratios = {figure: [] for figure in FIGURES}
    for index in range(rounds):
        order = (optserve_bench, OTHERS[name]) if index % 2 == 0 else (OTHERS[name], optserve_bench)
        seen = {client: measure(client, server, model, load, seed=index + 1) for client in order}
        ours, theirs = seen[optserve_bench], seen[OTHERS[name]]
        print(f"round {index + 1}, load average {os.getloadavg()[0]:.1f}" + "".join(
            f"; {label} {getattr(ours, figure):.2f} and {getattr(theirs, figure):.2f}" for figure, label in FIGURES.items()),
            flush=True)
        for figure, values in ratios.items():
            values.append(getattr(ours, figure) / getattr(theirs, figure))
    medians = {figure: statistics.median(values) for figure, values in ratios.items()}
    print(f"\noptserve bench / {name}{'median':>16}{'least':>9}{'most':>9}")
    for figure, label in FIGURES.items():
        print(f"  {label:<24}{medians[figure]:>12.3f}{min(ratios[figure]):>9.3f}{max(ratios[figure]):>9.3f}")
    print(flush=True)
    return medians


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--clients", nargs="+", choices=OTHERS, default=["aiperf"])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--requests", type=int, default=200, help="of a round, for each client")
    parser.add_argument("--warm-up", type=int, default=8)
    parser.add_argument("--concurrency", type=int, default=4)
    parser.add_argument("--prompt", type=int, default=64, help="tokens in")
    parser.add_argument("--output", type=int, default=32, help="tokens out")
    parser.add_argument("--model", type=pathlib.Path, help="a directory with a tokenizer; default: OPT-125M's shape")
    parser.add_argument("--threads", type=int, default=max(1, (os.cpu_count() or 2) // 2),
                        help="of the server, on processors of its own; the rest of the machine is the clients'")
    parser.add_argument("--within", type=float, default=5.0, help="percent")
    options = parser.parse_args()
    load = Load(options.requests, options.warm_up, options.concurrency, options.prompt, options.output)
    model = (options.model or make_model()).resolve()
    print(f"{load.requests} requests after {load.warm_up}, {load.concurrency} at a time, {load.prompt} tokens in, "
          f"{load.output} out, streamed; {model.name}, {options.threads} of {os.cpu_count()} processors for the engine")
    far = []
    with contextlib.ExitStack() as stack:
        of_server, of_clients = processors_apart(options.threads)
        os.sched_setaffinity(0, of_server)  # what is started now stays there
        server = stack.enter_context(
            Server("--no-prefix-cache", "--threads", options.threads, model=model, log=os.devnull))
        os.sched_setaffinity(0, of_clients)
        for name in options.clients:
            medians = compare(name, server, model, load, options.rounds)
            far += [f"{name}, {FIGURES[figure]}: {100 * (ratio - 1):+.1f} %" for figure, ratio in medians.items()
                    if abs(ratio - 1) > options.within / 100]
    print("\n".join([f"further apart than {options.within:g} %:", *far]) if far else f"all within {options.within:g} %")
    return 1 if far else 0


if __name__ == "__main__":
    sys.exit(main())
