# SPDX-License-Identifier: Apache-2.0
"""Scenes: mixtures asked about several times, for what is there, for what is not, and for several sounds at once.

`mixing` asks for what was never taught when it asks in vain, so that its model learns which words mean nothing, and
not which sounds are missing: asked for a known sound that is not there, it takes another. Here the queries are
classes, not words: an item asks for both of its sounds and, in vain, for one that was taught, half the time from the
family of a sound that is there. Half of the mixtures are of two sounds of one family. Two sounds whose recordings may
hold each other (`near` in the catalogue) are never mixed, nor is one asked for in vain beside the other.

Item `n` depends on the seed and `n` alone.
"""

from __future__ import annotations

import random
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from .effects import BANDS_HZ, Waveform, equaliser, filtered, low_pass, room_response, steady_noise
from .mixing import SeededDataset, excerpt, rms
from .prompts import group_of, near_labels, taught_absent
from .recordings import Clip


@dataclass(frozen=True)
class SceneSettings:
    """How scenes are made: lengths in seconds, levels in dB; the rest are probabilities.

    Attributes:
        family: of the second sound being of the first one's group.
        untaught: of a sound being one that has no class; nothing asks for it.
        absent_family: of a query in vain being for a sound of a family that is there.
        together: of the last query being for two sounds at once, of which one may be missing.
        group: of the last query being for a whole group ("any animal").
        nothing: of the last query meaning something that was never taught.
        doubt: of a query's meaning being spread a little over other classes, as words spread it.
    """

    sampling_rate: int
    seconds: float = 3.0
    level_range_db: float = 12.0
    loudness_db: tuple[float, float] = (-40.0, -12.0)
    speed_probability: float = 0.5
    speed_range: float = 0.18
    lone: float = 0.06
    third: float = 0.25
    family: float = 0.5
    untaught: float = 0.1
    absent_family: float = 0.5
    together: float = 0.18
    group: float = 0.07
    nothing: float = 0.05
    doubt: float = 0.5
    room: float = 0.2
    equaliser: float = 0.4
    noise: float = 0.25
    band: float = 0.3


class SoundSampler:
    """Draws a sound, then one of its recordings; sounds with few recordings are drawn less often.

    Args:
        clips: to draw from.
        taught: the sounds that are asked for; others are drawn by `untaught`.
        weights: of a sound, by its name; 1 for those not named.
        few: recordings below which a sound is drawn less often, as the square root of their number.
    """

    def __init__(self, clips: Sequence[Clip], taught: Sequence[str], weights: dict[str, float], few: int = 12):
        sounds: dict[str, list[Clip]] = defaultdict(list)
        for clip in clips:
            sounds[clip.labels[-1]].append(clip)
        self.taught = {name: rows for name, rows in sorted(sounds.items()) if name in set(taught)}
        self.others = [clip for clip in clips if clip.labels[-1] not in set(taught)]
        self.weights = {
            name: weights.get(name, 1.0) * min(1.0, len(rows) / few) ** 0.5 for name, rows in self.taught.items()
        }

    def draw(self, rng: random.Random, beside: Sequence[Clip], group: str | None = None) -> Clip:
        """A taught sound that may stand beside others, of a group if there is such a one.

        Args:
            rng: decides.
            beside: the sounds of the mixture so far.
            group: the family it should be of.
        """
        names = [name for name in self.taught if all(apart(name, clip.labels) for clip in beside)]
        family = [name for name in names if group is not None and group_of(name) == group]
        names = family or names
        for _ in range(20):
            clip = rng.choice(self.taught[rng.choices(names, [self.weights[name] for name in names])[0]])
            if all(clip.group != other.group for other in beside):
                break
        return clip

    def draw_other(self, rng: random.Random, beside: Sequence[Clip]) -> Clip:
        """A sound that has no class, not near those beside it."""
        for _ in range(20):
            clip = rng.choice(self.others)
            if all(apart(clip.labels[-1], other.labels) for other in beside):
                return clip
        return self.draw(rng, beside)


def apart(label: str, labels: Sequence[str]) -> bool:
    """Whether a sound may stand beside one with several labels: neither is the other, nor may hold it."""
    return label != labels[-1] and labels[-1] not in near_labels().get(label, frozenset())


