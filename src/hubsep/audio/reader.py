# SPDX-License-Identifier: Apache-2.0
"""Reading recordings block by block, and the other names of hubsep's audio layer.

A header is never believed about size: nothing is allocated from the number of samples it claims, and at the end what
it claimed is compared with what was decoded. Samples are float32 at the recording's own scale; nothing is normalised,
mixed down or cut.

Also here: a part of a recording: from some second on, for some seconds.

Decisions: what comes before is decoded and dropped block by block, because decoders of lossy formats answer a seek
with other samples. To ask for what lies behind the end is an error; to ask for more than there is gives what there is,
and a warning that says so.
"""

from __future__ import annotations

import warnings
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray

from ..errors import AudioError
from .decoding import Source
from .layouts import Layout
from .limits import AudioLimits
from .notes import Notes
from .resampling import StreamResampler, Waveform, resample
from .sources import open_source
from .writer import AudioWriter, kept_subtype, write_audio


if TYPE_CHECKING:
    from .sources import AudioInput


SKIPPED_AT_ONCE = 65_536
LONGEST_SECONDS = 10**9  # 30 years


class Excerpt:
    """A part of a recording, read like a whole one.

    Args:
        source: the recording, not yet read.
        offset_s: where the part begins, in seconds.
        duration_s: how long it is at most, in seconds; None for all that follows.

    Raises:
        AudioError: if these are no lengths of time; when it is read, if it begins behind the end.
    """

    def __init__(self, source: Source, offset_s: float, duration_s: float | None):
        self._source, self._offset_s, self._duration_s = source, offset_s, duration_s
        self.name, self.format, self.subtype = source.name, source.format, source.subtype
        self.sampling_rate, self.channels, self.layout = source.sampling_rate, source.channels, source.layout
        self.slack_samples, self.cut, self.lossy = source.slack_samples, source.cut, source.lossy
        self._to_skip = self._samples("offset_s", offset_s)
        self.notes = source.notes.later(self._to_skip)
        self._wanted = self._left = None if duration_s is None else self._samples("duration_s", duration_s)
        if self._left == 0:
            raise AudioError(f"duration_s is {duration_s}, which is not one sample at {self.sampling_rate} Hz")
        self._empty = True

    def _samples(self, name: str, seconds: Any) -> int:
        number = isinstance(seconds, int | float) and not isinstance(seconds, bool)
        if not number or not 0 <= seconds <= LONGEST_SECONDS:
            raise AudioError(f"{name} must be a number of seconds, 0 to {LONGEST_SECONDS}, got {seconds!r}")
        return round(seconds * self.sampling_rate)

    @property
    def claimed_samples(self) -> int | None:
        claimed, skipped = self._source.claimed_samples, self._samples("offset_s", self._offset_s)
        if claimed is None or claimed <= skipped:
            return None
        return claimed - skipped if self._wanted is None else min(self._wanted, claimed - skipped)

    def read(self, samples: int) -> NDArray[np.floating]:
        """The next (channels, at most `samples`) of the part."""
        if self._left == 0:
            return np.zeros((self.channels, 0), np.float32)
        if self._to_skip:
            self._skip()
        block = self._source.read(samples if self._left is None else min(samples, self._left))
        if self._empty and self._offset_s and block.shape[1] == 0:
            self._beyond(self._samples("offset_s", self._offset_s))
        self._empty = False
        if self._left is not None:
            if block.shape[1] == 0 and self._left > 0:
                self._warn(self._left)
                self._left = 0
            self._left -= block.shape[1]
        return block

    def _skip(self) -> None:
        skipped = 0
        while skipped < self._to_skip:
            block = self._source.read(min(SKIPPED_AT_ONCE, self._to_skip - skipped))
            if block.shape[1] == 0:
                self._beyond(skipped)
            skipped += block.shape[1]
        self._to_skip = 0

    def _warn(self, missing: int) -> None:
        seconds = missing / self.sampling_rate
        said = f"{self.name}: the recording ends {seconds:.2f} s before the {self._duration_s:g} s that were asked for"
        warnings.warn(said, UserWarning, stacklevel=4)

    def _beyond(self, samples: int) -> None:
        there = f"the recording is {samples / self.sampling_rate:.2f} s long"
        raise AudioError(f"{self.name}: offset_s is {self._offset_s:g} s, but {there}; pass a smaller one")

    def close(self) -> None:
        """Closes the recording."""
        self._source.close()


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
        claimed = self._source.claimed_samples
        if claimed is not None and samples + self._source.slack_samples < claimed and self._source.cut is None:
            evidence = f"it claims {claimed} samples and holds {samples}"
            warnings.warn(_cut_short(self.name, evidence, self._on_short), UserWarning, stacklevel=4)


def _cut_short(name: str, evidence: str, on_short: OnShort) -> str:
    """What to warn of, if nothing is to be raised."""
    message = f"{name}: the recording is cut short: {evidence}"
    if on_short == "raise":
        raise AudioError(f'{message}; pass on_short="warn" to use what is there')
    return message


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
    if not isinstance(on_short, str) or on_short not in ("raise", "warn"):
        raise AudioError(f'on_short must be "raise" or "warn", got {on_short!r}')
    limits = limits or AudioLimits()
    opened = open_source(source, sampling_rate, limits)
    from_start = isinstance(offset_s, int | float) and offset_s == 0
    if duration_s is not None or not from_start:
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
    "Excerpt",
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
