# SPDX-License-Identifier: Apache-2.0
"""Tables whose classes are imported when they are looked up: what transformers keeps of classes not its own.

Who takes a class out of a table gets that class, and no stand-in: it can be subclassed, compared and asked for.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Later:
    """A class that was not imported yet.

    Attributes:
        path: dotted, of the class.
        locate: imports it.
    """

    path: str
    locate: Callable[[str], Any]


class LazyTable(dict[Any, Any]):
    """A dict that hands out the class itself where a `Later` was put in."""

    def __getitem__(self, key: Any) -> Any:
        value = super().__getitem__(key)
        if isinstance(value, Later):
            value = self[key] = value.locate(value.path)
        return value

    def __iter__(self) -> Iterator[Any]:  # with one of its own, dict(table) and {**table} ask `__getitem__` too
        return super().__iter__()

    def get(self, key: Any, default: Any = None) -> Any:
        """As of a dict."""
        return self[key] if key in self else default  # noqa: SIM401 - that is this method

    def values(self) -> Any:
        """As of a dict."""
        return self._located().values()

    def items(self) -> Any:
        """As of a dict."""
        return self._located().items()

    def copy(self) -> dict[Any, Any]:
        """As of a dict."""
        return self._located()

    def _located(self) -> dict[Any, Any]:
        return {key: self[key] for key in self}


def add(mapping: Any, entries: Mapping[Any, Later]) -> None:
    """Adds classes to one of transformers' mappings.

    Args:
        mapping: which keeps what is not its own in `_extra_content`.
        entries: by model type, or by the class of a configuration.
    """
    if not isinstance(mapping._extra_content, LazyTable):
        mapping._extra_content = LazyTable(mapping._extra_content)
    for key, later in entries.items():
        mapping._extra_content.setdefault(key, later)


__all__ = ["LazyTable", "Later", "add"]
