# SPDX-License-Identifier: Apache-2.0
"""Chunks and how they become one recording again. The paper works on single chunks: all of this is ours.

- Chunks overlap by half. Neighbours are aligned by the permutation whose compressed magnitudes differ least in the
  overlap; the similarity of slot embeddings breaks ties.
- Where the overlap is silent there is nothing to compare. There the embeddings are compared with a memory of those of
  the last seconds, weighted with how loud they were, and the order stays as it is among equals.
- The cross-fade is a triangle, done on spectrograms: what adds up to the mixture in every chunk does so afterwards.

Also here: which slot made which source: AudioSlots' matching loss.

The paper: spectrograms of slots and sources are matched so that the loss is least, and the loss does not depend on any
order. Ours: the squared error of compressed magnitudes as the loss; slots beyond the number of sources are matched
with silence, so that they learn it. Up to four slots every assignment is tried, beyond that scipy solves the problem.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from ...losses import assign


def cosine(first: Tensor, second: Tensor) -> Tensor:
    """Cosine of the angle of each pair, (..., n, size) and (..., m, size) -> (..., n, m), float32."""
    return F.normalize(first.float(), dim=-1) @ F.normalize(second.float(), dim=-1).transpose(-1, -2)


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


TIE_WEIGHT = 0.05  # of the embeddings, against errors that are relative to the energy in the overlap
STAY_WEIGHT = 0.01  # of keeping a slot on its output, where only embeddings are compared
SILENCE = 0.06  # energy of compressed magnitudes against the recording's mean: 40 dB at a compression of 0.3


def cut(frames: Tensor, size: int, hop: int) -> Tensor:
    """Chunks of `size` frames every `hop`, padded with silence: (..., frames, bins) -> (..., chunks, size, bins)."""
    count = max(-(-(frames.shape[-2] - size) // hop), 0) + 1
    padded = F.pad(frames, (0, 0, 0, (count - 1) * hop + size - frames.shape[-2]))
    return padded.unfold(-2, size, hop).transpose(-1, -2)


def cross_fade(chunks: Tensor, hop: int, frames: int) -> Tensor:
    """Undoes `cut`, for chunks of 2h + 1 frames every `hop` frames, which is h or 2h.

    Args:
        chunks: (batch, chunks, num_sources, 2h + 1, bins).
        hop: frames from one chunk to the next.
        frames: how many the recording has.

    Returns:
        (batch, num_sources, frames, bins).
    """
    half, last = chunks.shape[3] // 2, chunks[:, -1, :, -1:]
    if hop == half:
        fade = torch.arange(half, device=chunks.device, dtype=chunks.dtype)[:, None] / half
        first, second = chunks[..., :half, :], chunks[..., half : 2 * half, :]
        middle = torch.lerp(second[:, :-1], first[:, 1:], fade)
        blocks = torch.cat([first[:, :1], middle, second[:, -1:]], dim=1)
    else:
        blocks = chunks[..., : 2 * half, :]
    joined = blocks.transpose(1, 2).flatten(2, 3)
    return torch.cat([joined, last], dim=2)[:, :, :frames]


@torch.no_grad()
def align(magnitudes: Tensor, slots: Tensor, features: Tensor, hop: int, memory: float) -> Tensor:
    """Finds which slot of each chunk goes on which output.

    Args:
        magnitudes: compressed ones of what each slot gives, (batch, chunks, num_sources, frames, bins).
        slots: embeddings, (batch, chunks, num_sources, hidden_size).
        features: compressed magnitudes of the mixture, (batch, chunks, frames, bins).
        hop: frames from one chunk to the next.
        memory: time constant of the embeddings' memory, in chunks.

    Returns:
        Indices (batch, chunks, num_sources): the slot of each output; the first chunk's are in their own order.
    """
    batch, chunks, num_sources = slots.shape[:3]
    energy = features.square().mean(dim=(2, 3))
    overlap = features[:, 1:, :-hop].square().mean(dim=(2, 3))  # (batch, chunks - 1)
    silent = overlap <= SILENCE * energy.mean(dim=1, keepdim=True)
    error = pairwise_error(magnitudes[:, :-1, :, hop:], magnitudes[:, 1:, :, :-hop])
    error = error / overlap.clamp_min(1e-8)[..., None, None]
    error = error + TIE_WEIGHT * (1 - cosine(slots[:, :-1], slots[:, 1:])) / 2
    loudness = magnitudes.square().mean(dim=(3, 4)).unsqueeze(-1).float()
    unit = F.normalize(slots.float(), dim=-1)

    order = torch.arange(num_sources, device=slots.device).expand(batch, -1)
    remembered, orders, kept = loudness[:, 0] * unit[:, 0], [order], math.exp(-1 / memory)
    for k in range(1, chunks):
        stay = F.one_hot(order, num_sources).float()
        by_memory = (1 - cosine(remembered, slots[:, k])) / 2 - STAY_WEIGHT * stay
        by_error = error[:, k - 1].gather(1, order[..., None].expand(-1, -1, num_sources))
        order = least(torch.where(silent[:, k - 1, None, None], by_memory, by_error))
        orders.append(order)
        index = order[..., None].expand(-1, -1, unit.shape[-1])
        remembered = kept * remembered + (loudness[:, k] * unit[:, k]).gather(1, index)
    return torch.stack(orders, dim=1)


def count_sources(presence_logits: Tensor) -> tuple[Tensor, Tensor]:
    """How many sources a mixture holds, from the presence of each, taken as independent.

    Args:
        presence_logits: (batch, num_sources).

    Returns:
        The most probable number, (batch,), and its probability as a score from 0 to 1, (batch,).
    """
    there = torch.sigmoid(presence_logits.double())
    counts = torch.ones(len(there), 1, dtype=there.dtype, device=there.device)
    for column in there.unbind(1):
        counts = F.pad(counts, (0, 1)) * (1 - column[:, None]) + F.pad(counts, (1, 0)) * column[:, None]
    score, count = counts.max(dim=1)
    return count, score.float()


__all__ = [
    "align",
    "cosine",
    "count_sources",
    "cross_fade",
    "cut",
    "least",
    "match",
    "matching_loss",
    "pairwise_error",
    "reorder",
]
