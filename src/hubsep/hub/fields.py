# SPDX-License-Identifier: Apache-2.0
"""Tables of fields: what a JSON object may hold, field by field, and nothing else.

A table maps the name of a field to a check, which gets the name to show and the value, and raises `CheckpointError`.
What is not in the table is refused: a library that reads the object may know a field that this one does not.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from ..errors import CheckpointError
from .bounds import bounded, shown, true_or_false


Check = Callable[[str, Any], object]
Table = Mapping[str, Check]


def check_fields(label: str, content: Any, table: Table, *, required: tuple[str, ...] = ()) -> None:
    """Check every field of an object by a table.

    Args:
        label: what errors call the object, for instance the name of its file.
        content: parsed JSON.
        table: the check of each field that may be there.
        required: the fields that must be there.

    Raises:
        CheckpointError: naming the object, the field, its value and what is accepted.
    """
    if not isinstance(content, dict):
        raise CheckpointError(f"{label} must be an object, not {shown(content)}.")
    for name in required:
        if name not in content:
            raise CheckpointError(f"{label} has no field {shown(name)}, without which it cannot be used.")
    for name, value in content.items():
        if name not in table:
            raise CheckpointError(f"{label} has the field {shown(name)}, which is not known here. Remove it.")
        table[name](f"{label}: {name}", value)


def whole(low: int, high: int) -> Check:
    """A whole number from `low` to `high`."""
    return lambda name, value: bounded(name, value, low, high)


def number(low: float, high: float) -> Check:
    """A number from `low` to `high`."""
    return lambda name, value: bounded(name, value, low, high, kind=float)


def text(limit: int) -> Check:
    """Text of at most `limit` characters."""

    def check(name: str, value: Any) -> None:
        if not isinstance(value, str):
            raise CheckpointError(f"{name} must be text, not {shown(value)} ({type(value).__name__}).")
        if len(value) > limit:
            raise CheckpointError(f"{name} has {len(value)} characters; at most {limit} are accepted.")
        try:
            value.encode("utf-8")
        except UnicodeEncodeError:
            raise CheckpointError(f"{name} is {shown(value)}, which is not valid Unicode.") from None

    return check


def choice(*values: Any) -> Check:
    """One of some values, which are told apart by their types too."""

    def check(name: str, value: Any) -> None:
        if not any(type(value) is type(option) and value == option for option in values):
            raise CheckpointError(f"{name} is {shown(value)}; accepted are {', '.join(map(str, values))}.")

    return check


def optional(check: Check) -> Check:
    """Null, or what `check` accepts."""
    return lambda name, value: None if value is None else check(name, value)


def either(first: Check, second: Check) -> Check:
    """What one of two checks accepts; the error is the first's."""

    def check(name: str, value: Any) -> None:
        try:
            first(name, value)
        except CheckpointError as error:
            try:
                second(name, value)
            except CheckpointError:
                raise error from None

    return check


def items(check: Check, most: int, *, least: int = 0) -> Check:
    """A list of `least` to `most` entries."""

    def check_all(name: str, values: Any) -> None:
        if not isinstance(values, list):
            raise CheckpointError(f"{name} must be a list, not {shown(values)} ({type(values).__name__}).")
        if not least <= len(values) <= most:
            raise CheckpointError(f"{name} has {len(values)} entries; {least} to {most} are accepted.")
        for index, value in enumerate(values):
            check(f"{name}[{index}]", value)

    return check_all


def table(fields: Table, *, required: tuple[str, ...] = ()) -> Check:
    """An object with the fields of a table."""
    return lambda name, value: check_fields(name, value, fields, required=required)


flag: Check = true_or_false
nothing: Check = choice(None)


__all__ = [
    "Check",
    "Table",
    "check_fields",
    "choice",
    "either",
    "flag",
    "items",
    "nothing",
    "number",
    "optional",
    "table",
    "text",
    "whole",
]
