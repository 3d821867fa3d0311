# SPDX-License-Identifier: Apache-2.0
"""Writing recordings block by block; a file appears complete or not at all.

Decisions: samples go to a hidden file in the same folder, which is flushed to the disk and then renamed. Floating
point subtypes take any value. All others hold [-1, 1] (lossy codecs a little more), and what does not fit is an error
unless the caller asks for clamping: nothing is rescaled. Integers are rounded here, to the nearest, because libsndfile
rounds down when it guards against overflow.

A WAV, AIFF or AU file has room for 4 GiB; libsndfile 1.2.2 writes on and leaves a header that says less (measured:
4.6 GB of WAV read back as 6 % fewer samples). That is an error here. A WAV whose length is known to be too long
beforehand becomes RF64, its successor, which the same programs read.
"""

from __future__ import annotations

import os
import secrets
from pathlib import Path
from typing import Any, Literal

import numpy as np
import soundfile as sf
from numpy.typing import NDArray

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
SAMPLE_BYTES = {"PCM_S8": 1, "PCM_U8": 1, "ULAW": 1, "ALAW": 1, "PCM_16": 2, "PCM_24": 3, "DOUBLE": 8}
LIMITED_FORMATS = frozenset({"WAV", "AIFF", "AU"})
LIMITED_BYTES = 2**32 - 2**16  # 4 GiB less room for the headers
MP3_KBPS = {  # up to this sampling rate: where libsndfile's levels end, then the lowest and highest they can reach
    12_000: (8, 16, 64),
    24_000: (8, 16, 160),
    48_000: (32, 40, 320),
}


class AudioWriter:
    """Writes one recording; a context manager.

    The file appears under its name when the `with` block ends without an exception, replacing an older one.

    Args:
        path: its ending picks the format unless `format` does.
        sampling_rate: in Hz.
        channels: of every block.
        format: "WAV", "FLAC", "OGG", "MP3", ...
        subtype: "PCM_16", "FLOAT", ...; by default 32-bit floating point where the format has it, 24 bits in FLAC.
            `kept_subtype` finds the one of another recording.
        clip: what to do with samples beyond [-1, 1] where the subtype cannot hold them: "raise" an AudioError, or
            "clamp" them.
        bitrate_kbps: of an MP3, constant; by default the highest there is for the sampling rate.
        samples: how many there will be, if known; a WAV above 4 GiB is then written as RF64.

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
        bitrate_kbps: int | None = None,
        samples: int | None = None,
    ):
        self.path = Path(path)
        self._limits = AudioLimits()
        self.sampling_rate = self._limits.check_sampling_rate(sampling_rate, str(self.path))
        self._limits.check_channels(channels, str(self.path))
        self.channels = channels
        self.format, self.subtype = _format_of(self.path, format, subtype)
        self._sample_bytes = channels * SAMPLE_BYTES.get(self.subtype, 4)
        if self.format == "WAV" and (samples or 0) * self._sample_bytes > LIMITED_BYTES:
            self.format = "RF64"
        if clip not in ("raise", "clamp"):
            raise AudioError(f'clip must be "raise" or "clamp", got {clip!r}')
        self._clip = clip
        self._samples = 0
        self._unfinished = self.path.with_name(f".{os.getpid()}-{secrets.token_hex(4)}.part")
        self._descriptor = -1
        self._sound: sf.SoundFile | None = None
        self._open(self._codec_options(bitrate_kbps))

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
            wanted = f"({self.channels}, samples) floating point"
            raise AudioError(f"{self.path}: a block must be {wanted}, got {block.shape} {block.dtype}")
        self._limits.check_samples(block, self._samples, str(self.path), lossy=False)
        self._samples += block.shape[1]
        if self.format in LIMITED_FORMATS and self._samples * self._sample_bytes > LIMITED_BYTES:
            raise AudioError(
                f"{self.path}: {self.format} has room for 4 GiB; write .w64, .rf64 or .flac, or say how many samples "
                "there will be"
            )
        frames = self._encoded(self._clipped(block)).T
        try:
            self._sound.write(np.ascontiguousarray(frames))
        except (sf.SoundFileError, AssertionError, OSError) as error:
            raise AudioError(f"{self.path} cannot be written: {_reason(error)}") from error

    def close(self) -> None:
        """Finishes the file and gives it its name; what fails leaves nothing behind."""
        if self._sound is None:
            return
        try:
            if self._samples == 0:
                raise AudioError(f"{self.path}: a recording without samples is not written")
            sound, self._sound = self._sound, None
            sound.close()
            os.fsync(self._descriptor)
            os.replace(self._unfinished, self.path)
        except (sf.SoundFileError, OSError) as error:
            raise AudioError(f"{self.path} cannot be written: {_reason(error)}") from error
        finally:
            self.discard()

    def discard(self) -> None:
        """Removes what was written, if `close` did not finish it."""
        sound, self._sound = self._sound, None
        try:
            if sound is not None:
                sound.close()
        except sf.SoundFileError:
            pass  # a full disk, most likely, which is why the file is discarded
        finally:
            if self._descriptor >= 0:
                os.close(self._descriptor)
                self._descriptor = -1
            self._unfinished.unlink(missing_ok=True)

    def _open(self, options: dict[str, Any]) -> None:
        shape = (self.sampling_rate, self.channels, self.subtype)
        try:
            if self.path.is_dir():
                raise IsADirectoryError(21, "it is a folder")
            self._descriptor = os.open(self._unfinished, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o666)
            self._sound = sf.SoundFile(self._descriptor, "w", *shape, format=self.format, closefd=False, **options)
        except (sf.SoundFileError, OSError, ValueError, TypeError) as error:
            self.discard()
            what = f"{self.format} {self.subtype} with {self.channels} channels at {self.sampling_rate} Hz"
            raise AudioError(f"{self.path} cannot be written as {what}: {_reason(error)}") from error

    def _codec_options(self, bitrate_kbps: int | None) -> dict[str, Any]:
        """soundfile knows a compression level from 0 to 1, which libsndfile spreads over LAME's bitrates."""
        if self.format != "MP3":
            if bitrate_kbps is not None:
                raise AudioError(f"{self.path}: only mp3 files have a bitrate to choose, not {self.format}")
            return {}
        family = min((rate for rate in MP3_KBPS if rate >= self.sampling_rate), default=48_000)
        bottom, lowest, highest = MP3_KBPS[family]
        chosen = highest if bitrate_kbps is None else bitrate_kbps
        if not lowest <= chosen <= highest:
            bounds = f"{lowest} to {highest} kbit/s at {self.sampling_rate} Hz"
            raise AudioError(f"{self.path}: the bitrate must be {bounds}, got {chosen}")
        # At 8 to 12 kHz libsndfile spreads the levels as if 160 kbit/s were possible there.
        spread = max(highest, 160) - bottom
        return {"bitrate_mode": "CONSTANT", "compression_level": (max(highest, 160) - chosen) / spread}

    def _clipped(self, block: NDArray[np.floating]) -> NDArray[np.floating]:
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

    def _encoded(self, block: NDArray[np.floating]) -> NDArray[Any]:
        bits = PCM_BITS.get(self.subtype)
        if bits is None:
            return block.astype(np.float64 if self.subtype == "DOUBLE" else np.float32, copy=False)
        full = 2.0 ** (bits - 1)
        rounded = np.clip(np.rint(block.astype(np.float64) * full), -full, full - 1)
        return rounded.astype(np.int32) << (32 - bits)


