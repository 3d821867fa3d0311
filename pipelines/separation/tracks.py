# SPDX-License-Identifier: Apache-2.0
"""One recording's way through a pipeline: read, resampled, brought back, measured, and recorded in memory.

A recording keeps its rate, channels and length. Reading runs ahead of the model, so the mixture waits here until its
sources arrive; what waits is at most a batch of segments. The residual is taken from the float32 sources that are
handed out, so that all of them add up to the mixture; for files it is worked out in float64, since what follows is
rounding (`audio/integers.py`).
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from hubsep.audio.reader import AudioReader, AudioWriter, StreamResampler
from hubsep.errors import AudioError

from ..results import SourceBlock
from .offsets import without_offset
from .scores import Scores
from .voices import VoiceDetector


Waveform = NDArray[np.float32]

# Zeros that follow the sources into the resampler, to be cut off again: rates that do not divide each other lose up to
# one sample on the way to the model and one on the way back.
_MARGIN = 64

STREAMED = "separate_file(...) writes the sources to files and stream(...) gives them block by block, of any length"


class Track:
    """The state of one recording in one call.

    Args:
        reader: of the recording.
        model_rate: sampling rate of the model in Hz.
        num_sources: sources that come from the model.
        segment: samples of a segment at the model's rate; a constant is found in the first one.
        residual: whether the residual follows as one more source.
        unordered: whether the model's sources come in no order; their scores then say how many there are.
        voices: tells whether a source is a voice; then only voices count.
        mixture_shares: how much of the mixture belongs to each source, (num_sources,); nothing by default.
        exact: whether what is cut out of the mixture, and the residual, come in float64.
    """

    def __init__(
        self,
        reader: AudioReader,
        model_rate: int,
        num_sources: int,
        segment: int,
        *,
        residual: bool,
        unordered: bool = False,
        voices: VoiceDetector | None = None,
        mixture_shares: NDArray[np.float32] | None = None,
        exact: bool = False,
    ):
        self.reader = reader
        self.sampling_rate: int = reader.sampling_rate
        self.channels: int = reader.channels
        self.total_samples: int | None = reader.claimed_samples
        self.done_samples = 0
        self.model_rate = model_rate
        self.num_sources = num_sources
        self.residual = residual
        self._segment = segment
        self._offset = np.zeros((self.channels, 1), np.float32)
        self._mixture_shares = mixture_shares
        self._dtype: type[np.floating] = np.float64 if exact else np.float32
        self._waiting: deque[NDArray[np.floating]] = deque()
        self._backward = StreamResampler(model_rate, self.sampling_rate, num_sources * self.channels)
        self._ahead = np.zeros((num_sources, self.channels, 0), np.float32)
        self._scores = Scores(num_sources, self.sampling_rate, residual=residual, unordered=unordered, voices=voices)

    def blocks(self) -> Iterator[Tensor]:
        """The mixture at the model's rate, less its constant, (channels, samples) each, and at least one sample."""

        def tell(offset: Tensor) -> None:
            self._offset = offset.numpy()

        yield from resampled_blocks(self.reader, self.model_rate, self._segment, self._waiting.append, tell)

    def restore(self, sources: Tensor, presence: Tensor | None, *, last: bool) -> NDArray[np.floating]:
        """Brings a block of sources back to the recording's rate and adds the residual.

        Args:
            sources: (num_sources, channels, samples) at the model's rate.
            presence: logits that each source is in this segment, (num_sources,), of models that say so.
            last: whether these are the last samples; then the total is exactly the recording's.

        Returns:
            (num_sources, channels, samples), with the residual one source more.
        """
        flat = sources.reshape(-1, sources.shape[-1]).numpy()
        parts = [self._ahead, self._unflat(self._backward.push(flat))]
        if last:
            margin = np.zeros((flat.shape[0], _MARGIN), np.float32)
            parts += [self._unflat(self._backward.push(margin)), self._unflat(self._backward.finish())]
        restored = np.concatenate(parts, axis=-1)
        mixture = self._mixture(None if last else restored.shape[-1]).astype(self._dtype, copy=False)
        samples = mixture.shape[-1]
        restored, self._ahead = restored[..., :samples], restored[..., samples:].copy()
        if self._mixture_shares is not None:
            restored = restored + self._mixture_shares[:, None, None] * mixture
        if self.residual:
            rest = mixture - restored.sum(axis=0, dtype=np.float64)
            restored = np.concatenate([restored, rest[None].astype(self._dtype, copy=False)])
        self.done_samples += samples
        heard = restored.astype(np.float32, copy=False)
        if self.residual and self._offset.any():
            heard = np.concatenate([heard[:-1], heard[-1:] - self._offset])
        self._scores.add((mixture - self._offset).astype(np.float32, copy=False), heard, presence)
        return restored

    def check_whole(self) -> None:
        """Refuses to hold what was read so far in memory as a whole, if the limits of a file do not allow it."""
        self.reader.check_whole(self.done_samples, STREAMED)

    def entry(self, label: str, audio: Waveform) -> SourceBlock:
        """What is handed out of one source."""
        entry: SourceBlock = {"label": label, "audio": audio, "sampling_rate": self.sampling_rate}
        if self.reader.layout is not None:
            entry["layout"] = self.reader.layout
        return entry

    def writers(self, paths: Sequence[Path], **form: Any) -> list[AudioWriter]:
        """Writers of files with the recording's rate and channels, in folders that are made.

        Raises:
            AudioError: if a folder or a file cannot be made.
        """
        for path in paths:
            try:
                path.parent.mkdir(parents=True, exist_ok=True)
            except OSError as error:
                raise AudioError(f"{path.parent} cannot be made a folder: {error.strerror}; choose another") from error
        form |= {"samples": self.total_samples, "layout": self.reader.layout, "notes": self.reader.notes}
        return [AudioWriter(path, self.sampling_rate, self.channels, **form) for path in paths]

    def scores(self) -> list[float]:
        """For each source, from 0 to 1, whether it is there at all; see `scores.py`."""
        return self._scores.values()

    def _unflat(self, flat: Waveform) -> Waveform:
        return flat.reshape(self.num_sources, self.channels, flat.shape[-1])

    def _mixture(self, samples: int | None) -> NDArray[np.floating]:
        """Takes at most `samples` of what waits, or all of it."""
        taken: list[NDArray[np.floating]] = [np.zeros((self.channels, 0), np.float32)]
        missing = samples
        while self._waiting and missing != 0:
            block = self._waiting.popleft()
            if missing is not None:
                if block.shape[1] > missing:
                    self._waiting.appendleft(block[:, missing:])
                    block = block[:, :missing]
                missing -= block.shape[1]
            taken.append(block)
        return np.concatenate(taken, axis=1)


