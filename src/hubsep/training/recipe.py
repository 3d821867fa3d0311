# SPDX-License-Identifier: Apache-2.0
"""A recipe is a dataclass of numbers, read from YAML; a field it does not have is an error, not a default."""

from __future__ import annotations

from pathlib import Path
from typing import Any, TypeVar

from ..errors import DataError
from ..texts import read_yaml
from .bounds import check_fields


R = TypeVar("R")


def load_recipe(recipe_class: type[R], path: Path | None, **overrides: Any) -> R:
    """Reads a recipe file and lays command-line overrides over it.

    Args:
        recipe_class: the dataclass that names every setting and its default.
        path: a YAML file of `field: value` lines, or None for the defaults.
        overrides: settings that win over the file; those that are None are left out.

    Raises:
        DataError: if the file is missing, no YAML in UTF-8 or not a mapping, or holds a field the recipe does not
            have, a value of another kind or out of its bounds (`bounds.py`).
    """
    values: dict[str, Any] = {}
    if path is not None:
        if not path.is_file():
            raise DataError(f"recipe {path} does not exist")
        values = read_yaml(_text_of(path), f"recipe {path}") or {}
        if not isinstance(values, dict):
            raise DataError(f"recipe {path} must be a mapping of setting to value, got {type(values).__name__}")
    values.update({name: value for name, value in overrides.items() if value is not None})
    check_fields(recipe_class, values, "recipe setting")
    return recipe_class(**values)


def _text_of(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise DataError(f"recipe {path} is not in UTF-8: byte {error.start}; save it as UTF-8") from error


__all__ = ["load_recipe"]
