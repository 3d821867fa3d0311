# SPDX-License-Identifier: Apache-2.0
"""Mixtures of several speakers made on the fly, and fixed ones of speakers held out of training.

Decisions: item `n` depends on the seed and `n` alone, so that a resumed run sees what an uninterrupted one would have
seen. The sources of an item are different speakers. Levels are as in WSJ0-2mix (0 to 5 dB between two speakers), the
speed of each is changed by linear interpolation: the bend it puts on the highest frequencies is small against what
differs between recordings, and it costs a tenth of a resampler. Noise belongs to no source. A speaker may start late
or stop early, and is then silent in the label as well.
"""

from __future__ import annotations

import random
from collections import defaultdict
from dataclasses import dataclass, field
from itertools import combinations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ..errors import DataError
from .effects import equaliser, filtered, room_response, steady_noise
from .mixing import SeededDataset, excerpt, rms
from .recordings import Clip
from .voices import SpeakerSampler, SpeakerSettings


Waveform = NDArray[np.float32]


@dataclass(frozen=True)
class SpeechSettings:
    """How mixtures are made: lengths in seconds, levels in dB, the rest are probabilities.

    Attributes:
        sampling_rate: of clips and mixtures, in Hz.
        num_sources: speakers in a mixture.
        seconds: length of a mixture.
        level_range_db: each speaker's level is moved by up to this much either way.
        speed_range: each speaker is sped up or slowed down by up to this share, 0.05 for 95 to 105 %.
        speed_probability: how often that is done.
        loudness_db: of the mixture, root mean square against full scale.
        partial_probability: how often a speaker starts late or stops early.
        partial_range: the share of the mixture such a speaker is heard in.
        noise_probability: how often there is noise.
        noise_snr_db: speech against noise.
        fewer_probability: how often fewer speakers are there, from one up; the labels of the others are silent.
        nobody_probability: how often nobody speaks, and there is noise alone.
        hum_probability: how often there is steady noise: a room, a hiss.
        hum_snr_db: speech against it.
        room_probability: how often each speaker is heard from a place in a room, echo and all.
        equaliser_probability: how often a speaker's microphone is another one.
        speakers: fields of `SpeakerSettings`, by which speakers are drawn; without, all alike.
        num_outputs: labels of an item, silent ones beyond the speakers; 0 for as many as speakers.
        mixit: the labels are two mixtures of half of the speakers each, for mixture-invariant training.
    """

    sampling_rate: int
    num_sources: int = 2
    seconds: float = 3.0
    level_range_db: float = 2.5
    speed_range: float = 0.05
    speed_probability: float = 0.7
    loudness_db: tuple[float, float] = (-33.0, -18.0)
    partial_probability: float = 0.0
    partial_range: tuple[float, float] = (0.3, 0.9)
    noise_probability: float = 0.0
    noise_snr_db: tuple[float, float] = (5.0, 25.0)
    fewer_probability: float = 0.0
    nobody_probability: float = 0.0
    hum_probability: float = 0.0
    hum_snr_db: tuple[float, float] = (15.0, 45.0)
    room_probability: float = 0.0
    equaliser_probability: float = 0.0
    speakers: dict[str, float] = field(default_factory=dict)
    num_outputs: int = 0
    mixit: bool = False


def change_speed(waveform: Waveform, speed: float) -> Waveform:
    """A waveform (..., samples) played `speed` times as fast, by linear interpolation."""
    positions = np.arange(int((waveform.shape[-1] - 1) / speed), dtype=np.float32) * np.float32(speed)
    left = positions.astype(np.int32)
    share = positions - left
    return waveform[..., left] * (1 - share) + waveform[..., left + 1] * share


def by_speaker(clips: list[Clip]) -> dict[str, list[Clip]]:
    """The clips of each speaker, speakers in alphabetical order."""
    speakers: dict[str, list[Clip]] = defaultdict(list)
    for clip in sorted(clips, key=lambda clip: clip.path):
        if len(clip.samples):
            speakers[clip.group].append(clip)
    return dict(sorted(speakers.items()))


