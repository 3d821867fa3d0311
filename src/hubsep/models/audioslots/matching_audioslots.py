# SPDX-License-Identifier: Apache-2.0
"""Which slot made which source: AudioSlots' matching loss.

The paper: spectrograms of slots and sources are matched so that the loss is least, and the loss does not depend on any
order. Ours: the squared error of compressed magnitudes as the loss; slots beyond the number of sources are matched
with silence, so that they learn it. Up to four slots every assignment is tried, beyond that scipy solves the problem.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from ...losses_permutation import assign


def pairwise_error(first: Tensor, second: Tensor) -> Tensor:
    """Mean squared difference of every pair, (..., n, frames, bins) and (..., m, frames, bins) -> (..., n, m)."""
    first, second = first.float().flatten(-2), second.float().flatten(-2)
    squares = first.square().mean(-1)[..., :, None] + second.square().mean(-1)[..., None, :]
    return squares - 2 * (first @ second.transpose(-1, -2)) / first.shape[-1]


def least(cost: Tensor) -> Tensor:
    """The assignment of least total cost.

    Args:
        cost: (..., n, n), of giving column j to row i.

    Returns:
        Indices (..., n): the column of each row.
    """
    flat = cost.detach().reshape(-1, *cost.shape[-2:])
    return assign(-flat.transpose(1, 2)).reshape(cost.shape[:-1])


def reorder(values: Tensor, order: Tensor) -> Tensor:
    """`values` (batch, chunks, num_sources, ...) with output i taken from slot `order[..., i]`."""
    index = order.reshape(*order.shape, *[1] * (values.ndim - order.ndim)).expand(*order.shape, *values.shape[3:])
    return values.gather(2, index)


def match(magnitudes: Tensor, targets: Tensor, *, whole: bool) -> Tensor:
    """The slot of each target, (batch, chunks, num_sources).

    Args:
        magnitudes: compressed ones of the slots, (batch, chunks, num_sources, frames, bins).
        targets: of the sources, the same shape.
        whole: whether one matching holds for all chunks of an item, as sequential mode needs it.
    """
    with torch.no_grad():
        cost = pairwise_error(targets, magnitudes)
        if whole:
            cost = cost.mean(dim=1, keepdim=True).expand_as(cost)
        return least(cost)


def matching_loss(magnitudes: Tensor, targets: Tensor, order: Tensor) -> Tensor:
    """Mean squared error of the magnitudes in their `order` (see `match`) and the targets."""
    return F.mse_loss(reorder(magnitudes, order), targets)


__all__ = ["least", "match", "matching_loss", "pairwise_error", "reorder"]
