# SPDX-License-Identifier: Apache-2.0
"""Many mixtures of few sounds: a pool of prepared sounds, and which of them each mixture is of.

Preparing a sound (an excerpt, sped up, equalised, in a room) costs fifty times what adding it to another does. A pool
of a dozen is mixed in twice as many ways at as many levels; what a listener learns from is the mixtures.
"""

from __future__ import annotations

import random
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from .effects import BANDS_HZ, filtered, low_pass, steady_noise
from .mixing import SeededDataset, rms
from .prompts import group_of, near_labels
from .recordings import Clip
from .scenes import SceneSettings, SoundSampler, apart, prepared


class PoolDataset(SeededDataset[dict[str, Tensor]]):
    """`length` pools: `sources` (pool, samples), `gains` (mixtures, pool), `there` and `unclear` (pool, classes).

    `there` is 1 for what a sound is, with the groups it belongs to; `unclear` for what it may be or hold as well.
    The last of the pool is steady noise, which is nothing.

    Args:
        sampler: draws the sounds.
        settings: how they are prepared and mixed.
        classes: names of the query classes.
        length: number of pools.
        pool: sounds in one, the noise included.
        mixtures: made of each pool.
        seed: decides everything; pool `n` depends on it and `n` alone.
    """

    def __init__(
        self, sampler: SoundSampler, settings: SceneSettings, classes: Sequence[str], length: int, *,
        pool: int = 13, mixtures: int = 24, seed: int = 0,
    ):  # fmt: skip
        super().__init__(length, seed)
        self.sampler, self.settings = sampler, settings
        self.classes = {name: number for number, name in enumerate(classes)}
        self.pool, self.mixtures = pool, mixtures
        self.samples = int(settings.seconds * settings.sampling_rate)

    def make(self, rng: random.Random) -> dict[str, Tensor]:
        """Draws the sounds of one pool, and its mixtures."""
        settings = self.settings
        clips: list[Clip] = []
        for _ in range(self.pool - 1):
            if self.sampler.others and rng.random() < settings.untaught:
                clips.append(rng.choice(self.sampler.others))
                continue
            related = clips and rng.random() < settings.family
            group = group_of(rng.choice(clips).labels[-1]) if related else None
            clips.append(self.sampler.draw(rng, [], group))
        sources = [prepared(clip, settings, self.samples, rng) for clip in clips]
        sources.append(steady_noise(rng, self.samples))
        if rng.random() < settings.band:
            gain = low_pass(rng.choice(BANDS_HZ), settings.sampling_rate, self.samples // 2 + 1)
            sources = [filtered(source, gain) for source in sources]
        return {
            "sources": torch.from_numpy(np.stack([source / rms(source) for source in sources])).float(),
            "gains": torch.stack([self._gains(clips, rng) for _ in range(self.mixtures)]),
            **self._marks(clips),
        }

    def _gains(self, clips: Sequence[Clip], rng: random.Random) -> Tensor:
        """The level of each of the pool in one mixture, mostly of two sounds."""
        settings, gains = self.settings, torch.zeros(self.pool)
        draw = rng.random()
        wanted = 1 if draw < settings.lone else 3 if draw > 1 - settings.third else 2
        chosen: list[int] = []
        for number in rng.sample(range(len(clips)), len(clips)):
            beside = [clips[other] for other in chosen]
            if all(apart(clips[number].labels[-1], b.labels) and b.group != clips[number].group for b in beside):
                chosen.append(number)
            if len(chosen) == wanted:
                break
        for number in chosen:
            gains[number] = 10 ** (rng.uniform(-settings.level_range_db, settings.level_range_db) / 40)
        if rng.random() < settings.noise:
            gains[-1] = 10 ** (rng.uniform(-40, -8) / 20)
        return gains

    def _marks(self, clips: Sequence[Clip]) -> dict[str, Tensor]:
        there, unclear = torch.zeros(self.pool, len(self.classes)), torch.zeros(self.pool, len(self.classes))
        for row, clip in enumerate(clips):
            groups = {f"any {group_of(label)}" for label in clip.labels}
            near = near_labels().get(clip.labels[-1], frozenset())
            for name in {*clip.labels, *groups} & self.classes.keys():
                there[row, self.classes[name]] = 1
            for name in {*near, *(f"any {group_of(label)}" for label in near)} & self.classes.keys():
                unclear[row, self.classes[name]] = 1
        return {"there": there, "unclear": unclear * (1 - there)}


__all__ = ["PoolDataset"]
