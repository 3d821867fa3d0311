# SPDX-License-Identifier: Apache-2.0
"""What the header of a file says about its channels, for the formats that libsndfile reads.

libsndfile 1.2.2 gives the channels of Vorbis and Opus in the codec's order, and tells soundfile of no layout at all;
so it is read here. A layout that a file does not state, or states in a way nobody knows, is None.
"""

from __future__ import annotations

import re
import struct
from typing import BinaryIO

from .chunks import W64_NAMES, Chunk, caf_chunks, flac_blocks, iff_chunks, w64_chunks
from .layouts import AMBISONIC_B, BITMAP_TAG, SPEAKERS, Layout, codec_speakers, ordered


AMBISONIC_GUID = bytes.fromhex("2107d3118644c8c1ca000000")  # the tail of SubFormat in WAVE files of B-format
FLAC_MASK = re.compile(rb"WAVEFORMATEXTENSIBLE_CHANNEL_MASK=0x([0-9a-f]{1,8})", re.IGNORECASE)
LABELS = {number + 1: speaker for number, speaker in enumerate(SPEAKERS)} | {33: "BL", 34: "BR"}
TAGS = {  # Core Audio's tags, in the order of their channels, as FFmpeg takes them
    100: "FC", 101: "FL FR", 108: "FL FR BL BR", 109: "FL FR BL BR FC", 110: "FL FR BL BR FC BC",
    111: "FL FR BL BR FC BC SL SR", 112: "FL FR BL BR TFL TFR TBL TBR", 113: "FL FR FC", 114: "FC FL FR",
    115: "FL FR FC BC", 116: "FC FL FR BC", 117: "FL FR FC SL SR", 118: "FL FR SL SR FC", 119: "FL FC FR SL SR",
    120: "FC FL FR SL SR", 121: "FL FR FC LFE SL SR", 122: "FL FR SL SR FC LFE", 123: "FL FC FR SL SR LFE",
    124: "FC FL FR SL SR LFE", 125: "FL FR FC LFE SL SR BC", 126: "FL FR FC LFE SL SR FLC FRC",
    127: "FC FLC FRC FL FR SL SR LFE", 128: "FL FR FC LFE SL SR BL BR", 129: "FL FR SL SR FC LFE FLC FRC",
    131: "FL FR BC", 132: "FL FR SL SR", 133: "FL FR LFE", 134: "FL FR LFE BC", 135: "FL FR LFE SL SR",
    136: "FL FR FC LFE", 137: "FL FR FC LFE BC", 138: "FL FR SL SR LFE", 139: "FL FR SL SR FC BC",
    140: "FL FR SL SR FC BL BR", 141: "FC FL FR SL SR BC", 142: "FC FL FR SL SR BC LFE",
    143: "FC FL FR SL SR BL BR", 144: "FC FL FR SL SR BL BR BC", 148: "FL FR SL SR FC FLC FRC", 149: "FC LFE",
    150: "FL FC FR", 151: "FL FC FR BC", 152: "FL FC FR LFE", 153: "FL FR BC LFE", 154: "FL FC FR BC LFE",
    155: "FL FC FR SL SR BC", 156: "FL FC FR SL SR BL BR", 157: "FL FC FR SL SR LFE BC",
    158: "FL FC FR SL SR LFE TC", 159: "FL FC FR SL SR LFE TFC", 160: "FL FC FR SL SR LFE BL BR",
    161: "FL FC FR SL SR LFE FLC FRC", 164: "FL FC FR SL SR LFE TFL TFR", 165: "FL FC FR SL SR LFE BC TC",
    166: "FL FC FR SL SR LFE BC TFC", 167: "FL FC FR SL SR LFE TC TFC", 168: "FC FL FR LFE", 169: "FC FL FR BC LFE",
    170: "FLC FRC FL FR SL SR", 171: "FC FL FR BL BR TC", 172: "FC BC FL FR BL BR", 173: "FLC FRC FL FR SL SR LFE",
    174: "FC FL FR BL BR TC LFE", 175: "FC BC FL FR BL BR LFE", 176: "FLC FC FRC FL FR SL SR",
    177: "FLC FC FRC FL FR SL SR LFE", 178: "FLC FRC FL FR SL SR BL BR", 179: "FLC FC FRC FL FR SL BC SR",
    180: "FLC FRC FL FR SL SR BL BR LFE", 181: "FLC FC FRC FL FR SL BC SR LFE", 182: "FC FL FR SL SR LFE BC",
    185: "FL FR BL BR", 186: "FL FR FC BL BR", 187: "FL FR FC LFE BL BR", 188: "FL FR FC LFE BC SL SR",
    189: "FL FR FC LFE BL BR SL SR",
}  # fmt: skip
Order = tuple[int, ...] | None


