# SPDX-License-Identifier: Apache-2.0
"""Configurations of AudioLDM 2's parts: what the shapes tell, what the caller adds, and models filled by them."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from hubsep.errors import ConversionError
from hubsep.hub.bounds import shown

from ..common import fill


Built = TypeVar("Built", bound=nn.Module)


def check_names(part: str, overrides: Mapping[str, Any], *config_classes: type, extra: tuple[str, ...] = ()) -> None:
    """Refuses what is no field of a component.

    Args:
        part: name of the component, for errors.
        overrides: what the caller adds.
        config_classes: whose arguments the fields are; of several, it need not be known yet which one it will be.
        extra: further fields that may be added.

    Raises:
        ConversionError: there is no such field.
    """
    field_names = {*extra}
    for config_class in config_classes:
        field_names |= {*inspect.signature(config_class).parameters, *getattr(config_class, "__annotations__", {})}
    for name in overrides:
        if name not in field_names:
            raise ConversionError(f"{part} has no {shown(name)} to set")


def merged(
    part: str, fields: Mapping[str, Any], overrides: Mapping[str, Any], config_class: type, extra: tuple[str, ...] = ()
) -> dict[str, Any]:
    """The fields with the caller's beside them.

    Args:
        part: name of the component, for errors.
        fields: what the source tells.
        overrides: what the caller adds.
        config_class: whose arguments the fields are.
        extra: further fields that may be added.

    Raises:
        ConversionError: there is no such field, or the source tells another value.
    """
    check_names(part, overrides, config_class, extra=extra)
    for name, value in overrides.items():
        if name in fields and not _same(fields[name], value):
            raise ConversionError(
                f"{part}: {name} is {shown(fields[name])} in the source; it cannot be {shown(value)}"
            )
    return {**fields, **overrides}


def _same(first: Any, second: Any) -> bool:
    if isinstance(first, list | tuple) and isinstance(second, list | tuple):
        return len(first) == len(second) and all(map(_same, first, second))
    return bool(first == second)


def required(part: str, fields: dict[str, Any], name: str, value: Any) -> None:
    """Sets a field that no shape tells to what is known of the published models.

    Raises:
        ConversionError: nothing is known for these sizes and the caller did not set it.
    """
    if fields.setdefault(name, value) is None:
        raise ConversionError(
            f"{part}: no weight tells {name}, and the sizes are not the published ones: set {part}={{{name}: ...}}"
        )


def filled(part: str, build: Callable[[], Built], state: Callable[[], Mapping[str, Tensor]]) -> Built:
    """Builds a model without memory and gives it its tensors.

    Raises:
        ConversionError: the sizes make no model, or the tensors do not fit it.
    """
    try:
        with torch.device("meta"):
            model = build()
    except (
        ValueError,
        TypeError,
        KeyError,
        IndexError,
        RuntimeError,
        ZeroDivisionError,
        NotImplementedError,
    ) as error:
        raise ConversionError(
            f"{part}: these sizes make no model: {shown(' '.join(str(error).split()), 200)}"
        ) from error
    try:
        return fill(model, state())
    except ConversionError as error:
        raise ConversionError(f"{part}: {error}") from error


__all__ = ["check_names", "filled", "merged", "required"]
