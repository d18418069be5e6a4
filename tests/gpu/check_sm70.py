#!/usr/bin/env python3
"""Checks the sm_70 machine code of the attention and cache kernels, without a GPU.

usage: check_sm70.py CUOBJDUMP OBJECT...

Every kernel of BUDGET must be there, keep everything in registers, load 16 bytes at a time, and leave room for the
stated number of its blocks on one SM of a V100; those marked so must use the tensor cores.
"""

import re
import subprocess
import sys

# kernel: (threads of a block, bytes of dynamic shared memory, blocks wanted on an SM, tensor cores)
BUDGET = {
    "VoltaPrefillKernelILi64E": (128, 23552, 4, True),
    "VoltaPrefillKernelILi80E": (128, 27648, 3, True),
    "VoltaPrefillKernelILi128E": (128, 39936, 2, True),
    "DecodeKernelILi64E": (128, 0, 8, False),
    "DecodeKernelILi80E": (128, 0, 6, False),  # two lanes share a score: five vectors of the query in each
    "DecodeKernelILi128E": (128, 0, 8, False),
    "WriteKvKernel": (128, 0, 8, False),
}

# One SM of sm_70 (CUDA C++ Programming Guide, "Compute Capabilities").
REGISTERS, SUBPARTITIONS, THREADS, BLOCKS, SHARED = 65536, 4, 2048, 32, 98304


def round_up(n, unit):
    return -(-n // unit) * unit


def blocks_per_sm(threads, registers, shared):
    """How many blocks of a kernel one SM of sm_70 holds at once; as cuda_occupancy.h says."""
    warps = round_up(threads, 32) // 32
    warp_registers = round_up(registers * 32, 256)
    by_registers = REGISTERS // SUBPARTITIONS // warp_registers * SUBPARTITIONS // warps
    by_shared = SHARED // round_up(shared, 256) if shared else BLOCKS
    return min(by_registers, by_shared, THREADS // (warps * 32), BLOCKS)


def run(*command):
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout


def main(cuobjdump, objects):
    found, code = {}, {}
    for name in objects:
        usage = run(cuobjdump, "--dump-resource-usage", "-arch", "sm_70", name)
        for kernel, numbers in re.findall(r"Function (\S+):\s+(REG:.*)", usage):
            found[kernel] = {key: int(value) for key, value in re.findall(r"([A-Z]+):(\d+)", numbers)}
        for part in re.split(r"Function : ", run(cuobjdump, "-sass", "-arch", "sm_70", name))[1:]:
            code[part.split(None, 1)[0]] = part

    failures = 0
    for kernel, (threads, dynamic, wanted, tensor) in BUDGET.items():
        names = [name for name in found if kernel in name]
        if not names:
            print(f"FAIL {kernel}: in none of the objects")
            failures += 1
        for name in names:
            use, text = found[name], code.get(name, "")
            shared = use["SHARED"] + dynamic
            blocks = blocks_per_sm(threads, use["REG"], shared)
            hmma = len(re.findall(r"\bHMMA\.884\b", text))
            wide = len(re.findall(r"\bLDG\.E\.128\b", text))
            local = len(re.findall(r"\b(?:LDL|STL)\b", text))
            bad = []
            if use["STACK"] or use["LOCAL"] or local:
                bad.append(f"{use['STACK']} bytes of stack, {local} local loads and stores")
            if blocks < wanted:
                bad.append(f"{blocks} blocks on an SM, {wanted} wanted")
            if tensor and not hmma:
                bad.append("no HMMA.884")
            if not wide:
                bad.append("no load of 16 bytes")
            print(f"{'FAIL' if bad else 'ok  '} {kernel}: {use['REG']} registers, {shared} bytes shared, {blocks} blocks/SM, "
                  f"{hmma} HMMA.884, {wide} LDG.E.128" + "".join(f"; {b}" for b in bad))
            failures += bool(bad)
    return 1 if failures else 0


if __name__ == "__main__":
    if len(sys.argv) < 3:
        sys.exit(__doc__)
    sys.exit(main(sys.argv[1], sys.argv[2:]))