def read_layout(file: BinaryIO, format: str | None, subtype: str | None, channels: int) -> tuple[Layout | None, Order]:
    """Reads the layout of a recording.

    Args:
        file: seekable; it is left somewhere else.
        format: as soundfile calls it.
        subtype: as soundfile calls it.
        channels: of the recording.

    Returns:
        The layout, None where it is not stated; and where each channel of its order is in the file, None where it is
        in its place.
    """
    if format in ("WAV", "WAVEX", "RF64", "W64"):
        return _of_wave(file, wave64=format == "W64"), None
    if format in ("CAF", "AIFF"):
        return _of_core_audio(file, format, subtype, channels)
    if format == "FLAC":
        return _of_flac(file, channels), None
    if subtype in ("VORBIS", "OPUS"):
        return _of_ogg(file, subtype, channels)
    return None, None


def masked_floats(file: BinaryIO) -> int | None:
    """Where the tag of a Wave64 file is that has a mask and floats, which libsndfile 1.2.2 takes for integers."""
    chunk = next((chunk for chunk in w64_chunks(file) if chunk.name == W64_NAMES["fmt "]), None)
    content = b"" if chunk is None else chunk.read(26)
    masked = content[:2] == b"\xfe\xff" and content[24:] == b"\3\0"
    return chunk.start if chunk is not None and masked else None


def _of_wave(file: BinaryIO, *, wave64: bool) -> Layout | None:
    chunks = w64_chunks(file) if wave64 else iff_chunks(file)
    wanted = W64_NAMES["fmt "] if wave64 else b"fmt "
    chunk = next((chunk for chunk in chunks if chunk.name == wanted), None)
    content = b"" if chunk is None else chunk.read(40)
    order = "big" if chunk is not None and chunk.big else "little"
    if len(content) < 40 or int.from_bytes(content[:2], order) != 0xFFFE:  # type: ignore[arg-type]
        return None
    if content[28:] == AMBISONIC_GUID:
        return Layout(tag=AMBISONIC_B)
    return Layout(int.from_bytes(content[20:24], order))  # type: ignore[arg-type]


def _of_core_audio(file: BinaryIO, format: str, subtype: str | None, channels: int) -> tuple[Layout | None, Order]:
    chunks, wanted = (caf_chunks(file), b"chan") if format == "CAF" else (iff_chunks(file), b"CHAN")
    chunk: Chunk | None = next((chunk for chunk in chunks if chunk.name == wanted), None)
    content = b"" if chunk is None else chunk.read(12 + 20 * channels)
    return core_audio_layout(content, channels) if len(content) >= 12 else _of_codec(subtype, channels)


def core_audio_layout(content: bytes, channels: int) -> tuple[Layout | None, Order]:
    """What the content of a `chan` chunk, of 12 bytes at least, says of so many channels; as `read_layout` says it."""
    tag, bitmap, count = struct.unpack(">III", content[:12])
    if tag == BITMAP_TAG:
        return (Layout(bitmap) if bitmap.bit_count() == channels else None), None
    if tag == 0:
        labels = [int.from_bytes(content[at : at + 4], "big") for at in range(12, len(content) - 19, 20)]
        speakers = [LABELS.get(label, "") for label in labels] if count == channels == len(labels) else []
        return ordered(speakers)
    speakers = TAGS.get(tag >> 16, "").split()
    if speakers:
        return ordered(speakers) if len(speakers) == channels and channels > 2 else (None, None)
    return (Layout(tag=tag) if tag & 0xFFFF == channels else None), None


def _of_flac(file: BinaryIO, channels: int) -> Layout | None:
    comments = b"".join(block.read(2**16) for block in flac_blocks(file) if block.name == b"\4")
    stated = FLAC_MASK.search(comments)
    if stated:
        return Layout(int(stated[1], 16))
    return ordered(codec_speakers("FLAC", channels))[0] if channels > 2 else None


def _of_ogg(file: BinaryIO, subtype: str, channels: int) -> tuple[Layout | None, Order]:
    file.seek(0)
    head = file.read(64)
    if subtype == "OPUS" and head[28:36] == b"OpusHead" and head[46] != 1:  # the family of its mapping
        return None, None
    return _of_codec(subtype, channels)


def _of_codec(subtype: str | None, channels: int) -> tuple[Layout | None, Order]:
    """What a codec with an order of its own takes more than two channels for."""
    return ordered(codec_speakers(subtype, channels)) if channels > 2 else (None, None)


__all__ = ["AMBISONIC_GUID", "LABELS", "TAGS", "Order", "core_audio_layout", "masked_floats", "read_layout"]
