# SPDX-License-Identifier: Apache-2.0
"""What AudioLDM 2's U-Net is conditioned on, for a batch: language of audio, and states of the text with weights.

Texts of a batch are padded to the longest. A weight of 0 leaves a state out of the attention altogether, so padding
changes nothing; weights between 0 and 1 are how a sound lies between two texts.

Also here: going from one thing into another: in time, in frequency, between the conditions of two sounds.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import pad

from hubsep.errors import QueryError


CROSSOVER = 0.1  # of the frequency where a recording ends
NEARLY_ONE = 0.9995  # beyond this cosine a circle is a line


def ramp(samples: int) -> Tensor:
    """From 0 to 1 in raised cosine, (samples,)."""
    return torch.sin((torch.arange(samples) + 0.5) * (torch.pi / 2 / max(1, samples))).square()


def crossover(below: Tensor, above: Tensor, cutoff: float) -> Tensor:
    """The frequencies of one waveform below `cutoff`, a share of the sampling rate, and those of the other above it.

    Both (samples,); the transition is a tenth of `cutoff` wide and lies below it.
    """
    low, high = torch.fft.rfft(below.double()), torch.fft.rfft(above.double())
    place = torch.fft.rfftfreq(len(below)).double()
    rise = ((place - cutoff * (1 - CROSSOVER)) / (cutoff * CROSSOVER)).clamp(0, 1)
    share = torch.sin(rise * (torch.pi / 2)).square()
    return torch.fft.irfft(low * (1 - share) + high * share, n=len(below)).float()


def along_circle(first: Tensor, second: Tensor, weight: Tensor) -> Tensor:
    """Spherical interpolation of vectors, the last axis; their lengths go along a line.

    Args:
        first: what weight 0 gives.
        second: what weight 1 gives.
        weight: one number for each vector, with a last axis of one.
    """
    lengths = first.norm(dim=-1, keepdim=True), second.norm(dim=-1, keepdim=True)
    start, end = (vector / length.clamp(min=1e-12) for vector, length in zip((first, second), lengths, strict=True))
    cosine = (start * end).sum(dim=-1, keepdim=True).clamp(-1, 1)
    angle = cosine.clamp(-NEARLY_ONE, NEARLY_ONE).acos()
    arc = (start * torch.sin((1 - weight) * angle) + end * torch.sin(weight * angle)) / angle.sin()
    line = start * (1 - weight) + end * weight
    direction = torch.where(cosine.abs() > NEARLY_ONE, line, arc)
    return direction * (lengths[0] * (1 - weight) + lengths[1] * weight)


def between(first: Conditions, second: Conditions, weights: Tensor) -> Conditions:
    """Conditions on the way from one sound, which is a batch of one, to another: an item for each weight."""
    weights = weights.to(first.loa.device)
    shape = (len(weights), -1, -1)
    share = weights[:, None, None]
    loa = along_circle(first.loa.float().expand(shape), second.loa.float().expand(shape), share).to(first.loa.dtype)
    text = torch.cat([first.text, second.text], dim=1).expand(shape)
    counted = torch.cat([(1 - share[..., 0]) * first.weights, share[..., 0] * second.weights], dim=1)
    return Conditions(loa, text.contiguous(), counted)


def filled(latents: Tensor, frames: int) -> Tensor:
    """Latents with zeros after them, `frames` frames in all."""
    return pad(latents, (0, 0, 0, frames - latents.shape[2]))


@dataclass(frozen=True)
class Conditions:
    """What the U-Net hears about each item of a batch.

    Attributes:
        loa: language of audio, (batch, tokens, size of GPT-2).
        text: states of the text, (batch, states, size of T5).
        weights: how much each of these states counts, (batch, states) in [0, 1]; 0 for padding.
    """

    loa: Tensor
    text: Tensor
    weights: Tensor

    def repeat(self, times: int) -> Conditions:
        """Every item `times` times, one after the other."""
        return Conditions(*(part.repeat_interleave(times, dim=0) for part in (self.loa, self.text, self.weights)))

    def to(self, device: torch.device, dtype: torch.dtype) -> Conditions:
        """On another device, in another precision; weights stay in float32."""
        return Conditions(self.loa.to(device, dtype), self.text.to(device, dtype), self.weights.to(device).float())

    @staticmethod
    def joined(first: Conditions, second: Conditions) -> Conditions:
        """Both batches in one, texts padded to the longer."""
        if first.loa.shape[1:] != second.loa.shape[1:]:
            raise QueryError(
                f"the two conditions have {first.loa.shape[1]} and {second.loa.shape[1]} tokens of LOA; they must be "
                "of the same kind"
            )
        states = max(first.text.shape[1], second.text.shape[1])
        parts = [
            Conditions(
                item.loa,
                pad(item.text, (0, 0, 0, states - item.text.shape[1])),
                pad(item.weights, (0, states - item.weights.shape[1])),
            )
            for item in (first, second)
        ]
        return Conditions(*(torch.cat([getattr(part, name) for part in parts]) for name in ("loa", "text", "weights")))


__all__ = ["Conditions", "along_circle", "between", "crossover", "filled", "ramp"]