def prepared(clip: Clip, settings: SceneSettings, samples: int, rng: random.Random) -> Waveform:
    """An excerpt of a recording, (samples,), as it may sound elsewhere: sped up, equalised, in a room, turned over."""
    changed = rng.random() < settings.speed_probability
    speed = 1 + rng.uniform(-settings.speed_range, settings.speed_range) if changed else 1.0
    waveform = excerpt(clip, samples, rng, speed)
    gain = equaliser(rng, samples // 2 + 1) if rng.random() < settings.equaliser else None
    response = room_response(rng, settings.sampling_rate) if rng.random() < settings.room else None
    waveform = filtered(waveform, gain, response)
    return waveform if rng.random() < 0.5 else -waveform


class SceneDataset(SeededDataset[dict[str, Tensor]]):
    """`length` items: `input_values` (1, samples), `labels` (3, 1, samples), `class_weights` (3, classes).

    Args:
        sampler: draws the sounds.
        settings: of the scenes.
        classes: names of the model's query classes: sounds, "any GROUP", and last everything else.
        length: number of items.
        seed: decides everything.
    """

    queries = 3

    def __init__(
        self, sampler: SoundSampler, settings: SceneSettings, classes: Sequence[str], length: int, seed: int = 0
    ):
        super().__init__(length, seed)
        self.sampler, self.settings = sampler, settings
        self.classes = {name: number for number, name in enumerate(classes)}
        self.samples = int(settings.seconds * settings.sampling_rate)

    def make(self, rng: random.Random) -> dict[str, Tensor]:
        """Draws the sounds of one scene, and what is asked of it."""
        settings = self.settings
        clips = self._clips(rng)
        sources = [prepared(clip, settings, self.samples, rng) for clip in clips]
        for source in sources[1:]:
            level = rng.uniform(-settings.level_range_db, settings.level_range_db)
            source *= rms(sources[0]) / rms(source) * 10 ** (level / 20)
        if rng.random() < settings.band:
            band = low_pass(rng.choice(BANDS_HZ), settings.sampling_rate, self.samples // 2 + 1)
            sources = [filtered(source, band) for source in sources]
        mixture = np.sum(sources, axis=0)
        if rng.random() < settings.noise:
            mixture = mixture + steady_noise(rng, self.samples) * rms(mixture) * 10 ** (rng.uniform(-40, -8) / 20)
        gain = 10 ** (rng.uniform(*settings.loudness_db) / 20) / rms(mixture)
        gain = min(gain, 0.95 / max(float(np.abs(mixture).max()), 1e-6))
        queries = self._queries(clips, rng)
        targets = [self._target(clips, sources, names) * gain for names in queries]
        return {
            "input_values": torch.from_numpy(mixture * gain)[None].float(),
            "labels": torch.from_numpy(np.stack(targets))[:, None].float(),
            "class_weights": torch.stack([self._weights(names, rng) for names in queries]),
        }

    def _clips(self, rng: random.Random) -> list[Clip]:
        """One sound, mostly two, sometimes three; the first one is taught."""
        settings = self.settings
        clips, draw = [self.sampler.draw(rng, [])], rng.random()
        for number in range(0 if draw < settings.lone else 2 if draw > 1 - settings.third else 1):
            if self.sampler.others and rng.random() < settings.untaught:
                clips.append(self.sampler.draw_other(rng, clips))
                continue
            family = number == 0 and rng.random() < settings.family
            clips.append(self.sampler.draw(rng, clips, group_of(clips[0].labels[-1]) if family else None))
        return clips

    def _queries(self, clips: Sequence[Clip], rng: random.Random) -> list[tuple[str, ...]]:
        """What is asked: names of classes, for both sounds and once more."""
        settings = self.settings
        present = [clip.labels for clip in clips]
        queries: list[tuple[str, ...]] = []
        for clip in clips[:2]:
            label = rng.choice(clip.labels)
            queries.append((label,) if label in self.classes else (self._absent(present, rng),))
        while len(queries) < self.queries - 1:
            queries.append((self._absent(present, rng),))
        draw, taught = rng.random(), [clip.labels[-1] for clip in clips if clip.labels[-1] in self.classes]
        group = group_of(rng.choice(taught))
        if draw < settings.together:
            other = rng.choice([*taught[1:], self._absent(present, rng)])
            queries.append((taught[0], other))
        elif draw < settings.together + settings.group and len(taught) == len(clips):
            queries.append((f"any {group}",))
        elif draw < settings.together + settings.group + settings.nothing:
            queries.append((list(self.classes)[-1],))
        else:
            queries.append((self._absent(present, rng),))
        return queries

    def _absent(self, present: Sequence[Sequence[str]], rng: random.Random) -> str:
        strangers, family = (
            [name for name in names if name in self.sampler.taught or name == "speech"]
            for names in taught_absent(present)
        )
        return rng.choice(family if family and rng.random() < self.settings.absent_family else strangers or family)

    def _target(self, clips: Sequence[Clip], sources: Sequence[Waveform], names: tuple[str, ...]) -> Waveform:
        """The sum of what was asked for; zeros where nothing is."""
        target = np.zeros(self.samples, np.float32)
        for clip, source in zip(clips, sources, strict=True):
            if set(names) & {*clip.labels, f"any {group_of(clip.labels[0])}"}:
                target += source
        return target

    def _weights(self, names: tuple[str, ...], rng: random.Random) -> Tensor:
        """Shares of the classes: equal ones of what was asked for, a little less where there is doubt."""
        weights = torch.zeros(len(self.classes))
        for name in names:
            weights[self.classes[name]] += 1 / len(names)
        if rng.random() < self.settings.doubt:
            doubt = rng.uniform(0.0, 0.3)
            others = [
                rng.randrange(len(self.classes)),
                rng.choice([len(self.classes) - 1, rng.randrange(len(self.classes))]),
            ]
            weights *= 1 - doubt
            for other in others:
                weights[other] += doubt / 2
        return weights


__all__ = ["SceneDataset", "SceneSettings", "SoundSampler", "apart", "prepared"]
