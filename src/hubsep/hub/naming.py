# SPDX-License-Identifier: Apache-2.0
"""Errors in the names of the files that were asked for.

What is written whole or not at all is written beside its place first, under a name that nobody knows. An error that
named that would help nobody, and one of a full disk names no file at all.
"""

from __future__ import annotations

import errno
import os
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from ..errors import AudioError


RUST_ERROR = re.compile(r"\(os error ([0-9]{1,4})\)")  # in the words of safetensors
FULL = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})  # they come while something is written


def of_the_system(error: Exception) -> OSError | None:
    """An error of the system: as it is, or as safetensors puts it into words of its own; None of any other."""
    if isinstance(error, OSError):
        return error
    number = RUST_ERROR.search(str(error)) if type(error).__name__ == "SafetensorError" else None
    return OSError(int(number[1]), os.strerror(int(number[1]))) if number else None


@contextmanager
def called(names: Mapping[Path, Path]) -> Iterator[None]:
    """Within this, an error names the file that was asked for, not the hidden one that is to become it.

    Args:
        names: of files that were asked for, by those that are written first. An error of the system that names no
            file, as that of a full disk, is one of the only file, if there is one only.
    """
    try:
        yield
    except AudioError as error:
        text = str(error)
        for unfinished, place in names.items():
            text = text.replace(str(unfinished), str(place))
        raise AudioError(text) from (error.__cause__ or error)
    except OSError as error:
        hidden = {str(path): asked for path, asked in names.items()}
        only = next(iter(names.values())) if len(names) == 1 else None
        asked = only if error.filename is None else hidden.get(str(error.filename))
        if asked is None or error.errno is None:
            raise
        raise OSError(error.errno, error.strerror, str(asked)) from error


__all__ = ["FULL", "called", "of_the_system"]
