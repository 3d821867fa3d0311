# SPDX-License-Identifier: Apache-2.0
"""Mixtures that are not easy, for text-queried separators: asked in vain, for two sounds, in rooms, noise, a minute.

The sounds are those of the 0 dB mixtures of `evaluation`, held out of training; each condition changes one thing. A
mixture is asked for its target and, in vain, for a sound that the model was taught: half the time, where there is one,
of a family that is there, such as a cello beside a violin. Sounds whose recordings may hold each other (`near` in the
catalogue) are never asked for beside each other.
"""

from __future__ import annotations

import random
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from ..data.effects import filtered, low_pass, room_response, steady_noise
from ..data.mixing import excerpt, rms
from ..data.pairs import missing, vain
from ..data.prompts import absent_labels, group_of, near_labels
from ..data.recordings import Clip


LEVEL = 0.1  # root mean square of a mixture
EVENT_S, AROUND_S = 1.0, 0.25


@dataclass(frozen=True)
class Sound:
    """A recording in a mixture: its labels, the most specific one last, and its samples."""

    labels: tuple[str, ...]
    waveform: np.ndarray


@dataclass(frozen=True)
class Trial:
    """A mixture (samples,), what is asked for, the target (samples,) and what is asked for in vain; None for neither.

    With `event`, from where to where the target sounds, it is judged there, and its leakage everywhere else.
    """

    mixture: Tensor
    query: str | None
    target: Tensor | None
    in_vain: str | None
    event: tuple[int, int] | None = None


@dataclass(frozen=True)
class Material:
    """What trials are made of: held-out recordings by class, the model's sounds, the rate, and length in samples."""

    classes: dict[str, list[Clip]]
    known: frozenset[str]
    sampling_rate: int
    samples: int


def material(clips: Sequence[Clip], known: Sequence[str], sampling_rate: int, seconds: float) -> Material:
    """Sorts recordings; what is not known to the model may be heard in a mixture but is not asked for."""
    classes: dict[str, list[Clip]] = defaultdict(list)
    for clip in sorted(clips, key=lambda clip: clip.path):
        classes[clip.labels[-1]].append(clip)
    return Material(dict(sorted(classes.items())), frozenset(known), sampling_rate, int(seconds * sampling_rate))


class Trials:
    """Makes the trials of each condition from the same sounds; everything depends on the seed alone.

    Args:
        material: what to make them of.
        per_class: trials with a target of each class the model knows.
        seed: decides partners, excerpts and queries.
    """

    def __init__(self, material: Material, per_class: int, seed: int = 1):
        self.material, self.per_class, self.seed = material, per_class, seed
        self.labels = [label for label in material.classes if label in material.known]

    def of(self, condition: str) -> Iterator[Trial]:
        """The trials of one of `CONDITIONS`; fewer where a class has no partner."""
        make, share = CONDITIONS[condition]
        for label in self.labels:
            for number in range(max(1, round(self.per_class * share))):
                rng = random.Random(f"{self.seed}/{label}/{number}")
                trial = make(self, label, number, rng)
                if trial is not None:
                    yield trial

    def clip(self, label: str, number: int | None, rng: random.Random) -> Clip:
        """A recording of a class, the one of that number or any."""
        clips = self.material.classes[label]
        return clips[number % len(clips)] if number is not None else rng.choice(clips)

    def sound(self, clip: Clip, rng: random.Random) -> Sound:
        """An excerpt of a recording at the level of a mixture."""
        waveform = excerpt(clip, self.material.samples, rng)
        return Sound(clip.labels, waveform * (LEVEL / rms(waveform)))

    def partner(self, clips: Sequence[Clip], rng: random.Random, *, family: bool = False) -> Clip | None:
        """A recording of another class, of the same group if `family`, that may stand beside those there are."""
        group, near = group_of(clips[0].labels[-1]), near_labels()
        names = [
            name
            for name in self.material.classes
            if all(name not in clip.labels and clip.labels[-1] not in near.get(name, ()) for clip in clips)
            and (not family or (group is not None and group_of(name) == group))
        ]
        return self.clip(rng.choice(names), None, rng) if names else None

    def sounds(
        self, label: str, number: int, rng: random.Random, others: int = 1, *, family: bool = False
    ) -> list[Sound]:
        """The target and others beside it, all equally loud; fewer if there is none that may."""
        clips = [self.clip(label, number, rng)]
        for _ in range(others):
            clip = self.partner(clips, rng, family=family)
            if clip is None:
                break
            clips.append(clip)
        return [self.sound(clip, rng) for clip in clips]

    def trial(self, sounds: Sequence[Sound], rng: random.Random, noise: np.ndarray | None = None) -> Trial:
        """Asks for the first of the sounds, and for one that is not there."""
        mixture = np.sum([sound.waveform for sound in sounds], axis=0) + (0 if noise is None else noise)
        gain = LEVEL / rms(mixture)
        in_vain = vain([sound.labels for sound in sounds], self.material.known, rng)
        target = torch.from_numpy(sounds[0].waveform * gain).float()
        return Trial(torch.from_numpy(mixture * gain).float(), sounds[0].labels[-1], target, in_vain)


