# SPDX-License-Identifier: Apache-2.0
"""`--commercial`: for one command, what the environment variable says for all of them."""

from __future__ import annotations

import os
from typing import Annotated

import typer

from ..hub.commercial import COMMERCIAL


def for_this_command(context: typer.Context, wanted: bool) -> bool:
    """Lets all that this command opens, adapters too, obey the option, and processes that it starts."""
    if wanted:
        before = os.environ.get(COMMERCIAL)
        os.environ[COMMERCIAL] = "1"
        context.call_on_close(lambda: restore(before))
    return wanted


def restore(before: str | None) -> None:
    """Gives the environment variable the value it had."""
    os.environ.pop(COMMERCIAL, None)
    if before is not None:
        os.environ[COMMERCIAL] = before


Commercial = Annotated[
    bool,
    typer.Option(
        "--commercial",
        callback=for_this_command,
        is_eager=True,
        help="Refuse weights whose licence does not allow commercial use, before they are fetched.",
    ),
]

__all__ = ["Commercial"]
