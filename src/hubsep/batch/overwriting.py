# SPDX-License-Identifier: Apache-2.0
"""The rule of commands that write one thing: what is there stays, unless the user says `--overwrite`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


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
    if not path.exists():
        return
    if source is not None and source.exists() and path.samefile(source):
        raise typer.BadParameter(f"{path} is what is read; write to another place")
    if not overwrite and not (path.is_dir() and not any(path.iterdir())):
        raise typer.BadParameter(f"{path} is there already; choose another place, or replace it with --overwrite")


__all__ = ["Overwrite", "check_free"]