def resampled_blocks(
    reader: AudioReader,
    model_rate: int,
    segment: int,
    keep: Callable[[NDArray[np.floating]], None] | None = None,
    tell: Callable[[Tensor], None] | None = None,
) -> Iterator[Tensor]:
    """A recording at the model's rate, (channels, samples) each, and at least one sample of it; closes the reader.

    Args:
        reader: of the recording.
        model_rate: in Hz.
        segment: samples at that rate in which a constant is found, to be taken off; a second at least.
        keep: takes each block as it was read.
        tell: takes the constant, (channels, 1).
    """
    forward = StreamResampler(reader.sampling_rate, model_rate, reader.channels)
    first = max(-(-segment * reader.sampling_rate // model_rate), reader.sampling_rate)

    def read() -> Iterator[Tensor]:
        for block in reader.exact_blocks():
            if keep is not None:
                keep(block)
            yield torch.from_numpy(block.astype(np.float32, copy=False))

    empty = True
    with reader:
        for block in without_offset(read(), first, reader.sampling_rate, tell):
            resampled = forward.push(block.numpy())
            empty = empty and resampled.shape[1] == 0
            yield torch.from_numpy(resampled)
    resampled = forward.finish()
    if empty and resampled.shape[1] == 0:
        resampled = np.zeros((reader.channels, 1), np.float32)
    yield torch.from_numpy(resampled)


class Tape:
    """A waveform that grows with what is written to it.

    Memory holds the channels of a sample side by side, so that growing is `realloc`, which moves no bytes for large
    arrays on Linux. Joining a list of blocks at the end took 1.7 times the memory, measured on 20 minutes of stereo.
    """

    def __init__(self, channels: int):
        self._held = np.empty((0, channels), np.float32)
        self._samples = 0

    def write(self, block: Waveform) -> None:
        """Appends (channels, n)."""
        start, end = self._samples, self._samples + block.shape[1]
        if end > self._held.shape[0]:
            self._held.resize((max(end, self._held.shape[0] * 9 // 8), block.shape[0]), refcheck=False)
        self._held[start:end] = block.T
        self._samples = end

    def waveform(self) -> Waveform:
        """All that was written, (channels, samples); nothing can be written any more."""
        self._held.resize((self._samples, self._held.shape[1]), refcheck=False)
        return self._held.T


__all__ = ["Tape", "Track", "Waveform", "resampled_blocks"]
