# SPDX-License-Identifier: Apache-2.0
"""What `--help` says of the arguments of a command: their names as people type them, without Python's types."""

from __future__ import annotations

from typing import Any

from typer.core import TyperCommand


class PlainCommand(TyperCommand):
    """A command whose help names its arguments and nothing of Python."""

    def collect_usage_pieces(self, ctx: Any) -> list[str]:
        """What stands behind the name of the command."""
        names = [(argument_name(param), param.required) for param in shown_arguments(self, ctx)]
        return ["[OPTIONS]", *(name if required else f"[{name}]" for name, required in names)]

    def format_options(self, ctx: Any, formatter: Any) -> None:
        """Writes the arguments, then the options."""
        arguments = [(argument_name(param), str(param.help or "")) for param in shown_arguments(self, ctx)]
        params = [param for param in self.get_params(ctx) if param.param_type_name == "option"]
        options = [record for record in (param.get_help_record(ctx) for param in params) if record is not None]
        for title, records in (("Arguments", arguments), ("Options", options)):
            if records:
                with formatter.section(title):
                    formatter.write_dl(records)


def shown_arguments(command: TyperCommand, ctx: Any) -> list[Any]:
    """The arguments that are not hidden."""
    params: list[Any] = [param for param in command.get_params(ctx) if param.param_type_name == "argument"]
    return [param for param in params if not param.hidden]


def argument_name(param: Any) -> str:
    """The name of an argument, such as INPUT..."""
    return str(param.metavar or param.name.upper())


__all__ = ["PlainCommand"]
