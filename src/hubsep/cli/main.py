# SPDX-License-Identifier: Apache-2.0
"""The commands, and what they have in common: one line per error, and the exit status.

Exit status: 0 done; 1 the work failed, with a line that says why; 2 the command line is wrong; 3 done, but a
text was not understood; 130 interrupted.
"""

from __future__ import annotations

import sys
import warnings
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from .. import __version__
from ..batch.explain import DEBUG, explain, in_options, shortened
from ..batch.lines import warn
from ..texts import did_you_mean, printable
from .cached import remove
from .convert import ConvertCommand, convert
from .environment import environment
from .evaluate import evaluate
from .generate import generate
from .info import info
from .models import models
from .output import forgiving
from .push import merge, push
from .push_space import push_space
from .separate import separate
from .train import train
from .usage import PlainCommand


INTERRUPTED = 130  # exit status
# what is true of a command that was interrupted
GOES_ON = {
    "separate": "what is finished stays, and the same command goes on with the rest",
    "generate": "the same command makes what is not finished",
    "convert": "nothing was written",
    "merge": "nothing was written",
    "train": "what was learnt up to the newest checkpoint stays, and the same command with --resume goes on from it",
}
USAGE_ERROR: Any = typer.BadParameter.__base__  # typer carries a click of its own, or has none, by its version

# what other tools, and people, call the commands
OTHER_NAMES = {
    "split": "separate", "isolate": "separate", "extract": "separate", "demix": "separate", "make": "generate",
    "create": "generate", "models": "list", "finetune": "train", "fine-tune": "train", "eval": "evaluate",
    "measure": "evaluate", "import": "convert", "upload": "push", "show": "info", "doctor": "env",
    "rm": "remove", "delete": "remove", "uninstall": "remove",
}  # fmt: skip


OTHER_OPTIONS = {
    "--speakers": "--sources", "--length": "--duration", "--text": "--query", "--prompt": "--query",
    "--out": "--output",
    "--negative-query": "--negative", "--negative-prompt": "--negative", "--num-inference-steps": "--steps",
    "--guidance-scale": "--guidance", "--force": "--overwrite", "--stem": "--sources", "--cuda": "--device",
    "--gpu": "--device", "--cpu": "--device", "--license": "--licence", "--n": "--candidates", "--start": "--offset",
}  # fmt: skip


class Commands(TyperGroup):
    """The commands, with the one that was meant in place of one that there is not."""

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        """As of a group.

        Raises:
            UsageError: if there is no such command, naming the one that was meant.
        """
        word = args[0]
        if self.get_command(ctx, word) is None and not word.startswith("-"):
            names = self.list_commands(ctx)
            raise USAGE_ERROR(
                f"there is no command {word[:40]!r}.{did_you_mean(word, names, OTHER_NAMES)} The commands are "
                f"{', '.join(names)}.",
                ctx=ctx,
            )
        return super().resolve_command(ctx, args)


app = typer.Typer(
    name="hubsep",
    cls=Commands,
    help="Audio separation and text-to-audio on the Hugging Face Hub.",
    epilog=f"With {DEBUG}, an unexpected error shows its traceback.",
    no_args_is_help=True,
    context_settings={"help_option_names": ["-h", "--help"]},
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)


def show_version(asked: bool) -> None:
    """Prints the version and ends."""
    if asked:
        print(f"hubsep {__version__}")
        raise typer.Exit()


@app.callback()
def hubsep(
    version: Annotated[
        bool, typer.Option("--version", "-v", callback=show_version, is_eager=True, help="Show the version.")
    ] = False,
) -> None:
    """Audio separation and text-to-audio on the Hugging Face Hub."""


app.command(cls=PlainCommand)(separate)
app.command(cls=PlainCommand)(generate)
app.command(cls=ConvertCommand)(convert)
app.command("list", cls=PlainCommand)(models)
app.command(cls=PlainCommand)(info)
app.command(cls=PlainCommand)(remove)
app.command("env", cls=PlainCommand)(environment)
app.command(cls=PlainCommand)(train)
app.command(cls=PlainCommand)(evaluate)
app.command(cls=PlainCommand)(push)
app.command(cls=PlainCommand)(merge)
app.command("push-space", cls=PlainCommand)(push_space)


def main(arguments: list[str] | None = None) -> int:
    """Runs one command and returns its exit status.

    Args:
        arguments: the command line without the program's name; None takes the process's own.
    """
    words = list(sys.argv[1:] if arguments is None else arguments)
    formatwarning = warnings.formatwarning
    warnings.formatwarning = lambda message, *details, **more: f"warning: {printable(in_options(str(message)))}\n"
    try:
        with forgiving():
            return run(words)
    finally:
        warnings.formatwarning = formatwarning


def run(words: list[str]) -> int:
    """Runs one command; what goes wrong is a line and an exit status."""
    debug = DEBUG in words
    command = in_plain_words([word for word in words if word != DEBUG])
    try:
        status = int(app(args=command, prog_name="hubsep", standalone_mode=False) or 0)
        return stopped(command) if status == INTERRUPTED else status
    except KeyboardInterrupt:
        return stopped(command)
    except USAGE_ERROR as error:
        return refuse(error)
    except typer.Abort:
        return 1
    except Exception as error:
        if debug:
            raise
        warn(f"error: {explain(error)}")
        return 1


def in_plain_words(words: list[str]) -> list[str]:
    """A command line in which `help`, `help COMMAND` and `version` are the options of these names."""
    if words[:1] == ["help"]:
        return [*words[1:2], "--help"]
    return ["--version"] if words == ["version"] else words


def stopped(words: list[str]) -> int:
    """Says that a command was interrupted, and how it goes on; its exit status."""
    way = GOES_ON.get(words[0] if words else "", "")
    if way and words[0] == "train" and "--resume" in words:
        way = "the same command goes on from the newest checkpoint"
    warn(f"stopped{'; ' if way else ''}{way}")
    return INTERRUPTED


def refuse(error: Any) -> int:
    """Says what is wrong with a command line; only single words of it may be too long to read."""
    if error.message and (error.ctx is None or error.message != error.ctx.get_help()):
        message = " ".join(shortened(word) for word in printable(in_options(error.message)).split(" "))
        message += meant_option(error)
        error.message = message
        if getattr(error, "param", None) is None and getattr(error, "param_hint", None) is None:
            error.format_message = lambda: message  # not of one value: typer's "Invalid value" says nothing
    error.show()
    return int(error.exit_code)


def meant_option(error: Any) -> str:
    """For an option that a command does not have, the one that was meant, or how all are found."""
    option = getattr(error, "option_name", None)
    if option is None or error.ctx is None or error.message.endswith("?"):
        return ""
    options = [name for parameter in error.ctx.command.params for name in parameter.opts if name.startswith("--")]
    meant = did_you_mean(option, options, OTHER_OPTIONS)
    return f".{meant}" if meant else f"; `{error.ctx.command_path} --help` lists the options"


__all__ = ["app", "main"]
