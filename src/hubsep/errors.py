# SPDX-License-Identifier: Apache-2.0
"""The errors hubsep raises: every message says what was wrong, with the value, and the way out.

All of them are `ValueError`s as well, so code that only knows the standard library can catch them. A file's name, or a
text in a file, may hold a line break or a terminal's escape codes, and then it could forge a line of a log, or hide
one. So a message is one line: what ends a line, moves the cursor or turns the direction of writing is written as its
escape, and so are bytes that are no UTF-8. Letters of every script stay.
"""

from __future__ import annotations

import unicodedata


HIDDEN = frozenset({"Cc", "Cs", "Zl", "Zp"})  # control characters, bytes that are no text, ends of lines
TURNING = frozenset("\u061c\u200e\u200f\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069")
BEGINNING, END = 1_200, 600  # characters of a message that is longer: it ends with the way out


def printable(text: object) -> str:
    r"""A text in one line without control characters: a line break as \n, an escape as \x1b, a stray byte as \xff."""
    return "".join(_escape(letter) for letter in str(text))


def _escape(letter: str) -> str:
    if unicodedata.category(letter) not in HIDDEN and letter not in TURNING:
        return letter
    code = ord(letter)
    if 0xDC80 <= code <= 0xDCFF:  # how Python keeps a byte of a file's name that is no UTF-8
        return f"\\x{code - 0xDC00:02x}"
    return repr(letter)[1:-1] if not letter.isprintable() else f"\\u{code:04x}"


class HubsepError(Exception):
    """Base of every error raised on purpose by hubsep; its text is one printable line."""

    def __str__(self) -> str:
        message = super().__str__()
        if len(message) > BEGINNING + END:
            message = f"{message[:BEGINNING]} ... {message[-END:]}"
        return printable(message)


class AudioError(HubsepError, ValueError):
    """A recording that cannot be read, written or processed as asked."""


class CheckpointError(HubsepError, ValueError):
    """A model folder or configuration that is broken, incomplete or hostile."""


class UnreachableError(CheckpointError):
    """The Hub, or another place of the network, gave no answer: nothing is wrong with the request."""


class ConversionError(HubsepError, ValueError):
    """A published checkpoint that does not fit the layout it claims to have."""


class QueryError(HubsepError, ValueError):
    """A query that is missing, empty or of the wrong kind."""


class DataError(HubsepError, ValueError):
    """A data folder or its `metadata.csv` that does not keep the dataset contract."""


class TooLittleMemoryError(HubsepError, ValueError, MemoryError):
    """Work for which there is not enough memory."""


def is_out_of_memory(error: BaseException) -> bool:
    """Whether Python, or an allocator of PyTorch, had no memory to give."""
    text = str(error)
    return isinstance(error, MemoryError) or "allocate memory" in text or "out of memory" in text


__all__ = [
    "AudioError", "CheckpointError", "ConversionError", "DataError", "HubsepError", "QueryError",
    "TooLittleMemoryError", "UnreachableError", "is_out_of_memory", "printable",
]  # fmt: skip
