# SPDX-License-Identifier: Apache-2.0
"""Segments and overlap-add: the one place that knows long audio.

A recording arrives in blocks of any size, is cut into overlapping segments, each segment goes through `process`, and
the results are cross-faded back together. Arrays, files and live streams take the same path, so they give the same
samples. Decisions:

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

from .errors import AudioError


Process = Callable[..., Tensor]
Align = Callable[[Tensor, Tensor], Tensor]
Arrange = Callable[[int, Tensor, bool], Tensor]


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


def overlap_add(
    blocks: Iterable[Tensor],
    process: Process,
    segments: Segments,
    *,
    batch_size: int = 1,
    align: Align | None = None,
) -> Iterator[Tensor]:
    """Runs `process` over one recording of any length, segment by segment.

    Args:
        blocks: the recording, (channels, n) each, n as it comes.
        process: separates mixtures (batch, channels, samples) into sources (batch, num_sources, channels, samples).
            With additive segments it is called with `last=`, too: whether they are the ends of their recordings.
        segments: lengths of segments, overlap and context.
        batch_size: segments that are processed at once.
        align: for models whose sources come in no order. Gets the previous segment's sources in the overlap and the
            current one's, (num_sources, channels, overlap) both, and returns the permutation of the current ones.

    Yields:
        Sources (num_sources, channels, n), float32, one block a segment; as many samples in total as came in.

    Raises:
        AudioError: if the blocks disagree in channels, or `process` returns another shape.
    """
    for _, sources, _ in overlap_add_many([blocks], process, segments, batch_size=batch_size, align=align):
        yield sources


def overlap_add_many(
    recordings: Iterable[Iterable[Tensor]],
    process: Process,
    segments: Segments,
    *,
    batch_size: int = 1,
    align: Align | None = None,
    arrange: Arrange | None = None,
) -> Iterator[tuple[int, Tensor, bool]]:
    """`overlap_add` over one recording after the other, with batches that may span several of them.

    Args:
        recordings: the blocks of each recording; opened one after the other, at most a batch ahead.
        process: as in `overlap_add`.
        segments: as in `overlap_add`.
        batch_size: as in `overlap_add`.
        align: as in `overlap_add`.
        arrange: for models whose sources come in no order, when the overlap alone does not tell them apart. Gets the
            index of the recording, the sources (num_sources, channels, samples) of its segments one after the other,
            and whether it is the last; returns the sources in the recording's order.

    Yields:
        Index of the recording, a block of its sources, and whether it is the recording's last block.

    Raises:
        AudioError: as in `overlap_add`.
    """
    if batch_size < 1:
        raise AudioError(f"batch_size must be at least 1, got {batch_size}")
    if align is not None and not segments.overlap:
        raise AudioError("sources can only be aligned where segments overlap; give an overlap above 0")
    merger = _Merger(segments, align)
    for batch in _batches(_pieces(recordings, segments), batch_size, apart=segments.additive):
        told = {"last": batch[0].last} if segments.additive else {}
        for piece, sources in zip(batch, _checked(process, batch, told), strict=True):
            if arrange is not None:
                sources = arrange(piece.recording, sources, piece.last)
            yield piece.recording, merger.add(sources, last=piece.last), piece.last


@dataclass(frozen=True)
class _Piece:
    """One segment on its way to the model."""

    recording: int
    mixture: Tensor
    last: bool


def _pieces(recordings: Iterable[Iterable[Tensor]], segments: Segments) -> Iterator[_Piece]:
    for index, blocks in enumerate(recordings):
        for mixture, last in cut(blocks, segments):
            yield _Piece(index, mixture, last)


def cut(blocks: Iterable[Tensor], segments: Segments) -> Iterator[tuple[Tensor, bool]]:
    """The segments (channels, samples) of one recording in order, and whether each is the last.

    One sample beyond a segment must have arrived to know that it is not the last.
    """
    window, filled = torch.empty(0, 0), 0
    for block in blocks:
        if block.ndim != 2:
            raise AudioError(f"a block must be (channels, samples), got shape {tuple(block.shape)}")
        if window.shape[0] == 0:
            window, filled = torch.zeros(block.shape[0], segments.samples + 1), segments.lead
        if block.shape[0] != window.shape[0]:
            raise AudioError(f"the recording changed from {window.shape[0]} to {block.shape[0]} channels")
        start = 0
        while start < block.shape[1]:
            taken = min(window.shape[1] - filled, block.shape[1] - start)
            window[:, filled : filled + taken] = block[:, start : start + taken]
            start, filled = start + taken, filled + taken
            if filled == window.shape[1]:
                yield window[:, :-1].clone(), False
                filled -= segments.hop
                window[:, :filled] = window[:, segments.hop :].clone()
    if filled:
        yield window[:, :filled].clone(), True


def _batches(pieces: Iterable[_Piece], batch_size: int, *, apart: bool) -> Iterator[list[_Piece]]:
    """Pieces of one shape; last ones and others `apart` from each other where that matters."""
    batch: list[_Piece] = []
    for piece in pieces:
        if batch and (piece.mixture.shape != batch[0].mixture.shape or (apart and piece.last != batch[0].last)):
            yield batch
            batch = []
        batch.append(piece)
        if len(batch) == batch_size:
            yield batch
            batch = []
    if batch:
        yield batch


def _checked(process: Process, batch: list[_Piece], told: dict[str, bool]) -> Tensor:
    mixture = torch.stack([piece.mixture for piece in batch])
    sources = process(mixture, **told)
    if sources.ndim != 4 or (sources.shape[0], *sources.shape[2:]) != tuple(mixture.shape):
        raise AudioError(
            f"sources must be (batch, num_sources, channels, samples) for a mixture of {tuple(mixture.shape)}, "
            f"got {tuple(sources.shape)}"
        )
    return sources.float()


class _Merger:
    """Cross-fades the segments of one recording after the other."""

    def __init__(self, segments: Segments, align: Align | None):
        self.segments = segments
        self.align = align
        self.pending: tuple[Tensor, Tensor] | None = None  # weighted sources and weights of the open overlap
        self.previous: Tensor | None = None
        self.lead = segments.lead  # samples still to be taken off

    def add(self, sources: Tensor, *, last: bool) -> Tensor:
        """Takes in a segment's sources and returns the samples that are final now."""
        final = self._final(sources, last)
        lead, self.lead = min(self.lead, final.shape[-1]), self.segments.lead if last else 0
        return final[..., lead:]

    def _final(self, sources: Tensor, last: bool) -> Tensor:
        overlap, hop = self.segments.overlap, self.segments.hop
        if self.align is not None:
            if self.previous is not None:
                sources = sources[self.align(self.previous, sources[..., :overlap])]
            self.previous = None if last else sources[..., hop:].clone()
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


__all__ = ["Align", "Arrange", "Process", "Segments", "cut", "overlap_add", "overlap_add_many"]
