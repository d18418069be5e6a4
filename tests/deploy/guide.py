"""A guide's commands and what they should print, as data.

    ```sh WHERE
    commands
    ```
    ```text
    what they print
    ```
"""

import re
from typing import NamedTuple

BLOCK = re.compile(r"^```sh ?([^\n]*)\n(.*?)^```\n(?:```text\n(.*?)^```\n)?", re.DOTALL | re.MULTILINE)
# What differs from run to run: ids, then numbers.
VARYING = [(re.compile(r"\b(cmpl-|fp_)[0-9a-f]+"), r"\1ID"), (re.compile(r"\d+(\.\d+)?"), "N"), (re.compile(" +"), " ")]


class Step(NamedTuple):
    where: str  # the word after ```sh
    script: str
    output: str | None  # None: the guide shows none


def steps(text):
    return [Step(*match.groups()) for match in BLOCK.finditer(text)]


def pattern(output):
    """`output` without what may differ between two runs."""
    for varying, name in VARYING:
        output = varying.sub(name, output)
    return output.strip()
