# SPDX-License-Identifier: Apache-2.0
"""YAML that somebody wrote by hand: plain values, one error for whatever is wrong with it.

Decisions: no tags beyond YAML's own and no aliases, which make a few lines stand for gigabytes as soon as they are
printed; no nesting that exhausts the stack of the parser, which is a matter of seconds and not of settings.
"""

from __future__ import annotations

from typing import Any

import yaml

from .errors import DataError


MAX_CHARACTERS = 100_000  # the parser is Python: so many take up to a second
MAX_BRACKETS = 1_000


class _Loader(yaml.SafeLoader):
    def compose_node(self, parent: Any, index: Any) -> Any:
        if self.check_event(yaml.AliasEvent):
            raise yaml.YAMLError("an alias (*name); write the value itself")
        return super().compose_node(parent, index)


def read_yaml(text: str, what: str) -> Any:
    """The value of a text.

    Args:
        text: YAML.
        what: it is, for the error.

    Raises:
        DataError: if it is no YAML, or not plain values.
    """
    if len(text) > MAX_CHARACTERS or text.count("[") + text.count("{") > MAX_BRACKETS:
        raise DataError(f"{what} is too long or too deeply nested to be settings")
    try:
        return yaml.load(text, _Loader)  # a subclass of the safe loader
    # ValueError and TypeError: of a date that is none, of a key that cannot be one
    except (yaml.YAMLError, ValueError, TypeError, RecursionError) as error:
        problem = getattr(error, "problem", None) or str(error) or type(error).__name__
        mark = getattr(error, "problem_mark", None)
        place = "" if mark is None else f" in line {mark.line + 1}"
        raise DataError(f"{what} is not YAML{place}: {' '.join(str(problem).split())}") from error


__all__ = ["read_yaml"]
