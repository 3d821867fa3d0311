# SPDX-License-Identifier: Apache-2.0
"""The steps of a separation, in the order in which `AudioSeparationPipeline` takes them: what happens to a recording.

Decisions: segments of digital silence never reach the model and stay silence. A model may want to go over a whole
recording before it separates any part of it: it lists in `surveys` what takes piece after piece, and gets what that
gathered as `statistics` with every segment. Each survey is one pass over the recording in bounded memory; the pieces
share nothing, or are those of which the model itself says that they add up to the whole.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, cast

import torch
from torch import Tensor

from hubsep.audio.reader import AudioReader, open_audio
from hubsep.chunking import Merger, Piece, Segments, check_sources, cut, cut_batches

from ..base import check_output, from_rows, to_rows
from .order import Arranger, Carrier, order_channels, set_levels
from .protocols import SequentialModel
from .reference import gain_to
from .targets import Plan
from .tracks import Track, Waveform, resampled_blocks
from .voices import voice_detector


def make_track(reader: AudioReader, plan: Plan) -> Track:
    """The way of a recording through a call."""
    config = plan.model.config
    return Track(
        reader,
        config.sampling_rate,
        len(plan.targets.labels),
        plan.segments.samples,
        residual=plan.options.residual,
        unordered=config.unordered_sources,
        voices=voice_detector(config) if config.unordered_sources and plan.options.check_voices else None,
        mixture_shares=None if plan.targets.sums is None else plan.targets.sums.mixture,
        exact=plan.exact,
    )


@dataclass(frozen=True)
class Segment:
    """One segment, separated.

    Attributes:
        sources: (num_sources, channels, samples).
        presence: logits that each source is there, (num_sources,), of models that say so.
        last: whether it is the last of its recording.
    """

    sources: Tensor
    presence: Tensor | None
    last: bool


class Steps:
    """What a call does with recordings, one method a step.

    Args:
        forward: of the pipeline: runs something on inputs, on the model's device.
        open_track: of the pipeline: opens a recording.
        plan: of the call.

    Attributes:
        reads_first: whether each recording is gone over before it is separated, for the model's surveys or for its
            level.
    """

    def __init__(
        self, forward: Callable[..., dict[str, Tensor]], open_track: Callable[[Any], Track], plan: Plan
    ) -> None:
        config, segments = plan.model.config, plan.segments
        self.reads_first = bool(plan.model.surveys) or config.reference_level_db is not None
        self._forward, self._open, self._plan = forward, open_track, plan
        self._tracks: deque[Track] = deque()  # recordings that are read; the first is the one that is handed out
        self._merger = Merger(segments)
        self._arranger: Arranger | None = None
        self._carrier: Carrier | None = None
        if config.sequential:
            self._carrier = Carrier(cast("SequentialModel", plan.model), segments.hop)
        elif config.unordered_sources:
            self._arranger = Arranger(config.sampling_rate, segments.overlap)
        self._statistics: dict[str, Tensor] = {}
        self._gain = 1.0

    def listen(self, again: Callable[[], Any]) -> None:
        """Measures a recording's level and lets the model go over it, where the model is to know of them.

        The model does not, where it is going to see the recording in one piece anyway.

        Args:
            again: gives the recording from its start.
        """
        plan, config = self._plan, self._plan.model.config
        blocks = partial(survey_blocks, again, plan)
        self._statistics, self._gain = {}, 1.0
        if config.reference_level_db is not None:
            self._gain = gain_to(config.reference_level_db, blocks())
        exact = config.exact_segments(plan.segments.hop * plan.options.batch_size)
        segments = Segments(plan.segments.samples, 0) if exact is None else exact
        for survey in plan.model.surveys:
            for mixture, last in cut(blocks(), segments):
                if last and not self._statistics and mixture.shape[-1] <= plan.segments.samples:
                    return
                rows = to_rows(mixture[None] * self._gain, config.num_channels)
                inputs = {"input_values": self._padded(rows), **_piece(last if segments.additive else None)}
                self._statistics = self._forward({**inputs, "statistics": self._statistics}, run=survey)

    def open(self, recordings: Iterable[Any]) -> Iterator[Iterable[Tensor]]:
        """Opens one recording after the other: their blocks (channels, samples) at the model's rate, less a constant.

        Args:
            recordings: as a call takes them.
        """
        for recording in recordings:
            self._tracks.append(self._open(recording))
            yield self._tracks[-1].blocks()

    def cut(self, recordings: Iterable[Iterable[Tensor]]) -> Iterator[list[Piece]]:
        """Segments in batches of one shape, which may span recordings; one at a time where slots are carried on.

        Args:
            recordings: the blocks of each.
        """
        batch_size = self._plan.options.batch_size if self._carrier is None else 1
        return cut_batches(recordings, self._plan.segments, batch_size)

    def separate(self, batch: Sequence[Piece]) -> list[Segment]:
        """Runs the model on a batch, at its level; the sources have the recording's own.

        Args:
            batch: of segments of one shape.
        """
        plan, mixture = self._plan, torch.stack([piece.mixture for piece in batch])
        piece = _piece(batch[0].last if plan.segments.additive else None)
        sources, presence = self._separate(mixture * self._gain, piece)
        sources = sources / self._gain
        if plan.targets.sums is not None:
            sources = plan.targets.sums.of(sources)
            presence = [None if logits is None else plan.targets.sums.presence(logits) for logits in presence]
        check_sources(sources, mixture)
        parts = zip(sources.float(), presence, batch, strict=True)
        return [Segment(one, logits, last=piece.last) for one, logits, piece in parts]

    def arrange(self, segment: Segment) -> Segment:
        """Puts the sources of the next segment in the order of those of the segments before.

        Args:
            segment: as it was separated.
        """
        if self._carrier is not None and segment.last:
            self._carrier.end()
        if self._arranger is None:
            return segment
        order = self._arranger.order(segment.sources, last=segment.last)
        presence = None if segment.presence is None else segment.presence[order]
        return Segment(segment.sources[order], presence, segment.last)

    def merge(self, segment: Segment) -> Tensor:
        """Joins the next segment to those before: the samples (num_sources, channels, n) that are final now.

        Args:
            segment: in order.
        """
        return self._merger.add(segment.sources, last=segment.last)

    def restore(self, sources: Tensor, segment: Segment) -> tuple[Track, Waveform, bool]:
        """Brings samples back to the recording's rate, adds the residual and tells of the progress.

        Args:
            sources: (num_sources, channels, n) at the model's rate.
            segment: they became final with.

        Returns:
            The track of the recording, a block (num_sources, channels, n) of all that is handed out of it, and
            whether it is the last.
        """
        track = self._tracks.popleft() if segment.last else self._tracks[0]
        block = track.restore(sources, segment.presence, last=segment.last)
        if self._plan.options.on_progress is not None:
            self._plan.options.on_progress(track.done_samples, track.total_samples)
        return track, block, segment.last

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
        if plan.options.rescale and config.free_scale:
            sources = set_levels(rows, sources)
        sources, presence = from_rows(sources, batch, channels), None
        if "presence" in output:
            logits[audible] = output["presence"]
            presence = logits.unflatten(0, (batch, -1))
        if config.num_channels == 1 and config.unordered_sources:
            sources, presence = order_channels(sources, presence, config.sampling_rate)
        return sources, [None] * batch if presence is None else list(presence.amax(dim=1))

    def _padded(self, rows: Tensor) -> Tensor:
        return torch.nn.functional.pad(rows, (0, max(0, self._plan.model.config.minimum_samples - rows.shape[-1])))

    def _of_rows(self, audible: Tensor) -> dict[str, dict[str, Tensor]]:
        """The statistics of the recording's rows, for each of the batch's audible rows; nothing if there are none."""
        statistics = {}
        for name, tensor in self._statistics.items():
            times = len(audible) // len(tensor)
            statistics[name] = tensor.repeat(times, *[1] * (tensor.ndim - 1))[audible]
        return {"statistics": statistics} if statistics else {}


def survey_blocks(again: Callable[[], Any], plan: Plan) -> Iterator[Tensor]:
    """A recording from its start, as blocks (channels, samples) at the model's rate."""
    reader, rate = open_audio(again(), **plan.options.opening), plan.model.config.sampling_rate
    for block in resampled_blocks(reader, rate, plan.segments.samples):
        if plan.options.on_progress is not None:
            plan.options.on_progress(0, reader.claimed_samples)
        yield block


def _piece(last: bool | None) -> dict[str, Any]:
    return {} if last is None else {"piece": "last" if last else "inner"}


__all__ = ["Segment", "Steps", "make_track", "survey_blocks"]
