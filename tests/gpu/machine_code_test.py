"""The sm_70 machine code of a build with CUDA 12: every kernel stays in its registers, loads wide, leaves room for the
planned number of blocks on an SM, and uses the tensor cores where it is meant to.

    OPTSERVE_CUDA12=TOOLKIT OPTSERVE_CUDA_BUILD=build/cuda12 pytest tests/gpu
"""

import os
import pathlib

import pytest

from machine_code import BUDGETS, blocks_per_sm, kernels


ROOT = pathlib.Path(__file__).resolve().parents[2]


@pytest.fixture(scope="session")
def objects():
    found = sorted(pathlib.Path(os.environ["OPTSERVE_CUDA_BUILD"], "kernels").rglob("*.cu.o"))
    assert found, "nothing has been built"
    return found


@pytest.fixture(scope="session")
def code(objects):
    return kernels(os.path.join(os.environ["OPTSERVE_CUDA12"], "bin", "cuobjdump"), objects)


def test_no_object_says_where_it_was_built(objects):
    assert [path.name for path in objects if bytes(ROOT) in path.read_bytes()] == []


def test_no_kernel_leaves_its_registers(code):
    assert [k.name for k in code if k.stack or k.local] == []


@pytest.mark.parametrize("name", BUDGETS)
def test_budget(code, name):
    budget = BUDGETS[name]
    found = [k for k in code if name in k.name]
    assert found, "in none of the objects"
    for kernel in found:
        blocks = blocks_per_sm(budget.threads, kernel.registers, kernel.shared + budget.dynamic)
        print(f"{name}: {kernel.registers} registers, {kernel.shared + budget.dynamic} bytes shared, {blocks} blocks an SM, "
              f"{kernel.hmma} HMMA.884, {kernel.wide} loads of 16 bytes")
        assert blocks >= budget.blocks
        assert not budget.wide or kernel.wide > 0
        assert not budget.tensor or kernel.hmma > 0


# Worked by hand from NVIDIA's occupancy rules: registers are handed out by 256 to a warp, shared memory by 256 bytes.
@pytest.mark.parametrize("threads, registers, shared, blocks", [
    (256, 32, 0, 8), (256, 33, 0, 6), (256, 128, 0, 2), (256, 129, 0, 1), (128, 32, 24 * 1024, 4), (128, 16, 24 * 1024 + 1, 3),
    (32, 16, 0, 32)])
def test_occupancy_is_counted_right(threads, registers, shared, blocks):
    assert blocks_per_sm(threads, registers, shared) == blocks
