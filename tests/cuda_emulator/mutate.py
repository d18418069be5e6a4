#!/usr/bin/env python3
"""Plants bugs in the CUDA kernels, one at a time, and expects the tests to find each.

    tests/cuda_emulator/mutate.py --check                   does every bug of the lists still fit the sources?
    tests/cuda_emulator/mutate.py build/release             plants all, and leaves out every barrier in turn
    tests/cuda_emulator/mutate.py build/release sampling    of one kernel, or several
    tests/cuda_emulator/mutate.py build/release --again     only those that the last run did not find, or try
    tests/cuda_emulator/mutate.py build/release --record    writes what the last runs found into MUTANTS.md, which stays as
                                                            it is for kernels that were not run in this build

The lists are mutants/KERNEL.toml. A bug is a text of the source, which must occur there exactly once, and what takes its
place. The mutated file is compiled and linked outside of the source tree, with the build's own commands; nothing else is
built, so the build's test binaries must be there (targets cuda_checked_test and cuda_collective_test). The list's tests
then run with the emulator's seeds 2, 0 and 1, until one fails. Barriers are left out by the emulator, without a build.

A bug that no test can see is marked `equivalent` in its list, with the reason; it is planted all the same and must
survive. Exits 1 if another one survives.
"""

import argparse
import concurrent.futures
import dataclasses
import datetime
import json
import os
import pathlib
import re
import shlex
import subprocess
import sys
import tempfile
import time
import tomllib

ROOT = pathlib.Path(__file__).resolve().parents[2]
LISTS = ROOT / "tests/cuda_emulator/mutants"
RECORD = ROOT / "tests/cuda_emulator/MUTANTS.md"
SEEDS = ("2", "0", "1")
NO_KERNEL = {"kernels/common/code_version.cu"}  # asks CUDA's runtime; the emulator has its own answer
OBJECTS = {"cuda_checked_test": "optserve_checked_kernels", "cuda_collective_test": "optserve_emulated_kernels"}
SEEN = re.compile(r"race: [a-z ]+ on|uninitialised|forbidden|out of bounds|illegal \w+|misaligned|divergent[a-z ]*|deadlock|"
                  r"have exited|lane exits|array index|overflow|shift out of range|no collective has ended|Failure")


@dataclasses.dataclass
class Bug:
    bug: str              # what is wrong
    old: str = ""         # text of the source; of a barrier: text that ends with it
    new: str = ""
    equivalent: str = ""  # why no test can see it
    compile: tuple = ()   # the files to compile, if not those of the list


@dataclasses.dataclass
class Kernel:
    name: str
    source: str                       # the file that is mutated
    tests: str                        # GoogleTest filter
    binary: str = "cuda_checked_test"
    compile: tuple = ()               # the files to compile, if not `source` itself: for headers
    environment: dict = dataclasses.field(default_factory=dict)
    mutant: list = dataclasses.field(default_factory=list)
    barrier: list = dataclasses.field(default_factory=list)  # those that nobody can miss

    @property
    def text(self):
        return (ROOT / self.source).read_text()

    def mutated(self, bug):
        return self.text.replace(bug.old, bug.new)

    def barrier_line(self, bug):
        return self.text[:self.text.index(bug.old) + len(bug.old)].count("\n") + 1


@dataclasses.dataclass
class Result:
    kind: str     # "mutant" or "barrier"
    bug: str
    seen: str     # how it was found, or "" if it survived
    equivalent: str = ""


def load(name):
    fields = tomllib.loads((LISTS / f"{name}.toml").read_text())
    kernel = Kernel(name=name, **fields)
    kernel.mutant = [Bug(**b) for b in kernel.mutant]
    kernel.barrier = [Bug(**b) for b in kernel.barrier]
    return kernel


def all_names():
    return sorted(path.stem for path in LISTS.glob("*.toml"))


# ---------------------------------------------------------------- does it fit?

def misfits(kernel):
    """What is wrong with a list, a line each."""
    text, seen = kernel.text, set()
    for bug in kernel.mutant + kernel.barrier:
        count = text.count(bug.old)
        if count != 1:
            yield f"{kernel.name}: {bug.bug}: its text occurs {count} times in {kernel.source}:\n{bug.old}"
        if bug in kernel.mutant and bug.old == bug.new:
            yield f"{kernel.name}: {bug.bug}: changes nothing"
        if bug.bug in seen:
            yield f"{kernel.name}: {bug.bug}: twice"
        seen.add(bug.bug)
    for bug in kernel.barrier:
        if not bug.equivalent or "__sync" not in bug.old.splitlines()[-1]:
            yield f"{kernel.name}: {bug.bug}: a reason is missing, or its text does not end with a barrier"


