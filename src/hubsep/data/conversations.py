# SPDX-License-Identifier: Apache-2.0
"""Long conversations put together from single recordings, with turns, pauses and interruptions, and their truth.

Decisions: speakers take turns of several sentences. Most turns follow after a pause; some start before the last one
ended, which is where a separator has work to do. Between turns a speaker is digital silence in the truth, so that
measures can leave silence out. The same recordings, seed and length give the same conversation.
"""

from __future__ import annotations

import random
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from ..errors import DataError
from .mixing import rms
from .recordings import Clip
from .speech import by_speaker, same_gender


@dataclass(frozen=True)
class Conversation:
    """The truth of a conversation: `sources` (num_sources, samples), one row a speaker."""

    sources: Tensor
    speakers: tuple[str, ...]
    sampling_rate: int

    @property
    def mixture(self) -> Tensor:
        """What a recording of it holds, (samples,)."""
        return self.sources.sum(dim=0)


@dataclass(frozen=True)
class TurnSettings:
    """How people talk: lengths in seconds, levels in dB."""

    turn_s: tuple[float, float] = (2.0, 10.0)
    pause_s: tuple[float, float] = (0.1, 2.0)
    overlap_probability: float = 0.4
    overlap_s: tuple[float, float] = (0.3, 3.0)
    level_range_db: float = 2.5


def conversation(
    clips: list[Clip],
    sampling_rate: int,
    *,
    minutes: float = 10.0,
    num_sources: int = 2,
    one_gender: bool | None = None,
    seed: int = 1,
    settings: TurnSettings | None = None,
) -> Conversation:
    """A conversation of people drawn from the clips.

    Args:
        clips: recordings of one speaker each; `group` names the speaker.
        sampling_rate: of the clips, in Hz.
        minutes: length; the last turn is cut there.
        num_sources: how many people.
        one_gender: whether they are all men or all women, or not; None for whoever is drawn.
        seed: decides who says what when.
        settings: lengths of turns, pauses and overlaps.

    Raises:
        DataError: if there are no such people among the clips.
    """
    settings, rng, speakers = settings or TurnSettings(), random.Random(seed), by_speaker(clips)
    names = draw_speakers(speakers, num_sources, one_gender, rng)
    samples = int(minutes * 60 * sampling_rate)
    sources = np.zeros((num_sources, samples), np.float32)
    ends = [0] * num_sources  # of each speaker's last turn
    who = end = 0
    while True:
        start = max(end + _gap(settings, sampling_rate, rng), ends[who], 0)
        if start >= samples:
            break
        said = turn(speakers[names[who]], int(rng.uniform(*settings.turn_s) * sampling_rate), rng)
        said = said[: samples - start]
        sources[who, start : start + len(said)] = said
        ends[who] = start + len(said)
        end = max(ends)
        who = rng.choice([other for other in range(num_sources) if other != who] or [who])
    for source in sources:
        source *= 10 ** (rng.uniform(-settings.level_range_db, settings.level_range_db) / 20)
    sources *= min(0.05 / rms(sources.sum(axis=0)), 0.95 / max(float(np.abs(sources.sum(axis=0)).max()), 1e-6))
    return Conversation(torch.from_numpy(sources), names, sampling_rate)


def draw_speakers(
    speakers: dict[str, list[Clip]], count: int, one_gender: bool | None, rng: random.Random
) -> tuple[str, ...]:
    """Names of different speakers of one gender, of several, or any."""
    if len(speakers) >= count:
        for _ in range(1_000):
            names = tuple(rng.sample(list(speakers), count))
            if one_gender is None or same_gender([speakers[name][0] for name in names]) is one_gender:
                return names
    kind = {None: "", True: " of one gender", False: " of both genders"}[one_gender]
    raise DataError(f"a conversation of {count} speakers{kind} cannot be made of {len(speakers)} speakers")


def turn(clips: list[Clip], samples: int, rng: random.Random) -> np.ndarray:
    """Whole recordings of a speaker one after the other, at least `samples` long, at a level of 1."""
    parts = [rng.choice(clips).waveform()]
    while sum(map(len, parts)) < samples:
        parts.append(rng.choice(clips).waveform())
    whole = np.concatenate(parts)
    return whole / np.float32(rms(whole))


def _gap(settings: TurnSettings, sampling_rate: int, rng: random.Random) -> int:
    """Samples between two turns, negative where the next one interrupts."""
    overlaps = rng.random() < settings.overlap_probability
    seconds = -rng.uniform(*settings.overlap_s) if overlaps else rng.uniform(*settings.pause_s)
    return int(seconds * sampling_rate)


__all__ = ["Conversation", "TurnSettings", "conversation"]
