# SPDX-License-Identifier: Apache-2.0
"""What training of a generator of sounds is shown: an excerpt of one recording, and words for it.

Item `n` depends on the seed and `n` alone, see `hubsep.data.mixing`. Decisions:

- A recording is brought to the level the generator knows, without offset and with a peak of 0.5, as the pipeline does
  with what it is given. No other level is drawn: what is generated has this one.
- A recording shorter than an excerpt begins within its first quarter of a second, with silence after it: what is asked
  for is to begin when the generated recording does.
- Where a frozen model makes something costly of every excerpt, excerpts are of a few `views` of each recording, which
  can be kept: the first is as recorded, the others a little faster or slower.
- Words are phrases of the label in the templates in which people name a sound, not those in which they ask for one to
  be taken out of others.
"""

from __future__ import annotations

import random
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import soxr
import torch
from torch import Tensor

from ..errors import DataError
from ..mel import Level
from .mixing import ClipSampler, SeededDataset, excerpt
from .prompts import phrases
from .recordings import Clip


CAPTIONS = (
    "{}", "{}", "{}", "{}", "the sound of {}", "sound of {}", "{} sound", "a recording of {}", "sounds like {}",
    "an audio clip of {}", "audio of {}", "you can hear {}", "there is {}", "{} noise", "{} nearby",
)  # fmt: skip
LATEST_START = 0.25  # seconds


@dataclass(frozen=True)
class SoundSettings:
    """How excerpts are made.

    Attributes:
        sampling_rate: in Hz.
        samples: of an excerpt.
        views: how many different excerpts there are of a recording; 0 for a new one every time.
        speed_range: by how much excerpts are faster or slower at most, but for the first view.
    """

    sampling_rate: int
    samples: int
    views: int = 0
    speed_range: float = 0.08

    def __post_init__(self) -> None:
        if self.sampling_rate < 1 or self.samples < 1 or self.views < 0:
            raise DataError(f"sampling_rate and samples must be positive and views not negative, got {self}")
        if not 0 <= self.speed_range < 1:
            raise DataError(f"speed_range must be at least 0 and below 1, got {self.speed_range}")


@dataclass(frozen=True)
class Sound:
    """Which excerpt: of which recording, by which random numbers, at which speed; and words for it."""

    clip: Clip
    seed: str
    varied: bool
    caption: str


class SoundDataset(SeededDataset[dict[str, Tensor]]):
    """`length` items, each a `waveform` (samples,) at the generator's level; `sound` says which one and what it is."""

    def __init__(self, sampler: ClipSampler, settings: SoundSettings, length: int, seed: int = 0):
        super().__init__(length, seed)
        self.sampler, self.settings = sampler, settings

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        return {"waveform": self.waveform(self.sound(index))}

    @property
    def labels(self) -> list[str]:
        """Of all recordings, each once."""
        clips = [c for classes in self.sampler.tree.values() for part in classes.values() for c in part]
        return list(dict.fromkeys(label for clip in clips for label in clip.labels))

    def sound(self, index: int) -> Sound:
        """Which sound item `index` is."""
        rng = self.numbers(index)
        clip = self.sampler.draw(rng)
        words = caption(rng.choice(clip.labels), rng)
        if not self.settings.views:
            return Sound(clip, f"{self.seed}/{index}/excerpt", True, words)
        view = rng.randrange(self.settings.views)
        return Sound(clip, f"{clip.corpus}/{Path(clip.path).name}/{view}", view > 0, words)

    def waveform(self, sound: Sound) -> Tensor:
        """(samples,), float32, at the generator's level."""
        settings, rng = self.settings, random.Random(sound.seed)
        speed = 1 + rng.uniform(-settings.speed_range, settings.speed_range) if sound.varied else 1.0
        if len(sound.clip.samples) > settings.samples * speed:
            part = excerpt(sound.clip, settings.samples, rng, speed)
        else:
            part = sound.clip.waveform()
            if speed != 1.0:
                part = soxr.resample(part, speed, 1.0, quality="QQ").astype(np.float32)
            room = settings.samples - len(part)
            left = rng.randint(0, max(0, min(room, round(LATEST_START * settings.sampling_rate))))
            part = np.pad(part[: settings.samples], (left, max(0, room - left)))
        waveform = torch.from_numpy(np.ascontiguousarray(part[: settings.samples]))
        return Level.of(waveform).apply(waveform)


def heldout_sounds(clips: list[Clip]) -> list[Sound]:
    """One sound of every recording, the same ones whatever the seed of the dataset."""
    rngs = (random.Random(f"validation/{number}") for number in range(len(clips)))
    return [
        Sound(clip, f"validation/{number}", False, caption(clip.labels[-1], rng))
        for number, (clip, rng) in enumerate(zip(clips, rngs, strict=True))
    ]


def caption(label: str, rng: random.Random) -> str:
    """One of many ways to name the sounds of a class."""
    return rng.choice(CAPTIONS).format(rng.choice(phrases(label)))


def every_caption(labels: Iterable[str]) -> list[str]:
    """All that `caption` may say of some classes, each once, in a fixed order."""
    templates = dict.fromkeys(CAPTIONS)
    words = [phrase for label in sorted(set(labels)) for phrase in phrases(label)]
    return list(dict.fromkeys(template.format(phrase) for phrase in words for template in templates))


__all__ = ["CAPTIONS", "Sound", "SoundDataset", "SoundSettings", "caption", "every_caption", "heldout_sounds"]
