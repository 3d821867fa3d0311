# SPDX-License-Identifier: Apache-2.0
"""Measuring programs that take turns: what the benchmarks against other packages share.

Each variant is a process of its own, which has loaded what it needs and answers every line of its input with the
figures of one call. They take turns, so that other work on the machine meets all of them; times are medians after a
warm-up, of the clock and of the processor. "loaded" is what a process holds before its first call, "extra" how much
more it held at its peak. A process may be of another Python, so nothing but numpy is needed to be one.
"""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np


def memory(field: str) -> float:
    """Megabytes this process holds ("VmRSS") or has ever held ("VmHWM")."""
    return int(Path("/proc/self/status").read_text().split(f"{field}:")[1].split()[0]) / 1024


def say(**figures: object) -> None:
    """A line for the process that asked."""
    print(json.dumps(figures), flush=True)


def serve(run: Callable[[], Any]) -> None:
    """Answers every line of the input with the figures of one call; a line that names a file gets the result too."""
    say(loaded=memory("VmRSS"))
    for line in sys.stdin:
        clock, processor = time.perf_counter(), time.process_time()
        result = run()
        clock, processor = time.perf_counter() - clock, time.process_time() - processor
        if line.strip():
            np.save(line.strip(), np.asarray(result))
        say(clock=clock, processor=processor, peak=memory("VmHWM"))


class Variant:
    """A process that holds one variant.

    Args:
        name: in the table.
        command: that starts it.
    """

    def __init__(self, name: str, command: Sequence[str]):
        self.name = name
        self.figures: list[dict[str, float]] = []
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        answer = self.answer()
        self.error, self.loaded = answer.get("error"), answer.get("loaded", 0.0)

    def answer(self) -> dict[str, Any]:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            if line.startswith("{"):  # packages print lines of their own
                return json.loads(line)
        raise SystemExit(f"the process of {self.name} ended with status {self.process.wait()}")

    def call(self, output: Path | None = None) -> None:
        """Has it run once, and write its result."""
        assert self.process.stdin is not None
        self.process.stdin.write(f"{output or ''}\n")
        self.process.stdin.flush()
        self.figures.append(self.answer())

    def median(self, what: str) -> float:
        return statistics.median(figures[what] for figures in self.figures[1:] or self.figures)

    def close(self) -> None:
        assert self.process.stdin is not None
        self.process.stdin.close()
        self.process.wait()


def compare(variants: Sequence[Variant], repeats: int, place: Path) -> None:
    """Lets variants take turns, prints a line for each beside the first of them, and closes them."""
    for variant in variants:
        if variant.error:
            print(f"  {variant.error}; ours is measured alone")
    present = [variant for variant in variants if not variant.error]
    for turn in range(repeats + 1):
        for variant in present:
            variant.call(place / f"{variant.name}.npy" if turn == repeats else None)
    report(present, place)
    for variant in variants:
        variant.close()


def report(variants: Sequence[Variant], place: Path) -> None:
    import torch

    from hubsep.metrics import si_sdr

    outputs = [torch.from_numpy(np.load(place / f"{variant.name}.npy")).double() for variant in variants]
    first, reference = variants[0], outputs[0]
    width = max(12, *(len(variant.name) for variant in variants))
    print(f"  {'':{width}}{'clock':>9}{'CPU':>9}{'faster, clock':>15}{'CPU':>8}{'loaded':>10}{'extra':>10}", end="")
    print(f"{'error/peak':>12}{'SI-SDR':>11}")
    for variant, estimate in zip(variants, outputs, strict=True):
        times = [variant.median(what) for what in ("clock", "processor")]
        faster = [first.median(what) / variant.median(what) for what in ("clock", "processor")]
        peak = max(figures["peak"] for figures in variant.figures)
        text = f"  {variant.name:{width}}{times[0]:8.2f}s{times[1]:8.2f}s{faster[0]:13.2f} x{faster[1]:6.2f} x"
        text += f"{variant.loaded:7.0f} MB{peak - variant.loaded:7.0f} MB"
        if variant is not first:
            error = ((estimate - reference).abs().max() / reference.abs().max()).item()
            text += f"{error:12.1e}{si_sdr(estimate, reference).min().item():8.1f} dB"
        print(text, flush=True)


__all__ = ["Variant", "compare", "memory", "say", "serve"]