Make = Callable[[Trials, str, int, random.Random], "Trial | None"]


def two_sounds(trials: Trials, label: str, number: int, rng: random.Random) -> Trial | None:
    """Two sounds at 0 dB."""
    sounds = trials.sounds(label, number, rng)
    return trials.trial(sounds, rng) if len(sounds) == 2 else None


def in_vain(*, family: bool) -> Make:
    """Two sounds at 0 dB, asked for a taught one that is neither; `family` says whether one of its family is there."""

    def make(trials: Trials, label: str, number: int, rng: random.Random) -> Trial | None:
        sounds = trials.sounds(label, number, rng)
        words = missing([sound.labels for sound in sounds], trials.material.known)[family]
        if len(sounds) < 2 or not words:
            return None
        return Trial(trials.trial(sounds, rng).mixture, None, None, rng.choice(words))

    return make


def untaught(trials: Trials, label: str, number: int, rng: random.Random) -> Trial | None:
    """Two sounds at 0 dB, asked for what the model was never taught."""
    sounds = trials.sounds(label, number, rng)
    words = absent_labels({name for sound in sounds for name in sound.labels})
    words = [word for word in words if word not in trials.material.known]
    if len(sounds) < 2 or not words:
        return None
    return Trial(trials.trial(sounds, rng).mixture, None, None, rng.choice(words))


def relatives(trials: Trials, label: str, number: int, rng: random.Random) -> Trial | None:
    """Two sounds of one family."""
    sounds = trials.sounds(label, number, rng, family=True)
    return trials.trial(sounds, rng) if len(sounds) == 2 else None


def three_sounds(trials: Trials, label: str, number: int, rng: random.Random) -> Trial | None:
    """The target beside two others, each as loud."""
    sounds = trials.sounds(label, number, rng, 2)
    return trials.trial(sounds, rng) if len(sounds) == 3 else None


def together(trials: Trials, label: str, number: int, rng: random.Random) -> Trial | None:
    """Three sounds, of which two are asked for in one query."""
    sounds = trials.sounds(label, number, rng, 2)
    known_sounds = [sound for sound in sounds if sound.labels[-1] in trials.material.known]
    if len(sounds) < 3 or len(known_sounds) < 2:
        return None
    mixture = np.sum([sound.waveform for sound in sounds], axis=0)
    gain = LEVEL / rms(mixture)
    target = torch.from_numpy((known_sounds[0].waveform + known_sounds[1].waveform) * gain).float()
    query = f"{known_sounds[0].labels[-1]} and {known_sounds[1].labels[-1]}"
    return Trial(torch.from_numpy(mixture * gain).float(), query, target, None)


