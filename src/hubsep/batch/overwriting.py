# SPDX-License-Identifier: Apache-2.0
"""The rule of commands that write one thing: what is there stays, unless the user says `--overwrite`; what they read
stays always."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path
from typing import Annotated

import typer

from ..hub.file_names import SUFFIXES


READ = SUFFIXES | {".csv", ".safetensors"}
SETTINGS = ("config.json", "index.json", "card.json", "manifest.json", "tokenizer.json")  # how names of these end
Overwrite = Annotated[bool, typer.Option("--overwrite", help="Replace what is there.")]


def check_free(path: Path, *, overwrite: bool, source: Path | None = None) -> None:
    """Refuses a place where something is; an empty folder is nothing.

    Args:
        path: a file or a folder that is going to be written.
        overwrite: whether it may be replaced.
        source: what is read, and is never replaced.

    Raises:
        typer.BadParameter: naming the place.
    """
    if not os.path.lexists(path):  # writing through a link that leads nowhere would make a file elsewhere
        return
    if source is not None and source.exists() and path.exists() and path.samefile(source):
        raise typer.BadParameter(f"{path} is what is read; write to another place")
    if not overwrite and not (path.is_dir() and not any(path.iterdir())):
        raise typer.BadParameter(f"{path} is there already; choose another place, or replace it with --overwrite")


def check_not_read(path: Path, folders: Iterable[str | os.PathLike[str] | None]) -> None:
    """Refuses a file that a command reads: a recording, a table, weights or settings of a folder it was given.

    Raises:
        typer.BadParameter: naming the file.
    """
    is_read = path.is_file() and (path.suffix.lower() in READ or path.name.endswith(SETTINGS))
    for folder in [Path(each) for each in folders if each is not None]:
        if is_read and folder.is_dir() and path.resolve().is_relative_to(folder.resolve()):
            raise typer.BadParameter(f"{path} is part of {folder}, which is read; write to another place")


__all__ = ["Overwrite", "check_free", "check_not_read"]
