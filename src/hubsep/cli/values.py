# SPDX-License-Identifier: Apache-2.0
"""Values of a command line: what is wrong with one is said at once, with the value and the way out, and status 2.

Decisions: what can be found out before a model is loaded is a matter of the command line, and what fails in the work
itself is not. Numbers are read here and not by typer, whose messages lack the value. They have the digits 0 to 9, a
decimal point and no spaces: "1,5" is answered with "1.5" and not guessed. A length may also be minutes:seconds. A file
that is not there is answered with names that are near, and a sound in its place with the option for sounds.
"""

from __future__ import annotations

import os
import re
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import typer

from ..errors import HubsepError, UnreachableError, printable
from ..texts import as_text, check_text, did_you_mean, near


NUMBER = re.compile(r"[+-]?([0-9]+\.?[0-9]*|\.[0-9]+)(e[+-]?[0-9]+)?|[+-]?(inf|infinity|nan)", re.IGNORECASE)
WHOLE = re.compile(r"[+-]?[0-9]{1,40}")
CLOCK = re.compile(r"(?:([0-9]{1,6}):)?([0-9]{1,6}):([0-9]{1,2}(?:\.[0-9]+)?)")
LONGEST = 60  # characters of a value that are shown
MOST_SECONDS = 1e9  # as the reader of recordings has it
MOST_NEIGHBOURS = 10_000  # names of a folder that are compared


@contextmanager
def refusing() -> Iterator[None]:
    """Takes what is found wrong inside for a fault of the command line.

    Raises:
        typer.BadParameter: in place of an error of ours.
    """
    try:
        yield
    except UnreachableError:
        raise
    except HubsepError as error:
        raise typer.BadParameter(str(error)) from error


def number(low: float, high: float, *, above: bool = False, what: str = "a number") -> Callable[[Any], Any]:
    """What reads a number.

    Args:
        low: the least.
        high: the most.
        above: whether it has to be above the least.
        what: it is, for the error.
    """

    def read(text: Any) -> Any:
        if not isinstance(text, str):
            return text
        if not NUMBER.fullmatch(text):
            example = "1.5" if low <= 1.5 <= high else f"{(low + high) / 2:g}"
            raise typer.BadParameter(f"{_shown(text)} is not {what}{_point(text)}; write it like {example}")
        return _bounded(text, float(text), low, high, above=above)

    return read


def whole(low: int, high: int) -> Callable[[Any], Any]:
    """What reads a whole number from the least to the most."""

    def read(text: Any) -> Any:
        if not isinstance(text, str):
            return text
        if not WHOLE.fullmatch(text):
            raise typer.BadParameter(f"{_shown(text)} is not a whole number; write one from {low} to {high}")
        return _bounded(text, int(text), low, high)

    return read


def seconds(low: float = 0, high: float = MOST_SECONDS, *, above: bool = False) -> Callable[[Any], Any]:
    """What reads a length or a place in seconds, or as minutes:seconds or hours:minutes:seconds."""
    plain = number(low, high, above=above, what="a number of seconds")

    def read(text: Any) -> Any:
        clock = CLOCK.fullmatch(text) if isinstance(text, str) else None
        if clock is None:
            if isinstance(text, str) and ":" in text:
                raise typer.BadParameter(f"{_shown(text)} is no time; write seconds, or minutes:seconds such as 1:30")
            return plain(text)
        hours, minutes, rest = (float(part or 0) for part in clock.groups())
        if rest >= 60 or (clock[1] and minutes >= 60):
            raise typer.BadParameter(f"{_shown(text)} is no time; write minutes:seconds such as 1:30, each below 60")
        return _bounded(text, hours * 3_600 + minutes * 60 + rest, low, high, above=above)

    return read


def choice(*names: str) -> Callable[[Any], Any]:
    """What reads one of a few names, upper and lower case alike."""

    def read(text: Any) -> Any:
        if not isinstance(text, str) or text.casefold() in names:
            return text.casefold() if isinstance(text, str) else text
        raise typer.BadParameter(f"{_shown(text)} is none of {', '.join(names)}.{did_you_mean(text, names)}")

    return read


def text(example: str, *, empty: bool = False) -> Callable[[Any], Any]:
    """What reads a text for a model.

    Args:
        example: of one, for the error.
        empty: whether it may hold nothing.
    """

    def read(word: Any) -> Any:
        if not isinstance(word, str):
            return word
        words = as_text(word)
        if not empty and not words.strip():
            raise typer.BadParameter(f"{_shown(word)} says nothing; write words, such as {example!r}")
        with refusing():
            return check_text(words, "this text")

    return read


