# SPDX-License-Identifier: Apache-2.0
"""What fixed-source models leave open about a segment, and the pipeline settles: order and level of the sources.

Decisions: first the level, channel by channel, because order is found by comparing levels too; then the order of the
channels a mono model saw one by one; then the order of the segment in its recording, the same for all channels. A
model says which of these it needs by `config.free_scale` and `config.unordered_sources`. A model with
`config.sequential` keeps its sources in order by itself, if each segment is given the slots of the one before.
"""

from __future__ import annotations

from collections.abc import Callable, MutableSequence
from typing import Any

import torch
from torch import Tensor

from hubsep.alignment import Aligner, channel_orders
from hubsep.levels import rescale


Forward = Callable[[dict[str, Tensor]], dict[str, Tensor]]


def has_free_scale(config: Any) -> bool:
    """Whether the levels of the model's sources mean nothing."""
    return bool(getattr(config, "free_scale", False))


def is_unordered(config: Any) -> bool:
    """Whether any of the model's sources may come out at any place."""
    return bool(getattr(config, "unordered_sources", False))


def is_sequential(config: Any) -> bool:
    """Whether the model goes on where it ended, from the slots of the segment before."""
    return bool(getattr(config, "sequential", False))


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


class Carrier:
    """Hands the slots of each segment of a recording on to the next; an `Arrange`, to know where a recording ends.

    Segments have to come one at a time. The channels of a recording are sequences of their own; one that is silent in
    a segment goes on later from where it was.

    Args:
        model: with `config.sequential` and `slots_at`.
        hop: samples from the start of one segment to the start of the next.
    """

    def __init__(self, model: Any, hop: int):
        self._model, self._hop = model, hop
        self._slots: dict[int, Tensor] = {}

    def forward(self, forward: Forward, rows: Tensor, audible: Tensor) -> dict[str, Tensor]:
        """Goes on with the channels of a segment that are audible.

        Args:
            forward: runs the model; its outputs have `slots`.
            rows: all channels of the segment, (channels, 1, samples).
            audible: which of them are not silent, (channels,).

        Returns:
            The outputs of the audible channels.
        """
        outputs = []
        for channel in audible.nonzero()[:, 0].tolist():
            inputs = {"input_values": rows[channel : channel + 1]}
            if channel in self._slots:
                inputs["previous_slots"] = self._slots[channel]
            outputs.append(forward(inputs))
            self._slots[channel] = self._model.slots_at(outputs[-1].pop("slots"), self._hop)
        return {name: torch.cat([output[name] for output in outputs]) for name in outputs[0]}

    def __call__(self, recording: int, sources: Tensor, last: bool) -> Tensor:
        """Returns the sources as they are; forgets the slots at the end of a recording."""
        if last:
            self._slots = {}
        return sources


__all__ = ["Arranger", "Carrier", "has_free_scale", "is_sequential", "is_unordered", "order_channels", "set_levels"]
