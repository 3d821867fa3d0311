# SPDX-License-Identifier: Apache-2.0
"""What a conversion needs beside the weights: folders of the user's, and text files of other repositories.

Decision: they are small, so they are checked, and fetched, before the weights are.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ..errors import CheckpointError
from .bounds import shown
from .converting import options_of
from .fetch import fetch
from .published import Published
from .wire import wire_errors


TEXTS = ("tokenizer", "tokenizer_2")  # options of converters that may be repositories
PLACES = (*TEXTS, "clap", "text_encoder_2")  # or places of this computer


def check_places(row: Published, options: Mapping[str, Any]) -> None:
    """Refuses what is neither a folder nor a repository where one is wanted, before anything is fetched.

    Args:
        row: of the table.
        options: of the converter, as a user says them.

    Raises:
        CheckpointError: naming the option.
    """
    for name, value in options.items():
        is_place = isinstance(value, str) and ("/" in value or os.path.exists(value))
        if (name in row.companions or name in TEXTS) and not is_place:
            raise CheckpointError(f"{name} must be a folder or a repository (org/name), got {shown(value)}")


def settings_of(row: Published, options: Mapping[str, Any]) -> dict[str, Any]:
    """Options of a converter, with folders on this computer for repositories.

    Args:
        row: whose own options and companions count where nothing else is said.
        options: of the user.
    """
    settings: dict[str, Any] = {**options_of(row, row.companions), **options}
    for name, value in settings.items():
        if name in options and name in PLACES and isinstance(value, str) and os.path.exists(value):
            settings[name] = os.path.abspath(value)  # the process works in another folder
        elif name in row.companions or name in TEXTS:
            settings[name] = str(companion(value, None, None))
    return settings


def companion(place: str, token: str | bool | None, cache_dir: str | os.PathLike[str] | None) -> Path:
    """The folder of another repository, or in it, that a conversion needs text files of, such as a tokenizer.

    Args:
        place: of a repository, or a folder in it (org/name/folder).
        token: for the Hub.
        cache_dir: where it is kept.

    Raises:
        CheckpointError: if it cannot be fetched.
    """
    from huggingface_hub import snapshot_download

    organisation, name, *subfolder = place.split("/", 2)
    repository, prefix = f"{organisation}/{name}", "".join(f"{each}/" for each in subfolder)
    with wire_errors(f"{repository}, which the conversion needs, could not be fetched from the Hub", token):
        return Path(
            fetch(
                snapshot_download,
                repository,
                token=token,
                cache_dir=os.fspath(cache_dir) if cache_dir is not None else None,
                allow_patterns=[f"{prefix}*.json", f"{prefix}*.txt"],
            ),
            *subfolder,
        )


__all__ = ["check_places", "companion", "settings_of"]
