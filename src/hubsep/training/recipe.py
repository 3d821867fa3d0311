# SPDX-License-Identifier: Apache-2.0
"""A recipe is a dataclass of numbers, read from YAML; a field it does not have is an error, not a default."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from types import UnionType
from typing import Any, TypeVar, get_args, get_type_hints

from ..errors import DataError
from ..texts import read_yaml


R = TypeVar("R")
LARGEST = 1e18  # of a number; also keeps infinity and NaN out
WORDS = {bool: "true or false", int: "a whole number", float: "a number", str: "a text"}


def load_recipe(recipe_class: type[R], path: Path | None, **overrides: Any) -> R:
    """Reads a recipe file and lays command-line overrides over it.

    Args:
        recipe_class: the dataclass that names every setting and its default.
        path: a YAML file of `field: value` lines, or None for the defaults.
        overrides: settings that win over the file; those that are None are left out.

    Raises:
        DataError: if the file is missing, no YAML in UTF-8 or not a mapping, or holds a field the recipe does not
            have or a value of another kind.
    """
    values: dict[str, Any] = {}
    if path is not None:
        if not path.is_file():
            raise DataError(f"recipe {path} does not exist")
        values = read_yaml(_text_of(path), f"recipe {path}") or {}
        if not isinstance(values, dict):
            raise DataError(f"recipe {path} must be a mapping of setting to value, got {type(values).__name__}")
    values.update({name: value for name, value in overrides.items() if value is not None})
    settings = {field.name for field in dataclasses.fields(recipe_class)}  # type: ignore[arg-type]
    unknown = sorted(set(values) - settings, key=str)
    if unknown:
        names = ", ".join(sorted(settings))
        raise DataError(f"unknown recipe setting {unknown[0]!r}; {recipe_class.__name__} has {names}")
    kinds = get_type_hints(recipe_class)
    for name, value in values.items():
        _check_value(name, value, kinds[name])
    return recipe_class(**values)


def _text_of(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise DataError(f"recipe {path} is not in UTF-8: byte {error.start}; save it as UTF-8") from error


def _check_value(name: str, value: Any, kind: Any) -> None:
    """Refuses a number that is none, a text for a switch, and the like; what is built of others is checked by its use.

    Raises:
        DataError: naming the setting and the value.
    """
    allowed = get_args(kind) if isinstance(kind, UnionType) else (kind,)
    if not set(allowed) <= {*WORDS, Path, type(None)}:
        return
    if value is None or isinstance(value, bool):
        fits = type(value) in allowed
    elif isinstance(value, int):
        fits = (int in allowed or float in allowed) and abs(value) < LARGEST
    elif isinstance(value, float):
        fits = float in allowed and abs(value) < LARGEST
    else:
        fits = isinstance(value, (str, Path)) and (str in allowed or Path in allowed)
    if not fits:
        kinds = " or ".join(WORDS.get(one, "a path" if one is Path else "null") for one in allowed)
        raise DataError(f"recipe setting {name} must be {kinds}, got {value!r}")


__all__ = ["load_recipe"]