def speech_excerpt(clips: list[Clip], samples: int, rng: random.Random) -> Waveform:
    """A random part, (samples,), of one speaker's recordings in which something sounds; short ones are joined."""
    chosen = [rng.choice(clips)]
    while sum(len(clip.samples) for clip in chosen) < samples:
        chosen.append(rng.choice(clips))
    scale = max(clip.scale for clip in chosen)
    parts = [clip.samples if clip.scale == scale else clip.waveform() * (32_768 / scale) for clip in chosen]
    whole = parts[0] if len(parts) == 1 else np.concatenate(parts)
    loud = np.abs(whole[::64].astype(np.float32)).mean()
    for _ in range(6):
        start = rng.randint(0, len(whole) - samples)
        part = whole[start : start + samples]
        if np.abs(part[::64].astype(np.float32)).mean() > 0.6 * loud:
            break
    return part.astype(np.float32) / np.float32(32_768 / scale)


def fade(waveform: Waveform, start: int, stop: int, ramp: int) -> Waveform:
    """Only what lies between two samples, with short ramps so that no click tells where a speaker was cut."""
    gate = np.zeros(len(waveform), np.float32)
    gate[start:stop] = 1
    ramp = min(ramp, (stop - start) // 2)
    if ramp and start > 0:
        gate[start : start + ramp] = np.linspace(0, 1, ramp, dtype=np.float32)
    if ramp and stop < len(waveform):
        gate[stop - ramp : stop] = np.linspace(1, 0, ramp, dtype=np.float32)
    return waveform * gate


class SpeechMixtureDataset(SeededDataset[dict[str, Tensor]]):
    """`length` training items: `input_values` (1, samples) and `labels` (num_outputs, 1, samples)."""

    def __init__(
        self,
        clips: list[Clip],
        settings: SpeechSettings,
        length: int,
        seed: int = 0,
        noises: list[Clip] | None = None,
    ):
        """Takes the clips apart by speaker.

        Args:
            clips: recordings of one speaker each; `group` names the speaker.
            settings: how mixtures are made.
            length: number of items.
            seed: decides all of them.
            noises: recordings without speech, for the background.

        Raises:
            DataError: if there are fewer speakers than sources, or noise is asked for and there is none.
        """
        speakers = by_speaker(clips)
        if len(speakers) < settings.num_sources:
            raise DataError(f"mixtures of {settings.num_sources} speakers need as many, got {len(speakers)}")
        if settings.noise_probability > 0 and not noises:
            raise DataError("noise_probability is above 0 and there is no noise; name folders of it in noise_folders")
        self.speakers = SpeakerSampler(speakers, settings.sampling_rate, SpeakerSettings(**settings.speakers))
        super().__init__(length, seed)
        self.settings, self.noises = settings, noises or []
        self.samples = int(settings.seconds * settings.sampling_rate)

    def make(self, rng: random.Random) -> dict[str, Tensor]:
        """Draws speakers, what each says and when, and the noise they are heard in."""
        settings = self.settings
        chosen = self._speakers(rng)
        sources = np.zeros((max(settings.num_sources, settings.num_outputs), self.samples), np.float32)
        for source, clips in zip(sources, chosen, strict=False):
            source[:] = self._source(clips, rng)
        mixture = self._noisy(sources.sum(axis=0), not chosen, rng)
        gain = 10 ** (rng.uniform(*settings.loudness_db) / 20) / rms(mixture)
        gain = min(gain, 0.95 / max(float(np.abs(mixture).max()), 1e-6))
        if settings.mixit:
            half = (len(chosen) + 1) // 2
            sources = np.stack([sources[:half].sum(axis=0), sources[half:].sum(axis=0)])
        return {
            "input_values": torch.from_numpy(mixture * np.float32(gain))[None],
            "labels": torch.from_numpy(sources * np.float32(gain))[:, None],
        }

    def _speakers(self, rng: random.Random) -> list[list[Clip]]:
        """Who speaks: mostly as many as there are sources, sometimes fewer, or nobody."""
        settings, chosen = self.settings, self.speakers.draw(self.settings.num_sources, rng)
        if rng.random() < settings.fewer_probability:
            chosen = chosen[: rng.randrange(1, max(2, settings.num_sources))]
        return [] if rng.random() < settings.nobody_probability else chosen

    def _noisy(self, speech: Waveform, alone: bool, rng: random.Random) -> Waveform:
        """Speech with what belongs to nobody; noise alone where nobody speaks."""
        settings, mixture = self.settings, speech
        level = 1.0 if alone else rms(speech)
        if rng.random() < settings.noise_probability:
            noise = excerpt(rng.choice(self.noises), self.samples, rng)
            mixture = mixture + noise * (level / rms(noise) * 10 ** (-rng.uniform(*settings.noise_snr_db) / 20))
        if rng.random() < settings.hum_probability or alone:
            hum = steady_noise(rng, self.samples)
            mixture = mixture + hum * np.float32(level * 10 ** (-rng.uniform(*settings.hum_snr_db) / 20))
        return mixture.astype(np.float32)

    def _source(self, clips: list[Clip], rng: random.Random) -> Waveform:
        """One speaker at a level near 1, (samples,)."""
        settings = self.settings
        changed = rng.random() < settings.speed_probability
        speed = 1 + rng.uniform(-settings.speed_range, settings.speed_range) if changed else 1.0
        waveform = speech_excerpt(clips, int(self.samples * speed) + 3 if changed else self.samples, rng)
        if changed:
            waveform = change_speed(waveform, speed)[: self.samples]
        gain = equaliser(rng, self.samples // 2 + 1) if rng.random() < settings.equaliser_probability else None
        room = rng.random() < settings.room_probability
        if gain is not None or room:
            response = room_response(rng, settings.sampling_rate) if room else None
            waveform = filtered(waveform.astype(np.float32), gain, response)
        level = 10 ** (rng.uniform(-settings.level_range_db, settings.level_range_db) / 20)
        waveform = waveform * np.float32((level if rng.random() < 0.5 else -level) / rms(waveform))
        if rng.random() < settings.partial_probability:
            heard = int(self.samples * rng.uniform(*settings.partial_range))
            start = 0 if rng.random() < 0.5 else self.samples - heard
            waveform = fade(waveform, start, start + heard, settings.sampling_rate // 100)
        return waveform


@dataclass(frozen=True)
class SpeechMixture:
    """A fixed mixture: `sources` (num_sources, samples), and whether all are of one gender; None if nobody says."""

    sources: Tensor
    speakers: tuple[str, ...]
    same_gender: bool | None

    @property
    def mixture(self) -> Tensor:
        """The sum of the sources, (samples,)."""
        return self.sources.sum(dim=0)


def same_gender(clips: list[Clip]) -> bool | None:
    """Whether the speakers of the clips are of one gender; None if that of any is not known."""
    genders = {clip.gender for clip in clips}
    return None if "" in genders else len(genders) == 1


def speech_mixtures(
    clips: list[Clip],
    sampling_rate: int,
    *,
    count: int = 200,
    num_sources: int = 2,
    seconds: float = 4.0,
    level_range_db: float = 2.5,
    seed: int = 1,
) -> list[SpeechMixture]:
    """Mixtures of held-out speakers, every other one of one gender where the speakers allow it.

    Args:
        clips: recordings of speakers no training run has heard.
        sampling_rate: of the clips, in Hz.
        count: of mixtures.
        num_sources: speakers in each.
        seconds: length; everybody speaks all the time, as far as the recordings do.
        level_range_db: the first speaker is up to this much louder than the others.
        seed: decides speakers, excerpts and levels.

    Raises:
        DataError: if there are fewer speakers than sources.
    """
    speakers, rng, samples = by_speaker(clips), random.Random(seed), int(seconds * sampling_rate)
    groups: dict[bool | None, list[tuple[str, ...]]] = defaultdict(list)
    for names in combinations(speakers, num_sources):
        groups[same_gender([speakers[name][0] for name in names])].append(names)
    kinds = [kind for kind in (True, False, None) if groups[kind]][:2]
    if not kinds:
        raise DataError(f"mixtures of {num_sources} speakers need as many held-out ones, got {len(speakers)}")
    mixtures = []
    for number in range(count):
        kind = kinds[number % len(kinds)]
        names = rng.choice(groups[kind])
        names = tuple(rng.sample(names, len(names)))
        sources = np.stack([speech_excerpt(speakers[name], samples, rng) for name in names])
        sources /= np.array([[rms(source)] for source in sources], np.float32)
        sources[0] *= 10 ** (rng.uniform(0, level_range_db) / 20)
        sources *= 0.1 / rms(sources.sum(axis=0))
        mixtures.append(SpeechMixture(torch.from_numpy(sources), names, kind))
    return mixtures


__all__ = [
    "SpeechMixture", "SpeechMixtureDataset", "SpeechSettings", "by_speaker", "change_speed", "fade", "same_gender",
    "speech_excerpt", "speech_mixtures",
]  # fmt: skip
