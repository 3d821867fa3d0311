# SPDX-License-Identifier: Apache-2.0
"""What transformers says of a model's name that it cannot know.

It looks for every name that is no folder on the Hub, asks nobody else, and then blames the network. There is no place
to tell it of others, so its error is given the way out; nothing else of transformers is changed.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping
from pathlib import Path
from types import ModuleType
from typing import Any


MARK = "_hubsep_names_folders"


def name_folders(hub: ModuleType, folders: Mapping[str, Path]) -> None:
    """Adds to the error about a shipped name what transformers takes instead.

    Args:
        hub: `transformers.utils.hub`, which looks for all files.
        folders: of the shipped models, by name.
    """
    look_up = hub.cached_files
    if hasattr(look_up, MARK):
        return

    @functools.wraps(look_up)
    def cached_files(path_or_repo_id: Any, *args: Any, **kwargs: Any) -> Any:
        try:
            return look_up(path_or_repo_id, *args, **kwargs)
        except OSError as error:
            name = str(path_or_repo_id)
            if name in folders:
                error.args = (
                    f"{name} is a model inside hubsep, and transformers takes folders and names on the Hub only: "
                    f'give it hubsep.SHIPPED["{name}"], which is the folder, or call hubsep.pipeline. '
                    f"(transformers says: {error})",
                )
            raise

    setattr(cached_files, MARK, True)
    hub.cached_files = cached_files  # type: ignore[attr-defined]


__all__ = ["name_folders"]
