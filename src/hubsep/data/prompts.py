# SPDX-License-Identifier: Apache-2.0
"""Which words people use for a sound: paraphrases, templates and groups, read from `sounds.json`.

`sounds` are the classes with recordings, `others` classes known by name only: they are what a model is asked for in
vain during training, and they teach the text tower that there are more sounds than those it was trained to extract.
`heldout` phrases are never used in training; they measure how well a model understands words it was not taught.
"""

from __future__ import annotations

import json
import random
from functools import lru_cache
from importlib.resources import files
from typing import Any


@lru_cache(maxsize=1)
def catalogue() -> dict[str, Any]:
    """The whole of `sounds.json`."""
    return json.loads(files("hubsep.data").joinpath("sounds.json").read_text(encoding="utf-8"))


@lru_cache(maxsize=4096)
def canonical_label(label: str) -> str:
    """The catalogue's class of a dataset label: the label itself, or that of its longest known prefix.

    A label the catalogue does not know stays its own class.
    """
    known = catalogue()
    if label in known["sounds"] or label in known["others"]:
        return label
    prefixes = [prefix for prefix in known["label_prefixes"] if label.startswith(prefix)]
    return known["label_prefixes"][max(prefixes, key=len)] if prefixes else label


def phrases(label: str) -> list[str]:
    """The phrases taught for a class; a class outside the catalogue is called by its name."""
    known = catalogue()
    entry = known["sounds"].get(label) or known["others"].get(label)
    return entry["words"] if entry else [label]


def heldout_phrases(label: str) -> list[str]:
    """The phrases of a class that no training run sees."""
    entry = catalogue()["sounds"].get(label)
    return entry["heldout"] if entry else []


def group_of(label: str) -> str | None:
    """The group ("animal", "instrument", ...) a class belongs to, or None."""
    entry = catalogue()["sounds"].get(label)
    return entry["group"] if entry else None


def random_prompt(label: str, rng: random.Random) -> str:
    """One of many ways to ask for a class: a phrase in a template, sometimes with a capital or a full stop."""
    return dress(rng.choice(phrases(label)), rng)


def random_group_prompt(group: str, rng: random.Random) -> str:
    """One of many ways to ask for a whole group of sounds."""
    return dress(rng.choice(catalogue()["groups"][group]), rng)


def dress(phrase: str, rng: random.Random) -> str:
    """A phrase as people type it: in a random template, casing and punctuation."""
    text = rng.choice(catalogue()["templates"]).format(phrase)
    draw = rng.random()
    return text.capitalize() if draw < 0.15 else text + "." if draw < 0.25 else text


def absent_labels(present: set[str]) -> list[str]:
    """Classes that are surely not among the sounds present: not the same, not of their groups, not marked as near."""
    known = catalogue()
    groups = {group_of(label) for label in present} - {None}
    sounds = [label for label in known["sounds"] if label not in present and group_of(label) not in groups]
    others = [label for label, entry in known["others"].items() if not present & set(entry["near"])]
    return sounds + [label for label in others if label not in present]


__all__ = [
    "absent_labels",
    "canonical_label",
    "catalogue",
    "dress",
    "group_of",
    "heldout_phrases",
    "phrases",
    "random_group_prompt",
    "random_prompt",
]
