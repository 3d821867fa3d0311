# SPDX-License-Identifier: Apache-2.0
"""Fixed mixtures of one speaker and a noise, to measure models that take the noise away.

Decisions: both are excerpts in which something sounds; a noise shorter than the mixture lies somewhere in it. The
signal-to-noise ratio is that of the whole mixture. As with mixtures of speakers, an item hangs on the recordings and
the seed alone.
"""

from __future__ import annotations

import random
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from ..errors import DataError
from .mixing import excerpt, rms
from .recordings import Clip
from .speech import by_speaker, speech_excerpt


@dataclass(frozen=True)
class NoisySpeech:
    """A fixed mixture: `sources` (1, samples) is the speech, `noise` (samples,) what lies over it, `kind` how loud."""

    sources: Tensor
    noise: Tensor
    kind: str

    @property
    def mixture(self) -> Tensor:
        """Speech and noise, (samples,)."""
        return self.sources[0] + self.noise


def noisy_mixtures(
    clips: list[Clip],
    noises: list[Clip],
    sampling_rate: int,
    *,
    count: int = 200,
    seconds: float = 4.0,
    snr_db: tuple[float, float] = (0.0, 10.0),
    seed: int = 1,
) -> list[NoisySpeech]:
    """Speech of held-out speakers under noise, every other mixture in the louder half of the range of noise.

    Args:
        clips: recordings of speakers no training run has heard.
        noises: recordings without speech.
        sampling_rate: of all of them, in Hz.
        count: of mixtures.
        seconds: length.
        snr_db: range of speech against noise.
        seed: decides speakers, noises, excerpts and levels.

    Raises:
        DataError: if there is no speech or no noise.
    """
    speakers, heard = list(by_speaker(clips).values()), [clip for clip in noises if len(clip.samples)]
    if not speakers or not heard:
        raise DataError(f"noisy speech needs speech and noise, got {len(speakers)} speakers and {len(heard)} noises")
    rng, samples = random.Random(seed), int(seconds * sampling_rate)
    middle = sum(snr_db) / 2
    halves = [(snr_db[0], middle), (middle, snr_db[1])]
    mixtures = []
    for number in range(count):
        low, high = halves[number % 2]
        speech = speech_excerpt(rng.choice(speakers), samples, rng)
        noise = excerpt(rng.choice(heard), samples, rng)
        noise = noise * np.float32(rms(speech) / rms(noise) * 10 ** (-rng.uniform(low, high) / 20))
        gain = np.float32(0.1 / rms(speech + noise))
        kind = f"{low:g} to {high:g} dB"
        mixtures.append(NoisySpeech(torch.from_numpy(speech * gain)[None], torch.from_numpy(noise * gain), kind))
    return mixtures


__all__ = ["NoisySpeech", "noisy_mixtures"]
