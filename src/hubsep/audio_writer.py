# SPDX-License-Identifier: Apache-2.0
"""Writing recordings block by block; a file appears complete or not at all.

Decisions: samples go to a hidden file in the same folder, which is flushed to the disk and then renamed. Floating
point subtypes take any value. All others hold [-1, 1] (lossy codecs a little more), and what does not fit is an error
unless the caller asks for clamping: nothing is rescaled. Integers are rounded here, to the nearest, because libsndfile
rounds down when it clips.
"""

from __future__ import annotations

import os
import secrets
from pathlib import Path
from typing import Any, Literal

import numpy as np
import soundfile as sf

from .audio_files import LOSSY_SUBTYPES
from .audio_limits import LOSSLESS_FLOATS, AudioLimits
from .audio_resampling import Waveform
from .errors import AudioError


Clip = Literal["raise", "clamp"]

# File endings, and the format and subtype they stand for.
FORMATS = {
    ".aif": ("AIFF", "FLOAT"),
    ".aiff": ("AIFF", "FLOAT"),
    ".au": ("AU", "FLOAT"),
    ".caf": ("CAF", "FLOAT"),
    ".flac": ("FLAC", "PCM_24"),
    ".mp3": ("MP3", "MPEG_LAYER_III"),
    ".oga": ("OGG", "VORBIS"),
    ".ogg": ("OGG", "VORBIS"),
    ".opus": ("OGG", "OPUS"),
    ".rf64": ("RF64", "FLOAT"),
    ".w64": ("W64", "FLOAT"),
    ".wav": ("WAV", "FLOAT"),
}
PCM_BITS = {"PCM_S8": 8, "PCM_U8": 8, "PCM_16": 16, "PCM_24": 24, "PCM_32": 32}