def name(what: str, example: str) -> Callable[[Any], Any]:
    """What reads a name that may not be empty, of a model for instance."""

    def read(word: Any) -> Any:
        if isinstance(word, str) and (not word.strip() or "\0" in word):
            raise typer.BadParameter(f"{_shown(word)} is no name of {what}; write one, such as {example}")
        return word

    return read


def repository(word: Any) -> Any:
    """Reads the name of a repository of the Hub, `org/name` or `name`, as the Hub takes it."""
    if not isinstance(word, str):
        return word
    parts = word.split("/")
    letters = all(re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]{0,95}", part) and ".." not in part for part in parts)
    if len(parts) > 2 or not letters:
        raise typer.BadParameter(
            f"{_shown(word)} is no name of a repository; write org/name, of letters, digits, - _ and ."
        )
    return word


def place(*, folder: bool | None = None) -> Callable[[Any], Any]:
    """What reads the name of something that is going to be written.

    Args:
        folder: whether it is a folder; False for a file, None for either.
    """

    def read(word: Any) -> Any:
        if not isinstance(word, str):
            return word
        if not word or "\0" in word:
            raise typer.BadParameter(f"{_shown(word)} names no {'folder' if folder else 'file'}")
        path = Path(word)
        if folder is not None and os.path.exists(path) and os.path.isdir(path) is not folder:
            kind, wanted = ("file", "folder") if folder else ("folder", "file")
            raise typer.BadParameter(f"{_shown(word)} is a {kind}, and a {wanted} is wanted here; choose another name")
        return path

    return read


def existing(*, file: bool = True, folder: bool = True, query: bool = False) -> Callable[[Any], Any]:
    """What reads the name of something that has to be there.

    Args:
        file: whether it may be a file.
        folder: whether it may be a folder.
        query: whether a sound in its place would be a query without -q.

    Returns:
        A function from a word to a path.
    """

    def read(word: Any) -> Any:
        if not isinstance(word, str):
            return word
        if re.match(r"[a-z][a-z0-9+.-]+://", word, re.IGNORECASE):
            raise typer.BadParameter(
                f"{_shown(word)} is an address, and files are read here; fetch it first, with `curl -O` for instance"
            )
        path, kind = Path(word), "file" if not folder else "folder" if not file else "file or folder"
        if not word or "\0" in word or not os.path.lexists(path):
            way = _near(path)
            if query and not way and word.strip() and not path.suffix and "/" not in word:
                way = f"; a sound to separate is said with -q: -q {_shown(word)}"
            raise typer.BadParameter(f"{_shown(word)} does not exist{way}")
        if (path.is_dir() and not folder) or (path.is_file() and not file):
            other = "folder" if path.is_dir() else "file"
            raise typer.BadParameter(f"{_shown(word)} is a {other}, and a {kind} is wanted here")
        if path.exists() and not path.is_dir() and not path.is_file():  # who reads it waits for whoever writes
            raise typer.BadParameter(f"{_shown(word)} is a pipe or a device; write what comes out of it to a file")
        if not os.access(path, os.R_OK):
            raise typer.BadParameter(f"{_shown(word)} cannot be read: it leads nowhere, or you may not read it")
        return path

    return read


def check_writable(folder: Path) -> None:
    """Refuses a folder for results that cannot be written to; one that is missing is made.

    Raises:
        typer.BadParameter: naming the folder.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        reason = error.strerror or type(error).__name__
        raise typer.BadParameter(
            f"nothing can be written to the folder {_shown(str(folder))}: {reason}; choose another --output"
        ) from error


def _near(path: Path) -> str:
    """The end of an error: a name of the same folder that may be meant."""
    try:
        with os.scandir(path.parent) as entries:
            names = [entry.name for entry, _ in zip(entries, range(MOST_NEIGHBOURS), strict=False)]
    except OSError:
        return ""
    meant = near(path.name, sorted(names)) if path.name else None
    return f". Did you mean {printable(path.parent / meant)}?" if meant else ""


def _bounded(text: str, value: Any, low: float, high: float, *, above: bool = False) -> Any:
    if not low <= value <= high or (above and value == low):
        lowest, highest = (str(each) if isinstance(each, int) else f"{each:.12g}" for each in (low, high))
        least = f"above {lowest} and at most" if above else f"{lowest} to"
        raise typer.BadParameter(f"must be {least} {highest}, got {_shown(text)}")
    return value


def _point(text: str) -> str:
    return ", which has a comma for its point" if NUMBER.fullmatch(text.replace(",", ".", 1)) else ""


def _shown(text: str) -> str:
    return repr(printable(text[:LONGEST])) + ("..." if len(text) > LONGEST else "")


__all__ = [
    "check_writable",
    "choice",
    "existing",
    "name",
    "number",
    "place",
    "refusing",
    "repository",
    "seconds",
    "text",
    "whole",
]
