# SPDX-License-Identifier: Apache-2.0
"""Which words people use for a sound: paraphrases, templates and groups, read from `sounds.json`.

`sounds` are the classes with recordings, `others` classes known by name only: they are what a model is asked for in
vain during training, and they teach the text tower that there are more sounds than those it was trained to extract.
`unnamed` are labels of recordings too mixed or too few to be taught, with the sounds they may be taken for.
`heldout` phrases are never used in training; they measure how well a model understands words it was not taught.
`languages.json` has words in other languages for the same sounds; the last of each list is held out likewise.
"""

from __future__ import annotations

import json
import random
from collections.abc import Iterable, Sequence
from functools import lru_cache
from importlib.resources import files
from typing import Any

from ..texts import catalogue, phrases


@lru_cache(maxsize=4096)
def canonical_label(label: str) -> str:
    """The catalogue's class of a dataset label: the label itself, or that of its longest known prefix.

    A prefix ends with a word, which a number may follow.
    A label the catalogue does not know stays its own class.
    """
    tables = catalogue()
    if label in tables["sounds"] or label in tables["others"]:
        return label
    prefixes = [
        prefix
        for prefix in tables["label_prefixes"]
        if label.startswith(prefix) and not label[len(prefix) :][:1].isalpha()
    ]
    return tables["label_prefixes"][max(prefixes, key=len)] if prefixes else label


def heldout_phrases(label: str) -> list[str]:
    """The phrases of a class that no training run sees."""
    entry = catalogue()["sounds"].get(label)
    return entry["heldout"] if entry else []


@lru_cache(maxsize=1)
def languages() -> dict[str, Any]:
    """The whole of `languages.json`: `templates` by language, and `sounds` by label and language."""
    return json.loads(files("hubsep.data").joinpath("languages.json").read_text(encoding="utf-8"))


def foreign_phrases(label: str) -> dict[str, list[str]]:
    """The phrases taught for a class in other languages, by the language's code."""
    return {code: words[:-1] for code, words in languages()["sounds"].get(label, {}).items()}


def foreign_heldout(label: str) -> dict[str, str]:
    """A phrase of a class in each of the other languages that no training run sees."""
    return {code: words[-1] for code, words in languages()["sounds"].get(label, {}).items()}


def group_of(label: str) -> str | None:
    """The group ("animal", "instrument", ...) a class belongs to, or None."""
    entry = catalogue()["sounds"].get(label)
    return entry["group"] if entry else None


@lru_cache(maxsize=1)
def near_labels() -> dict[str, frozenset[str]]:
    """By label: the sounds that may be heard in its recordings as well, or that people call by the same words."""
    tables = catalogue()
    pairs = [(label, near) for label, entry in tables["sounds"].items() for near in entry["near"]]
    pairs += [(label, near) for label, entry in tables["others"].items() for near in entry["near"]]
    pairs += [(label, near) for label, names in tables["unnamed"].items() for near in names]
    near: dict[str, set[str]] = {}
    for one, other in pairs:
        near.setdefault(one, set()).add(other)
        near.setdefault(other, set()).add(one)
    return {label: frozenset(names) for label, names in near.items()}


def taught_absent(recordings: Iterable[Sequence[str]]) -> tuple[list[str], list[str]]:
    """Sounds of the catalogue that are surely not in a mixture: of other groups, and of a group that is there.

    The second are the hard ones: a cello where a violin plays. Words for a whole group are none of them.

    Args:
        recordings: the labels of each recording in the mixture, the most specific one last.
    """
    rows, near = list(recordings), near_labels()
    present, named = {label for labels in rows for label in labels}, {labels[-1] for labels in rows}
    groups = {group_of(label) for label in present} - {None}
    absent = [
        name for name in catalogue()["sounds"] if name not in present and not near.get(name, frozenset()) & named
    ]
    return [a for a in absent if group_of(a) not in groups], [a for a in absent if group_of(a) in groups]


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
    tables = catalogue()
    groups = {group_of(label) for label in present} - {None}
    sounds = [label for label in tables["sounds"] if label not in present and group_of(label) not in groups]
    others = [label for label, entry in tables["others"].items() if not present & set(entry["near"])]
    return sounds + [label for label in others if label not in present]


__all__ = [
    "absent_labels",
    "canonical_label",
    "catalogue",
    "dress",
    "foreign_heldout",
    "foreign_phrases",
    "group_of",
    "heldout_phrases",
    "languages",
    "near_labels",
    "phrases",
    "random_group_prompt",
    "random_prompt",
    "taught_absent",
]
