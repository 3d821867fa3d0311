# SPDX-License-Identifier: Apache-2.0
"""When two names of files are one: if the disk of some system could take them for one."""

from __future__ import annotations

import os
import unicodedata
from pathlib import Path


LONGEST_NAME = 255  # bytes, on nearly every file system


def key_of(path: Path) -> str:
    """What two names that a disk may take for one have in common."""
    return unicodedata.normalize("NFC", unicodedata.normalize("NFC", os.path.abspath(path)).casefold())


__all__ = ["LONGEST_NAME", "key_of"]
