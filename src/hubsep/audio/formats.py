# SPDX-License-Identifier: Apache-2.0
"""Which formats can be written, what each can hold, and how a bitrate is asked for.

Decisions: floating point wherever the format has it, 24 bits in FLAC, the highest bitrate in MP3: nothing is lost
unless the caller asks for a smaller file.
"""

from __future__ import annotations

import io
import os
import reprlib
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import soundfile as sf

from ..errors import AudioError
from .layouts import Layout, codec_order
from .limits import LOSSLESS_FLOATS


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
EXAMPLES = {"format": "WAV", "subtype": "PCM_16"}
PCM_BITS = {"PCM_S8": 8, "PCM_U8": 8, "PCM_16": 16, "PCM_24": 24, "PCM_32": 32}
PCM_BITS |= {"ALAC_16": 16, "ALAC_20": 20, "ALAC_24": 24, "ALAC_32": 32}
SAMPLE_BYTES = {"PCM_S8": 1, "PCM_U8": 1, "ULAW": 1, "ALAW": 1, "PCM_16": 2, "PCM_24": 3, "DOUBLE": 8}
LIMITED_FORMATS = frozenset({"WAV", "AIFF", "AU"})
LIMITED_BYTES = 2**32 - 2**16  # 4 GiB less room for the headers
MP3_KBPS = {  # up to this sampling rate: where libsndfile's levels end, then the lowest and highest they can reach
    12_000: (8, 16, 64),
    24_000: (8, 16, 160),
    48_000: (32, 40, 320),
}


def format_of(path: Path, format: str | None, subtype: str | None) -> tuple[str, str]:
    """Format and subtype of a file to be written: what was asked for, else what its ending stands for.

    Raises:
        AudioError: if it cannot be written, or the format does not hold the subtype.
    """
    for name, value in (("format", format), ("subtype", subtype)):
        if value is not None and (not isinstance(value, str) or not value):
            raise AudioError(f"{path}: {name} must be a text such as {EXAMPLES[name]!r}, got {reprlib.repr(value)}")
    entry = FORMATS.get(path.suffix.lower())
    if format is None:
        if entry is None:
            raise AudioError(f"{path}: cannot write {path.suffix or 'a file without ending'}; use {' '.join(FORMATS)}")
        format, default = entry
    else:
        format = format.upper()
        defaults = {name: default for name, default in FORMATS.values() if default != "OPUS"}
        if format not in defaults:
            raise AudioError(f"{path}: cannot write the format {format}; use {', '.join(sorted(defaults))}")
        default = entry[1] if entry is not None and entry[0] == format else defaults[format]
    subtype = (subtype or default).upper()
    if not sf.check_format(format, subtype):
        possible = ", ".join(sf.available_subtypes(format))
        raise AudioError(f"{path}: {format} cannot hold {subtype}; it holds {possible}")
    return format, subtype


def check_written(
    extension: str,
    sampling_rate: int,
    channels: int,
    subtype: str | None = None,
    bitrate: int | None = None,
    layout: Layout | None = None,
) -> None:
    """Refuses a file that could not be written, in a command's words, before there is anything to write.

    Args:
        extension: of its name, without the dot.
        sampling_rate: in Hz.
        channels: of the recording.
        subtype: sample format, None for the default.
        bitrate: in kbit/s, None for the default.
        layout: of the recording's channels, if it says so.

    Raises:
        AudioError: naming the option and a way out.
    """
    path = Path(f"--format {extension}", f"any.{extension}")
    try:
        format, subtype = format_of(path, None, subtype)
    except AudioError as error:
        option = f"--subtype {subtype}: " if subtype else ""
        raise AudioError(f"{option}{_said(error, path)}") from error
    try:
        options = codec_options(path, format, sampling_rate, bitrate)
    except AudioError as error:
        raise AudioError(f"--bitrate {bitrate}: {_said(error, path)}") from error
    try:
        codec_order(subtype, channels, layout)
    except AudioError as error:
        raise AudioError(f"--format {extension}: {error}") from error
    if not _can_write(format, subtype, sampling_rate, channels, tuple(options.items())):
        raise AudioError(
            f"--format {extension} cannot hold {channels} channel{'s' * (channels > 1)} at {sampling_rate} Hz"
            f"{f' as {subtype}' if subtype else ''}; --format flac or wav can"
        )


def _said(error: AudioError, path: Path) -> str:
    return str(error).removeprefix(f"{path}: ")


@lru_cache(maxsize=256)
def _can_write(format: str, subtype: str, sampling_rate: int, channels: int, options: tuple[Any, ...]) -> bool:
    """Whether the encoder takes it: it is asked, because no table says it as well."""
    try:
        with sf.SoundFile(
            io.BytesIO(), "w", sampling_rate, channels, subtype, format=format, **dict(options)
        ) as sound:
            sound.write(np.zeros((1, channels), np.float32))
    except (sf.SoundFileError, ValueError, TypeError, AssertionError):
        return False
    return True


def kept_subtype(path: str | os.PathLike[str], subtype: str | None) -> str | None:
    """The subtype of another recording, if a file of this name can hold it and nothing is lost by that.

    Args:
        path: of the file to be written.
        subtype: of the recording, as `AudioReader.subtype`.

    Returns:
        None where `AudioWriter` should use its default.
    """
    entry = FORMATS.get(Path(path).suffix.lower())
    lossless = subtype is not None and (subtype in PCM_BITS or subtype in LOSSLESS_FLOATS)
    return subtype if entry is not None and lossless and sf.check_format(entry[0], subtype) else None


def bitrate_kbps(bitrate: int | str) -> int:
    """A bitrate in kbit/s, from 256, "256" or "256k".

    Raises:
        AudioError: if it is none of these.
    """
    text = str(bitrate).strip().lower()
    number = text.removesuffix("bps").removesuffix("k")
    if isinstance(bitrate, bool) or not (number.isascii() and number.isdigit()) or len(number) > 9:
        raise AudioError(f"a bitrate is given in kbit/s, such as 256 or 256k, got {reprlib.repr(bitrate)}")
    return int(number)


def codec_options(path: Path, format: str, sampling_rate: int, bitrate_kbps: int | None) -> dict[str, Any]:
    """What soundfile is told about a bitrate: a level from 0 to 1, which libsndfile spreads over LAME's bitrates.

    Raises:
        AudioError: if the format has no bitrate to choose, or not this one.
    """
    if format != "MP3":
        if bitrate_kbps is not None:
            raise AudioError(f"{path}: only mp3 files have a bitrate to choose, not {format}")
        return {}
    bottom, lowest, highest = MP3_KBPS[min((rate for rate in MP3_KBPS if rate >= sampling_rate), default=48_000)]
    chosen = highest if bitrate_kbps is None else bitrate_kbps
    if not lowest <= chosen <= highest:
        bounds = f"{lowest} to {highest} kbit/s at {sampling_rate} Hz"
        raise AudioError(f"{path}: the bitrate must be {bounds}, got {chosen}")
    return {"bitrate_mode": "CONSTANT", "compression_level": (highest - chosen) / (highest - bottom)}


__all__ = [
    "FORMATS",
    "LIMITED_BYTES",
    "LIMITED_FORMATS",
    "PCM_BITS",
    "SAMPLE_BYTES",
    "bitrate_kbps",
    "check_written",
    "codec_options",
    "format_of",
    "kept_subtype",
]
