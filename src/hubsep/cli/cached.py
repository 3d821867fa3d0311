# SPDX-License-Identifier: Apache-2.0
"""`hubsep list --cached`: models that were fetched by name; `hubsep remove`: one of them, taken away again."""

from __future__ import annotations

import json
from datetime import datetime
from pathlib import Path
from typing import Annotated

import typer

from ..batch.lines import say
from ..hub.cached import Cached, cached, remove_cached
from ..hub.licences import allows_commercial_use
from .values import name as name_of
from .values import refusing


COLUMNS = "{:<42}{:>9}  {:<16}{}"  # at most 80 characters
EXAMPLE = "speechbrain/sepformer-wsj02mix"


def show_cached(*, commercial: bool, as_json: bool) -> None:
    """Prints what was fetched, in two lines each: name, size, licence and day; and the folder it is in."""
    rows = [row for row in cached() if allows_commercial_use(row.licence) is True or not commercial]
    if as_json:
        print(json.dumps([_as_json(row) for row in rows], indent=2, ensure_ascii=False))
        return
    if not rows:
        print("Nothing was fetched so far. `hubsep list --published` prints what can be.")
        return
    say(COLUMNS.format("name", "size", "licence", "fetched"))
    place = common_folder(rows)  # which is said once: with it no folder would fit into a line
    for row in rows:
        day = datetime.fromtimestamp(row.opened).date().isoformat()
        say(COLUMNS.format(row.name, size(row.bytes), row.licence, day))
        say(*dict.fromkeys(f"  {short(folder).relative_to(place)}" for folder in row.folders))
    say("", f"The folders are in {place}", "`hubsep remove NAME` removes one.")


def common_folder(rows: list[Cached]) -> Path:
    """The cache that all of them are in."""
    folders = [short(folder) for row in rows for folder in row.folders]
    return next(parent for parent in folders[0].parents if all(parent in folder.parents for folder in folders))


def short(folder: Path) -> Path:
    """The folder of all of a model; that of a revision is too long for a line, and `--json` prints it."""
    return folder.parents[1] if folder.parent.name == "snapshots" else folder.parent


def size(count: int) -> str:
    """A number of bytes as people write it."""
    return f"{count / 1e9:.1f} GB" if count >= 1e9 else f"{count / 1e6:.1f} MB"


def _as_json(row: Cached) -> dict[str, object]:
    opened = datetime.fromtimestamp(row.opened).astimezone().isoformat(timespec="seconds")
    return {
        "name": row.name, "bytes": row.bytes, "licence": row.licence, "opened": opened,
        "commercial": allows_commercial_use(row.licence) is True, "folders": [str(folder) for folder in row.folders],
    }  # fmt: skip


def remove(
    name: Annotated[
        str,
        typer.Argument(
            parser=name_of("a model", EXAMPLE), metavar="NAME", help="As `hubsep list --cached` prints it."
        ),
    ],
) -> None:
    """Remove a model that was fetched by name. What it was converted from goes too."""
    with refusing():
        freed = remove_cached(name)
    say(f"{name}: removed, {size(freed)} freed")


__all__ = ["remove", "show_cached"]
