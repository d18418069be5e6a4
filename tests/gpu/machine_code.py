"""Reads the sm_70 machine code of the kernels, without a GPU: registers, shared memory, loads, tensor cores.

machine_code_test.py holds it against the budgets; alone it prints the table of kernels/RESULTS.md:

    machine_code.py CUOBJDUMP OBJECT...
"""

import re
import subprocess
import sys
from typing import NamedTuple


class Budget(NamedTuple):
    threads: int          # of a block
    blocks: int           # that must fit on one SM of a V100
    dynamic: int = 0      # bytes of dynamic shared memory, at the largest shape of an OPT
    tensor: bool = False  # uses the tensor cores
    wide: bool = True     # loads 16 bytes at a time


# By a part of the mangled name.
BUDGETS = {
    "VoltaPrefillKernelILi64E": Budget(128, 4, dynamic=23552, tensor=True),
    "VoltaPrefillKernelILi80E": Budget(128, 3, dynamic=27648, tensor=True),
    "VoltaPrefillKernelILi128E": Budget(128, 2, dynamic=39936, tensor=True),
    "DecodeKernelILi64E": Budget(128, 8),
    "DecodeKernelILi80E": Budget(128, 6),  # two lanes share a score: five vectors of the query in each
    "DecodeKernelILi128E": Budget(128, 8),
    "WriteKvKernel": Budget(128, 8),
    "SkinnyKernelILi1ELi8E": Budget(256, 5),
    "SkinnyKernelILi2ELi8E": Budget(256, 4),
    "SkinnyKernelILi4ELi8E": Budget(256, 3),
    "SkinnyKernelILi8ELi8E": Budget(256, 2),
    "SkinnyKernelILi16ELi8E": Budget(256, 1),
    "WmmaKernelILi1ELb1E": Budget(256, 3, dynamic=25600, tensor=True),
    "WmmaKernelILi2ELb1E": Budget(256, 2, dynamic=30720, tensor=True),
    "WmmaKernelILi4ELb1E": Budget(256, 2, dynamic=40960, tensor=True),
    "WmmaKernelILi8ELb1E": Budget(256, 1, dynamic=65536, tensor=True),
    "NormKernel": Budget(256, 1, dynamic=12288 * 4, wide=False),  # OPT-175B's row fills half of an SM and 32 bytes more
    "AllReduceKernelILi4E": Budget(256, 1, dynamic=12288 * 4),
    "AllGatherKernelILi4E": Budget(256, 2),
    "SampleKernel": Budget(512, 2, wide=False),
    "ScoreKernel": Budget(512, 2, wide=False),
}

# One SM of sm_70 (CUDA C++ Programming Guide, "Compute Capabilities").
REGISTERS, SUBPARTITIONS, THREADS, BLOCKS, SHARED = 65536, 4, 2048, 32, 98304


class Kernel(NamedTuple):
    name: str
    registers: int
    shared: int  # static
    stack: int   # bytes: spilled registers and arrays in memory
    local: int   # loads and stores of local memory
    hmma: int    # HMMA.884 instructions
    wide: int    # LDG.E.128 instructions


def _round_up(n, unit):
    return -(-n // unit) * unit


def blocks_per_sm(threads, registers, shared):
    """How many blocks of a kernel one SM of sm_70 holds at once; as cuda_occupancy.h says."""
    warps = _round_up(threads, 32) // 32
    warp_registers = _round_up(registers * 32, 256)
    by_registers = REGISTERS // SUBPARTITIONS // warp_registers * SUBPARTITIONS // warps
    by_shared = SHARED // _round_up(shared, 256) if shared else BLOCKS
    return min(by_registers, by_shared, THREADS // (warps * 32), BLOCKS)


def _run(*command):
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout


def kernels(cuobjdump, objects):
    """Every kernel in the objects' sm_70 code."""
    found = []
    for name in objects:
        code = {part.split(None, 1)[0]: part
                for part in re.split(r"Function : ", _run(cuobjdump, "-sass", "-arch", "sm_70", name))[1:]}
        usage = _run(cuobjdump, "--dump-resource-usage", "-arch", "sm_70", name)
        for kernel, numbers in re.findall(r"Function (\S+):\s+(REG:.*)", usage):
            use = {key: int(value) for key, value in re.findall(r"([A-Z]+):(\d+)", numbers)}
            count = lambda pattern: len(re.findall(pattern, code[kernel]))
            found.append(Kernel(kernel, use["REG"], use["SHARED"], use["STACK"] + use["LOCAL"],
                                count(r"\b(?:LDL|STL)\b"), count(r"\bHMMA\.884\b"), count(r"\bLDG\.E\.128\b")))
    return found


if __name__ == "__main__":
    if len(sys.argv) < 3:
        sys.exit(__doc__)
    for k in kernels(sys.argv[1], sys.argv[2:]):
        print(k)
