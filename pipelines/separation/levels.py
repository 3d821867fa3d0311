# SPDX-License-Identifier: Apache-2.0
"""Gives sources of free scale their level: one gain a source, so that they add up to the mixture.

Decisions: a loss that ignores scale leaves level and sign of every output open. The gains are the least-squares ones,
with three restrictions. The sign of an output is that of its product with the mixture, and no gain turns it round. And
gains are drawn towards the one gain for all outputs that fits best: as strongly as the loudest output is loud, times
`SAMENESS`. An output 30 dB below the loudest, which least squares would blow up to mend what the others lack, thus
keeps its place below them, while one that is heard gets the level that fits.

Level is found for each channel and segment apart; the cross-fade of segments makes it change smoothly.
"""

from __future__ import annotations

import torch
from torch import Tensor


SAMENESS = 1e-3
ROUNDS = 200  # of coordinate descent at most; it ends when no gain moves any more


def fit_gains(mixture: Tensor, sources: Tensor) -> Tensor:
    """Gains with which sources of free scale add up to the mixture as well as they can.

    Args:
        mixture: (..., samples).
        sources: (..., num_sources, samples).

    Returns:
        (..., num_sources), float64, 0 for what is digital silence.
    """
    flat, whole = sources.double(), mixture.double()
    # loudness 1, so that no product leaves the range of numbers
    scale = flat.square().mean(dim=-1).amax(dim=-1, keepdim=True).sqrt()
    flat = flat / torch.where(scale > 0, scale, 1.0).unsqueeze(-1)
    wanted = (flat @ whole.unsqueeze(-1)).squeeze(-1)
    sign = torch.where(wanted < 0, -1.0, 1.0).to(flat.dtype)
    flat, wanted = flat * sign.unsqueeze(-1), wanted.abs()
    together = flat.sum(dim=-2)
    energy = together.square().sum(dim=-1, keepdim=True)
    common = wanted.sum(dim=-1, keepdim=True) / torch.where(energy > 0, energy, 1.0)
    products = flat @ flat.mT
    powers = products.diagonal(dim1=-2, dim2=-1)
    pull = SAMENESS * powers.amax(dim=-1, keepdim=True)
    gains = _descend(products, powers + pull, wanted + pull * common, common.expand_as(wanted).clone())
    return torch.where(powers > 0, gains * sign / torch.where(scale > 0, scale, 1.0), 0.0)


def _descend(products: Tensor, curvature: Tensor, wanted: Tensor, gains: Tensor) -> Tensor:
    """Least squares without negative gains, one coordinate after the other; it ends at the one minimum there is."""
    curvature = torch.where(curvature > 0, curvature, 1.0)
    stiffness = curvature - products.diagonal(dim1=-2, dim2=-1)
    for _ in range(ROUNDS):
        before = gains.clone()
        for one in range(gains.shape[-1]):
            gradient = (products[..., one, :] * gains).sum(dim=-1) + stiffness[..., one] * gains[..., one]
            step = (wanted[..., one] - gradient) / curvature[..., one]
            gains[..., one] = (gains[..., one] + step).clamp_min(0)
        if float((gains - before).abs().max()) <= 1e-9 * float(gains.abs().max()):
            break
    return gains


def rescale(mixture: Tensor, sources: Tensor) -> Tensor:
    """Sources at the level they have in the mixture.

    Args:
        mixture: (..., samples).
        sources: of free scale, (..., num_sources, samples).

    Returns:
        `sources` times a gain each, float32.
    """
    return (sources.double() * fit_gains(mixture, sources).unsqueeze(-1)).float()


__all__ = ["fit_gains", "rescale"]
