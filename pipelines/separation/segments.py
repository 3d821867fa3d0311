# SPDX-License-Identifier: Apache-2.0
"""What happens to segments in one call: laid out for the model, separated, put at their level, summed.

Decisions: segments of digital silence never reach the model and stay silence. A model may want to go over a whole
recording before it separates any part of it: it lists in `surveys` what takes piece after piece, and gets what that
found as `statistics` with every segment. Each survey is one pass over the recording in bounded memory; the pieces
share nothing, or are those of which the model itself says that they add up to the whole.

What fixed-source models leave open about a segment, and the pipeline settles: order and level of the sources.

Decisions: first the level, channel by channel, because order is found by comparing levels too; then the order of the
channels a mono model saw one by one; then the order of the segment in its recording, the same for all channels. A
model says which of these it needs by `config.free_scale` and `config.unordered_sources`. A model with
`config.sequential` keeps its sources in order by itself, if each segment is given the slots of the one before.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator, MutableSequence, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor

from hubsep.audio.reader import AudioReader, open_audio
from hubsep.chunking import Segments, cut
from hubsep.hub.config import has_free_scale, is_sequential, is_unordered

from ..base import check_output, from_rows, to_rows
from .alignment import Aligner, channel_orders
from .levels import rescale
from .reference import gain_to, reference_level
from .targets import Plan
from .tracks import Track, resampled_blocks
from .voices import voice_detector


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


def make_track(reader: AudioReader, plan: Plan) -> Track:
    """The way of a recording through a call."""
    config = plan.model.config
    unordered = is_unordered(config)
    return Track(
        reader,
        config.sampling_rate,
        len(plan.targets.labels),
        plan.segments.samples,
        residual=plan.options.residual,
        unordered=unordered,
        voices=voice_detector(config) if unordered and plan.options.check_voices else None,
        mixture_shares=None if plan.targets.sums is None else plan.targets.sums.mixture,
        exact=plan.exact,
    )


class Process:
    """The way of segments through the model, in one call.

    Args:
        forward: of the pipeline: runs something on inputs, on the model's device.
        plan: of the call.

    Attributes:
        presences: logits of the segments that were separated or Nones, in their order; to be taken out.
        options: what `overlap_add_many` is told.
    """

    def __init__(self, forward: Callable[..., dict[str, Tensor]], plan: Plan):
        self.presences: deque[Tensor | None] = deque()
        self._forward, self._plan = forward, plan
        self._statistics: dict[str, Tensor] = {}
        self._gain = 1.0
        config, overlap = plan.model.config, plan.segments.overlap
        self.options: dict[str, Any] = {"batch_size": plan.options.batch_size}
        self._carrier = Carrier(plan.model, plan.segments.hop) if is_sequential(config) else None
        if self._carrier is not None:
            self.options = {"batch_size": 1, "arrange": self._carrier}
        elif is_unordered(config):
            self.options["arrange"] = Arranger(config.sampling_rate, overlap, self.presences)

    def __call__(self, mixture: Tensor, last: bool | None = None) -> Tensor:
        """Sources (batch, num_sources, channels, samples) of a batch of segments.

        Args:
            mixture: (batch, channels, samples).
            last: for pieces that add up, whether they are the last of their recordings.
        """
        sources, presence = self._separate(mixture * self._gain, _piece(last))
        sources = sources / self._gain
        sums = self._plan.targets.sums
        if sums is not None:
            sources = sums.of(sources)
            presence = [None if logits is None else sums.presence(logits) for logits in presence]
        self.presences.extend(presence)
        return sources

    @property
    def reads_first(self) -> bool:
        """Whether a recording is gone over before it is separated, for the model's surveys or for its level."""
        return bool(self._plan.surveys) or reference_level(self._plan.model.config) is not None

    def survey(self, again: Callable[[], Iterable[Tensor]]) -> None:
        """Measures a recording's level and lets the model go over it, where the model is to know of them.

        The model does not, where it is going to see the recording in one piece anyway.

        Args:
            again: gives the recording from its start, as blocks (channels, samples) at the model's rate.
        """
        plan, config = self._plan, self._plan.model.config
        level = reference_level(config)
        if level is not None:
            self._gain = gain_to(level, again())
        exact = getattr(config, "exact_segments", None)
        segments = Segments(plan.segments.samples, 0)
        if exact is not None:
            segments = exact(plan.segments.hop * plan.options.batch_size)
        for survey in plan.surveys:
            for mixture, last in cut(again(), segments):
                if last and not self._statistics and mixture.shape[-1] <= plan.segments.samples:
                    return
                rows = to_rows(mixture[None] * self._gain, config.num_channels)
                inputs = {"input_values": self._padded(rows), **_piece(last if segments.additive else None)}
                self._statistics = self._forward({**inputs, "statistics": self._statistics}, run=survey)

    def _separate(self, mixture: Tensor, piece: dict[str, Any]) -> tuple[Tensor, Sequence[Tensor | None]]:
        plan, config = self._plan, self._plan.model.config
        batch, channels, samples = mixture.shape
        rows = to_rows(mixture, config.num_channels)
        sources = torch.zeros(rows.shape[0], plan.targets.num_sources, *rows.shape[1:])
        logits = torch.full(sources.shape[:2], -torch.inf)
        audible = rows.flatten(1).any(dim=1)
        output: dict[str, Tensor] = {}
        if audible.any():
            padded = self._padded(rows)
            if self._carrier is not None:
                output = self._carrier.forward(partial(self._forward, run=plan.model), padded, audible)
            else:
                inputs = {"input_values": padded[audible], **plan.targets.embeds, **piece}
                output = self._forward({**inputs, **self._of_rows(audible)}, run=plan.model)
            check_output(output["sources"], (int(audible.sum()), plan.targets.num_sources, *padded.shape[1:]))
            sources[audible] = output["sources"][..., :samples]
        if plan.options.rescale and has_free_scale(config):
            sources = set_levels(rows, sources)
        sources, presence = from_rows(sources, batch, channels), None
        if "presence" in output:
            logits[audible] = output["presence"]
            presence = logits.unflatten(0, (batch, -1))
        if config.num_channels == 1 and is_unordered(config):
            sources, presence = order_channels(sources, presence, config.sampling_rate)
        return sources, [None] * batch if presence is None else list(presence.amax(dim=1))

    def _padded(self, rows: Tensor) -> Tensor:
        return torch.nn.functional.pad(rows, (0, max(0, self._plan.model.config.minimum_samples - rows.shape[-1])))

    def _of_rows(self, audible: Tensor) -> dict[str, dict[str, Tensor]]:
        """The statistics of the recording's rows, for each of the batch's audible rows; nothing if there are none."""
        found = {}
        for name, tensor in self._statistics.items():
            times = len(audible) // len(tensor)
            found[name] = tensor.repeat(times, *[1] * (tensor.ndim - 1))[audible]
        return {"statistics": found} if found else {}


def survey_blocks(anew: Callable[[], Any], plan: Plan) -> Iterator[Tensor]:
    """A recording from its start, as blocks (channels, samples) at the model's rate."""
    reader, rate = open_audio(anew(), **plan.options.opening), plan.model.config.sampling_rate
    for block in resampled_blocks(reader, rate, plan.segments.samples):
        if plan.options.on_progress is not None:
            plan.options.on_progress(0, reader.claimed_samples)
        yield block


def _piece(last: bool | None) -> dict[str, Any]:
    return {} if last is None else {"piece": "last" if last else "inner"}


__all__ = ["Arranger", "Carrier", "Process", "make_track", "order_channels", "set_levels", "survey_blocks"]
