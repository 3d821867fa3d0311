# SPDX-License-Identifier: Apache-2.0
"""The lines a command prints: above the progress bars, and safe whatever a file is called (see `texts.py`)."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from ..texts import printable
from .explain import in_options


def say(*lines: object) -> None:
    """Prints results, a line each."""
    from tqdm import tqdm

    for line in lines:
        tqdm.write(printable(line))


def warn(*lines: object) -> None:
    """Prints what is wrong or remarkable, to standard error, a line each."""
    for line in lines:
        print(printable(in_options(str(line))), file=sys.stderr)


@contextmanager
def shown_while(doing: str) -> Iterator[None]:
    """Shows on a terminal what takes a few seconds, as long as it takes; nothing where nobody watches."""
    if not sys.stderr.isatty():
        yield
        return
    line = f"{printable(doing)} ..."
    print(line, end="\r", file=sys.stderr, flush=True)
    try:
        yield
    finally:
        print(" " * len(line), end="\r", file=sys.stderr, flush=True)


def result_line(path: object, facts: Mapping[str, Any]) -> str:
    """A file with its score, what its query was taken for if that is not what it says, and what the score means."""
    from ..pipelines.separation.scores import ACTIVE_SCORE

    line = f"{path}  score {facts['score']:.2f}{taken_as(facts)}"
    if facts.get("understood_as") is None or facts["score"] > ACTIVE_SCORE:
        return line
    return f"{line}  probably not in this recording"


def taken_as(facts: Mapping[str, Any]) -> str:
    """The end of a line: what words were taken for, if that is not what they say; "" if nothing is known of it."""
    if "understood_as" not in facts:
        return ""
    meaning = facts["understood_as"]
    if meaning is None:
        return f"  no sound this model knows; nearest: {facts['nearest']}"
    return "" if meaning.casefold() == str(facts["label"]).casefold() else f"  taken as: {meaning}"


__all__ = ["result_line", "say", "shown_while", "taken_as", "warn"]
