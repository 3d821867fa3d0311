# SPDX-License-Identifier: Apache-2.0
"""Names of sounds and the words people use for them, from `data/sounds.json`: for training, and to understand prompts.

`data/prompts.py` says what the file holds and makes prompts of it.
"""

from __future__ import annotations

import json
from functools import lru_cache
from pathlib import Path
from typing import Any


SOUNDS = Path(__file__).parent / "data" / "sounds.json"


@lru_cache(maxsize=1)
def catalogue() -> dict[str, Any]:
    """The whole of `sounds.json`."""
    content: dict[str, Any] = json.loads(SOUNDS.read_text(encoding="utf-8"))
    return content


def phrases(label: str) -> list[str]:
    """The phrases taught for a class; a class outside the catalogue is called by its name."""
    known = catalogue()
    entry = known["sounds"].get(label) or known["others"].get(label)
    return entry["words"] if entry else [label]


def sound_names() -> list[str]:
    """The names of all sounds, those with recordings and those known by name only."""
    return [*catalogue()["sounds"], *catalogue()["others"]]


__all__ = ["catalogue", "phrases", "sound_names"]
