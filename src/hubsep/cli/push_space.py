# SPDX-License-Identifier: Apache-2.0
"""`hubsep push-space`: a folder with an app becomes a Space of the Hub, in one commit."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from ..batch.lines import say
from ..demo.pushing import push_space as push
from ..demo.pushing import space_files
from .values import existing, refusing, text
from .values import repository as repository_name


Folder = Annotated[
    Path, typer.Argument(parser=existing(file=False), metavar="FOLDER", help="Of the app, such as spaces/separation.")
]
Repository = Annotated[
    str, typer.Argument(parser=repository_name, metavar="REPOSITORY", help="owner/name of the Space, made if missing.")
]
Private = Annotated[bool, typer.Option("--private", help="Make it private, if it is new.")]
Wheel = Annotated[
    Path | None,
    typer.Option(
        parser=existing(folder=False),
        metavar="FILE",
        help="Of hubsep, to install in the Space; for a version that is not published.",
    ),
]
Message = Annotated[str | None, typer.Option(parser=text("a new demo"), metavar="TEXT", help="Of the commit.")]


def push_space(
    folder: Folder, repository: Repository, private: Private = False, wheel: Wheel = None, message: Message = None
) -> None:
    """Push a demo to the Hub as a Space."""
    with refusing():
        space_files(folder)
    say(push(folder, repository, private=private or None, wheel=wheel, commit_message=message))


__all__ = ["push_space"]
