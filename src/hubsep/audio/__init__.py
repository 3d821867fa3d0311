# SPDX-License-Identifier: Apache-2.0
"""Reading and writing recordings."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..registry import face


if TYPE_CHECKING:
    from .layouts import Layout
    from .limits import AudioLimits
    from .notes import Notes
    from .reader import SPLIT_IT, AudioReader, OnShort, Recording, open_audio, read_audio
    from .resampling import StreamResampler, resample
    from .writer import AudioWriter, kept_subtype, write_audio

face(
    __name__,
    {
        ".layouts": "Layout",
        ".limits": "AudioLimits",
        ".notes": "Notes",
        ".reader": "AudioReader OnShort Recording SPLIT_IT open_audio read_audio",
        ".resampling": "StreamResampler resample",
        ".writer": "AudioWriter kept_subtype write_audio",
    },
)

__all__ = [
    "AudioLimits",
    "AudioReader",
    "AudioWriter",
    "Layout",
    "Notes",
    "OnShort",
    "Recording",
    "SPLIT_IT",
    "StreamResampler",
    "kept_subtype",
    "open_audio",
    "read_audio",
    "resample",
    "write_audio",
]