class AudioWriter:
    """Writes one recording; a context manager.

    The file appears under its name when the `with` block ends without an exception, replacing an older one.

    Args:
        path: its ending picks the format unless `format` does.
        sampling_rate: in Hz.
        channels: of every block.
        format: "WAV", "FLAC", "OGG", "MP3", ...
        subtype: "PCM_16", "FLOAT", ...; by default 32-bit floating point where the format has it, 24 bits in FLAC.
        clip: what to do with samples beyond [-1, 1] where the subtype cannot hold them: "raise" an AudioError, or
            "clamp" them.

    Raises:
        AudioError: if the format cannot hold such a recording, or the folder cannot be written to.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        sampling_rate: int,
        channels: int,
        *,
        format: str | None = None,
        subtype: str | None = None,
        clip: Clip = "raise",
    ):
        self.path = Path(path)
        limits = AudioLimits()
        self.sampling_rate = limits.check_sampling_rate(sampling_rate, str(self.path))
        limits.check_channels(channels, str(self.path))
        self.channels = channels
        self.format, self.subtype = _format_of(self.path, format, subtype)
        if clip not in ("raise", "clamp"):
            raise AudioError(f'clip must be "raise" or "clamp", got {clip!r}')
        self._clip = clip
        self._samples = 0
        self._limits = limits
        self._unfinished = self.path.with_name(f".{self.path.name[:80]}.{os.getpid()}.{secrets.token_hex(4)}.part")
        self._sound: sf.SoundFile | None = None
        self._open()

    def __enter__(self) -> AudioWriter:
        return self

    def __exit__(self, kind: type[BaseException] | None, *details: object) -> None:
        if kind is None:
            self.close()
        else:
            self.discard()

    def write(self, block: Waveform) -> None:
        """Appends (channels, samples).

        Raises:
            AudioError: if the block does not fit the file, or the disk is full.
        """
        if self._sound is None:
            raise AudioError(f"{self.path} is finished; nothing can be added")
        block = np.asarray(block)
        if block.ndim != 2 or block.shape[0] != self.channels or block.dtype.kind != "f":
            raise AudioError(
                f"{self.path}: a block must be ({self.channels}, samples) floats, got {block.shape} {block.dtype}"
            )
        self._limits.check_samples(block, self._samples, str(self.path), lossy=False)
        frames = self._encoded(self._clipped(block)).T
        try:
            self._sound.write(np.ascontiguousarray(frames))
        except (sf.SoundFileError, AssertionError, OSError) as error:
            raise AudioError(f"{self.path} cannot be written: {_reason(error)}") from error
        self._samples += block.shape[1]

    def close(self) -> None:
        """Finishes the file and gives it its name; what fails leaves nothing behind."""
        if self._sound is None:
            return
        try:
            if self._samples == 0:
                raise AudioError(f"{self.path}: a recording without samples is not written")
            self._sound.close()
            self._sound = None
            os.fsync(self._descriptor)
            os.replace(self._unfinished, self.path)
        except (sf.SoundFileError, OSError) as error:
            raise AudioError(f"{self.path} cannot be written: {_reason(error)}") from error
        finally:
            self.discard()

    def discard(self) -> None:
        """Removes what was written, if `close` did not finish it."""
        if self._sound is not None:
            self._sound.close()
            self._sound = None
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1
        self._unfinished.unlink(missing_ok=True)

    def _open(self) -> None:
        self._descriptor = -1
        try:
            self._descriptor = os.open(self._unfinished, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o666)
            self._sound = sf.SoundFile(
                self._descriptor,
                "w",
                self.sampling_rate,
                self.channels,
                self.subtype,
                format=self.format,
                closefd=False,
            )
        except (sf.SoundFileError, OSError, ValueError, TypeError) as error:
            self.discard()
            what = f"{self.format} {self.subtype} with {self.channels} channels at {self.sampling_rate} Hz"
            raise AudioError(f"{self.path} cannot be written as {what}: {_reason(error)}") from error

    def _clipped(self, block: Waveform) -> Waveform:
        if self.subtype in LOSSLESS_FLOATS or block.size == 0:
            return block
        limit = self._limits.max_lossy_peak if self.subtype in LOSSY_SUBTYPES else 1.0
        peak = float(np.abs(block).max())
        if peak <= limit:
            return block
        if self._clip == "clamp":
            return np.clip(block, -1.0, 1.0)
        raise AudioError(
            f'{self.path}: {self.subtype} cannot hold a peak of {peak:.4g}; pass clip="clamp" to cut it off, '
            'subtype="FLOAT" to keep it, or scale all recordings that belong together'
        )

    def _encoded(self, block: Waveform) -> Any:
        bits = PCM_BITS.get(self.subtype)
        if bits is None:
            return block.astype(np.float64 if self.subtype == "DOUBLE" else np.float32, copy=False)
        full = 2.0 ** (bits - 1)
        rounded = np.clip(np.rint(block.astype(np.float64) * full), -full, full - 1)
        return rounded.astype(np.int32) << (32 - bits)


def write_audio(
    path: str | os.PathLike[str],
    waveform: Waveform,
    sampling_rate: int,
    *,
    format: str | None = None,
    subtype: str | None = None,
    clip: Clip = "raise",
) -> Path:
    """Writes a whole recording, (channels, samples) or (samples,); arguments and errors are those of `AudioWriter`.

    Returns:
        The path.
    """
    waveform = np.asarray(waveform)
    if waveform.ndim == 1:
        waveform = waveform[None]
    if waveform.ndim != 2:
        raise AudioError(f"a waveform must be (channels, samples), got {waveform.shape}")
    with AudioWriter(path, sampling_rate, waveform.shape[0], format=format, subtype=subtype, clip=clip) as writer:
        for start in range(0, waveform.shape[1], 65_536):
            writer.write(waveform[:, start : start + 65_536])
    return Path(path)


def _format_of(path: Path, format: str | None, subtype: str | None) -> tuple[str, str]:
    known = FORMATS.get(path.suffix.lower())
    if format is None:
        if known is None:
            raise AudioError(f"{path}: cannot write {path.suffix or 'a file without ending'}; use {' '.join(FORMATS)}")
        format, default = known
    else:
        format = format.upper()
        defaults = {name: default for name, default in FORMATS.values() if default != "OPUS"}
        if format not in defaults:
            raise AudioError(f"{path}: cannot write the format {format}; use {', '.join(sorted(defaults))}")
        default = known[1] if known is not None and known[0] == format else defaults[format]
    subtype = (subtype or default).upper()
    if not sf.check_format(format, subtype):
        possible = ", ".join(sf.available_subtypes(format))
        raise AudioError(f"{path}: {format} cannot hold {subtype}; it holds {possible}")
    return format, subtype


def _reason(error: Exception) -> str:
    return str(getattr(error, "error_string", "") or error).strip() or "the disk may be full"


__all__ = ["AudioWriter", "write_audio"]
