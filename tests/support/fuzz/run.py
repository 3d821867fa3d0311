# SPDX-License-Identifier: Apache-2.0
"""Runs cases and counts what came out."""

from __future__ import annotations

import argparse
import os
import signal
import time
from collections import Counter, defaultdict
from dataclasses import dataclass, field
from typing import Any

from children import Children


# kinds, and how often each is drawn: what takes a tenth of the time comes more often
WEIGHTS = {
    "recordings": 6,
    "models": 4,
    "processors": 3,
    "adapters": 2,
    "lora": 2,
    "components": 4,
    "checkpoints": 4,
    "tables": 4,
    "recipes": 3,
    "urls": 3,
}
ORDER = [kind for turn in range(max(WEIGHTS.values())) for kind, count in WEIGHTS.items() if turn < count]
SIGNALS = {
    signal.SIGXCPU: "too much time was spent",
    signal.SIGALRM: "it hangs",
    signal.SIGKILL: "too much time was spent, or memory",
}


@dataclass
class Totals:
    """What came out of many cases, by kind."""

    outcomes: dict[str, Counter[str]] = field(default_factory=lambda: defaultdict(Counter))
    refusals: dict[str, Counter[str]] = field(default_factory=lambda: defaultdict(Counter))
    seconds: dict[str, float] = field(default_factory=lambda: defaultdict(float))
    faults: list[str] = field(default_factory=list)

    def add(self, kind: str, seed: int, verdict: dict[str, Any], seconds: float) -> None:
        """Counts a case."""
        self.outcomes[kind][verdict["outcome"]] += 1
        self.seconds[kind] += seconds
        if verdict["outcome"] == "refused":
            self.refusals[kind][verdict["where"]] += 1
        if verdict["outcome"] == "fault":
            self.faults.append(report(kind, seed, verdict))

    def table(self) -> str:
        """One line a kind: cases, what came out, places that refuse, milliseconds a case."""
        lines = []
        for kind, outcomes in self.outcomes.items():
            total = sum(outcomes.values())
            told = ", ".join(f"{name} {count}" for name, count in sorted(outcomes.items()))
            refusals, ms = len(self.refusals[kind]), 1_000 * self.seconds[kind] / total
            lines.append(f"{kind:<12}{total:>6}  {ms:>5.0f} ms  {refusals:>3} places refuse  {told}")
        return "\n".join(lines)


def report(kind: str, seed: int, verdict: dict[str, Any]) -> str:
    """A fault, what was changed, and how to see it again."""
    lines = [f"{kind} {seed}: {verdict['fault']}", f"  changed: {'; '.join(verdict.get('notes') or ['?'])}"]
    if verdict.get("where"):
        lines.append("  " + str(verdict["where"]).rstrip().replace("\n", "\n  "))
    return "\n".join([*lines, f"  again: python tests/support/fuzz {kind} {seed}"])


def run_one(children: Children, kind: str, seed: int) -> dict[str, Any]:
    """The verdict of a case; of one whose process was ended, what ended it."""
    status, verdict, output = children.run("run_case", kind, str(seed))
    if verdict is not None and status == 0:
        return verdict
    number = os.WTERMSIG(status) if os.WIFSIGNALED(status) else 0
    lines = output.strip().splitlines()
    ended = f"signal {number}: {SIGNALS.get(signal.Signals(number), 'a crash')}" if number else f"ended with {status}"
    return {
        "outcome": "fault",
        "fault": ended,
        "notes": lines[:1],
        "where": "\n".join(lines[-25:]) if not number or number == signal.SIGSEGV else "",
    }


def run_many(
    children: Children, cases: int, base: int, kinds: list[str] | None = None, *, show: bool = False
) -> Totals:
    """Runs so many cases, the kinds in turn; seeds begin at `base` times a million."""
    totals, order = Totals(), [kind for kind in ORDER if kinds is None or kind in kinds]
    for number in range(cases):
        kind, seed = order[number % len(order)], base * 1_000_000 + number
        start = time.monotonic()
        verdict = run_one(children, kind, seed)
        totals.add(kind, seed, verdict, time.monotonic() - start)
        if show and verdict["outcome"] == "fault":
            print(totals.faults[-1], flush=True)
        if show and number % 100 == 99:
            print(f"{number + 1} of {cases} cases, {len(totals.faults)} faults", flush=True)
    return totals


def main(arguments: list[str]) -> int:
    """The command line; the exit status is 1 if there was a fault."""
    parser = argparse.ArgumentParser(
        prog="python tests/support/fuzz", description="Seeded cases of files that somebody else wrote."
    )
    parser.add_argument("kind", nargs="?", help=f"one of {', '.join(WEIGHTS)}")
    parser.add_argument("seed", nargs="?", type=int)
    parser.add_argument("--cases", type=int, default=2_000)
    parser.add_argument("--base", type=int, default=1, help="other seeds: BASE times a million and what follows")
    given = parser.parse_args(arguments)
    children = Children("fuzz.child")
    try:
        if given.seed is not None:
            verdict = run_one(children, given.kind, given.seed)
            print(report(given.kind, given.seed, verdict) if verdict["outcome"] == "fault" else verdict)
            return int(verdict["outcome"] == "fault")
        start = time.monotonic()
        totals = run_many(children, given.cases, given.base, given.kind and [given.kind], show=True)
        print(totals.table())
        seconds = time.monotonic() - start
        print(f"{given.cases} cases with base {given.base} in {seconds:.0f} s: {len(totals.faults)} faults")
        return int(bool(totals.faults))
    finally:
        children.close()


__all__ = ["Totals", "main", "run_many", "run_one"]
