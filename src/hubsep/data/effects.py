# SPDX-License-Identifier: Apache-2.0
"""What a place, a microphone and a codec do to a recording: rooms, equalisers, narrow bands, steady noise.

All but the noise are linear and are applied to the sources of a mixture alike, so that these still add up to it.
Rooms are boxes by the image method (Allen and Berkley, 1979), with the same reflection at every wall.
"""

from __future__ import annotations

import random

import numpy as np
import torch
from numpy.typing import NDArray


Waveform = NDArray[np.float32]

SOUND_M_S = 343.0
ORDER = 9  # reflections followed in each direction; those left out are 30 dB and more below the direct sound
BANDS_HZ = (3_400, 4_000, 5_500, 8_000, 11_000)  # telephone, and half of the usual sampling rates


def room_response(rng: random.Random, sampling_rate: int) -> Waveform:
    """The response of a random room from a random source to a random microphone, (samples,); the direct sound is 1.

    Rooms are 2.5 to 8 m wide and 2.3 to 4 m high, walls reflect 0.4 to 0.85 of the pressure, and the source is within
    3 m. The direct sound is the first sample.
    """
    size = np.array([rng.uniform(2.5, 8), rng.uniform(2.5, 8), rng.uniform(2.3, 4)])
    source, listener = (np.array([rng.uniform(0.15, 0.85) for _ in range(3)]) * size for _ in range(2))
    away = source - listener
    source = listener + away * min(1.0, 3.0 / max(float(np.linalg.norm(away)), 0.1))
    reflection = rng.uniform(0.4, 0.85)
    counts = np.arange(-ORDER, ORDER + 1)
    axes = [
        np.where(counts % 2 == 0, counts * size[i] + source[i], (counts + 1) * size[i] - source[i]) for i in (0, 1, 2)
    ]
    squares = [(axes[i] - listener[i]) ** 2 for i in (0, 1, 2)]
    distance = np.sqrt(squares[0][:, None, None] + squares[1][None, :, None] + squares[2][None, None, :])
    bounces = np.abs(counts)[:, None, None] + np.abs(counts)[None, :, None] + np.abs(counts)[None, None, :]
    nearest = max(float(distance[ORDER, ORDER, ORDER]), 0.1)
    pressure = reflection**bounces * nearest / np.maximum(distance, nearest)
    delay = np.maximum((distance - nearest) / SOUND_M_S * sampling_rate, 0).astype(np.int64)
    return np.bincount(delay.ravel(), pressure.ravel()).astype(np.float32)


def equaliser(rng: random.Random, bins: int, range_db: float = 8.0) -> Waveform:
    """A smooth random gain for each of `bins` frequencies from 0 up, of at most `range_db` either way."""
    octaves = np.log2(np.maximum(np.arange(bins), 1) / bins)
    knots = np.linspace(-9.0, 0.0, 6)
    gains = [rng.uniform(-range_db, range_db) for _ in knots]
    return (10 ** (np.interp(octaves, knots, gains) / 20)).astype(np.float32)


def low_pass(cutoff_hz: float, sampling_rate: int, bins: int) -> Waveform:
    """The gain of a steep low pass at each of `bins` frequencies up to half of the rate; it falls within a tenth."""
    frequency = np.arange(bins) * (sampling_rate / 2 / max(bins - 1, 1))
    return np.clip((1.05 - frequency / cutoff_hz) / 0.1, 0.0, 1.0).astype(np.float32)


def filtered(waveform: Waveform, gain: Waveform | None = None, response: Waveform | None = None) -> Waveform:
    """A recording after an equaliser over its own `len(waveform) // 2 + 1` bins and a room; of the same length.

    What an equaliser smears over the end comes in at the beginning; a room's echo ends with the recording.
    """
    samples = len(waveform)
    spectrum = torch.from_numpy(waveform)
    if gain is not None:
        spectrum = torch.fft.irfft(torch.fft.rfft(spectrum) * torch.from_numpy(gain), n=samples)
    if response is not None:
        size = samples + len(response)
        size += -size % 1024
        tail = torch.fft.rfft(torch.from_numpy(response), n=size)
        spectrum = torch.fft.irfft(torch.fft.rfft(spectrum, n=size) * tail, n=size)[:samples]
    return spectrum.numpy()


def steady_noise(rng: random.Random, samples: int) -> Waveform:
    """Noise of unit level, (samples,), whose power falls by 0 to 6 dB an octave: a hiss, a room, wind."""
    generator = torch.Generator().manual_seed(rng.getrandbits(32))
    spectrum = torch.fft.rfft(torch.randn(samples, generator=generator))
    spectrum *= torch.arange(len(spectrum)).clamp_min(8) ** -rng.uniform(0.0, 1.0)
    noise = torch.fft.irfft(spectrum, n=samples)
    return (noise / noise.square().mean().sqrt()).numpy()


__all__ = ["BANDS_HZ", "equaliser", "filtered", "low_pass", "room_response", "steady_noise"]
