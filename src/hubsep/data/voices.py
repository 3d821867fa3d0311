# SPDX-License-Identifier: Apache-2.0
"""Draws the speakers of a mixture: women with women more often than chance has it, and voices of one corpus together.

Two voices from different corpora differ in microphone and room, and a model that is given mostly such pairs learns to
tell microphones. Speakers of whom there are only seconds are drawn less often: they are there for variety.
"""

from __future__ import annotations

import random
from collections import defaultdict
from dataclasses import dataclass
from itertools import accumulate

from .recordings import Clip


TRIES = 50  # to draw somebody who is not there yet, before the draw is made among all others


@dataclass(frozen=True)
class SpeakerSettings:
    """How speakers are drawn; all but `full_seconds` are probabilities.

    Attributes:
        women: of all speakers of a mixture being women.
        men: of all of them being men.
        one_corpus: of a further speaker being from the corpus of the first.
        full_seconds: speakers with fewer seconds of recordings are drawn less often, as the root of their share of
            this; 0 for all alike.
    """

    women: float = 0.0
    men: float = 0.0
    one_corpus: float = 0.0
    full_seconds: float = 0.0


class _Pool:
    """Speakers and how likely each is."""

    def __init__(self, names: list[str], weights: dict[str, float]):
        self.names = names
        self.totals = list(accumulate(weights[name] for name in names))

    def draw(self, rng: random.Random) -> str:
        return rng.choices(self.names, cum_weights=self.totals)[0]


class SpeakerSampler:
    """Draws different speakers.

    Args:
        speakers: the clips of each speaker, by name.
        sampling_rate: of the clips, in Hz.
        settings: how often who is drawn; without, every speaker is as likely as another.
    """

    def __init__(self, speakers: dict[str, list[Clip]], sampling_rate: int, settings: SpeakerSettings | None = None):
        self.speakers, self.settings = speakers, settings or SpeakerSettings()
        full = self.settings.full_seconds * sampling_rate
        weights = {
            name: min(1.0, sum(len(clip.samples) for clip in clips) / full) ** 0.5 if full else 1.0
            for name, clips in speakers.items()
        }
        names: dict[tuple[str, str], list[str]] = defaultdict(list)
        for name, clips in speakers.items():
            for kind in {"", *clips[0].labels} & {"", "a woman talking", "a man talking"}:
                for corpus in ("", clips[0].corpus):
                    if name not in names[kind, corpus][-1:]:
                        names[kind, corpus].append(name)
        self.pools = {which: _Pool(some, weights) for which, some in names.items()}

    def draw(self, count: int, rng: random.Random) -> list[list[Clip]]:
        """The clips of `count` different speakers; there are as many."""
        settings, chance = self.settings, rng.random()
        kind = "a woman talking" if chance < settings.women else ""
        kind = "a man talking" if settings.women <= chance < settings.women + settings.men else kind
        if len(self.pools[kind, ""].names if (kind, "") in self.pools else ()) < count:
            kind = ""
        chosen = [self.pools[kind, ""].draw(rng)]
        corpus = self.speakers[chosen[0]][0].corpus
        while len(chosen) < count:
            together = rng.random() < settings.one_corpus
            chosen.append(self._another(kind, corpus if together else "", chosen, rng))
        return [self.speakers[name] for name in chosen]

    def _another(self, kind: str, corpus: str, chosen: list[str], rng: random.Random) -> str:
        for _ in range(TRIES):
            name = self.pools[kind, corpus].draw(rng)
            if name not in chosen:
                return name
        return rng.choice([name for name in self.pools[kind, ""].names if name not in chosen])


__all__ = ["SpeakerSampler", "SpeakerSettings"]
