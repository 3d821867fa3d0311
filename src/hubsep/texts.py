# SPDX-License-Identifier: Apache-2.0
"""Names and texts that others chose: how they are printed, and which texts a model is given.

Decisions: whatever is printed of a name goes through `printable`, as errors do by themselves (`errors.py`). A text for
a model has to be Unicode, and no longer than anybody types: a tokenizer needs minutes for a megabyte, and then finds
that it is too long.
"""

from __future__ import annotations

import os

from .errors import QueryError, printable


MAX_CHARACTERS = 10_000


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


__all__ = ["as_text", "check_text", "printable"]
