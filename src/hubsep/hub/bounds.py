# SPDX-License-Identifier: Apache-2.0
"""Bounded numbers for configurations: one function, called by every config's validator.

A config is data somebody else wrote. Each size is checked for its type and its range before a module is built from
it, so `layers = 10**6` or `hidden = "4"` costs microseconds, not a minute of allocation.
"""

from __future__ import annotations

import sys
from typing import Any

from ..errors import CheckpointError


def bounded(name: str, value: Any, low: float, high: float, *, kind: type = int) -> Any:
    """Return `value` unchanged when it is a number of the asked `kind` with `low <= value <= high`.

    Booleans are never numbers here. `kind=float` accepts whole numbers as well and refuses NaN and infinities;
    `kind=int` refuses 4.0.

    Raises:
        CheckpointError: naming the field, its value and the limits.
    """
    accepted: Any = (int, float) if kind is float else kind
    if isinstance(value, bool) or not isinstance(value, accepted):
        raise CheckpointError(f"{name} must be {_article(kind)}, not {shown(value)} ({type(value).__name__}).")
    if not low <= value <= high:  # false for NaN as well
        raise CheckpointError(f"{name} is {shown(value)}, outside the accepted range {low} to {high}.")
    return value


def bounded_list(name: str, values: Any, low: float, high: float, *, kind: type = int, max_items: int = 64) -> Any:
    """Return `values` unchanged when it is a list or tuple of 1 to `max_items` numbers that `bounded` accepts.

    Raises:
        CheckpointError: naming the first entry that is wrong, its value and the limits.
    """
    if not isinstance(values, list | tuple):
        raise CheckpointError(f"{name} must be a list, not {shown(values)} ({type(values).__name__}).")
    if not 1 <= len(values) <= max_items:
        raise CheckpointError(f"{name} has {len(values)} entries, outside the accepted range 1 to {max_items}.")
    for index, value in enumerate(values):
        bounded(f"{name}[{index}]", value, low, high, kind=kind)
    return values


def one_of(name: str, value: Any, choices: tuple[str, ...]) -> str:
    """Return `value` unchanged when it is one of `choices`.

    Raises:
        CheckpointError: naming the field, its value and the choices.
    """
    if not isinstance(value, str) or value not in choices:
        raise CheckpointError(f"{name} is {shown(value)}; it must be one of {', '.join(choices)}.")
    return value


def true_or_false(name: str, value: Any) -> bool:
    """Return `value` unchanged when it is a boolean; 0 and 1 are none.

    Raises:
        CheckpointError: naming the field and its value.
    """
    if not isinstance(value, bool):
        raise CheckpointError(f"{name} must be true or false, not {shown(value)}.")
    return value


def is_number(value: Any) -> bool:
    """Whether a value is a finite number that a float can hold; 10**400 is none, and neither are booleans."""
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) <= sys.float_info.max


def is_whole(value: Any, most: int | None = None) -> bool:
    """Whether a value is a whole number from 1 on, to `most` if that is given; booleans are none."""
    whole = isinstance(value, int) and not isinstance(value, bool)
    return whole and value >= 1 and (most is None or value <= most)


def _article(kind: type) -> str:
    return {int: "a whole number", float: "a number"}.get(kind, kind.__name__)


def shown(value: Any, limit: int = 80) -> str:
    """Return `value` as printable text of about `limit` characters, fit for an error message."""
    if isinstance(value, int) and value.bit_length() > 256:  # printing 10**5000 is an error of its own
        return f"a whole number of {value.bit_length()} bits"
    if isinstance(value, dict):
        return f"an object of {len(value)} keys"
    text = _listed(value, limit) if isinstance(value, list | tuple) else _ascii(value, limit)
    return text if len(text) <= limit else f"{text[:limit]}..."


def _ascii(value: Any, limit: int) -> str:
    """Escaped, because a name that is not valid UTF-8 must not turn the message into an error."""
    return ascii(value[: limit + 1] if isinstance(value, str | bytes) else value)


def _listed(values: Any, limit: int) -> str:
    """The first entries; of lists in it their lengths alone, because printing one in a thousand others is an error."""
    entries = [
        f"a list of {len(entry)}" if isinstance(entry, list | tuple) else shown(entry, limit)
        for entry in values[: limit // 2]
    ]
    more = ", ..." if len(values) > len(entries) else ""
    return f"[{', '.join(entries)}{more}]"


__all__ = ["bounded", "bounded_list", "is_number", "is_whole", "one_of", "shown", "true_or_false"]
