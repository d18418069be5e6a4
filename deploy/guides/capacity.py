#!/usr/bin/env python3
"""Writes CAPACITY.md's table from `optserve plan`: every OPT size on every node.

    capacity.py OPTSERVE > table.md

tests/deploy/capacity_test.py fails when the table in CAPACITY.md is not what this prints.
"""

import json
import subprocess
import sys

SIZES = ["opt-125m", "opt-350m", "opt-1.3b", "opt-2.7b", "opt-6.7b", "opt-13b", "opt-30b", "opt-66b", "opt-175b"]
NODES = ["dgx2", "dgx1", "dgx-a100", "a100", "h200"]


def plan(optserve, size, node):
    printed = subprocess.run([optserve, "plan", size, "--node", node, "--json"], check=True, capture_output=True, text=True)
    deployment = json.loads(printed.stdout)
    assert deployment["kind"] == "modelled"
    return deployment["options"]


def best(options):
    """Of the ways to cut the node up that fit, the one that makes the most tokens a second when it is full."""
    fitting = [option for option in options if option["fits"]]
    return max(fitting, key=lambda option: option["batches"][-1]["tokens_per_second"]["likely"], default=None)


def number(value):
    """To three digits, for people."""
    return f"{float(f'{value:.3g}'):,.10g}"


def row(size, node, option):
    if option is None:
        return f"| {size} | {node} | does not fit | | | | |"
    alone, full = option["batches"][0], option["batches"][-1]
    ranks, replicas = option["tensor_parallel_size"], option["replicas"]
    sequences = option["sequences_per_replica"] * replicas
    tokens = full["tokens_per_second"]
    return (f"| {size} | {node} | {ranks} x {replicas} | {sequences} | {number(1000 * option['first_token_seconds']['likely'])} "
            f"| {number(1000 * alone['next_token_seconds']['likely'])} "
            f"| {number(tokens['likely'])} ({number(tokens['slow'])} - {number(tokens['fast'])}) |")


def main():
    print("| model | node | ranks x replicas | answers at a time | first token, ms | next token alone, ms | tokens/s when full |")
    print("|---|---|---|---|---|---|---|")
    for size in SIZES:
        for node in NODES:
            print(row(size, node, best(plan(sys.argv[1], size, node))))


if __name__ == "__main__":
    main()
