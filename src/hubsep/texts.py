# SPDX-License-Identifier: Apache-2.0
"""Names and texts that others chose: how they are printed, and which texts a model is given.

Decisions: a file's name may hold a line break or a terminal's escape codes, and then it could forge a line of a
command's output, or hide one. So whatever is printed of a name goes through `printable`: what ends a line, moves the
cursor or turns the direction of writing is written as its escape, and so are bytes that are no UTF-8. Letters of every
script stay. A text for a model has to be Unicode, and no longer than anybody types: a tokenizer needs minutes for a
megabyte, and then finds that it is too long.
"""

from __future__ import annotations

import os
import unicodedata

from .errors import QueryError


MAX_CHARACTERS = 10_000
HIDDEN = frozenset({"Cc", "Cs", "Zl", "Zp"})  # control characters, bytes that are no text, ends of lines
TURNING = frozenset("\u061c\u200e\u200f\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069")


def printable(text: object) -> str:
    r"""A text in one line without control characters: a line break as \n, an escape as \x1b, a stray byte as \xff."""
    return "".join(_escape(letter) for letter in str(text))


def check_text(text: str, what: str) -> str:
    """The text, if a model can be given it.

    Args:
        text: words for a model.
        what: it is, for the error.

    Raises:
        QueryError: if it holds what is no Unicode, or is far too long.
    """
    if len(text) > MAX_CHARACTERS:
        raise QueryError(f"{what} has {len(text)} characters; at most {MAX_CHARACTERS} are read, shorten it")
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise QueryError(
            f"{what} {printable(text)!r} is no text: its character {error.start + 1} is a byte that is not UTF-8; "
            "type it in a terminal that is set to UTF-8"
        ) from error
    return text


def as_text(word: str) -> str:
    """A word of a command line as text, also where the system's own encoding is not that of the terminal.

    Without a locale Python keeps the bytes of letters as they are; where these are UTF-8, they are meant as such.
    """
    try:
        return os.fsencode(word).decode()
    except UnicodeError:
        return word


def _escape(letter: str) -> str:
    if unicodedata.category(letter) not in HIDDEN and letter not in TURNING:
        return letter
    code = ord(letter)
    if 0xDC80 <= code <= 0xDCFF:  # how Python keeps a byte of a file's name that is no UTF-8
        return f"\\x{code - 0xDC00:02x}"
    return repr(letter)[1:-1] if not letter.isprintable() else f"\\u{code:04x}"


__all__ = ["as_text", "check_text", "printable"]
