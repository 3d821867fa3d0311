# SPDX-License-Identifier: Apache-2.0
"""Mixtures made on the fly from single recordings, as in AudioSep's training (2308.05037, section 4.2).

Item `n` of the dataset depends on the seed and `n` alone, whatever process makes it: a run that resumes at step `n`
sees the same mixtures as one that was never interrupted. Departures from the paper: recordings are sped up or slowed
down, interferers come from other classes only, and some items ask for a sound that is not there.
"""

from __future__ import annotations

import random
from collections import defaultdict
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np
import soxr
import torch
from numpy.typing import NDArray
from torch.utils.data import Dataset

from .prompts import absent_labels, group_of, random_group_prompt, random_prompt
from .recordings import Clip


Waveform = NDArray[np.float32]


@dataclass(frozen=True)
class MixingSettings:
    """How mixtures are made: lengths in seconds, levels in dB, queries a mixture; the rest are probabilities."""

    sampling_rate: int
    seconds: float = 3.0
    level_range_db: float = 10.0
    loudness_db: tuple[float, float] = (-40.0, -12.0)
    speed_probability: float = 0.5
    speed_range: float = 0.18
    lone_probability: float = 0.05
    third_probability: float = 0.2
    absent_probability: float = 0.12
    group_probability: float = 0.08
    queries: int = 1


class ClipSampler:
    """Draws a corpus by weight, then one of its classes, then a clip: rare classes are heard as often as others.

    Args:
        clips: to draw from.
        corpus_weights: by a corpus's name; 1 for those not named.
        class_weights: of a class among those of its corpus, by its label; 1 for those not named.
    """

    def __init__(
        self, clips: list[Clip], corpus_weights: dict[str, float], class_weights: dict[str, float] | None = None
    ):
        self.tree: dict[str, dict[str, list[Clip]]] = defaultdict(lambda: defaultdict(list))
        for clip in clips:
            self.tree[clip.corpus][clip.labels[-1]].append(clip)
        self.corpora = list(self.tree)
        self.weights = [corpus_weights.get(corpus, 1.0) for corpus in self.corpora]
        self.class_weights = class_weights or {}

    def draw(self, rng: random.Random, avoid: set[str] = frozenset()) -> Clip:  # type: ignore[assignment]
        """A clip none of whose labels is in `avoid`."""
        while True:
            classes = self.tree[rng.choices(self.corpora, self.weights)[0]]
            clip = rng.choice(classes[self._class(rng, list(classes))])
            if avoid.isdisjoint(clip.labels):
                return clip

    def _class(self, rng: random.Random, labels: list[str]) -> str:
        if not self.class_weights:
            return rng.choice(labels)
        return rng.choices(labels, [self.class_weights.get(label, 1.0) for label in labels])[0]


