# SPDX-License-Identifier: Apache-2.0
"""Songs mixed anew on the fly from their stems, as in Open-Unmix's and Meta-TasNet's training (2002.07016, section 4).

Decisions: item `n` depends on the seed and `n` alone, so that a resumed run sees what an uninterrupted one would have
seen. Half of the items are a song as it is, its stems at other levels; in the others each stem is of another song.
Only songs of one corpus are put together: recordings that end at 8 kHz, mixed with others that do not, would teach
that what is heard above 8 kHz is never their stem. The rest of a song that has no such band is silent in every stem
there and teaches nothing, which is what it should. Speed is changed by linear interpolation, a tenth of the cost of a
resampler.
"""

from __future__ import annotations

import random
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ..errors import DataError
from .mixing import SeededDataset
from .speech import change_speed
from .stems import Song, assign_stems


Waveform = NDArray[np.float32]


@dataclass(frozen=True)
class MusicSettings:
    """How songs are mixed.

    Attributes:
        sampling_rate: of songs and mixtures, in Hz.
        stems: sources of a mixture, in their order.
        channels: 2, or 1: of each stem one channel by chance.
        seconds: length of a mixture.
        gain_range: each stem is multiplied by a number of this range.
        swap_probability: how often left and right of a stem change places.
        shuffle_probability: how often each stem is of another song.
        silent_probability: how often a stem is left out.
        speed_range: songs, or shuffled stems, are sped up or slowed down by up to this share.
        speed_probability: how often that is done.
        corpus_weights: how often songs of a corpus are drawn, against 1 for a corpus that is not named.
    """

    sampling_rate: int
    stems: tuple[str, ...]
    channels: int = 2
    seconds: float = 3.0
    gain_range: tuple[float, float] = (0.25, 1.25)
    swap_probability: float = 0.5
    shuffle_probability: float = 0.5
    silent_probability: float = 0.03
    speed_range: float = 0.1
    speed_probability: float = 0.5
    corpus_weights: Mapping[str, float] = field(default_factory=dict)


class MusicMixtureDataset(SeededDataset[dict[str, Tensor]]):
    """`length` training items: `input_values` (channels, samples) and `labels` (num_sources, channels, samples)."""

    def __init__(self, songs: list[Song], settings: MusicSettings, length: int, seed: int = 0):
        """Takes the songs apart by corpus.

        Args:
            songs: that have the stems of the settings.
            settings: how they are mixed.
            length: number of items.
            seed: decides all of them.

        Raises:
            DataError: if there is no song, a song lacks a stem, or a weight is that of a corpus that is not there.
        """
        if not songs:
            raise DataError("there is no song to mix; name folders that have some")
        self.corpora: dict[str, list[Song]] = defaultdict(list)
        for song in sorted(songs, key=lambda song: song.path):
            assign_stems(song.stems, settings.stems)
            self.corpora[song.corpus].append(song)
        unknown = sorted(set(settings.corpus_weights) - set(self.corpora))
        if unknown:
            raise DataError(f"corpus_weights names {unknown[0]!r}; the songs are of {', '.join(self.corpora)}")
        self.weights = [settings.corpus_weights.get(corpus, 1.0) for corpus in self.corpora]
        super().__init__(length, seed)
        self.settings = settings
        self.samples = round(settings.seconds * settings.sampling_rate)

    def make(self, rng: random.Random) -> dict[str, Tensor]:
        """Draws the stems of one song, or of a song each, and what is changed of them."""
        settings = self.settings
        songs = self.corpora[rng.choices(list(self.corpora), self.weights)[0]]
        if rng.random() < settings.shuffle_probability:
            chosen = [(rng.choice(songs), rng.random(), self._speed(rng)) for _ in settings.stems]
        else:
            chosen = [(rng.choice(songs), rng.random(), self._speed(rng))] * len(settings.stems)
        sources = np.zeros((len(settings.stems), settings.channels, self.samples), np.float32)
        for number, (song, place, speed) in enumerate(chosen):
            heard, gain = rng.random() >= settings.silent_probability, rng.uniform(*settings.gain_range)
            swapped, channel = rng.random() < settings.swap_probability, rng.random()
            if not heard:
                continue
            waveform = self._excerpt(song, number, place, speed) * np.float32(gain)
            if settings.channels == 1:
                waveform = waveform[[int(channel * len(waveform))]]
            sources[number] = waveform[::-1] if swapped else waveform
        labels = torch.from_numpy(sources)
        return {"input_values": labels.sum(dim=0), "labels": labels}

    def _speed(self, rng: random.Random) -> float:
        settings = self.settings
        drawn, changed = rng.uniform(-settings.speed_range, settings.speed_range), rng.random()
        return 1 + drawn if changed < settings.speed_probability else 1.0

    def _excerpt(self, song: Song, number: int, place: float, speed: float) -> Waveform:
        """One source from `place` on, a share of where it may begin; a shorter song has silence around it."""
        names = assign_stems(song.stems, self.settings.stems)[number]
        wanted = self.samples if speed == 1.0 else int(self.samples * speed) + 3
        waveform = song.source(names, int(place * max(0, song.samples - wanted)), wanted)
        if speed != 1.0:
            waveform = change_speed(waveform, speed)[:, : self.samples]
        spare = self.samples - waveform.shape[-1]
        left = int(place * spare)
        return np.pad(waveform, ((0, 0), (left, spare - left))) if spare else waveform


def song_mixtures(songs: Sequence[Song], stems: Sequence[str], channels: int) -> list[tuple[str, Tensor]]:
    """Songs held out of training as they are: the corpus of each, and its sources (num_sources, channels, samples)."""
    return [
        (song.corpus, torch.from_numpy(song.sources(assign_stems(song.stems, stems), channels).copy()))
        for song in songs
    ]


__all__ = ["MusicMixtureDataset", "MusicSettings", "song_mixtures"]
