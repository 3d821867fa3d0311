# SPDX-License-Identifier: Apache-2.0
"""What fixed-source models leave open about a segment, and the pipeline settles: order and level of the sources.

Decisions: first the level, channel by channel, because order is found by comparing levels too; then the order of the
channels a mono model saw one by one; then the order of the segment in its recording, the same for all channels. A
model says which of these it needs by `config.free_scale` and `config.unordered_sources`. A model with
`config.sequential` keeps its sources in order by itself, if each segment is given the slots of the one before.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from .alignment import Aligner, channel_orders
from .levels import rescale
from .protocols import SequentialModel


Forward = Callable[[dict[str, Tensor]], dict[str, Tensor]]


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
    """Puts the segments of one recording after the other in order.

    Args:
        sampling_rate: of the sources, in Hz.
        overlap: of segments, in samples.
    """

    def __init__(self, sampling_rate: int, overlap: int):
        self._sampling_rate, self._overlap = sampling_rate, overlap
        self._aligner: Aligner | None = None

    def order(self, sources: Tensor, *, last: bool) -> Tensor:
        """The order of the next segment's sources (num_sources, channels, samples), as indices (num_sources,).

        After the last segment of a recording the next one begins.
        """
        if self._aligner is None:
            self._aligner = Aligner(self._sampling_rate, self._overlap)
        order = self._aligner(sources)
        if last:
            self._aligner = None
        return order


class Carrier:
    """Hands the slots of each segment of a recording on to the next.

    Segments have to come one at a time. The channels of a recording are sequences of their own; one that is silent in
    a segment goes on later from where it was.

    Args:
        model: with `config.sequential` and `slots_at`.
        hop: samples from the start of one segment to the start of the next.
    """

    def __init__(self, model: SequentialModel, hop: int):
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

    def end(self) -> None:
        """Forgets the slots at the end of a recording."""
        self._slots = {}


__all__ = ["Arranger", "Carrier", "order_channels", "set_levels"]
