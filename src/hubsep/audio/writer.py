# SPDX-License-Identifier: Apache-2.0
"""Writing recordings block by block; a file appears complete or not at all.

Decisions: samples go to a hidden file in the same folder, which is flushed to the disk and then renamed. Floating
point subtypes take any value. All others hold [-1, 1] (lossy codecs a little more), and what does not fit is an error
unless the caller asks for clamping: nothing is rescaled. Integers are rounded here, to the nearest, because libsndfile
rounds down when it guards against overflow. The same samples make the same bytes, whenever they are written.

libsndfile 1.2.2 hides two ways of losing samples. On a full disk it closes FLAC and Ogg files without an error; so it
writes through a file object here that remembers. And a WAV, AIFF or AU file has room for 4 GiB, but it writes on and
leaves a header that says less (measured: 4.6 GB of WAV read back as 6 % fewer samples); that is an error here. A WAV
known beforehand to be too long becomes RF64, its successor, which the same programs read.
"""

from __future__ import annotations

import os
import reprlib
import secrets
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypedDict

import numpy as np
import soundfile as sf
from numpy.typing import NDArray

from ..errors import AudioError
from .arrays import plain_array
from .decoding import Sink
from .files import LOSSY_SUBTYPES
from .formats import (
    FORMATS,
    LIMITED_BYTES,
    LIMITED_FORMATS,
    PCM_BITS,
    SAMPLE_BYTES,
    codec_options,
    format_of,
    kept_subtype,
)
from .headers import TAGGED_FORMATS, write_layout, write_notes
from .layouts import Layout, codec_order
from .limits import LOSSLESS_FLOATS, AudioLimits
from .notes import Notes
from .resampling import Waveform
from .stamps import remove_stamps


if TYPE_CHECKING:
    from typing_extensions import Unpack


