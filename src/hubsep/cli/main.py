# SPDX-License-Identifier: Apache-2.0
"""The commands, and what they have in common: one line per error, and the exit status.

Exit status: 0 done; 1 the work failed, with a line that says why; 2 the command line is wrong; 130 interrupted.
"""

from __future__ import annotations

import sys

import typer

from ..errors import HubsepError
from .convert import convert
from .environment import environment
from .evaluate import evaluate
from .generate import generate
from .models import models
from .push import merge, push
from .push_space import push_space
from .separate import separate
from .train import train


app = typer.Typer(
    name="hubsep",
    help="Audio separation and text-to-audio on the Hugging Face Hub.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)
app.command()(separate)
app.command()(generate)
app.command()(convert)
app.command("list")(models)
app.command("env")(environment)
app.command()(train)
app.command()(evaluate)
app.command()(push)
app.command()(merge)
app.command("push-space")(push_space)


def main(arguments: list[str] | None = None) -> int:
    """Runs one command and returns its exit status.

    Args:
        arguments: the command line without the program's name; None takes the process's own.
    """
    try:
        app(args=arguments, prog_name="hubsep")
    except (HubsepError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except SystemExit as end:
        return int(end.code or 0)
    return 0


__all__ = ["app", "main"]
