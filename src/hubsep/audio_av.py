# SPDX-License-Identifier: Apache-2.0
"""The audio of m4a, aac, mp4, mkv, webm and avi files, read with PyAV (`pip install hubsep[video]`).

The demuxer is named by the caller and the file is handed over as an object, so ffmpeg never guesses a format and opens
no other file, playlist or address. The first audio stream is read, unless the caller asks for another.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import chain
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from .audio_limits import AudioLimits
from .audio_tables import check_tables
from .errors import AudioError


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
                f"{name}: reading {container} files needs PyAV; install it with `pip install hubsep[video]`, or "
                "convert the recording to wav, flac, ogg or mp3"
            ) from error
        from .audio_files import decoding

        if container == "mp4":
            check_tables(file, name)
            file.seek(0)
        self.name = name
        self.cut = cut
        self._file = file
        self._decoding = decoding
        self._ready: list[NDArray[np.float32]] = []
        with decoding(name):
            self._container = av.open(file, format=container, mode="r", metadata_errors="replace")
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
        self.slack_samples = round(SLACK_SECONDS * self.sampling_rate)
        self.claimed_samples = self._claimed(stream, container)
        self._frames = self._decode(chain([first], frames), first.layout)

    def _claimed(self, stream: Any, container: str) -> int | None:
        """In Matroska only the whole file has a duration, and the audio may honestly end before the video does."""
        if container == "aac":  # a bare stream has no header; ffmpeg estimates a length
            return None
        if stream.duration is not None and stream.time_base is not None:
            return round(stream.duration * stream.time_base * self.sampling_rate)
        if self._container.duration is not None and len(self._container.streams) == 1:
            return round(self._container.duration / 1_000_000 * self.sampling_rate)
        return None

    def _decode(self, frames: Iterable[Any], layout: Any) -> Iterator[NDArray[np.float32]]:
        import av

        resampler = av.AudioResampler(format="fltp", layout=layout, rate=self.sampling_rate)
        with self._decoding(self.name):
            for frame in frames:
                if frame.sample_rate != self.sampling_rate or frame.layout.nb_channels != self.channels:
                    raise AudioError(
                        f"{self.name}: the audio changes from {self.channels} channels at {self.sampling_rate} Hz to "
                        f"{frame.layout.nb_channels} at {frame.sample_rate} Hz; split the file there"
                    )
                for converted in resampler.resample(frame):
                    yield converted.to_ndarray()
            if hasattr(self._file, "check"):
                self._file.check()


__all__ = ["AVSource"]
