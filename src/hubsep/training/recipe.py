# SPDX-License-Identifier: Apache-2.0
"""A recipe is a dataclass of numbers, read from YAML; a field it does not have is an error, not a default."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any, TypeVar

import yaml

from ..errors import DataError


R = TypeVar("R")


def load_recipe(recipe_class: type[R], path: Path | None, **overrides: Any) -> R:
    """Reads a recipe file and lays command-line overrides over it.

    Args:
        recipe_class: the dataclass that names every setting and its default.
        path: a YAML file of `field: value` lines, or None for the defaults.
        overrides: settings that win over the file; those that are None are left out.

    Raises:
        DataError: if the file is missing, is not a mapping, or holds a field the recipe does not have.
    """
    values: dict[str, Any] = {}
    if path is not None:
        if not path.is_file():
            raise DataError(f"recipe {path} does not exist")
        values = yaml.safe_load(path.read_text(encoding="utf-8")) or {}
        if not isinstance(values, dict):
            raise DataError(f"recipe {path} must be a mapping of setting to value, got {type(values).__name__}")
    values.update({name: value for name, value in overrides.items() if value is not None})
    known = {field.name for field in dataclasses.fields(recipe_class)}  # type: ignore[arg-type]
    unknown = sorted(set(values) - known)
    if unknown:
        names = ", ".join(sorted(known))
        raise DataError(f"unknown recipe setting {unknown[0]!r}; {recipe_class.__name__} has {names}")
    return recipe_class(**values)


__all__ = ["load_recipe"]
