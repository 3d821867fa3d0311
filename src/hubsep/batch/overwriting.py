# SPDX-License-Identifier: Apache-2.0
"""The rule of commands that write one thing: what is there stays, unless the user says `--overwrite`; when two names
are one."""

from __future__ import annotations

import os
import unicodedata
from pathlib import Path
from typing import Annotated

import typer


LONGEST_NAME = 255  # bytes, on nearly every file system
Overwrite = Annotated[bool, typer.Option("--overwrite", help="Replace what is there.")]


def key_of(path: Path) -> str:
    """What two names that a disk may take for one have in common."""
    return unicodedata.normalize("NFC", unicodedata.normalize("NFC", os.path.abspath(path)).casefold())


def check_free(path: Path, *, overwrite: bool, source: Path | None = None) -> None:
    """Refuses a place where something is; an empty folder is nothing.

    Args:
        path: a file or a folder that is going to be written.
        overwrite: whether it may be replaced.
        source: what is read, and is never replaced.

    Raises:
        typer.BadParameter: naming the place.
    """
    if not path.exists():
        return
    if source is not None and source.exists() and path.samefile(source):
        raise typer.BadParameter(f"{path} is what is read; write to another place")
    if not overwrite and not (path.is_dir() and not any(path.iterdir())):
        raise typer.BadParameter(f"{path} is there already; choose another place, or replace it with --overwrite")


__all__ = ["LONGEST_NAME", "Overwrite", "check_free", "key_of"]