def write_audio(path: str | os.PathLike[str], waveform: Waveform, sampling_rate: int, **options: Any) -> Path:
    """Writes a whole recording, (channels, samples) or (samples,).

    Args:
        path: as for `AudioWriter`.
        waveform: floating point, full scale 1.
        sampling_rate: in Hz.
        **options: `format`, `subtype`, `clip` and `bitrate_kbps` of `AudioWriter`.

    Returns:
        The path.

    Raises:
        AudioError: as `AudioWriter` does.
    """
    waveform = np.asarray(waveform)
    waveform = waveform[None] if waveform.ndim == 1 else waveform
    if waveform.ndim != 2:
        raise AudioError(f"a waveform must be (channels, samples), got {waveform.shape}")
    channels, samples = waveform.shape
    with AudioWriter(path, sampling_rate, channels, samples=samples, **options) as writer:
        for start in range(0, samples, 65_536):
            writer.write(waveform[:, start : start + 65_536])
    return Path(path)


def kept_subtype(path: str | os.PathLike[str], subtype: str | None) -> str | None:
    """The subtype of another recording, if a file of this name can hold it and nothing is lost by that.

    Args:
        path: of the file to be written.
        subtype: of the recording, as `AudioReader.subtype`.

    Returns:
        None where `AudioWriter` should use its default.
    """
    known = FORMATS.get(Path(path).suffix.lower())
    lossless = subtype is not None and (subtype in PCM_BITS or subtype in LOSSLESS_FLOATS)
    return subtype if known is not None and lossless and sf.check_format(known[0], subtype) else None


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
    known = getattr(error, "strerror", None) or getattr(error, "error_string", None) or str(error)
    return known.strip().removeprefix("Error : ") or "the disk may be full"


__all__ = ["AudioWriter", "kept_subtype", "write_audio"]
