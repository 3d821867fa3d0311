# SPDX-License-Identifier: Apache-2.0
"""What happens to segments in one call: laid out for the model, separated, put at their level, summed.

Decisions: segments of digital silence never reach the model and stay silence. A model may want to go over a whole
recording before it separates any part of it: it lists in `surveys` what takes piece after piece, and gets what that
found as `statistics` with every segment. Each survey is one pass over the recording in bounded memory; the pieces
share nothing, or are those of which the model itself says that they add up to the whole.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor

from hubsep.audio import AudioReader, open_audio
from hubsep.chunking import Segments, cut
from hubsep.pipelines.base import check_output, from_rows, to_rows
from hubsep.pipelines.queries import Plan
from hubsep.pipelines.reference import gain_to, reference_level
from hubsep.pipelines.tracks import Track, resampled_blocks
from hubsep.pipelines.unordered import (
    Arranger,
    Carrier,
    has_free_scale,
    is_sequential,
    is_unordered,
    order_channels,
    set_levels,
)
from hubsep.pipelines.voices import voice_detector


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


__all__ = ["Process", "make_track", "survey_blocks"]
