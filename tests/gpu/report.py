"""Sums up what run.sh left in a folder: results.json and a table.

    report.py RESULTS COMMIT_FILE
"""

import datetime
import json
import pathlib
import subprocess
import sys


def machine():
    """The GPUs and the driver, as nvidia-smi names them; or that it is not there."""
    try:
        query = ["nvidia-smi", "--query-gpu=name,driver_version,memory.total", "--format=csv,noheader"]
        return subprocess.run(query, capture_output=True, text=True, check=True, timeout=30).stdout.splitlines()
    except (OSError, subprocess.SubprocessError) as error:
        return [f"nvidia-smi does not answer: {error}"]


def main(folder, commit_file):
    folder = pathlib.Path(folder)
    parts = []
    for line in (folder / "parts.tsv").read_text().splitlines():
        name, result, seconds = line.split("\t")
        parts.append({"part": name, "result": result, "seconds": int(seconds)})
    bench = folder / "bench.jsonl"
    rows = [json.loads(line) for line in bench.read_text().splitlines()] if bench.exists() else []
    commit = pathlib.Path(commit_file)
    (folder / "results.json").write_text(json.dumps({
        "date": datetime.date.today().isoformat(), "machine": machine(), "parts": parts, "bench": rows,
        "commit": commit.read_text().strip() if commit.exists() else None}, indent=1) + "\n")
    for part in parts:
        print(f"{part['part']:12} {part['result']:12} {part['seconds']:4} s")
    for row in rows:
        print(f"{row['name']:40} {row['us']:10.1f} us  {row['achieved']:10.1f} {row['unit']:8} {100 * row['ratio']:5.1f} % of {row['of']}")


if __name__ == "__main__":
    if len(sys.argv) != 3:
        sys.exit(__doc__)
    main(*sys.argv[1:])
