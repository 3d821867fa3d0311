# SPDX-License-Identifier: Apache-2.0
"""Multichannel Wiener filter: one step of expectation-maximisation from magnitude estimates of two channels.

Decisions:
- Two passes, so that a recording of any length needs bounded memory: `add` takes spectrograms in piece by piece, then
  `filter` can be called on the same pieces. All that is kept are sums over frames.
- The recording is scaled to a largest magnitude of at most 10 before small constants are added. The sums are taken
  before that and scaled afterwards, since the largest magnitude is known only at the end.
- Channels of a mono recording are the same, and the 2x2 matrices nearly singular: sums, matrices and their inverse
  are float64 where the device has it. What makes power and what makes cross terms rounds alike.
- Everything is in closed form, on real and imaginary parts apart: products of real and complex tensors make complex
  ones of both. Some frames at a time stay in a core's cache.

Source: the filter of Spleeter (10.21105/joss.02154), after Nugraha, Liutkus and Vincent, 2016.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import torch
from torch import Tensor


EPSILON = torch.finfo(torch.float32).eps
LARGEST = 10.0  # magnitude that recordings are scaled down to
BLOCK_FRAMES, DEVICE_BLOCK_FRAMES = 32, 512  # at once, on a CPU and elsewhere


class WienerFilter:
    """Sums over the frames of a batch of recordings, and the filter that follows from them.

    Args:
        sums: what `sums` of another one returned, to go on from there.
    """

    def __init__(self, sums: Mapping[str, Tensor] | None = None) -> None:
        sums = sums or {}
        self.power: Tensor | None = sums.get("power")  # of both channels, (batch, stems, 2, bins)
        self.cross: Tensor | None = sums.get("cross")  # of one with the other, (batch, stems, bins), complex
        self.peak: Tensor | None = sums.get("peak")  # (batch, 1, 1)

    def sums(self) -> dict[str, Tensor]:
        """All that is known of the frames that `add` has seen; recordings are the first axis."""
        sums = {"power": self.power, "cross": self.cross, "peak": self.peak}
        return {name: tensor for name, tensor in sums.items() if tensor is not None}

    def add(self, estimates: Tensor, mixture: Tensor, peak: Tensor) -> None:
        """Takes frames in.

        Args:
            estimates: magnitudes, (batch, stems, 2, frames, bins).
            mixture: complex spectrogram of the same frames and bins, (batch, 2, frames, bins).
            peak: largest magnitude of the mixture in these frames, over all bins there are, (batch,).
        """
        peak = peak[:, None, None]
        wide, (batch, stems, channels, _, bins) = widest(mixture.device), estimates.shape
        power = mixture.new_zeros(batch, stems, channels, bins, dtype=wide)
        parts = mixture.new_zeros(2, batch, stems, bins, dtype=wide)
        for ratios, real, imaginary in blocks(estimates, mixture):
            both = conjugate_product(real, imaginary)
            product = ratios[:, :, 0] * ratios[:, :, 1]
            power = power + (ratios.square() * energy(real, imaginary).unsqueeze(1)).sum(dim=3, dtype=wide)
            parts = parts + torch.stack([(product * part.unsqueeze(1)).sum(dim=2, dtype=wide) for part in both])
        cross = torch.complex(parts[0], parts[1])
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
        total = scale.square() * (EPSILON + self.power.mean(dim=2) / scale.square())
        rows = torch.stack([*self.power.unbind(dim=2), self.cross.real, self.cross.imag]) / total
        covariances = rows.unsqueeze(3).unbind(dim=2)  # of each stem, (4, batch, 1, bins)
        parts = [
            _filtered(ratios, real, imaginary, covariances, scale)
            for ratios, real, imaginary in blocks(estimates, mixture)
        ]
        return torch.view_as_complex(torch.cat(parts, dim=3))


def blocks(estimates: Tensor, mixture: Tensor) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
    """Some frames at a time: what part of the mixture each stem is at first, and the mixture's parts.

    Yields:
        Ratios of magnitudes, (batch, stems, 2, frames, bins), and real and imaginary part, (batch, 2, frames, bins).
    """
    length = BLOCK_FRAMES if mixture.device.type == "cpu" else DEVICE_BLOCK_FRAMES
    for v, x in zip(estimates.split(length, dim=3), mixture.split(length, dim=2), strict=True):
        yield v / (v.sum(dim=1, keepdim=True) + EPSILON), x.real.contiguous(), x.imag.contiguous()


def energy(real: Tensor, imaginary: Tensor) -> Tensor:
    """Squared magnitude."""
    return torch.addcmul(real * real, imaginary, imaginary)


def conjugate_product(real: Tensor, imaginary: Tensor) -> tuple[Tensor, Tensor]:
    """Real and imaginary part of the first channel times the second one's conjugate, (batch, frames, bins) both."""
    (real0, real1), (imaginary0, imaginary1) = real.unbind(dim=1), imaginary.unbind(dim=1)
    return torch.addcmul(real0 * real1, imaginary0, imaginary1), imaginary0 * real1 - real0 * imaginary1


def widest(device: torch.device) -> torch.dtype:
    """The widest real numbers a device has."""
    return torch.float32 if device.type == "mps" else torch.float64


def _filtered(
    ratios: Tensor, real: Tensor, imaginary: Tensor, covariances: tuple[Tensor, ...], scale: Tensor
) -> Tensor:
    """Filtered stems, (batch, stems, 2, frames, bins, 2), of some frames of a mixture of largest magnitude `scale`.

    Covariances are, for each stem, of the first channel, of the second, and between both, real and imaginary.
    """
    wide, squares = scale.dtype, ratios.square() * energy(real, imaginary).unsqueeze(1)
    powers = squares.mean(dim=2).to(wide) / scale.square().unsqueeze(1)
    a = d = torch.full((), EPSILON**0.5, dtype=wide, device=scale.device)
    b = c = torch.zeros((), dtype=wide, device=scale.device)  # of b + ic
    stems = list(zip(powers.unbind(dim=1), covariances, strict=True))
    for power, (first, second, between, turned) in stems:
        a, d = torch.addcmul(a, power, first), torch.addcmul(d, power, second)
        b, c = torch.addcmul(b, power, between), torch.addcmul(c, power, turned)
    x, y = torch.stack([real, imaginary]).to(wide).unbind(dim=2)  # both channels, (2, batch, frames, bins)
    inverse = (a * d - b * b - c * c).reciprocal()  # of the determinant
    left = (d * x - b * y - c * quarter_turn(y)) * inverse
    right = (a * y - b * x + c * quarter_turn(x)) * inverse
    left_turned, right_turned = quarter_turn(left), quarter_turn(right)
    filtered = real.new_empty(real.shape[0], len(stems), 2, *real.shape[2:], 2)
    for index, (power, (first, second, between, turned)) in enumerate(stems):
        one = torch.addcmul(torch.addcmul(first * left, between, right), turned, right_turned)
        other = torch.addcmul(torch.addcmul(second * right, between, left), turned, left_turned, value=-1)
        filtered[:, index, 0] = (power * one).movedim(0, -1)
        filtered[:, index, 1] = (power * other).movedim(0, -1)
    return filtered


def quarter_turn(x: Tensor) -> Tensor:
    """The imaginary unit times numbers whose real and imaginary parts are the first axis."""
    return torch.stack([-x[1], x[0]])


__all__ = ["WienerFilter"]
