# SPDX-License-Identifier: Apache-2.0
"""Runs the tests that compute numbers as other processors and other thread counts would: `make processors`.

oneDNN and PyTorch choose their code by what the processor can do; both can be told that it can do less ("default" is
PyTorch without vector instructions). Each row of the table is a run of pytest with one such choice, the first two with
the processor's own. Arguments go to pytest (`tests/test_x.py`, `-m slow`); without any, every file runs that states a
tolerance or a threshold.
"""

from __future__ import annotations

import itertools
import os
import re
import subprocess
import sys
import time
from pathlib import Path


TESTS = Path(__file__).parent
NAMES = ("ONEDNN_MAX_CPU_ISA", "ATEN_CPU_CAPABILITY", "OMP_NUM_THREADS")
CODE = [("", ""), *itertools.product(("AVX2", "AVX512_CORE", ""), ("avx2", "default"))]
THREADS = ("1", "2")
NUMBERS = re.compile(
    r"atol=|approx\(|rounding\(|TOLERANCE|CLOSE|\de-\d|promises_(?:model|pipeline|conversion)|torch\.equal"
)


def main(arguments: list[str]) -> int:
    """Print a row for each choice, and what failed to stderr; the exit status is 0 if nothing did."""
    arguments = arguments or [
        str(path) for path in sorted(TESTS.glob("test_*.py")) if NUMBERS.search(path.read_text())
    ]
    print(
        "| " + " | ".join([*NAMES, "result", "minutes"]) + " |", "|---" * (len(NAMES) + 2) + "|", sep="\n", flush=True
    )
    failed = False
    for code, threads in itertools.product(CODE, THREADS):
        start = time.monotonic()
        choice = {name: value for name, value in zip(NAMES, (*code, threads), strict=True) if value}
        lines = run(choice, arguments)
        cells = [choice.get(name, "its own") for name in NAMES]
        cells += [re.sub(r" in [\d.]+s.*", "", lines[-1]), f"{(time.monotonic() - start) / 60:.1f}"]
        print("| " + " | ".join(cells) + " |", flush=True)
        for line in lines:
            if line.startswith(("FAILED", "ERROR")):
                print(line, file=sys.stderr, flush=True)
                failed = True
    return int(failed)


def run(choice: dict[str, str], arguments: list[str]) -> list[str]:
    """The last lines of a run of pytest: what failed, and the count."""
    environment = {name: value for name, value in os.environ.items() if name not in NAMES} | choice
    command = [sys.executable, "-m", "pytest", "-q", "--tb=no", "-rfE", "-p", "no:cacheprovider", *arguments]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    lines = done.stdout.strip().splitlines() or [done.stderr.strip() or "no output"]
    if done.returncode not in (0, 1):
        lines.insert(0, f"ERROR pytest ended with {done.returncode}")
    return lines


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
