# SPDX-License-Identifier: Apache-2.0
"""The audio of m4a, aac, mp4, mkv, webm, wma and other files, read with PyAV (`pip install 'hubsep[video]'`).

The demuxer is named by the caller and the file is handed over as an object, so ffmpeg never guesses a format and opens
no other file, playlist or address. The first audio stream is read, unless the caller asks for another.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import chain
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from ..errors import AudioError
from .decoding import decoding
from .layouts import AMBISONIC_SN3D, Layout, ordered
from .limits import AudioLimits
from .mp4_layouts import read_boxes, without_layouts
from .notes import Notes, plain_tags
from .tables import check_tables


KINDS = {  # of files, by the names of their formats
    "aac": "AAC (aac)", "ac3": "Dolby Digital (ac3)", "amr": "AMR (amr)", "ape": "Monkey's Audio (ape)",
    "asf": "Windows Media (wma)", "avi": "AVI (avi)", "dts": "DTS (dts)", "flv": "Flash video (flv)",
    "matroska": "Matroska and WebM (mkv, webm)", "mp4": "MP4 and QuickTime (m4a, mp4, mov)",
    "mpeg": "MPEG video (mpg)", "mpegts": "MPEG transport streams (ts)", "ogg": "Ogg of this kind (ogg, spx)",
    "tta": "True Audio (tta)", "wv": "WavPack (wv)",
}  # fmt: skip
ESTIMATED = frozenset({"aac", "ac3", "amr", "dts", "flv", "mpeg", "mpegts"})  # whose lengths FFmpeg guesses at
SLACK_SECONDS = 0.25  # durations in containers are rounded, and count what decoders cut off


class AVSource:
    """What PyAV reads."""

    def __init__(
        self,
        file: BinaryIO,
        name: str,
        container: str,
        limits: AudioLimits,
        *,
        cut: str | None = None,
        stream: int = 0,
    ):
        try:
            import av
        except ImportError as error:
            raise AudioError(
                f"{name}: reading {KINDS.get(container, container)} needs PyAV: pip install "
                "'hubsep[video]'; or convert the recording to wav, flac, ogg or mp3"
            ) from error

        self.name = name
        self.cut = cut
        self._file, self._boxes = file, check_tables(file, name) if container == "mp4" else []
        file.seek(0)
        self._decoding = decoding
        self._ready: list[NDArray[np.float32]] = []
        with decoding(name):
            read = without_layouts(file, self._boxes) if self._boxes else file
            self._container = av.open(read, format=container, mode="r", metadata_errors="replace")
        try:
            self._describe(container, limits, stream)
        except BaseException:
            self.close()
            raise

    def read(self, samples: int) -> NDArray[np.floating]:
        """The next (channels, at most `samples`)."""
        there = sum(part.shape[1] for part in self._ready)
        while there < samples and (part := next(self._frames, None)) is not None:
            self._ready.append(part)
            there += part.shape[1]
        joined = np.concatenate(self._ready, axis=1) if self._ready else np.zeros((self.channels, 0), np.float32)
        self._ready = [joined[:, samples:]]
        return joined[:, :samples]

    def close(self) -> None:
        """Closes the file."""
        self._container.close()
        self._file.close()

    def _describe(self, container: str, limits: AudioLimits, number: int) -> None:
        """Rate and channels are those of the first frame: AAC can hold more than its header says."""
        streams = self._container.streams.audio
        stream = streams[number] if number < len(streams) else None
        if stream is None:
            which = f"only {len(streams)} of the {number + 1} audio streams needed" if streams else "no audio stream"
            raise AudioError(f"{self.name}: the file has {which}")
        if stream.codec_context is None:
            raise AudioError(f"{self.name}: cannot be decoded; it is damaged or its codec is not known")
        frames = self._container.decode(stream)
        with self._decoding(self.name):
            first = next(frames, None)
        if first is None:
            raise AudioError(f"{self.name}: the recording holds no samples")
        self.format: str | None = container.upper()
        self.subtype: str | None = stream.codec_context.name.upper()
        self.lossy = not stream.codec_context.name.startswith(("pcm", "flac", "alac"))
        self.sampling_rate = limits.check_sampling_rate(first.sample_rate, self.name)
        self.channels: int = first.layout.nb_channels
        limits.check_channels(self.channels, self.name)
        self.layout, self._order = _layout_of(first.layout)
        if self.layout is None and self._boxes and self.subtype.startswith("PCM"):
            position = self._file.tell()
            self.layout, self._order = read_boxes(self._file, self._boxes, self.channels)
            self._file.seek(position)
        self.notes = Notes(plain_tags({**stream.metadata, **self._container.metadata}))
        self.slack_samples = round(SLACK_SECONDS * self.sampling_rate)
        self.claimed_samples = self._claimed(stream, container)
        self._frames = self._decode(chain([first], frames), first.layout)

    def _claimed(self, stream: Any, container: str) -> int | None:
        """In Matroska only the whole file has a duration, and the audio may honestly end before the video does."""
        if container in ESTIMATED:
            return None
        if stream.duration is not None and stream.time_base is not None:
            return round(stream.duration * stream.time_base * self.sampling_rate)
        if self._container.duration is not None and len(self._container.streams) == 1:
            return round(self._container.duration / 1_000_000 * self.sampling_rate)
        return None

    def _decode(self, frames: Iterable[Any], layout: Any) -> Iterator[NDArray[np.float32]]:
        import av

        # samples side by side: PyAV 18.1 reads planes of eight channels and more from where there are none
        resampler = av.AudioResampler(format="flt", layout=layout, rate=self.sampling_rate)
        with self._decoding(self.name):
            for frame in self._until_cut(frames):
                if frame.sample_rate != self.sampling_rate or frame.layout.nb_channels != self.channels:
                    raise AudioError(
                        f"{self.name}: the audio changes from {self.channels} channels at {self.sampling_rate} Hz to "
                        f"{frame.layout.nb_channels} at {frame.sample_rate} Hz; split the file there"
                    )
                for converted in resampler.resample(frame):
                    samples = converted.to_ndarray().reshape(-1, self.channels)
                    yield np.ascontiguousarray((samples if self._order is None else samples[:, self._order]).T)
            if hasattr(self._file, "check"):
                self._file.check()

    def _until_cut(self, frames: Iterable[Any]) -> Iterator[Any]:
        """The frames; of a file that is known to be cut, without the error over the last one."""
        import av

        try:
            yield from frames
        except av.InvalidDataError:
            if self.cut is None:
                raise


def _layout_of(layout: Any) -> tuple[Layout | None, tuple[int, ...] | None]:
    """As `read_layout` gives it, of FFmpeg's."""
    if layout.name.startswith("ambisonic") and layout.nb_channels in (4, 9, 16, 25, 36, 49, 64):
        return Layout(tag=AMBISONIC_SN3D | layout.nb_channels), None
    stated, order = ordered([channel.name for channel in layout.channels])
    usual = stated in (None, Layout.named("mono"), Layout.named("stereo"))
    return (None if usual else stated), order


__all__ = ["AVSource"]
