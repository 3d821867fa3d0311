# SPDX-License-Identifier: Apache-2.0
"""What fixed-source models leave open about a segment, and the pipeline settles: order and level of the sources.

Decisions: first the level, channel by channel, because order is found by comparing levels too; then the order of the
channels a mono model saw one by one; then the order of the segment in its recording, the same for all channels. A
model says which of these it needs by `config.free_scale` and `config.unordered_sources`.
"""

from __future__ import annotations

from collections.abc import MutableSequence
from typing import Any

import torch
from torch import Tensor

from hubsep.alignment import Aligner, channel_orders
from hubsep.levels import rescale


def has_free_scale(config: Any) -> bool:
    """Whether the levels of the model's sources mean nothing."""
    return bool(getattr(config, "free_scale", False))


def is_unordered(config: Any) -> bool:
    """Whether any of the model's sources may come out at any place."""
    return bool(getattr(config, "unordered_sources", False))


def set_levels(rows: Tensor, sources: Tensor) -> Tensor:
    """Rescales sources (rows, num_sources, channels, samples) to add up to the mixtures (rows, channels, samples).

    The channels of a row get one gain, so that what a model with several says about direction stays.
    """
    return rescale(rows.flatten(1), sources.flatten(2)).view_as(sources)


def order_channels(sources: Tensor, presence: Tensor | None, sampling_rate: int) -> tuple[Tensor, Tensor | None]:
    """Brings the channels of each segment into the order of its first.

    Args:
        sources: (batch, num_sources, channels, samples).
        presence: logits (batch, channels, num_sources), or None.
        sampling_rate: in Hz.

    Returns:
        Both, in order.
    """
    if sources.shape[2] == 1:
        return sources, presence
    orders = torch.stack([channel_orders(segment, sampling_rate) for segment in sources])
    sources = sources.gather(1, orders.mT[..., None].expand_as(sources))
    return sources, None if presence is None else presence.gather(2, orders)


class Arranger:
    """Puts the segments of one recording after the other in order; an `Arrange` of `overlap_add_many`.

    Args:
        sampling_rate: of the sources, in Hz.
        overlap: of segments, in samples.
        presences: logits of the segments to come or Nones, the next one first; brought into the same order.
    """

    def __init__(self, sampling_rate: int, overlap: int, presences: MutableSequence[Tensor | None]):
        self._sampling_rate, self._overlap = sampling_rate, overlap
        self._presences = presences
        self._aligner: Aligner | None = None

    def __call__(self, recording: int, sources: Tensor, last: bool) -> Tensor:
        """Returns the sources (num_sources, channels, samples) of the next segment in order."""
        if self._aligner is None:
            self._aligner = Aligner(self._sampling_rate, self._overlap)
        order = self._aligner(sources)
        presence = self._presences[0]
        if presence is not None:
            self._presences[0] = presence[order]
        if last:
            self._aligner = None
        return sources[order]


__all__ = ["Arranger", "has_free_scale", "is_unordered", "order_channels", "set_levels"]