def excerpt(clip: Clip, samples: int, rng: random.Random, speed: float = 1.0) -> Waveform:
    """A random part of a clip in which something sounds; a shorter clip is placed at random, zeros around it."""
    wanted = int(samples * speed)
    spare = len(clip.samples) - wanted
    part = clip.waveform(0, wanted)
    if spare > 0:
        loud = np.abs(clip.samples[:: max(1, len(clip.samples) // 4096)].astype(np.float32)).mean()
        for _ in range(6):
            start = rng.randrange(spare)
            part = clip.waveform(start, wanted)
            if np.abs(part[::64]).mean() * 32_768 / clip.scale > 0.4 * loud:
                break
    if speed != 1.0:
        part = soxr.resample(part, speed, 1.0, quality="QQ").astype(np.float32)
    part = part[:samples]
    left = rng.randrange(samples - len(part) + 1)
    return np.pad(part, (left, samples - len(part) - left))


def rms(waveform: Waveform) -> float:
    """Root mean square, never below 1e-6."""
    return max(float(np.sqrt(np.mean(np.square(waveform)))), 1e-6)


Item = TypeVar("Item")


class SeededDataset(Dataset[Item]):
    """Items that are made on the fly: each depends on the seed and its number alone.

    So a run goes on exactly where it was killed, with any number of workers.

    Args:
        length: number of items.
        seed: decides all of them.
    """

    def __init__(self, length: int, seed: int = 0):
        self.length, self.seed = length, seed

    def __len__(self) -> int:
        return self.length

    def __getitem__(self, index: int) -> Item:
        return self.make(self.numbers(index))

    def numbers(self, index: int) -> random.Random:
        """The random numbers of one item.

        Args:
            index: of the item.

        Raises:
            IndexError: if there is no such item.
        """
        if not 0 <= index < self.length:
            raise IndexError(f"item {index} of {self.length}")
        return random.Random(f"{self.seed}/{index}")

    def make(self, rng: random.Random) -> Item:
        """Makes one item.

        Args:
            rng: all that it may depend on.
        """
        raise NotImplementedError


class MixtureDataset(SeededDataset[dict[str, Any]]):
    """`length` training items: `input_values` (1, samples), `labels` (queries, 1, samples), a `text` for each query.

    With two queries a mixture, both of its sources are asked for at once: what one query must give the other must not.
    """

    def __init__(self, sampler: ClipSampler, settings: MixingSettings, length: int, seed: int = 0):
        super().__init__(length, seed)
        self.sampler, self.settings = sampler, settings
        self.samples = int(settings.seconds * settings.sampling_rate)

    def make(self, rng: random.Random) -> dict[str, Any]:
        """Draws one sound, mostly another and sometimes a third, and words for what is asked for."""
        settings = self.settings
        clips = [self.sampler.draw(rng)]
        draw = rng.random()
        others = 0 if draw < settings.lone_probability else 2 if draw > 1 - settings.third_probability else 1
        for _ in range(others):
            clips.append(self.sampler.draw(rng, avoid={label for clip in clips for label in clip.labels}))
        sources = [self._excerpt(clip, rng) for clip in clips]
        for source in sources[1:]:
            level = rng.uniform(-settings.level_range_db, settings.level_range_db)
            source *= rms(sources[0]) / rms(source) * 10 ** (level / 20)
        mixture = np.sum(sources, axis=0)
        gain = 10 ** (rng.uniform(*settings.loudness_db) / 20) / rms(mixture)
        gain = min(gain, 0.95 / max(float(np.abs(mixture).max()), 1e-6))
        targets, texts = [], []
        for number in range(settings.queries):
            absent = number >= len(clips) or (others > 0 and rng.random() < settings.absent_probability)
            targets.append(np.zeros_like(mixture) if absent else sources[number] * gain)
            texts.append(self._text(clips, None if absent else number, rng))
        return {
            "input_values": torch.from_numpy(mixture * gain)[None],
            "labels": torch.from_numpy(np.stack(targets))[:, None].float(),
            "text": texts,
        }

    def _excerpt(self, clip: Clip, rng: random.Random) -> Waveform:
        changed = rng.random() < self.settings.speed_probability
        speed = 1 + rng.uniform(-self.settings.speed_range, self.settings.speed_range) if changed else 1.0
        waveform = excerpt(clip, self.samples, rng, speed)
        return waveform if rng.random() < 0.5 else -waveform

    def _text(self, clips: list[Clip], number: int | None, rng: random.Random) -> str:
        """Words for the clip of that number; with None, for a sound that none of them is."""
        present = {label for clip in clips for label in clip.labels}
        if number is None:
            return random_prompt(rng.choice(absent_labels(present)), rng)
        label = rng.choice(clips[number].labels)
        group = group_of(label)
        others = clips[:number] + clips[number + 1 :]
        alone = group is not None and all(group_of(clip.labels[0]) != group for clip in others)
        if group and alone and rng.random() < self.settings.group_probability:
            return random_group_prompt(group, rng)
        return random_prompt(label, rng)


__all__ = ["ClipSampler", "MixingSettings", "MixtureDataset", "excerpt", "rms"]
