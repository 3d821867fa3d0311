# SPDX-License-Identifier: Apache-2.0
"""What a file says of its recording beside the samples: where it lies in time, titles and names, the cover.

Decisions: stems are parts of the recording, so they bear what it bears, wherever their format has a place for it. The
`bext` chunk of a broadcast wave is kept byte for byte, but for two things: its time reference counts samples, so it
follows an excerpt and another sampling rate; and loudness that was measured of the recording is none of a stem's, so
it becomes "not measured". The name of the program that wrote a file is not kept.

The layout of the chunk is that of EBU Tech 3285, its loudness that of version 2.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, BinaryIO

from .chunks import flac_blocks, iff_chunks


TIME_REFERENCE = slice(338, 346)
VERSION = slice(346, 348)
LOUDNESS = slice(412, 422)
NOT_MEASURED = b"\xff\x7f" * 5
BROADCAST_BYTES = 602  # without the coding history
MOST_BYTES = 2**20
MOST_PICTURE_BYTES = 2**24 - 1  # what a block of FLAC holds
MOST_CHARACTERS = 4_096
TAGS = ("title", "artist", "album", "date", "comment", "genre", "tracknumber", "copyright", "license")
ID3_FRAMES = {
    "title": b"TIT2", "artist": b"TPE1", "album": b"TALB", "date": b"TDRC", "genre": b"TCON", "tracknumber": b"TRCK",
    "copyright": b"TCOP", "comment": b"COMM",
}  # fmt: skip
AV_NAMES = {"track": "tracknumber", "TRACK": "tracknumber"}


@dataclass(frozen=True)
class Notes:
    """What a file says of its recording.

    Args:
        tags: texts by their names, which are those of `TAGS`.
        broadcast: content of the `bext` chunk of a broadcast wave, nothing if there is none.
        sampling_rate: in Hz, which the time reference in there counts in.
        picture: a cover, as the `PICTURE` block of a FLAC file; nothing if there is none.
    """

    tags: Mapping[str, str] = field(default_factory=dict)
    broadcast: bytes = b""
    sampling_rate: int = 0
    picture: bytes = field(default=b"", repr=False)

    @property
    def time_reference(self) -> int | None:
        """Samples from midnight to the beginning, None where that is not known."""
        return struct.unpack("<Q", self.broadcast[TIME_REFERENCE])[0] if self.broadcast else None

    def later(self, samples: int) -> Notes:
        """The same of a part that begins so many samples later."""
        if self.time_reference is None or not samples:
            return self
        return replace(self, broadcast=self._with_time(self.time_reference + samples))

    def of_stem(self, sampling_rate: int) -> bytes:
        """The `bext` chunk of a stem at some rate."""
        if self.time_reference is None:
            return b""
        rate = self.sampling_rate or sampling_rate
        content = bytearray(self._with_time((self.time_reference * sampling_rate + rate // 2) // rate))
        if int.from_bytes(content[VERSION], "little") >= 2:
            content[LOUDNESS] = NOT_MEASURED
        return bytes(content)

    def _with_time(self, samples: int) -> bytes:
        content = bytearray(self.broadcast)
        content[TIME_REFERENCE] = struct.pack("<Q", samples & (2**64 - 1))
        return bytes(content)


def read_notes(file: BinaryIO, format: str | None, texts: Mapping[str, str], sampling_rate: int) -> Notes:
    """Reads what there is.

    Args:
        file: seekable; it is left somewhere else.
        format: as soundfile calls it.
        texts: what soundfile read of the tags.
        sampling_rate: in Hz.
    """
    broadcast = picture = b""
    if format in ("WAV", "RF64"):
        chunk = next((chunk for chunk in iff_chunks(file) if chunk.name == b"bext" and not chunk.big), None)
        content = b"" if chunk is None else chunk.read(MOST_BYTES)
        broadcast = content if len(content) >= BROADCAST_BYTES else b""
    if format == "FLAC":
        blocks = (block for block in flac_blocks(file) if block.name == b"\6")
        block = next(blocks, None)
        content = b"" if block is None else block.read(MOST_PICTURE_BYTES)
        picture = content if block is not None and len(content) == block.size else b""
    return Notes(plain_tags(texts), broadcast, sampling_rate, picture)


def id3_tag(tags: Mapping[str, str]) -> bytes:
    """The tags as an ID3v2.4 tag in UTF-8, nothing of none: libsndfile takes letters for Latin-1."""
    frames = b""
    for name, frame in ID3_FRAMES.items():
        if text := tags.get(name, ""):
            content = b"\3" + (b"eng\0" if frame == b"COMM" else b"") + text.encode("utf-8", "replace")
            frames += frame + _seven_bits(len(content)) + bytes(2) + content
    return b"ID3\4\0\0" + _seven_bits(len(frames)) + frames if frames else b""


def _seven_bits(number: int) -> bytes:
    return bytes(number >> shift & 0x7F for shift in (21, 14, 7, 0))


def plain_tags(texts: Mapping[str, Any]) -> dict[str, str]:
    """Tags by the names soundfile knows, those it does not know left out."""
    named = {AV_NAMES.get(name, name.lower()): text for name, text in texts.items()}
    return {name: str(named[name])[:MOST_CHARACTERS] for name in TAGS if named.get(name)}


__all__ = ["BROADCAST_BYTES", "TAGS", "Notes", "id3_tag", "plain_tags", "read_notes"]
