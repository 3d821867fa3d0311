# SPDX-License-Identifier: Apache-2.0
"""`--set field=value`: the value is read as YAML, so that numbers, lists and `null` come out as themselves."""

from __future__ import annotations

from typing import Any

import typer

from ..errors import DataError
from ..texts import read_yaml


def parse_settings(assignments: list[str]) -> dict[str, Any]:
    """Turns `["sampling_rate=16000", "name=x"]` into a dict.

    Raises:
        typer.BadParameter: if an assignment has no `=`, no name, a name given before, or no YAML value.
    """
    settings: dict[str, Any] = {}
    for assignment in assignments:
        name, equals, text = assignment.partition("=")
        name = name.strip().replace("-", "_")
        if not equals or not name.isidentifier():
            raise typer.BadParameter(f"--set needs field=value, got {assignment!r}")
        if name in settings:
            raise typer.BadParameter(f"--set {name} is given twice")
        try:
            settings[name] = read_yaml(text, f"--set {name}: {text[:80]!r}")
        except DataError as error:
            raise typer.BadParameter(str(error)) from error
    return settings


__all__ = ["parse_settings"]
