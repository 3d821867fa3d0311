# SPDX-License-Identifier: Apache-2.0
"""Recordings whose channels are told apart by their tones, and what PyAV makes of files with several channels."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hubsep.audio import Layout


RATE = 48_000
HERTZ = {
    "FL": 300, "FR": 500, "FC": 700, "LFE": 60, "BL": 1100, "BR": 1300, "FLC": 2100, "FRC": 2300, "BC": 1900,
    "SL": 1500, "SR": 1700,
}  # fmt: skip
Waveform = NDArray[np.float32]


def tones(speakers: tuple[str, ...], samples: int = RATE // 2) -> Waveform:
    """A tone for each loudspeaker, (channels, samples)."""
    time = np.arange(samples) / RATE
    return np.stack([0.1 * np.sin(2 * np.pi * HERTZ[speaker] * time) for speaker in speakers]).astype(np.float32)


def heard(waveform: Waveform) -> tuple[str, ...]:
    """The loudspeaker of each channel, by its tone."""
    spectra = np.abs(np.fft.rfft(waveform[:, 4_000:20_000] * np.hanning(16_000)))
    peaks = spectra.argmax(axis=1) * RATE / 16_000
    return tuple(min(HERTZ, key=lambda speaker: abs(HERTZ[speaker] - peak)) for peak in peaks)


def written_by_av(path: Path, codec: str, layout: str, **options: Any) -> None:
    """Has PyAV write the tones of a layout."""
    import av

    with av.open(path, "w", **options) as container:
        stream = container.add_stream(codec, rate=RATE, layout=layout)
        packed = np.ascontiguousarray(tones(Layout.named(layout).speakers).T).reshape(1, -1)
        frame = av.AudioFrame.from_ndarray(packed, format="flt", layout=layout)
        frame.sample_rate, frame.pts = RATE, 0
        size = stream.codec_context.frame_size or 1_024
        resampler = av.AudioResampler(format=stream.format.name, layout=layout, rate=RATE, frame_size=size)
        for part in [*resampler.resample(frame), *resampler.resample(None)]:
            container.mux(stream.encode(part))
        container.mux(stream.encode(None))


def read_by_av(path: Path) -> tuple[str, tuple[str, ...], Waveform]:
    """FFmpeg's name of a file's layout, its loudspeakers, and the samples."""
    import av

    with av.open(path) as container:
        frames = list(container.decode(audio=0))
        layout = frames[0].layout
        resampler = av.AudioResampler(format="flt", layout=layout, rate=RATE)
        parts = [
            part.to_ndarray().reshape(-1, layout.nb_channels) for frame in frames for part in resampler.resample(frame)
        ]
        return layout.name, tuple(channel.name for channel in layout.channels), np.concatenate(parts).T
