# SPDX-License-Identifier: Apache-2.0
"""The lines a command prints: above the progress bars, and safe whatever a file is called (see `texts.py`)."""

from __future__ import annotations

import sys

from ..texts import printable


def say(*lines: object) -> None:
    """Prints results, a line each."""
    from tqdm import tqdm

    for line in lines:
        tqdm.write(printable(line))


def warn(*lines: object) -> None:
    """Prints what is wrong or remarkable, to standard error, a line each."""
    for line in lines:
        print(printable(line), file=sys.stderr)


__all__ = ["say", "warn"]