def check(kernels):
    problems = [line for kernel in kernels for line in misfits(kernel)]
    sources = {str(path.relative_to(ROOT)) for end in ("cu", "cuh") for path in ROOT.glob(f"kernels/**/*.{end}")}
    problems += [f"{source} has no list" for source in sorted(sources - NO_KERNEL - {kernel.source for kernel in kernels})]
    recorded = RECORD.read_text() if RECORD.exists() else ""
    for kernel in kernels:
        row = re.search(rf"\| `{re.escape(kernel.source)}` \| \d+ of (\d+)(?:, (\d+) not yet run)? \| .* \| (\d+) \|", recorded)
        if row is None or sum(int(n or 0) for n in row.groups()) != len(kernel.mutant) + len(kernel.barrier):
            problems.append(f"{RECORD.name} does not tell of the {len(kernel.mutant)} bugs of {kernel.name}: run it, --record")
    for line in problems:
        print(line)
    print(f"{sum(len(kernel.mutant) for kernel in kernels)} bugs in {len(kernels)} lists, {len(problems)} problems")
    return not problems


# ---------------------------------------------------------------- build

class Build:
    """The commands of a build tree, to be run with one file changed."""

    def __init__(self, directory):
        self.directory = directory.resolve()
        entries = json.loads((self.directory / "compile_commands.json").read_text())
        self.compiles = [(str(pathlib.Path(e["file"]).relative_to(ROOT)), e["command"]) for e in entries
                         if pathlib.Path(e["file"]).is_relative_to(ROOT)]

    def binary(self, kernel):
        path = self.directory / kernel.binary
        if not path.exists():
            sys.exit(f"mutate.py: build {kernel.binary} first: {path} is not there")
        return path

    def compile_command(self, kernel, source):
        commands = [c for file, c in self.compiles if file == source and f"/{OBJECTS[kernel.binary]}.dir/" in c]
        if len(commands) != 1:
            sys.exit(f"mutate.py: {len(commands)} commands compile {source} for {kernel.binary}")
        words = shlex.split(commands[0])
        return words[1:] if words[0].endswith("ccache") else words  # a mutant is compiled once

    def link_command(self, kernel):
        commands = subprocess.run(["ninja", "-C", self.directory, "-t", "commands", "-s", kernel.binary],
                                  check=True, capture_output=True, text=True).stdout
        for part in commands.split("&&"):
            words = shlex.split(part)
            if "-o" in words and words[words.index("-o") + 1] == kernel.binary:
                return words
        sys.exit(f"mutate.py: nothing links {kernel.binary}")

    def with_mutant(self, kernel, bug, scratch):
        """Compiles and links the mutant in the folder `scratch`; returns the test binary."""
        mutated = scratch / kernel.source
        mutated.parent.mkdir(parents=True)
        mutated.write_text(kernel.mutated(bug))
        link = self.link_command(kernel)
        for number, source in enumerate(bug.compile or kernel.compile or [kernel.source]):
            command = self.compile_command(kernel, source)
            output, dependencies = command.index("-o") + 1, scratch / f"{number}.d"
            original, command[output] = command[output], str(scratch / f"{number}.o")
            link[link.index(original)] = command[output]
            if source == kernel.source:
                command[command.index(str(ROOT / source))] = str(mutated)
            # A mutated header comes before that of the source tree.
            command[1:1] = [f"-I{scratch}", "-w", "-MD", "-MF", str(dependencies)]
            self.run(command, bug)
            if str(mutated) not in dependencies.read_text():
                sys.exit(f"mutate.py: {source} is compiled without {mutated}")
        binary = scratch / kernel.binary
        link[link.index("-o") + 1] = str(binary)
        self.run(link + ["-s"], bug)
        return binary

    def run(self, command, bug):
        done = subprocess.run(command, cwd=self.directory, capture_output=True, text=True)
        if done.returncode != 0:
            sys.exit(f"mutate.py: {bug.bug}: does not compile, so it is no test of the tests\n{done.stderr[-2000:]}")


# ---------------------------------------------------------------- run

