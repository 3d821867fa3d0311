# SPDX-License-Identifier: Apache-2.0
"""Encoded recordings, read with libsndfile or, where it cannot, with PyAV.

Decisions: what a file contains decides how it is read, never its name. Files are read forwards only, because soundfile
would seek after each block and MP3 decoders answer a seek with other samples. Whatever a decoder raises on a damaged
file arrives as an AudioError.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from io import FileIO
from typing import Any, BinaryIO

import numpy as np
import soundfile as sf
from numpy.typing import NDArray

from ..errors import AudioError
from . import claims, mp3
from .av import AVSource
from .chunks import flac_stop, w64_stop
from .counts import counted_samples, flac_samples, written_count
from .decoding import Patched, Source, Window, decoding
from .layout_headers import masked_floats, read_layout
from .limits import AudioLimits
from .mp3_frames import id3_size
from .notes import read_notes
from .ogg import OggLink, OggPages, read_pages
from .overrun import overrun
from .unfinished import UNFINISHED, even_chunks, finished_header, open_ended


MPEG_SUBTYPES = frozenset({"MPEG_LAYER_I", "MPEG_LAYER_II", "MPEG_LAYER_III"})
LOSSY_SUBTYPES = MPEG_SUBTYPES | {"VORBIS", "OPUS"}
DEEP_SUBTYPES = frozenset({"PCM_32", "ALAC_32", "DOUBLE"})  # whose samples float32 would round
MP3_SLACK_SAMPLES = 2 * 1_152  # headers that count themselves, and decoders that drop a first incomplete frame
TAILS = {"FLAC": flac_stop, "W64": w64_stop}  # where libsndfile does not see for itself that the sound is over
HEAD_BYTES = 400
MAGICS = {  # what a file begins with, and PyAV's name of its format
    b"#!AMR": "amr", b"\x30\x26\xb2\x75\x8e\x66\xcf\x11": "asf", b"FLV\x01": "flv", b"\0\0\x01\xba": "mpeg",
    b"\x0b\x77": "ac3", b"\x7f\xfe\x80\x01": "dts", b"MAC ": "ape", b"wvpk": "wv", b"TTA1": "tta",
}  # fmt: skip
FLOATS = b"\3\0"  # the tag of their format
UNKNOWN_LENGTH = 2**62  # libsndfile's largest number stands for "not known"


def open_file(file: Any, name: str, limits: AudioLimits) -> Source:
    """Opens an encoded recording from a seekable binary file, which is closed with it.

    Raises:
        AudioError: if it is no recording, or one that cannot be read.
    """
    try:
        with decoding(name):
            return _open(file, name, limits)
    except BaseException:
        file.close()
        raise


def _open(file: Any, name: str, limits: AudioLimits) -> Source:
    if file.seek(0, os.SEEK_END) == 0:
        raise AudioError(f"{name}: the file is empty")
    file.seek(0)
    head = file.read(HEAD_BYTES)
    if tag := id3_size(head[:10]):  # which may stand before any of them
        file.seek(tag)
        behind = file.read(HEAD_BYTES)
        head = behind if _demuxer_for(behind) in ("aac", "ac3") else head
    links, cut = read_pages(file) if head[:4] == b"OggS" else OggPages([], None)
    demuxer = _demuxer_for(head)
    if demuxer is not None:
        if claims.video_is_cut(file):
            cut = "its outermost element reaches behind the end of the file"
        if demuxer == "mp4" and not claims.has_index(file):
            raise AudioError(
                f"{name}: cannot be decoded; the recording was never finished or is cut short: its index (moov), "
                "which is written last, is missing"
            )
        file.seek(0)
        return AVSource(file, name, demuxer, limits, cut=cut)
    if len(links) > 1:
        return ChainedSource(file, name, links, limits, cut=cut)
    return FileSource(file, name, limits, cut=cut)


class _Forward(sf.SoundFile):
    def seekable(self) -> bool:
        return False


class FileSource:
    """What libsndfile reads."""

    def __init__(self, file: Any, name: str, limits: AudioLimits, *, cut: str | None = None):
        self.name = name
        self._file = self._seen = file
        patches = finished_header(file)
        cut = UNFINISHED if patches else cut
        if (count := flac_samples(file)) is not None and count.there > count.counted:
            patches, cut = count.patches, f"its header counts {count.counted} samples, and it holds {count.there}"
        stop = None
        if not patches:
            patches, fault, stop = overrun(file)
            cut = cut or fault
        patches |= open_ended(file) | even_chunks(file)
        if (tag := masked_floats(file)) is not None:
            patches[tag] = FLOATS
        whole = Patched(file, patches) if patches else file
        self._sound = self._open(whole if stop is None else Window(whole, stop=stop))
        self.format: str | None = "WAV" if self._sound.format == "WAVEX" else self._sound.format
        self.subtype: str | None = self._sound.subtype
        self.sampling_rate = limits.check_sampling_rate(self._sound.samplerate, name)
        limits.check_channels(self._sound.channels, name)
        self.channels: int = self._sound.channels
        self.lossy = self.subtype in LOSSY_SUBTYPES
        self._dtype = "float64" if self.subtype in DEEP_SUBTYPES else "float32"
        self._left: int | None = None
        self.slack_samples = 0
        self.cut = cut
        self.claimed_samples: int | None = None
        position = file.tell()
        self.layout, self._order = read_layout(file, self.format, self.subtype, self.channels)
        self.notes = read_notes(file, self.format, self._sound.copy_metadata(), self.sampling_rate)
        file.seek(position)
        if self.format in TAILS:
            self._leave_tail(TAILS[self.format])
        if self.format == "MP3":
            self._measure_mp3()
        else:
            self._measure()

    def read(self, samples: int) -> NDArray[np.floating]:
        """The next (channels, at most `samples`)."""
        with decoding(self.name):
            try:
                # One more at the end: libsndfile looks at what follows the last sample only when it is asked for more.
                count = samples + (samples == self._left)
                frames = self._sound.read(count, dtype=self._dtype, always_2d=True)
            finally:
                self._check_file()
        if self._left is not None:
            self._left -= len(frames)
        return np.ascontiguousarray((frames if self._order is None else frames[:, self._order]).T)

    def close(self) -> None:
        """Closes the file."""
        self._sound.close()
        self._file.close()

    def _open(self, file: Any) -> sf.SoundFile:
        """Opens a real file by its descriptor, which spares a call into Python for each few kB."""
        self._seen = file
        file.seek(0)
        real = isinstance(file, FileIO) and os.name == "posix"
        with decoding(self.name):
            try:
                return _Forward(file.fileno() if real else file, closefd=False)
            finally:
                self._check_file()

    def _check_file(self) -> None:
        if isinstance(self._seen, Window | Patched):
            self._seen.check()

    def _leave_tail(self, stop_of: Callable[[BinaryIO], int]) -> None:
        position = self._seen.tell()
        stop, size = stop_of(self._seen), self._seen.seek(0, os.SEEK_END)
        self._seen.seek(position)
        if stop < size:
            self._sound.close()
            self._sound = self._open(Window(self._seen, stop=stop))
        self._left = self._sound.frames

    def _measure(self) -> None:
        estimated = self.subtype in MPEG_SUBTYPES  # within WAVE, by libsndfile
        frames = 0 if estimated else self._sound.frames
        self.claimed_samples = frames if 0 < frames < UNKNOWN_LENGTH else None
        self.slack_samples = MP3_SLACK_SAMPLES if estimated else 0
        position = self._file.tell()
        sizes = claims.missing_share(self._file)
        counted = counted_samples(self._file, frames, self.channels)
        self._file.seek(position)
        log = self._sound.extra_info
        written = written_count(self._sound.format, log)
        if written is not None and written > frames:
            counted = written
        if sizes is not None:
            declared, there = sizes
            self.claimed_samples = frames * declared // max(there, 1)
            self.cut = f"it claims {declared} bytes of audio and holds {there}"
        elif self.cut is None and counted is not None:
            self.claimed_samples = counted
            self.cut = None if estimated else f"it claims {counted} samples and holds {frames}"
        elif self.cut is None and self._sound.format == "VOC" and "truncated" in log:
            self.cut = "its last block is cut"

    def _measure_mp3(self) -> None:
        position = self._file.tell()
        length = mp3.measure(self._file)
        self._file.seek(position)
        if length is None:
            return
        if length.header:
            self._sound.close()
            self._sound = self._open(Window(self._file, length.start, prefix=length.header))
        self.slack_samples = 0 if length.exact else MP3_SLACK_SAMPLES
        self.claimed_samples = self._sound.frames if length.counted_samples is None else length.counted_samples
        if length.lost_frames:
            self.cut = f"its header counts {length.lost_frames} frames more than there are"
        if self.claimed_samples > self._sound.frames + 2 * MP3_SLACK_SAMPLES:
            raise AudioError(
                f"{self.name}: {self.claimed_samples} samples of {self.subtype} at a changing bitrate, of which only "
                f"{self._sound.frames} would be read; convert it to wav or flac"
            )


class ChainedSource:
    """Ogg recordings that follow each other in one file, of which libsndfile would read the first alone.

    Attributes:
        claimed_samples: what all of them promise; None until the last is begun.
    """

    slack_samples = 0
    lossy = True

    def __init__(self, file: Any, name: str, links: Sequence[OggLink], limits: AudioLimits, *, cut: str | None = None):
        self.name, self.cut, self._file, self._limits = name, cut, file, limits
        self._links, self._claimed, self._left = iter(links), 0, len(links)
        self._link = first = self._open(next(self._links))
        self.format, self.subtype = first.format, first.subtype
        self.sampling_rate, self.channels, self.layout = first.sampling_rate, first.channels, first.layout
        self.notes = first.notes

    def read(self, samples: int) -> NDArray[np.floating]:
        """The next (channels, at most `samples`)."""
        block = self._link.read(samples)
        while block.shape[1] == 0 and (link := next(self._links, None)) is not None:
            try:
                following = self._open(link)
            except AudioError:
                if self.cut is None:
                    raise
                continue  # no more than its beginning is there, as was said
            self._link.close()
            self._link = following
            if (following.channels, following.sampling_rate) != (self.channels, self.sampling_rate):
                raise AudioError(
                    f"{self.name}: the audio changes from {self.channels} channels at {self.sampling_rate} Hz to "
                    f"{following.channels} at {following.sampling_rate} Hz; split the file there"
                )
            block = following.read(samples)
        return block

    def close(self) -> None:
        """Closes the file."""
        self._link.close()
        self._file.close()

    @property
    def claimed_samples(self) -> int | None:
        return None if self._left else self._claimed

    def _open(self, link: OggLink) -> FileSource:
        source = FileSource(Window(self._file, link.start, link.stop), self.name, self._limits)
        self._left -= 1
        self._claimed += source.claimed_samples or 0
        return source


def _demuxer_for(head: bytes) -> str | None:
    """PyAV's name of a format that libsndfile cannot read; picked here so that ffmpeg never opens a playlist."""
    if head[4:8] in claims.MP4_BOXES:
        return "mp4"
    if head[:4] == b"\x1a\x45\xdf\xa3":
        return "matroska"
    if head[:4] == b"RIFF" and head[8:12] == b"AVI ":
        return "avi"
    if head[:4] == b"OggS" and head[28:35] not in (b"\x01vorbis", b"OpusHea"):
        return "ogg"
    if head[:1] == b"\x47" == head[188:189] == head[376:377]:
        return "mpegts"
    if len(head) > 1 and head[0] == 0xFF and head[1] & 0xF6 == 0xF0:
        return "aac"
    return next((name for magic, name in MAGICS.items() if head.startswith(magic)), None)


__all__ = ["LOSSY_SUBTYPES", "ChainedSource", "FileSource", "open_file"]
