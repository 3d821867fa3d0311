# SPDX-License-Identifier: Apache-2.0
"""The lines a command prints: above the progress bars, and safe whatever a file is called (see `texts.py`)."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from typing import Any

import typer

from ..texts import printable


NOT_UNDERSTOOD = 3  # exit status


def say(*lines: object) -> None:
    """Prints results, a line each."""
    from tqdm import tqdm

    for line in lines:
        tqdm.write(printable(line))


def warn(*lines: object) -> None:
    """Prints what is wrong or remarkable, to standard error, a line each."""
    for line in lines:
        print(printable(line), file=sys.stderr)


def result_line(path: object, facts: Mapping[str, Any]) -> str:
    """A file with its score, what its query was taken for if that is not what it says, and what the score means."""
    from ..pipelines.scores import ACTIVE_SCORE

    line = f"{path}  score {facts['score']:.2f}"
    if "understood_as" not in facts:
        return line
    meaning, label = facts["understood_as"], str(facts["label"])
    if meaning is None:
        return f"{line}  no sound this model knows; nearest: {facts['nearest']}"
    if meaning.casefold() != label.casefold():
        line += f"  taken as: {meaning}"
    return line if facts["score"] > ACTIVE_SCORE else f"{line}  probably not in this recording"


def finish(failures: list[tuple[str, str]], unknown: Mapping[str, str]) -> None:
    """Lists what failed, by path and reason, and the queries that mean no sound the model knows, with the nearest.

    Raises:
        typer.Exit: with 1 if anything failed, else with 3 if a query was not understood.
    """
    for source, error in failures:
        warn(f"failed: {source}: {error}")
    for query, nearest in unknown.items():
        warn(f"not understood: {query!r} is no sound this model knows; the nearest is {nearest!r}")
    if failures or unknown:
        raise typer.Exit(1 if failures else NOT_UNDERSTOOD)


__all__ = ["finish", "result_line", "say", "warn"]