def run_tests(kernel, binary, seed, timeout, **more):
    """How the tests failed, or "" if they passed."""
    environment = os.environ | kernel.environment | {"OPTSERVE_EMULATOR_SEED": seed} | more
    try:
        done = subprocess.run([binary, f"--gtest_filter={kernel.tests}", "--gtest_fail_fast"], cwd=ROOT, env=environment,
                              capture_output=True, text=True, errors="replace", timeout=timeout)
    except subprocess.TimeoutExpired:
        return "never ends"
    if done.returncode == 0:
        return ""
    if done.returncode < 0:
        return f"signal {-done.returncode}"
    return (SEEN.search(done.stdout + done.stderr) or ["exit"])[0]


def first_failure(kernel, binary, timeout, **more):
    for seed in SEEDS:
        if seen := run_tests(kernel, binary, seed, timeout, **more):
            return f"{seen} (seed {seed})" if seed != SEEDS[0] else seen
    return ""


def barriers(kernel, build):
    """The places "file:line" in this kernel's file at which the tests pass a barrier."""
    done = subprocess.run([build.binary(kernel), f"--gtest_filter={kernel.tests}"], cwd=ROOT, capture_output=True, text=True,
                          env=os.environ | kernel.environment | {"OPTSERVE_EMULATOR_LIST": "1"})
    if done.returncode != 0:
        sys.exit(f"mutate.py: the tests of {kernel.name} fail without any bug\n{done.stdout[-2000:]}")
    name = pathlib.Path(kernel.source).name
    return re.findall(rf"^BARRIER ({re.escape(name)}:\d+)$", done.stdout, re.MULTILINE)


def judge(kernel, build, jobs, known):
    """Plants every bug of a kernel; yields a Result for each as it is known. `known`: results by bug that are taken over."""
    begin = time.monotonic()
    places = barriers(kernel, build)
    timeout = max(300.0, 10.0 * (time.monotonic() - begin))  # long: a busy machine is not a bug that was found
    superfluous = {f"{pathlib.Path(kernel.source).name}:{kernel.barrier_line(b)}": b for b in kernel.barrier}

    def mutant(bug):
        if bug.bug in known:
            return known[bug.bug]
        with tempfile.TemporaryDirectory(prefix="mutant-") as scratch:
            binary = build.with_mutant(kernel, bug, pathlib.Path(scratch))
            return Result("mutant", bug.bug, first_failure(kernel, binary, timeout), bug.equivalent)

    def barrier(place):
        line = (kernel.text.splitlines()[int(place.split(":")[1]) - 1]).strip()
        if f"{place} {line}" in known:
            return known[f"{place} {line}"]
        seen = first_failure(kernel, build.binary(kernel), timeout, OPTSERVE_EMULATOR_DROP=place)
        reason = superfluous[place].equivalent if place in superfluous else ""
        return Result("barrier", f"{place} {line}", seen, reason)

    with concurrent.futures.ThreadPoolExecutor(jobs) as pool:
        tasks = [pool.submit(mutant, bug) for bug in kernel.mutant] + [pool.submit(barrier, place) for place in places]
        for task in tasks:
            yield task.result()


def summary(results, kind):
    counted = [r for r in results if r.kind == kind and not r.equivalent]
    return f"{sum(1 for r in counted if r.seen)} of {len(counted)}"


def last_run(kernel, build):
    """What the last run of a list found, of the bugs that are in it now."""
    path = build.directory / "mutants" / f"{kernel.name}.json"
    results = [Result(**r) for r in json.loads(path.read_text())] if path.exists() else []
    reasons = {b.bug: b.equivalent for b in kernel.mutant}
    return [r for r in results if r.kind == "barrier" or reasons.get(r.bug) == r.equivalent]


def run(kernels, build, jobs, again):
    ok = True
    for kernel in kernels:
        known = {r.bug: r for r in last_run(kernel, build) if r.seen} if again else {}
        results, begin = [], time.monotonic()
        for result in judge(kernel, build, jobs, known):
            results.append(result)
            wrong = bool(result.seen) == bool(result.equivalent)
            ok = ok and not wrong
            state = result.seen or ("equivalent" if result.equivalent else "SURVIVED")
            if result.seen and result.equivalent:
                state += " BUT CALLED EQUIVALENT"
            print(f"  {kernel.name:16} {result.kind:8} {result.bug}: {state}", flush=True)
            save(kernel, build, results + [r for r in known.values() if r not in results])
        print(f"{kernel.name}: bugs found {summary(results, 'mutant')}, barriers missed {summary(results, 'barrier')}, "
              f"equivalent {sum(1 for r in results if r.equivalent)} ({time.monotonic() - begin:.0f} s)", flush=True)
    return ok