def at_level(level_db: float) -> Make:
    """Two sounds, the target louder by so much."""

    def make(trials: Trials, label: str, number: int, rng: random.Random) -> Trial | None:
        sounds = trials.sounds(label, number, rng)
        louder = Sound(sounds[0].labels, sounds[0].waveform * np.float32(10 ** (level_db / 20)))
        return trials.trial([louder, *sounds[1:]], rng) if len(sounds) == 2 else None

    return make


def in_noise(trials: Trials, label: str, number: int, rng: random.Random) -> Trial | None:
    """Two sounds in steady noise 10 dB below both."""
    sounds = trials.sounds(label, number, rng)
    noise = steady_noise(rng, trials.material.samples) * LEVEL * 10**-0.5
    return trials.trial(sounds, rng, noise) if len(sounds) == 2 else None


def in_rooms(trials: Trials, label: str, number: int, rng: random.Random) -> Trial | None:
    """Two sounds, each from its own place in a room; with its echo it is what is asked for."""
    sounds = trials.sounds(label, number, rng)
    far = []
    for sound in sounds:
        waveform = filtered(sound.waveform, response=room_response(rng, trials.material.sampling_rate))
        far.append(Sound(sound.labels, waveform * (LEVEL / rms(waveform))))
    return trials.trial(far, rng) if len(far) == 2 else None


def narrow(trials: Trials, label: str, number: int, rng: random.Random) -> Trial | None:
    """Two sounds as a recording at 8 kHz holds them, brought to the model's rate."""
    sounds = trials.sounds(label, number, rng)
    gain = low_pass(3_800, trials.material.sampling_rate, trials.material.samples // 2 + 1)
    return (
        trials.trial([Sound(s.labels, filtered(s.waveform, gain)) for s in sounds], rng) if len(sounds) == 2 else None
    )


def in_a_minute(trials: Trials, label: str, number: int, rng: random.Random) -> Trial | None:
    """A second of the target in a minute of another sound that is as loud."""
    rate, clip = trials.material.sampling_rate, trials.clip(label, number, rng)
    other = trials.partner([clip], rng)
    if other is None:
        return None
    length, parts, total = 60 * rate, [], 0
    while total < length:
        part = excerpt(trials.clip(other.labels[-1], None, rng), min(len(other.samples), 5 * rate), rng)
        parts.append(part * (LEVEL / rms(part)))
        total += len(part)
    ground = np.concatenate(parts)[:length]
    event = excerpt(clip, int(EVENT_S * rate), rng)
    start = rng.randrange(5 * rate, 55 * rate)
    target = np.zeros(length, np.float32)
    target[start : start + len(event)] = event * (LEVEL / rms(event))
    around = int(AROUND_S * rate)
    word = vain([clip.labels, other.labels], trials.material.known, rng)
    mixture = torch.from_numpy(ground + target).float()
    return Trial(
        mixture, clip.labels[-1], torch.from_numpy(target), word, (start - around, start + len(event) + around)
    )


# what is made of a class, and the share of `per_class` trials: some cost more
CONDITIONS: dict[str, tuple[Make, float]] = {
    "two sounds": (two_sounds, 1.0),
    "in vain: taught, of another family": (in_vain(family=False), 1.0),
    "in vain: taught, of a family that is there": (in_vain(family=True), 1.0),
    "in vain: never taught": (untaught, 1.0),
    "two of one family": (relatives, 1.0),
    "three sounds": (three_sounds, 1.0),
    "two of three, in one query": (together, 1.0),
    "10 dB below the other": (at_level(-10.0), 1.0),
    "10 dB above the other": (at_level(10.0), 1.0),
    "steady noise, 10 dB below": (in_noise, 1.0),
    "rooms": (in_rooms, 1.0),
    "8 kHz": (narrow, 1.0),
    "a second in a minute": (in_a_minute, 0.25),
}


__all__ = ["CONDITIONS", "Material", "Trial", "Trials", "material"]
