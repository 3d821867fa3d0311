# SPDX-License-Identifier: Apache-2.0
"""Runs the tests that compute numbers as other processors and other thread counts would: `make processors`.

oneDNN and PyTorch choose their code by what the processor can do; both can be told that it can do less ("default" is
PyTorch without vector instructions). Each row of the table is a run of pytest with one such choice, the first two with
the processor's own, each with one thread and with two. Of each file those tests run that state a tolerance or a
threshold, themselves or in a function they call; arguments go to pytest (`tests/test_x.py`, `-m slow`). With
`HUBSEP_ROWS=3,4` only those rows run.
"""

from __future__ import annotations

import inspect
import itertools
import os
import re
import subprocess
import sys
import time
from pathlib import Path

import pytest


SUPPORT = Path(__file__).parent
TESTS = SUPPORT.parent
NAMES = ("ONEDNN_MAX_CPU_ISA", "ATEN_CPU_CAPABILITY", "OMP_NUM_THREADS")
CODE = [("", ""), ("AVX512_CORE", ""), ("AVX2", "avx2"), ("", "default")]
THREADS = ("1", "2")
NUMBERS = re.compile(
    r"atol|rtol|approx\(|rounding|TOLERANCE|CLOSE|close\(|\de-\d|equal\(|sdr|snr|decibel|[<>]=? -?\d*\.\d"
)


def main(arguments: list[str]) -> int:
    """Print a row for each choice, and what failed to stderr; the exit status is 0 if nothing did."""
    rows = list(itertools.product(CODE, THREADS))
    wanted = [int(row) for row in os.environ.get("HUBSEP_ROWS", "").split(",") if row] or range(1, len(rows) + 1)
    print(
        "| " + " | ".join([*NAMES, "result", "minutes"]) + " |", "|---" * (len(NAMES) + 2) + "|", sep="\n", flush=True
    )
    failed = False
    for code, threads in (rows[number - 1] for number in wanted):
        start = time.monotonic()
        choice = {name: value for name, value in zip(NAMES, (*code, threads), strict=True) if value}
        lines = run(choice, arguments or [str(TESTS)])
        cells = [choice.get(name, "its own") for name in NAMES]
        cells += [re.sub(r" in [\d.]+s.*", "", lines[-1]), f"{(time.monotonic() - start) / 60:.1f}"]
        print("| " + " | ".join(cells) + " |", flush=True)
        for line in lines:
            if line.startswith(("FAILED", "ERROR")):
                print(line, file=sys.stderr, flush=True)
                failed = True
    return int(failed)


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leaves the tests that compute numbers, where pytest has this file as a plugin."""
    kept = [item for item in items if isinstance(item, pytest.Function) and computes(item)]
    config.hook.pytest_deselected(items=[item for item in items if item not in kept])
    items[:] = kept


def computes(item: pytest.Function) -> bool:
    """Whether a test, or a function of the tests that it calls, states a tolerance or a threshold."""
    source = text_of(item.function)
    homes = [vars(item.module), vars(item.cls) if item.cls else {}]
    called = [home[name] for home in homes for name in set(re.findall(r"\w+", source)) if name in home]
    return any(NUMBERS.search(text) for text in [source, *map(text_of, called)])


def text_of(function: object) -> str:
    """The source of a function of the tests, "" of anything else."""
    if not inspect.isfunction(function) or TESTS not in Path(function.__code__.co_filename).parents:
        return ""
    return inspect.getsource(function)


def run(choice: dict[str, str], arguments: list[str]) -> list[str]:
    """The last lines of a run of pytest: what failed, and the count."""
    environment = {name: value for name, value in os.environ.items() if name not in NAMES} | choice
    environment["PYTHONPATH"] = os.pathsep.join([str(SUPPORT), *filter(None, [os.environ.get("PYTHONPATH")])])
    command = [
        sys.executable,
        "-m",
        "pytest",
        "-q",
        "--tb=no",
        "-rfE",
        "-p",
        "no:cacheprovider",
        "-p",
        "processors",
        *arguments,
    ]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    lines = done.stdout.strip().splitlines() or [done.stderr.strip() or "no output"]
    if done.returncode not in (0, 1):
        lines.insert(0, f"ERROR pytest ended with {done.returncode}")
    return lines


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
