# SPDX-License-Identifier: Apache-2.0
"""What a case is, and what it says when a promise is broken that raises nothing by itself."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar


T = TypeVar("T")
Action = Callable[[], str]


class Fault(Exception):
    """A silent wrong: a short result, NaN, changed weights, a half-written folder."""


@dataclass
class Case:
    """One case on its way through a kind.

    Args:
        kind: its name.
        seed: of everything that is random in it.
        templates: folder that the kind filled once; never written to by a case.
        folder: empty, of this case alone; hubsep may read and write below it.
        outside: beside it, with decoys; nobody may read or write there.

    Attributes:
        notes: what was changed, for whoever reads the report.
        random: its numbers.
        serves: whether it has a server on this computer, which it may connect to.
    """

    kind: str
    seed: int
    templates: Path
    folder: Path
    outside: Path
    notes: list[str] = field(default_factory=list)
    random: random.Random = field(init=False)
    serves: bool = False

    def __post_init__(self) -> None:
        self.random = random.Random(f"{self.kind} {self.seed}")

    def note(self, text: Any) -> None:
        """Remembers a change."""
        self.notes.append(ascii(text)[1:-1][:300] if isinstance(text, str) else ascii(text)[:300])

    def choose(self, choices: dict[str, T]) -> T:
        """One of the values, whose name is remembered."""
        name = self.random.choice(sorted(choices))
        self.note(name)
        return choices[name]

    def chance(self, share: float) -> bool:
        """True in that share of all cases."""
        return self.random.random() < share


@dataclass(frozen=True)
class Kind:
    """A kind of case.

    Args:
        prepare: fills the templates, once, in the process that all cases are forked from.
        make: changes a copy of them, and gives what hands it to hubsep. That says what came out, in a word.
        resolves: whether names may be looked up.
        cpu_s: seconds of computing a case may take.
        unpickles: whether PyTorch's restricted unpickler is part of it.
    """

    prepare: Callable[[Path], None]
    make: Callable[[Case], Action]
    resolves: bool = False
    cpu_s: int = 8
    unpickles: bool = False


def expect(true: Any, text: str) -> None:
    """Raises a fault unless something holds."""
    if not true:
        raise Fault(text)


__all__ = ["Action", "Case", "Fault", "Kind", "expect"]
