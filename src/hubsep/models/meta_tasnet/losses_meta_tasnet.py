# SPDX-License-Identifier: Apache-2.0
"""What Meta-TasNet learns from: three things that each stage is asked for (2002.07016, section 3.4).

Sources that fit, a latent space from which the mixture can be put together again, and in that space different
instruments far from each other and one instrument close to itself in another song. Everything is float32. A source
that is silent in an item of the batch does not count there; `presence` says which do.
"""

from __future__ import annotations

from itertools import combinations

import torch
import torch.nn.functional as F
from torch import Tensor


EPSILON = 1e-8


def si_sdr(estimates: Tensor, sources: Tensor, presence: Tensor | None = None) -> Tensor:
    """Scale-invariant signal-to-distortion ratio of each instrument in dB, without removal of the mean.

    Args:
        estimates: (num_sources, batch, samples).
        sources: of the same shape.
        presence: (num_sources, batch), 1 where a source counts; without, all do.

    Returns:
        Means over the batch, (num_sources,).
    """
    estimates, sources = estimates.float(), sources.float()
    product, energy = (sources * estimates).sum(dim=-1), sources.square().sum(dim=-1)
    target = (product / (energy + EPSILON)).unsqueeze(-1) * sources
    fitting = target.square().sum(dim=-1).clamp_min(EPSILON).log10()
    ratio = 10 * (fitting - (estimates - target).square().sum(dim=-1).clamp_min(EPSILON).log10())
    if presence is None:
        return ratio.mean(dim=-1)
    return (ratio * presence).sum(dim=-1) / presence.sum(dim=-1).clamp_min(EPSILON)


def dissimilarity(latents: Tensor, presence: Tensor) -> Tensor:
    """How alike different instruments of the same song are: the mean cosine of their absolute latents, 0 to 1.

    Args:
        latents: of the single sources, (num_sources, batch, frames, num_filters), zeros where one is silent.
        presence: (num_sources, batch).
    """
    total, count = latents.new_zeros(latents.shape[2]), presence.new_zeros(())
    for one, other in combinations(range(len(latents)), 2):
        total = total + F.cosine_similarity(latents[one].abs(), latents[other].abs(), dim=-1).sum(dim=0)
        count = count + (presence[one] * presence[other]).sum()
    return (total / (count + EPSILON)).mean()


def similarity(latents: Tensor, presence: Tensor) -> Tensor:
    """How alike one instrument is in neighbouring items of the batch: the mean cosine, frame by frame, -1 to 1.

    Arguments as for `dissimilarity`.
    """
    cosine = F.cosine_similarity(latents, latents.roll(1, dims=1), dim=-1)
    count = (presence * presence.roll(1, dims=1)).sum()
    return (cosine.sum(dim=(0, 1)) / count.clamp_min(EPSILON)).mean()


def stage_statistics(
    estimates: Tensor,
    sources: Tensor,
    reconstruction: Tensor,
    mixture: Tensor,
    latents: Tensor,
) -> Tensor:
    """What the loss of a stage is made of.

    Args:
        estimates: (num_sources, batch, samples).
        sources: of the same shape.
        reconstruction: of the mixture, from its latents without a mask, (batch, samples).
        mixture: (batch, samples).
        latents: of the single sources, (num_sources, batch, frames, num_filters).

    Returns:
        Ratio of each source and of the reconstruction in dB, dissimilarity, similarity: (num_sources + 3,).
    """
    presence = (sources != 0).any(dim=-1).float()
    latents = latents.float() * presence[..., None, None]
    return torch.cat(
        [
            si_sdr(estimates, sources, presence),
            si_sdr(reconstruction[None], mixture[None]),
            dissimilarity(latents, presence)[None],
            similarity(latents, presence)[None],
        ]
    )


def weighted_loss(statistics: Tensor, reconstruction: float, dissimilarity: float, similarity: float) -> Tensor:
    """The loss of a stage from its `stage_statistics` and the weights of what is not a source."""
    ratio, unlike, alike = statistics[-3:]
    return dissimilarity * unlike - similarity * alike - reconstruction * ratio - statistics[:-3].sum()


__all__ = ["dissimilarity", "si_sdr", "similarity", "stage_statistics", "weighted_loss"]
