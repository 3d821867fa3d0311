# SPDX-License-Identifier: Apache-2.0
"""The lines a command prints: above the progress bars, and safe whatever a file is called (see `texts.py`)."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import typer

from ..batch.lines import warn


NOT_UNDERSTOOD = 3  # exit status


def finish(
    failures: list[tuple[str, str]], unknown: Mapping[str, str], effect: Callable[[str], str] = lambda query: ""
) -> None:
    """Lists what failed, by path and reason, and the queries that mean no sound the model knows, with the nearest.

    Args:
        failures: paths and reasons.
        unknown: queries, and the sound that comes nearest.
        effect: what to expect of the file of such a query.

    Raises:
        typer.Exit: with 1 if anything failed, else with 3 if a query was not understood.
    """
    for source, error in failures:
        reason = error.removeprefix(f"{Path(source).stem}: ")  # the path says it
        warn(f"failed: {source}: {reason}")
    for query, nearest in unknown.items():
        warn(f"not understood: {query!r} is no sound this model knows; the nearest is {nearest!r}{effect(query)}")
    if failures or unknown:
        raise typer.Exit(1 if failures else NOT_UNDERSTOOD)


class Forgiving:
    """A stream that goes on as if nothing were wrong when nobody reads it any more, as after `| head -1`.

    Args:
        stream: standard output or standard error.
    """

    def __init__(self, stream: Any):
        self._stream = stream

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    def write(self, text: str) -> int:
        """Writes, or does nothing."""
        try:
            return int(self._stream.write(text))
        except BrokenPipeError:
            return self._drop(text)

    def flush(self) -> None:
        """Flushes, or does nothing."""
        try:
            self._stream.flush()
        except BrokenPipeError:
            self._drop("")

    def _drop(self, text: str) -> int:
        """Sends what comes and what is still held to nowhere: Python flushes once more when it ends."""
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, self._stream.fileno())
        os.close(nowhere)
        return len(text)


@contextmanager
def forgiving() -> Iterator[None]:
    """Standard output and error, for as long as a command runs: what it wrote is complete, whoever reads its lines."""
    streams = sys.stdout, sys.stderr
    for stream in streams:
        if hasattr(stream, "reconfigure"):  # a terminal or locale that lacks a letter gets its escape
            stream.reconfigure(errors="backslashreplace")
    # one that is closed is None, and no file that is opened later may take its number
    sys.stdout, sys.stderr = (Forgiving(stream or open(os.devnull, "w")) for stream in streams)  # noqa: SIM115
    try:
        yield
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        sys.stdout, sys.stderr = streams


__all__ = ["finish", "forgiving"]
