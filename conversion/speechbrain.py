# SPDX-License-Identifier: Apache-2.0
"""SpeechBrain's `hyperparams.yaml`, read as data.

The format is a program: its tags name classes to import and functions to call. Here every tag is ignored and what it
stands before is plain text, numbers, lists and tables; `!ref <name>` is looked up where it stands for a whole value,
and unknown where it is part of an expression. Merge keys are not followed, since a few lines of them expand to any
size.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import yaml

from hubsep.errors import ConversionError
from hubsep.hub.bounds import shown


MAX_BYTES = 1 << 18
MAX_REFERENCES = 8  # in a row


class Reference(str):
    """What stands after `!ref`."""


class _PlainLoader(yaml.SafeLoader):
    """Knows no tag but `!ref`."""

    def flatten_mapping(self, node: yaml.MappingNode) -> None:
        """Leaves merge keys as they are."""


def _plain(loader: _PlainLoader, tag: str, node: yaml.Node) -> Any:
    if isinstance(node, yaml.MappingNode):
        return loader.construct_mapping(node, deep=True)
    if isinstance(node, yaml.SequenceNode):
        return loader.construct_sequence(node, deep=True)
    assert isinstance(node, yaml.ScalarNode)
    return Reference(node.value) if node.tag == "!ref" else node.value


_PlainLoader.add_multi_constructor("", _plain)  # whatever YAML itself does not define


class Hyperparameters:
    """The tables of a `hyperparams.yaml`, references resolved when asked for."""

    def __init__(self, path: Path):
        """Reads a file.

        Raises:
            ConversionError: it is too large or no table in YAML.
        """
        self.name = path.name
        if path.stat().st_size > MAX_BYTES:
            raise ConversionError(f"{shown(path.name)} has {path.stat().st_size} bytes; at most {MAX_BYTES} are read")
        try:
            content = yaml.load(path.read_text(encoding="utf-8"), _PlainLoader)  # a subclass of the safe loader
        except (yaml.YAMLError, ValueError, TypeError, RecursionError) as error:
            reason = " ".join(str(error).split())
            raise ConversionError(f"{shown(path.name)} is not YAML: {shown(reason, 160)}") from error
        if not isinstance(content, dict):
            raise ConversionError(f"{shown(path.name)} holds no table of hyperparameters")
        self.content: dict[Any, Any] = content

    def get(self, *keys: str) -> Any:
        """The value under a key of the file, or of the table under it; None if there is none or it is not known."""
        value: Any = self.content
        for key in keys:
            value = self._resolved(value.get(key)) if isinstance(value, dict) else None
        return value

    def _resolved(self, value: Any) -> Any:
        for _ in range(MAX_REFERENCES):
            if not isinstance(value, Reference):
                return value
            name = re.fullmatch(r"\s*<(\w+)>\s*", value)
            value = self.content.get(name[1]) if name else None
        return None


__all__ = ["Hyperparameters"]
