"""What run.sh measured, for people.

    report.py sum-up RESULTS BUNDLE     sums up what run.sh left in a folder: results.json, and a table
    report.py page PAGE [RESULTS.JSON]  writes it into kernels/RESULTS.md, between its marks; without a file: nothing has
                                        been measured
"""

import datetime
import json
import pathlib
import subprocess
import sys
from typing import NamedTuple

BEGIN, END = "<!-- written by tests/gpu/report.py page -->", "<!-- until here -->"
NOT_MEASURED = "not yet measured"


class Goal(NamedTuple):
    figure: str            # its name
    text: str
    least: float           # of `field`
    field: str = "ratio"
    gpu: str = ""          # a part of the name of the GPU it is for
    most: bool = False     # not least but most


BATCH_ONE = [Goal(f"{size} decode, batch 1", "at least 90 % of read bandwidth", 0.90) for size in ("6.7b", "13b", "30b")]
H200 = [Goal(f"{size} decode, batch 1", f"at least {least:,} tokens/s on an H200", least, "achieved", "H200")
        for size, least in (("125m", 4000), ("1.3b", 1150), ("6.7b", 285), ("13b", 150), ("30b", 64))]
ATTENTION = [Goal(f"{size} decode attention, batch {batch}", "at least 85 % of read bandwidth", 0.85)
             for size in ("6.7b", "13b", "30b", "175b_of_16") for batch in (32, 128)]
EAGER = [Goal(f"{size} decode, batch 1: against transformers", "at least 4 times as fast", 4, "achieved")
         for size in ("125m", "1.3b", "6.7b", "13b")]
GOALS = [
    *BATCH_ONE, *H200,
    Goal("13b prefill, 2048 tokens", "at least 76 % of GEMM peak", 0.76),
    *ATTENTION, *EAGER,
    # 30.3 ms a token, of which all 192 all-reduces 1.6: the rest is the rank's own.
    Goal("175b of 16 decode, batch 1", "at most 28.7 ms on a V100, without the wire", 28700, "us", "V100", most=True),
]


def machine():
    """The GPUs and the driver, as nvidia-smi names them; or that it is not there."""
    try:
        query = ["nvidia-smi", "--query-gpu=name,driver_version,memory.total", "--format=csv,noheader"]
        return subprocess.run(query, capture_output=True, text=True, check=True, timeout=30).stdout.splitlines()
    except (OSError, subprocess.SubprocessError) as error:
        return [f"nvidia-smi does not answer: {error}"]


def figures(folder):
    """All that programs printed; a line that a program was stopped in says nothing."""
    for file in sorted(folder.glob("*.jsonl")):
        for line in file.read_text().splitlines():
            try:
                yield {"part": file.stem} | json.loads(line)
            except json.JSONDecodeError:
                continue


def collect(folder, bundle):
    parts = []
    for line in (folder / "parts.tsv").read_text().splitlines():
        name, result, seconds = line.split("\t")
        parts.append({"part": name, "result": result, "seconds": int(seconds)})
    commit = bundle / "commit"
    return {"date": datetime.date.today().isoformat(), "gpu": (folder / "gpu").read_text().strip(), "machine": machine(),
            "emulated": (bundle / "emulated").exists(), "commit": commit.read_text().strip() if commit.exists() else None,
            "parts": parts, "figures": list(figures(folder))}


def value(figure):
    if "missing" in figure:
        return f"{NOT_MEASURED}: {figure['missing']}"
    text = f"{figure['achieved']:,.1f} {figure['unit']}"
    if figure["us"]:
        text = f"{figure['us']:,.1f} us, {text}"
    return text + (f", {100 * figure['ratio']:.1f} % of {figure['of']}" if "ratio" in figure else "")


def judged(goal, results):
    """What a goal's line of the page says."""
    if results is None or results["emulated"] or goal.gpu not in results["gpu"]:
        return NOT_MEASURED
    for figure in results["figures"]:
        if figure["name"] != goal.figure:
            continue
        if goal.field not in figure:
            return value(figure)
        reached = figure[goal.field] <= goal.least if goal.most else figure[goal.field] >= goal.least
        return value(figure) + ("" if reached else ": **missed**")
    return NOT_MEASURED


def table(results):
    yield f"{results['gpu']}, {results['date']}, commit {results['commit']}" + (
        ": emulated, no figure is a speed" if results["emulated"] else "")
    for part in results["parts"]:
        yield f"{part['part']:14} {part['seconds']:5} s  {part['result']}"
    for figure in results["figures"]:
        yield f"{figure['name']:58} {value(figure)}"


def page_lines(results):
    if results is None:
        yield "Not yet measured: no machine with a GPU has run it. Nothing on this page is a speed."
    else:
        yield f"{results['gpu']} ({'; '.join(results['machine'])}), {results['date']}, commit {results['commit']}."
        if results["emulated"]:
            yield "An emulated GPU: no figure is a speed."
    yield ""
    yield "| what | goal | measured |"
    yield "|---|---|---|"
    for goal in GOALS:
        yield f"| {goal.figure} | {goal.text} | {judged(goal, results)} |"
    if results is None:
        return
    yield ""
    yield "| part | result | seconds |"
    yield "|---|---|---|"
    for part in results["parts"]:
        yield f"| {part['part']} | {part['result']} | {part['seconds']} |"
    yield ""
    yield "| figure | measured |"
    yield "|---|---|"
    for figure in results["figures"]:
        yield f"| {figure['name']} | {value(figure)} |"


def sum_up(folder, bundle):
    results = collect(pathlib.Path(folder), pathlib.Path(bundle))
    (pathlib.Path(folder) / "results.json").write_text(json.dumps(results, indent=1) + "\n")
    print("\n".join(table(results)))


def page(path, file=None):
    path = pathlib.Path(path)
    results = json.loads(pathlib.Path(file).read_text()) if file else None
    before, rest = path.read_text().split(BEGIN)
    after = rest.split(END)[1]
    path.write_text("\n".join([before + BEGIN, *page_lines(results), END + after]))


if __name__ == "__main__":
    commands = {("sum-up", 2): sum_up, ("page", 1): page, ("page", 2): page}
    command = commands.get((sys.argv[1], len(sys.argv) - 2)) if len(sys.argv) > 1 else None
    if command is None:
        sys.exit(__doc__)
    command(*sys.argv[2:])