def save(kernel, build, results):
    folder = build.directory / "mutants"
    folder.mkdir(exist_ok=True)
    (folder / f"{kernel.name}.json").write_text(json.dumps([dataclasses.asdict(r) for r in results], indent=1))


# ---------------------------------------------------------------- record

def row_and_reasons(kernel, results):
    """What MUTANTS.md says of a kernel: a line of its first table, and those of its second."""
    mutants, missed = summary(results, "mutant"), summary(results, "barrier")
    not_run = len(kernel.mutant) - sum(1 for r in results if r.kind == "mutant")
    if not_run and missed == "0 of 0":
        missed = "not yet run"
    equivalent = [r for r in results if r.equivalent]
    reasons = []
    for r in equivalent + [r for r in results if not r.seen and not r.equivalent]:
        bug = f"without `{r.bug.split(' ', 1)[1]}`" if r.kind == "barrier" else r.bug
        reasons.append(f"| `{kernel.name}` | {bug} | {r.equivalent or '**survived**'} |")
    rest = f", {not_run} not yet run" if not_run else ""
    return f"| `{kernel.source}` | {mutants}{rest} | {missed} | {len(equivalent)} |", reasons


def record(build):
    told = RECORD.read_text().splitlines() if RECORD.exists() else []
    rows, reasons = [], []
    for kernel in map(load, all_names()):
        results = last_run(kernel, build)
        old_row = [line for line in told if line.startswith(f"| `{kernel.source}` |")]
        if results or not old_row:
            row, why = row_and_reasons(kernel, results)
        else:
            row, why = old_row[0], [line for line in told if line.startswith(f"| `{kernel.name}` |")]
        rows.append(row)
        reasons += why
    total = lambda pattern: sum(int(n) for row in rows for n in re.findall(pattern, row))
    found, bugs, not_run = total(r"` \| (\d+) of"), total(r"` \| \d+ of (\d+)"), total(r"(\d+) not yet run \|")
    missed, barriers = total(r"(\d+) of \d+ \| \d+ \|$"), total(r"of (\d+) \| \d+ \|$")
    rest, equivalent = f", {not_run} not yet run" if not_run else "", total(r"(\d+) \|$")
    today = datetime.datetime.now(datetime.timezone.utc).date()
    RECORD.write_text(f"""# Bugs planted in the kernels, and how many the tests find

Written by `tests/cuda_emulator/mutate.py build/release --record` on {today} from the last run of every list in `mutants/`. A bug
counts as found when a test fails, a launch ends with an error of the emulator, or the tests never end. Barriers are left out one at
a time.

| file | bugs found | barriers missed | no test can see |
|---|---|---|---|
{chr(10).join(rows)}
| **all** | **{found} of {bugs}**{rest} | **{missed} of {barriers}** | {equivalent} |

Bugs that no test can see, which are planted all the same, and bugs that survived:

| list | bug | why |
|---|---|---|
{chr(10).join(reasons)}
""")
    print(f"wrote {RECORD.relative_to(ROOT)}: {found} of {bugs} bugs, {missed} of {barriers} barriers")
    return True


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("build", nargs="?", type=pathlib.Path, help="a build tree, such as build/release")
    parser.add_argument("kernels", nargs="*", help="names of lists; all if none")
    parser.add_argument("--check", action="store_true", help="only look whether every bug fits")
    parser.add_argument("--again", action="store_true", help="only what the last run did not find, or try")
    parser.add_argument("--record", action="store_true", help="write MUTANTS.md from the last runs")
    parser.add_argument("--jobs", type=int, default=os.cpu_count(), help="bugs at a time")
    arguments = parser.parse_args()
    os.environ.pop("GTEST_OUTPUT", None)  # the tests' failures under a planted bug are nobody's report
    names = arguments.kernels or all_names()
    if unknown := set(names) - set(all_names()):
        parser.error(f"no list for {', '.join(sorted(unknown))}; there are {', '.join(all_names())}")
    kernels = [load(name) for name in names]
    if arguments.check:
        return check(kernels)
    if arguments.build is None:
        parser.error("which build tree?")
    if any(line for kernel in kernels for line in misfits(kernel)):
        return check(kernels)
    build = Build(arguments.build)
    if arguments.record:
        return record(build)
    return run(kernels, build, arguments.jobs, arguments.again)


if __name__ == "__main__":
    sys.exit(0 if main() else 1)
