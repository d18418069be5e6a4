"""Counts tests for tests/run.sh: reads the reports that GoogleTest, CTest and pytest wrote for one stage.

    results.py DIR   prints "PASSED FAILED SKIPPED", then one line "  FAILED name" per failure

DIR/gtest/*.xml holds a report per GoogleTest binary, DIR/ctest.xml one entry per binary, DIR/pytest*.xml one per suite.
A binary that CTest saw fail while its own report shows no failure (or is absent: it crashed) is one failure.
"""

import pathlib
import sys
import xml.etree.ElementTree as ElementTree


def _cases(path):
    """Yields (name, outcome) for every test case of one JUnit-style report."""
    for case in ElementTree.parse(path).iter("testcase"):
        name = f"{case.get('classname')}.{case.get('name')}"
        if case.find("failure") is not None or case.find("error") is not None:
            yield name, "failed"
        elif case.find("skipped") is not None or case.get("status") in ("notrun", "disabled") or case.get("result") == "skipped":
            yield name, "skipped"
        else:
            yield name, "passed"


def count(stage):
    """Returns [(name, outcome)] over all the reports in the folder `stage`."""
    stage = pathlib.Path(stage)
    results = []
    failed_binaries = set()
    for report in sorted((stage / "gtest").glob("*.xml")):
        cases = list(_cases(report))
        results += cases
        if any(outcome == "failed" for _, outcome in cases):
            failed_binaries.add(report.stem)
    if (stage / "ctest.xml").exists():
        for case in ElementTree.parse(stage / "ctest.xml").iter("testcase"):
            name = case.get("name")
            if case.get("status") != "run" and name not in failed_binaries:
                results.append((f"{name} (the whole binary)", "failed"))
    for report in sorted(stage.glob("pytest*.xml")):
        results += _cases(report)
    return results


def main():
    results = count(sys.argv[1])
    outcomes = [outcome for _, outcome in results]
    print(outcomes.count("passed"), outcomes.count("failed"), outcomes.count("skipped"))
    for name, outcome in results:
        if outcome == "failed":
            print(f"  FAILED {name}")


if __name__ == "__main__":
    main()
