# SPDX-License-Identifier: Apache-2.0
"""Reading recordings block by block, and the other names of hubsep's audio layer.

A header is never believed about size: nothing is allocated from the number of samples it claims, and at the end what
it claimed is compared with what was decoded. Samples are float32 at the recording's own scale; nothing is normalised,
mixed down or cut.
"""

from __future__ import annotations

import warnings
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal

import numpy as np
from numpy.typing import NDArray

from .audio_excerpts import Excerpt
from .audio_files import Source
from .audio_layouts import Layout
from .audio_limits import AudioLimits
from .audio_notes import Notes
from .audio_resampling import StreamResampler, Waveform, resample
from .audio_sources import open_source
from .audio_writer import AudioWriter, kept_subtype, write_audio
from .errors import AudioError


if TYPE_CHECKING:
    from .audio_sources import AudioInput

OnShort = Literal["raise", "warn"]

BLOCK_BY_BLOCK = (
    "read it block by block with open_audio(...).blocks(), a part of it with offset_s= and duration_s=, or allow more "
    "with limits=AudioLimits(max_values=...)"
)
SPLIT_IT = "split it into shorter recordings"


class AudioReader:
    """A recording that is read once, from the start to the end; a context manager that closes it.

    Attributes:
        name: what to call it: the file name without folder and ending, "audio" for what has none.
        sampling_rate: in Hz.
        channels: of every block.
        claimed_samples: how many there should be, None where the file does not say; it may be wrong.
        format: "WAV", "FLAC", ..., None for arrays.
        subtype: how samples are stored: "PCM_16", "FLOAT", ..., None for arrays.
        layout: which channel is which loudspeaker; they come in its order, whatever that of the file is. None where
            the file does not say, and for one or two channels that are what they are taken for.
        notes: what the file says beside the samples: its time line, tags, cover.
    """

    def __init__(self, source: Source, on_short: OnShort, limits: AudioLimits):
        self._source, self._on_short, self._limits = source, on_short, limits
        self._started = False
        self.name = source.name
        self.sampling_rate = source.sampling_rate
        self.channels = source.channels
        self.claimed_samples = source.claimed_samples
        self.format = source.format
        self.subtype = source.subtype
        self.layout = source.layout
        self.notes = source.notes

    def __enter__(self) -> AudioReader:
        return self

    def __exit__(self, kind: type[BaseException] | None, *details: object) -> None:
        self.close()

    def close(self) -> None:
        """Closes the recording; may be called twice."""
        self._source.close()

    def blocks(self, samples: int = 65_536) -> Iterator[Waveform]:
        """The recording as float32 blocks of (channels, at most `samples`), each a copy.

        Raises:
            AudioError: if it cannot be decoded, holds NaN, infinity or absurd peaks, is empty, or (as `on_short` says)
                ends before the samples it claims.
        """
        return (block.astype(np.float32, copy=False) for block in self.exact_blocks(samples))

    def exact_blocks(self, samples: int = 65_536) -> Iterator[NDArray[np.floating]]:
        """The same, as float64 where float32 would round: recordings of 32-bit integers, or of float64.

        Raises:
            AudioError: if it cannot be decoded, holds NaN, infinity or absurd peaks, is empty, or (as `on_short` says)
                ends before the samples it claims.
        """
        if samples < 1:
            raise AudioError(f"a block must have at least one sample, got {samples}")
        if self._started:
            raise AudioError(f"{self.name}: a reader reads once; open the recording again")
        self._started = True
        done = 0
        while (block := self._source.read(samples)).shape[1]:
            self._limits.check_samples(block, done, self.name, lossy=self._source.lossy)
            done += block.shape[1]
            yield np.array(block, dtype=np.float64 if block.dtype == np.float64 else np.float32, order="C")
        self._check_length(done)

    def whole(self, way_out: str = BLOCK_BY_BLOCK) -> Waveform:
        """The whole recording, (channels, samples).

        Args:
            way_out: what the error says to do where it is too long for that.

        Raises:
            AudioError: as `blocks` does, and if it is longer than the limits allow; an array in memory may be.
        """
        parts: deque[Waveform] = deque()
        claimed = (self.claimed_samples or 0) - self._source.slack_samples
        hopeless = self._on_short == "raise" and claimed * self.channels > self._limits.max_values
        done = 0
        for block in self.blocks():
            done += block.shape[1]
            self.check_whole(done, way_out)
            if not hopeless or self.format is None:  # else it ends with an error, and which shows at the end
                parts.append(block)
        waveform = np.empty((self.channels, done), np.float32)
        at = 0
        while parts:  # each is let go of as soon as it is copied
            block = parts.popleft()
            waveform[:, at : at + block.shape[1]] = block
            at += block.shape[1]
        return waveform

    def check_whole(self, samples: int, way_out: str) -> None:
        """Refuses to hold so many samples of a file in memory, if the limits do not allow it."""
        if self.format is not None:
            self._limits.check_whole(samples, self.channels, self.name, way_out)

    def _check_length(self, samples: int) -> None:
        if samples == 0:
            raise AudioError(f"{self.name}: the recording holds no samples")
        claimed = self.claimed_samples
        if claimed is not None and samples + self._source.slack_samples < claimed and self._source.cut is None:
            evidence = f"it claims {claimed} samples and holds {samples}"
            warnings.warn(_cut_short(self.name, evidence, self._on_short), UserWarning, stacklevel=4)


