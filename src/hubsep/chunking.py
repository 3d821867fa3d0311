# SPDX-License-Identifier: Apache-2.0
"""Segments and overlap-add: the one place that knows long audio.

A recording arrives in blocks of any size and is cut into overlapping segments (`cut_batches`); each segment goes
through a model, and the results are cross-faded back together (`Merger`). Arrays, files and live streams take the same
path, so they give the same samples. Decisions:

- A segment starts every `samples - overlap` samples. The last one is what remains, always longer than the overlap, and
  runs at its own length: padding it would change the norms of models that look at a whole segment.
- The outer `context` samples of a segment are thrown away (weight 0), the rest of the overlap is a raised-cosine
  cross-fade. Neither happens where the recording starts or ends. Weighted results are divided by the summed weights.
- A model whose output depends on at most `context` samples to either side gives the same result as on the whole
  recording.
- Only segments of equal channels and length share a batch; they may come from different recordings.
- A model whose parts of a recording add up to the whole, such as one that works on frames, takes `additive` segments:
  nothing is faded, what neighbours say about the samples they share is added. The result is that of the whole.
- Samples leave as soon as no later segment can change them, so memory is one batch of segments however long the audio.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import pad

from .errors import AudioError


Separator = Callable[..., Tensor]


@dataclass(frozen=True)
class Segments:
    """How long audio is cut, in samples of the model's rate.

    Args:
        samples: length of a segment.
        overlap: what a segment shares with the next one.
        context: samples at each inner edge of a segment that only inform the model and are not used.
        additive: whether overlaps are added instead of cross-faded.
        lead: zeros that go before a recording, and are taken off its sources.

    Raises:
        AudioError: if `overlap` does not fit into a segment, `context` not twice into the overlap, or `lead` not into
            what a segment shares with no other.
    """

    samples: int
    overlap: int
    context: int = 0
    additive: bool = False
    lead: int = 0

    def __post_init__(self) -> None:
        if self.samples < 1:
            raise AudioError(f"a segment must have at least one sample, got {self.samples}")
        if not 0 <= self.overlap < self.samples:
            raise AudioError(f"the overlap must be 0 to {self.samples - 1} (the segment less one), got {self.overlap}")
        if not 0 <= 2 * self.context <= self.overlap:
            raise AudioError(
                f"the context must be 0 to {self.overlap // 2} (half of the overlap), got {self.context}; "
                "lengthen the overlap or shorten the context"
            )
        if not 0 <= self.lead <= self.hop or (self.additive and self.context):
            raise AudioError(f"a lead of {self.lead} and a context of {self.context} do not suit these segments")

    @property
    def hop(self) -> int:
        """Samples from the start of one segment to the start of the next."""
        return self.samples - self.overlap

    def weights(self, samples: int, *, first: bool, last: bool) -> Tensor:
        """Weight of each sample of a segment, (samples,): faded in unless `first`, faded out unless `last`."""
        weights = torch.ones(samples, dtype=torch.float64)
        if self.overlap and not self.additive:
            faded = self.overlap - 2 * self.context
            ramp = torch.sin((torch.arange(faded, dtype=torch.float64) + 0.5) * (torch.pi / 2 / max(faded, 1))) ** 2
            fade = torch.cat([torch.zeros(self.context), ramp, torch.ones(self.context)])
            if not first:
                weights[: self.overlap] *= fade
            if not last:
                weights[-self.overlap :] *= fade.flip(0)
        return weights.float()


def overlap_add_many(
    recordings: Iterable[Iterable[Tensor]], process: Separator, segments: Segments, *, batch_size: int = 1
) -> Iterator[tuple[int, Tensor, bool]]:
    """Runs a function over recordings of any length, segment by segment.

    Args:
        recordings: the blocks of each recording, (channels, n) each, n as it comes; opened one after the other, at
            most a batch ahead.
        process: separates mixtures (batch, channels, samples) into sources (batch, num_sources, channels, samples).
            With additive segments it is called with `last=`, too: whether they are the ends of their recordings.
        segments: lengths of segments, overlap and context.
        batch_size: segments that are processed at once; they may come from several recordings.

    Yields:
        Index of the recording, a block of its sources (num_sources, channels, n) in float32, one block a segment and
        as many samples in total as came in, and whether it is the recording's last block.

    Raises:
        AudioError: if the blocks of a recording disagree in channels, or `process` returns another shape.
    """
    merger = Merger(segments)
    for batch in cut_batches(recordings, segments, batch_size):
        mixture = torch.stack([piece.mixture for piece in batch])
        sources = process(mixture, last=batch[0].last) if segments.additive else process(mixture)
        check_sources(sources, mixture)
        for piece, one in zip(batch, sources.float(), strict=True):
            yield piece.recording, merger.add(one, last=piece.last), piece.last


@dataclass(frozen=True)
class Piece:
    """One segment on its way to the model.

    Attributes:
        recording: the index of its recording.
        mixture: (channels, samples).
        last: whether it is the last of its recording.
    """

    recording: int
    mixture: Tensor
    last: bool


def cut_batches(
    recordings: Iterable[Iterable[Tensor]], segments: Segments, batch_size: int = 1
) -> Iterator[list[Piece]]:
    """The segments of one recording after the other, in batches of one shape.

    Additive segments that end a recording and others are kept apart.

    Args:
        recordings: the blocks of each, (channels, n).
        segments: lengths of segments and overlap.
        batch_size: segments in a batch at most.

    Raises:
        AudioError: if the blocks of a recording disagree in channels.
    """
    if not isinstance(batch_size, int) or isinstance(batch_size, bool) or batch_size < 1:
        raise AudioError(f"batch_size must be a whole number from 1 on, got {batch_size!r}")
    batch: list[Piece] = []
    for index, blocks in enumerate(recordings):
        for mixture, last in cut(blocks, segments):
            first = batch[0] if batch else None
            if first and (mixture.shape != first.mixture.shape or (segments.additive and last != first.last)):
                yield batch
                batch = []
            batch.append(Piece(index, mixture, last))
            if len(batch) == batch_size:
                yield batch
                batch = []
    if batch:
        yield batch


def cut(blocks: Iterable[Tensor], segments: Segments) -> Iterator[tuple[Tensor, bool]]:
    """The segments (channels, samples) of one recording in order, and whether each is the last.

    One sample beyond a segment must have arrived to know that it is not the last.
    """
    window, filled, full = torch.empty(0, 0), 0, segments.samples + 1
    for block in blocks:
        if block.ndim != 2:
            raise AudioError(f"a block must be (channels, samples), got shape {tuple(block.shape)}")
        if window.shape[0] == 0:
            window, filled = torch.zeros(block.shape[0], segments.lead), segments.lead
        if block.shape[0] != window.shape[0]:
            raise AudioError(f"the recording changed from {window.shape[0]} to {block.shape[0]} channels")
        start = 0
        while start < block.shape[1]:
            taken = min(full - filled, block.shape[1] - start)
            if filled + taken > window.shape[1]:  # a segment may be longer than any recording
                window = pad(window, (0, min(full, 2 * (filled + taken)) - window.shape[1]))
            window[:, filled : filled + taken] = block[:, start : start + taken]
            start, filled = start + taken, filled + taken
            if filled == full:
                yield window[:, : segments.samples].clone(), False
                filled -= segments.hop
                window[:, :filled] = window[:, segments.hop : full].clone()
    if filled:
        yield window[:, :filled].clone(), True


def check_sources(sources: Tensor, mixture: Tensor) -> None:
    """Refuses what are no sources of a batch of mixtures (batch, channels, samples).

    Raises:
        AudioError: if they are not (batch, num_sources, channels, samples).
    """
    if sources.ndim != 4 or (sources.shape[0], *sources.shape[2:]) != tuple(mixture.shape):
        raise AudioError(
            f"sources must be (batch, num_sources, channels, samples) for a mixture of {tuple(mixture.shape)}, "
            f"got {tuple(sources.shape)}"
        )


class Merger:
    """Cross-fades the segments of one recording after the other.

    Args:
        segments: how they were cut.
    """

    def __init__(self, segments: Segments):
        self.segments = segments
        self.pending: tuple[Tensor, Tensor] | None = None  # weighted sources and weights of the open overlap
        self.lead = segments.lead  # samples still to be taken off

    def add(self, sources: Tensor, *, last: bool) -> Tensor:
        """Takes in a segment's sources (num_sources, channels, samples); returns the samples that are final now."""
        final = self._final(sources, last)
        lead, self.lead = min(self.lead, final.shape[-1]), self.segments.lead if last else 0
        return final[..., lead:]

    def _final(self, sources: Tensor, last: bool) -> Tensor:
        overlap, hop = self.segments.overlap, self.segments.hop
        weights = self.segments.weights(sources.shape[-1], first=self.pending is None, last=last).to(sources.device)
        total = sources * weights
        if self.pending is not None:
            total[..., :overlap] += self.pending[0]
            if not self.segments.additive:
                weights[:overlap] += self.pending[1]
        if last:
            self.pending = None
            return total / weights
        self.pending = total[..., hop:].clone(), weights[hop:].clone()
        return total[..., :hop] / weights[:hop]


__all__ = ["Merger", "Piece", "Segments", "Separator", "check_sources", "cut", "cut_batches", "overlap_add_many"]