Clip = Literal["raise", "clamp"]
WRITTEN_AT_ONCE = 2**17  # values


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
        layout: what the channels are, as `AudioReader.layout`, or a name such as "5.1"; they come in the order of its
            loudspeakers. By default nothing is said of them, and a codec that has an order is taken at its word.
        notes: what another file said of the recording, as `AudioReader.notes`; what the format has no place for is
            left out.

    Attributes:
        bits: of the integers that are stored, None where samples are stored otherwise.

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
        layout: Layout | str | None = None,
        notes: Notes | None = None,
    ):
        self.path = Path(path)
        self._limits = AudioLimits()
        self.sampling_rate = self._limits.check_sampling_rate(sampling_rate, str(self.path))
        self._limits.check_channels(channels, str(self.path))
        self.channels = channels
        self.format, self.subtype = format_of(self.path, format, subtype)
        self.bits = PCM_BITS.get(self.subtype)
        self._sample_bytes = channels * SAMPLE_BYTES.get(self.subtype, 4)
        self.layout = self._checked_layout(layout)
        self._notes = notes or Notes()
        self._room = LIMITED_BYTES - len(self._notes.broadcast)
        self._order = codec_order(self.subtype, channels, self.layout)
        if self.format == "WAV" and (samples or 0) * self._sample_bytes > self._room:
            self.format = "RF64"
        if not isinstance(clip, str) or clip not in ("raise", "clamp"):
            raise AudioError(f'clip must be "raise" or "clamp", got {reprlib.repr(clip)}')
        self._clip = clip
        self._samples = 0
        self._unfinished = self.path.with_name(f".{os.getpid()}-{secrets.token_hex(4)}.part")
        self._sink: Sink | None = None
        self._sound: sf.SoundFile | None = None
        self._open(codec_options(self.path, self.format, self.sampling_rate, bitrate_kbps))

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
        if self._sound is None or self._sink is None:
            raise AudioError(f"{self.path} is finished; nothing can be added")
        block = plain_array(block)
        if block.ndim != 2 or block.shape[0] != self.channels or block.dtype.kind != "f":
            wanted = f"({self.channels}, samples) floating point"
            raise AudioError(f"{self.path}: a block must be {wanted}, got {block.shape} {block.dtype}")
        total = self._samples + block.shape[1]
        if self.format in LIMITED_FORMATS and total * self._sample_bytes > self._room:
            raise AudioError(
                f"{self.path}: {self.format} has room for 4 GiB; write .w64, .rf64 or .flac, or say how many samples "
                "there will be"
            )
        self._limits.check_samples(block, self._samples, str(self.path), lossy=False)
        frames = self._encoded(self._clipped(block)).T
        frames = frames if self._order is None else frames[:, self._order]
        self._samples = total
        try:
            try:
                # 60 s of stereo, or 3 s of 7.1, in one call crash the Vorbis encoder of libsndfile 1.2.2: it keeps
                # them on the stack
                step = WRITTEN_AT_ONCE // max(2, self.channels)
                for start in range(0, len(frames), step):
                    self._sound.write(np.ascontiguousarray(frames[start : start + step]))
            finally:
                self._sink.check()
        except (sf.SoundFileError, AssertionError, OSError) as error:
            raise AudioError(f"{self.path} cannot be written: {_reason(error)}") from error

    def close(self) -> None:
        """Finishes the file and gives it its name; what fails leaves nothing behind."""
        if self._sound is None or self._sink is None:
            return
        try:
            if self._samples == 0:
                raise AudioError(f"{self.path}: a recording without samples is not written")
            sound, self._sound = self._sound, None
            try:
                sound.close()
            finally:
                self._sink.check()
            write_layout(self._sink.file, self.format, self.subtype, self.channels, self.layout)
            write_notes(self._sink.file, self.format, self.sampling_rate, self._notes)
            remove_stamps(self._sink.file)
            os.fsync(self._sink.file.fileno())
            os.replace(self._unfinished, self.path)
        except (sf.SoundFileError, OSError) as error:
            raise AudioError(f"{self.path} cannot be written: {_reason(error)}") from error
        finally:
            self.discard()

    def discard(self) -> None:
        """Removes what was written, if `close` did not finish it."""
        sound, self._sound = self._sound, None
        sink, self._sink = self._sink, None
        if sink is None:
            return
        try:
            if sound is not None:
                sound.close()
        except sf.SoundFileError:
            pass  # a full disk, most likely, which is why the file is discarded
        finally:
            sink.file.close()
            self._unfinished.unlink(missing_ok=True)

    def _open(self, options: dict[str, Any]) -> None:
        shape = (self.sampling_rate, self.channels, self.subtype)
        try:
            if self.path.is_dir():
                raise IsADirectoryError(21, "it is a folder")
            self._sink = Sink(self._unfinished.open("x+b", buffering=0))
            masked = self.format == "WAV" and (self.channels > 2 or self.layout is not None)
            container = "WAVEX" if masked and sf.check_format("WAVEX", self.subtype) else self.format
            self._sound = sf.SoundFile(self._sink, "w", *shape, format=container, **options)
            if self.format in TAGGED_FORMATS:
                for name, text in self._notes.tags.items():
                    setattr(self._sound, name, text)
            self._sink.check()
        except (sf.SoundFileError, OSError, ValueError, TypeError) as error:
            what = f"{self.format} {self.subtype} with {self.channels} channels at {self.sampling_rate} Hz"
            self.discard()
            raise AudioError(f"{self.path} cannot be written as {what}: {_reason(error)}") from error

    def _checked_layout(self, layout: Layout | str | None) -> Layout | None:
        """A layout by its name has as many loudspeakers as there are channels; that of a file may be an odd one."""
        if not isinstance(layout, str):
            return layout
        preset = Layout.named(layout)
        if not preset.fits(self.channels):
            raise AudioError(
                f"{self.path}: the layout {layout} has {len(preset.speakers)} channels ({' '.join(preset.speakers)}), "
                f"and there are {self.channels}"
            )
        return preset

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
        if self.bits is None:
            return block.astype(np.float64 if self.subtype == "DOUBLE" else np.float32, copy=False)
        full = 2.0 ** (self.bits - 1)
        rounded = np.clip(np.rint(block.astype(np.float64) * full), -full, full - 1)
        return rounded.astype(np.int32) << (32 - self.bits)


class WriterOptions(TypedDict, total=False):
    """How `AudioWriter` writes."""

    format: str | None
    subtype: str | None
    clip: Clip
    bitrate_kbps: int | None
    layout: Layout | str | None
    notes: Notes | None


def write_audio(
    path: str | os.PathLike[str], waveform: NDArray[np.floating], sampling_rate: int, **options: Unpack[WriterOptions]
) -> Path:
    """Writes a whole recording, (channels, samples) or (samples,).

    Args:
        path: as for `AudioWriter`.
        waveform: floating point, full scale 1.
        sampling_rate: in Hz.
        **options: `format`, `subtype`, `clip`, `bitrate_kbps`, `layout` and `notes` of `AudioWriter`.

    Returns:
        The path.

    Raises:
        AudioError: as `AudioWriter` does.
    """
    waveform = plain_array(waveform)
    waveform = waveform[None] if waveform.ndim == 1 else waveform
    if waveform.ndim != 2:
        raise AudioError(f"a waveform must be (channels, samples), got {waveform.shape}")
    channels, samples = waveform.shape
    with AudioWriter(path, sampling_rate, channels, samples=samples, **options) as writer:
        for start in range(0, samples, 65_536):
            writer.write(waveform[:, start : start + 65_536])
    return Path(path)


def _reason(error: Exception) -> str:
    if isinstance(error, OSError):
        return error.strerror or str(error)
    return str(getattr(error, "error_string", "") or error).strip().removeprefix("Error : ").rstrip(".")


__all__ = ["FORMATS", "AudioWriter", "kept_subtype", "write_audio"]