def _cut_short(name: str, evidence: str, on_short: OnShort) -> str:
    """What to warn of, if nothing is to be raised."""
    found = f"{name}: the recording is cut short: {evidence}"
    if on_short == "raise":
        raise AudioError(f'{found}; pass on_short="warn" to use what is there')
    return found


def open_audio(
    source: AudioInput,
    *,
    sampling_rate: int | None = None,
    on_short: OnShort = "raise",
    limits: AudioLimits | None = None,
    offset_s: float = 0.0,
    duration_s: float | None = None,
) -> AudioReader:
    """Opens a recording, or a part of it.

    Args:
        source: a path, https URL, bytes, binary file object, array or tensor (channels, samples) or (samples,), a dict
            with "array" or "raw" and "sampling_rate", or a torchcodec decoder. A file object is read from where it
            stands and not closed.
        sampling_rate: of a bare array, in Hz; every other kind says its own.
        on_short: "raise" or "warn" when a file holds less than it claims.
        limits: bounds on what is read.
        offset_s: where to begin, in seconds; what comes before is decoded and dropped.
        duration_s: how many seconds to read at most; where there are fewer, those, with a warning.

    Raises:
        AudioError: if it is no recording, or one that cannot be read; when it is read, if it ends before `offset_s`.
    """
    if on_short not in ("raise", "warn"):
        raise AudioError(f'on_short must be "raise" or "warn", got {on_short!r}')
    limits = limits or AudioLimits()
    opened = open_source(source, sampling_rate, limits)
    if offset_s or duration_s is not None:
        try:
            opened = Excerpt(opened, offset_s, duration_s)
        except BaseException:
            opened.close()
            raise
    reader = AudioReader(opened, on_short, limits)
    if (cut := reader._source.cut) is not None:
        try:
            warnings.warn(_cut_short(reader.name, cut, on_short), UserWarning, stacklevel=2)
        except BaseException:
            reader.close()
            raise
    return reader


@dataclass
class Recording:
    """A recording in memory: `waveform` is (channels, samples) float32, the rest is as in `AudioReader`."""

    waveform: Waveform
    sampling_rate: int
    format: str | None = None
    subtype: str | None = None
    name: str = "audio"
    layout: Layout | None = None
    notes: Notes = field(default_factory=Notes)


def read_audio(
    source: AudioInput,
    *,
    sampling_rate: int | None = None,
    on_short: OnShort = "raise",
    limits: AudioLimits | None = None,
    way_out: str = BLOCK_BY_BLOCK,
) -> Recording:
    """Reads a whole recording; the arguments and errors are those of `open_audio` and `AudioReader.whole`."""
    with open_audio(source, sampling_rate=sampling_rate, on_short=on_short, limits=limits) as reader:
        waveform = reader.whole(way_out)
        stored = (reader.format, reader.subtype, reader.name)
        return Recording(waveform, reader.sampling_rate, *stored, reader.layout, reader.notes)


__all__ = [
    "SPLIT_IT",
    "AudioLimits",
    "AudioReader",
    "AudioWriter",
    "Layout",
    "Notes",
    "OnShort",
    "Recording",
    "StreamResampler",
    "kept_subtype",
    "open_audio",
    "read_audio",
    "resample",
    "write_audio",
]
