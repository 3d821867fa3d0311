# SPDX-License-Identifier: Apache-2.0
"""From the words of queries to what the model is asked for, and back to words: what each query was taken for.

The model separates `columns`, one for each sound that is named somewhere; a query is a sum of them. "Everything but
the voice" is the recording less the voice. A model that knows a list of sounds is asked for "a dog and rain" as two
sounds, if it knows both: asked at once, it gives one of them. What such a model takes a query for is part of the
result. Decisions: a sound is understood if it is the name of a class, or one class has at least half of the
probability; "anything else" is no understanding. A model without such a list takes every word as it is.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from hubsep.models.audiosep.classes_audiosep import ELSE
from hubsep.texts import is_strange, near

from .protocols import QueryModel
from .sums import Sums
from .wording import Wording, read_wording, split_sounds


UNDERSTOOD = 0.5


@dataclass(frozen=True)
class Meaning:
    """What a query was taken for.

    Attributes:
        understood_as: in words; None if the model knows no such sound.
        nearest: the sound it knows that comes nearest, where it knows none that is meant.
        probability: that the nearest is meant, from 0 to 1; 1 where the words are understood.
    """

    understood_as: str | None
    nearest: str | None = None
    probability: float = 1.0


def meaning_of(text: str, shares: Tensor | None, names: Sequence[str]) -> Meaning:
    """What one sound was taken for.

    Args:
        text: the words, or the label of an example.
        shares: probabilities (classes,), or None for a model without classes.
        names: of the classes.
    """
    if shares is None:
        return Meaning(text)
    best = max((number for number, name in enumerate(names) if name != ELSE), key=lambda number: float(shares[number]))
    probability = float(shares[best])
    meant = near(text, [name for name in names if name != ELSE])  # "raim" has letters of rain and the sound of none
    is_misspelt = meant not in (None, names[best]) and is_strange(text)  # "rian" has them, and sounds of a drum
    if probability >= UNDERSTOOD and not is_misspelt:
        return Meaning(names[best])
    return Meaning(None, names[best] if meant is None else meant, probability)


@dataclass
class Columns:
    """What the model is asked for: embeddings, by the words they stand for and what is taken out of them."""

    embeds: list[Tensor] = field(default_factory=list)
    meanings: list[Meaning] = field(default_factory=list)
    numbers: dict[tuple[str, ...], int] = field(default_factory=dict)

    def number(self, key: tuple[str, ...], embed: Tensor, meaning: Meaning) -> int:
        """The column of these words, added if it is new."""
        if key not in self.numbers:
            self.numbers[key] = len(self.embeds)
            self.embeds.append(embed)
            self.meanings.append(meaning)
        return self.numbers[key]


@dataclass(frozen=True)
class TextQueries:
    """Texts, worked out.

    Attributes:
        embeds: what the model is asked for, one a column.
        rows: for each text, the share of each column in it.
        mixture: for each text, the share of the recording in it.
        meanings: what each was taken for.
    """

    embeds: list[Tensor]
    rows: list[dict[int, float]]
    mixture: list[float]
    meanings: list[Meaning]


@torch.no_grad()
def find_text_queries(
    model: QueryModel, names: Sequence[str], texts: Sequence[str], encode: Callable[[list[str]], list[Tensor]]
) -> TextQueries:
    """Reads texts and encodes every sound in them once.

    Args:
        model: that is asked.
        names: of the classes it knows, if it does.
        texts: queries.
        encode: from texts to their embeddings.
    """
    wordings = [read_wording(text) for text in texts]
    sounds = {text: None for wording in wordings for text in _sounds(wording, bool(names)) if text}
    embeds = dict(zip(sounds, encode(list(sounds)), strict=True)) if sounds else {}
    shares = model.classify_queries(torch.stack(list(embeds.values()))) if embeds else None
    known = {name.casefold() for name in names if name != ELSE}
    meanings = {
        text: meaning_of(text, None if shares is None or text.casefold() in known else shares[number], names)
        for number, text in enumerate(embeds)
    }
    columns, rows, mixture, taken = Columns(), [], [], []
    for wording in wordings:
        row, unwanted = {}, [meanings[text] for text in wording.unwanted]
        wanted = _wanted(wording.wanted, meanings)
        if wording.wanted and wording.unwanted:
            negatives = torch.stack([embeds[text] for text in wording.unwanted])
            embed = model.leave_out(embeds[wording.wanted][None], negatives)[0]
            key = (wording.wanted, *wording.unwanted)
            row[columns.number(key, embed, meanings[wording.wanted])] = 1.0
            wanted = [wording.wanted]
        else:
            for text in wanted or wording.unwanted:
                row[columns.number((text,), embeds[text], meanings[text])] = 1.0 if wanted else -1.0
        rows.append(row)
        mixture.append(0.0 if wording.wanted else 1.0)
        taken.append(_joined([meanings[text] for text in wanted], unwanted))
    return TextQueries(columns.embeds, rows, mixture, taken)


def _sounds(wording: Wording, splits: bool) -> list[str]:
    """Every text that has to be encoded to know what a query means."""
    parts = split_sounds(wording.wanted) if splits and wording.wanted and not wording.unwanted else []
    return [wording.wanted, *(parts if len(parts) > 1 else []), *wording.unwanted]


def _wanted(text: str, meanings: Mapping[str, Meaning]) -> list[str]:
    """One text, or its parts where each of them is a sound of its own that the model knows."""
    parts = [part for part in (split_sounds(text) if text else []) if part in meanings]
    sounds = {meanings[part].understood_as for part in parts}
    if len(parts) > 1 and len(sounds) == len(parts) and None not in sounds:
        return parts
    return [text] if text else []


def _joined(wanted: Sequence[Meaning], unwanted: Sequence[Meaning]) -> Meaning:
    """The meaning of a sum."""
    for meaning in (*wanted, *unwanted):
        if meaning.understood_as is None:
            return meaning
    kept = " and ".join(str(meaning.understood_as) for meaning in wanted)
    left = " and ".join(dict.fromkeys(str(meaning.understood_as) for meaning in unwanted))
    if not left:
        return Meaning(kept)
    return Meaning(f"{kept} without {left}" if kept else f"everything but {left}")


def sums_of(labels: Sequence[str], queries: TextQueries, others: int) -> Sums | None:
    """The sums that make texts, and then `others` more columns, of what the model separates; None if each is one.

    Args:
        labels: of all of them.
        queries: the texts.
        others: columns that follow those of the texts, each a source of its own.
    """
    columns = len(queries.embeds)
    plain = [{number: 1.0} for number in range(columns)]
    if queries.rows == plain and not any(queries.mixture):
        return None
    shares = torch.zeros(len(queries.rows) + others, columns + others)
    for number, row in enumerate(queries.rows):
        for column, share in row.items():
            shares[number, column] = share
    shares[len(queries.rows) :, columns:] = torch.eye(others)
    mixture = np.array([*queries.mixture, *[0.0] * others], np.float32)
    return Sums(tuple(labels), shares, mixture)


__all__ = ["Meaning", "TextQueries", "find_text_queries", "meaning_of", "sums_of"]
