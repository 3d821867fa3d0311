# SPDX-License-Identifier: Apache-2.0
"""Folders that weights are published in: which file of them is read, and that they are not converted already."""

from __future__ import annotations

import json
from pathlib import Path

from ..errors import ConversionError
from ..hub_bounds import shown


def refuse_converted(folder: Path, model_type: str) -> None:
    """Checks that a folder is not one that hubsep has written.

    Raises:
        ConversionError: its `config.json` is of our `model_type`, or is no JSON.
    """
    config = folder / "config.json"
    try:
        described = json.loads(config.read_text(encoding="utf-8")) if config.is_file() else {}
    except ValueError as error:
        raise ConversionError(f"{shown(str(config), 200)} is not JSON: {error}") from error
    if isinstance(described, dict) and described.get("model_type") == model_type:
        raise ConversionError(f"{shown(folder.name)} is a hubsep model already; load it with from_pretrained")


def weights_file(source: Path, model_type: str, names: tuple[str, str]) -> Path:
    """The file weights are read from: `source` itself, or in a folder the first of `names` that is there.

    Raises:
        ConversionError: the folder holds neither, or is converted already.
    """
    if not source.is_dir():
        return source
    refuse_converted(source, model_type)
    for name in names:
        if (source / name).is_file():
            return source / name
    raise ConversionError(f"{shown(source.name)} holds neither {' nor '.join(names)}")


__all__ = ["refuse_converted", "weights_file"]
