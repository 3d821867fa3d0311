# SPDX-License-Identifier: Apache-2.0
"""Multichannel Wiener filter: one step of expectation-maximisation from magnitude estimates of two channels.

Decisions:
- Two passes, so that a recording of any length needs bounded memory: `add` takes spectrograms in piece by piece, then
  `filter` can be called on the same pieces. All that is kept are sums over frames.
- The recording is scaled to a largest magnitude of at most 10 before small constants are added. The sums are taken
  before that and scaled afterwards, since the largest magnitude is known only at the end.
- Channels of a mono recording are the same, and the 2x2 matrices nearly singular: sums, matrices and their inverse
  are float64 where the device has it. Everything is in closed form over all frames at once.

Source: the filter of Spleeter (10.21105/joss.02154), after Nugraha, Liutkus and Vincent, 2016.
"""

from __future__ import annotations

import torch
from torch import Tensor


EPSILON = torch.finfo(torch.float32).eps
LARGEST = 10.0  # magnitude that recordings are scaled down to
BLOCK_FRAMES = 256  # filtered at once: bounds the float64 intermediates


class WienerFilter:
    """Sums over the frames of a batch of recordings, and the filter that follows from them."""

    def __init__(self) -> None:
        self.power: Tensor | None = None  # of both channels, (batch, stems, 2, bins)
        self.cross: Tensor | None = None  # of one with the other, (batch, stems, bins), complex
        self.peak: Tensor | None = None  # (batch, 1, 1)

    def add(self, estimates: Tensor, mixture: Tensor, peak: Tensor) -> None:
        """Takes frames in.

        Args:
            estimates: magnitudes, (batch, stems, 2, frames, bins).
            mixture: complex spectrogram of the same frames and bins, (batch, 2, frames, bins).
            peak: largest magnitude of the mixture in these frames, over all bins there are, (batch,).
        """
        peak = peak[:, None, None]
        wide, (batch, stems, channels, _, bins) = wider(mixture.dtype, mixture.device), estimates.shape
        power = mixture.new_zeros(batch, stems, channels, bins, dtype=wide.to_real())
        cross = mixture.new_zeros(batch, stems, bins, dtype=wide)
        for y in initial(estimates, mixture):
            power = power + (y.real.square() + y.imag.square()).sum(dim=3, dtype=power.dtype)
            cross = cross + (y[:, :, 0] * y[:, :, 1].conj()).sum(dim=2, dtype=wide)
        if self.power is None or self.cross is None or self.peak is None:
            self.power, self.cross, self.peak = power, cross, peak
        else:
            self.power, self.cross = self.power + power, self.cross + cross
            self.peak = torch.maximum(self.peak, peak)

    def filter(self, estimates: Tensor, mixture: Tensor) -> Tensor:
        """Spectrograms of the stems, (batch, stems, 2, frames, bins), complex64, of frames that `add` has seen.

        Args:
            estimates: as for `add`.
            mixture: as for `add`.
        """
        assert self.power is not None
        assert self.cross is not None
        assert self.peak is not None
        scale = (self.peak / LARGEST).clamp_min(1).to(self.power.dtype)
        total = EPSILON + self.power.mean(dim=2) / scale.square()
        powers = self.power / (scale.square() * total).unsqueeze(2)
        first, second = (part.unsqueeze(2) for part in powers.unbind(dim=2))  # (batch, stems, 1, bins)
        cross = (self.cross / (scale.square() * total)).unsqueeze(2)
        scale = scale.unsqueeze(-1)
        parts = [
            _filtered(y / scale.to(y.real.dtype).unsqueeze(1), x / scale, first, second, cross)
            for y, x in zip(
                initial(estimates, mixture), mixture.to(cross.dtype).split(BLOCK_FRAMES, dim=2), strict=True
            )
        ]
        return torch.cat([part.to(torch.complex64) for part in parts], dim=3) * scale.float().unsqueeze(1)


def initial(estimates: Tensor, mixture: Tensor) -> list[Tensor]:
    """First spectrograms of the stems, by ratios of magnitudes, some frames at a time."""
    blocks = zip(estimates.split(BLOCK_FRAMES, dim=3), mixture.split(BLOCK_FRAMES, dim=2), strict=True)
    return [v / (v.sum(dim=1, keepdim=True) + EPSILON) * x.unsqueeze(1) for v, x in blocks]


def wider(dtype: torch.dtype, device: torch.device) -> torch.dtype:
    """The widest complex numbers a device has."""
    return dtype if device.type == "mps" else torch.complex128


def _filtered(y: Tensor, x: Tensor, first: Tensor, second: Tensor, cross: Tensor) -> Tensor:
    """Filtered stems (batch, stems, 2, frames, bins) from first ones, the mixture, and their spatial covariances."""
    power = (y.real.square() + y.imag.square()).mean(dim=2).to(first.dtype)  # (batch, stems, frames, bins)
    a = (power * first).sum(dim=1) + EPSILON**0.5
    b = (power * cross).sum(dim=1)
    d = (power * second).sum(dim=1) + EPSILON**0.5
    determinant = a * d - (b.real.square() + b.imag.square())
    left = ((d * x[:, 0] - b * x[:, 1]) / determinant).unsqueeze(1)
    right = ((a * x[:, 1] - b.conj() * x[:, 0]) / determinant).unsqueeze(1)
    return torch.stack([power * (first * left + cross * right), power * (cross.conj() * left + second * right)], dim=2)


__all__ = ["WienerFilter"]
