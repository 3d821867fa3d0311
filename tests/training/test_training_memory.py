# SPDX-License-Identifier: Apache-2.0
"""Memory that a training step frees is there for the next one, and goes back afterwards."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest


COUNT = """
import resource
import torch
from hubsep.training.memory import kept_memory

def faults():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(10):
        torch.empty(2**24).fill_(1)  # above 32 MB malloc never keeps a block by itself
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

def resident():
    with open("/proc/self/statm") as statm:
        return int(statm.read().split()[1]) * resource.getpagesize() // 2**20

faults()
before = faults()
with kept_memory():
    faults()
    within = faults()
    held = resident()
print(before, within, held - resident())
"""


def counted(**environment: str) -> list[int]:
    """Page faults of ten blocks of 64 MB before and within, and the MB given back at the end, in its own process."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("GLIBC_", "MALLOC_", "LD_PRE"))}
    run = subprocess.run(
        [sys.executable, "-c", COUNT], env=kept | environment, capture_output=True, text=True, check=True
    )
    return [int(word) for word in run.stdout.split()]


@pytest.mark.slow
@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="it is glibc that gives memory back")
def test_freed_memory_is_kept_while_a_model_trains() -> None:
    before, within, given_back = counted()
    if before < 100:
        pytest.skip("this system's malloc keeps memory by itself")
    assert within < before / 10
    assert given_back > 32, "the block of 64 MB that was kept"
    before, within, _ = counted(MALLOC_ARENA_MAX="2")
    assert within > before / 2, "whoever has settings of malloc is left alone"
