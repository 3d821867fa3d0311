# SPDX-License-Identifier: Apache-2.0
"""The chunks that files of audio are made of: those of WAVE and AIFF, Wave64, CAF, and the metadata blocks of FLAC.

What a chunk says of its size is not believed: it may reach behind the end of the file, and no more of it is read than
asked for.
"""

from __future__ import annotations

import os
import struct
from collections.abc import Iterator
from typing import BinaryIO, NamedTuple

from .mp3_frames import id3_size


BIG_ENDIAN = (
    (b"RIFX", b"WAVE"), (b"FORM", b"AIFF"), (b"FORM", b"AIFC"), (b"FORM", b"8SVX"), (b"FORM", b"16SV")
)  # fmt: skip
MAX_CHUNKS = 10_000
MAX_BLOCKS = 1_000
MAX_TAGS = 4
ID3V1_BYTES, APE_BYTES = 128, 32
GUID_TAIL = bytes.fromhex("f3acd3118cd100c04f8edb8a")
W64_NAMES = {name: name.encode() + GUID_TAIL for name in ("fmt ", "data", "fact")}


class Chunk(NamedTuple):
    """A part of a file.

    Attributes:
        name: as it stands there.
        start: of the content, in bytes.
        size: of the content, as it is declared.
        big: whether numbers have their highest byte first.
        file: which it is a part of.
    """

    name: bytes
    start: int
    size: int
    big: bool
    file: BinaryIO

    def read(self, size: int) -> bytes:
        """At most so many bytes of the content."""
        self.file.seek(self.start)
        return self.file.read(max(0, min(size, self.size)))


def iff_chunks(file: BinaryIO) -> Iterator[Chunk]:
    """The chunks of a WAVE, AIFF or 8SVX file, padded to even lengths; nothing of another file."""
    file_size = file.seek(0, os.SEEK_END)
    file.seek(0)
    magic = file.read(12)
    little = magic[:4] in (b"RIFF", b"RF64", b"BW64") and magic[8:] == b"WAVE"
    big = (magic[:4], magic[8:]) in BIG_ENDIAN
    start = 12
    for _ in range(MAX_CHUNKS if little or big else 0):
        if start + 8 > file_size:
            return
        file.seek(start)
        name, size = struct.unpack(">4sI" if big else "<4sI", file.read(8))
        yield Chunk(name, start + 8, size, big, file)
        start += 8 + size + size % 2


def w64_chunks(file: BinaryIO) -> Iterator[Chunk]:
    """The chunks of Sony's Wave64: names of 16 bytes, sizes of 8 that count the header of 24, padded to 8 bytes."""
    file_size = file.seek(0, os.SEEK_END)
    file.seek(0)
    start = 40
    for _ in range(MAX_CHUNKS if file.read(4) == b"riff" else 0):
        if start + 24 > file_size:
            return
        file.seek(start)
        name, size = struct.unpack("<16sQ", file.read(24))
        yield Chunk(name, start + 24, max(0, size - 24), False, file)
        start += max(24, size + -size % 8)


def caf_chunks(file: BinaryIO) -> Iterator[Chunk]:
    """The chunks of a CAF file; a size that is not known, which only the last may have, is -1."""
    file_size = file.seek(0, os.SEEK_END)
    file.seek(0)
    start = 8
    for _ in range(MAX_CHUNKS if file.read(4) == b"caff" else 0):
        if start + 12 > file_size:
            return
        file.seek(start)
        name, size = struct.unpack(">4sq", file.read(12))
        yield Chunk(name, start + 12, size, True, file)
        if size < 0:
            return
        start += 12 + size


def flac_blocks(file: BinaryIO) -> Iterator[Chunk]:
    """The metadata blocks of a FLAC file; the name is the type, a byte."""
    start = flac_start(file)
    file.seek(start)
    last = file.read(4) != b"fLaC"
    start += 4
    for _ in range(MAX_BLOCKS):
        file.seek(start)
        head = file.read(4)
        if last or len(head) < 4:
            return
        last = bool(head[0] & 0x80)
        yield Chunk(bytes([head[0] & 0x7F]), start + 4, int.from_bytes(head[1:], "big"), True, file)
        start += 4 + int.from_bytes(head[1:], "big")


def flac_start(file: BinaryIO) -> int:
    """Where a FLAC file begins: behind an ID3 tag, if there is one."""
    file.seek(0)
    return id3_size(file.read(10))


def flac_stop(file: BinaryIO) -> int:
    """Where a FLAC file ends: before the tags that some programs put behind it, which its decoder does not expect."""
    stop = file.seek(0, os.SEEK_END)
    for _ in range(MAX_TAGS):
        file.seek(max(0, stop - ID3V1_BYTES))
        tail = file.read(min(stop, ID3V1_BYTES))
        if tail.startswith(b"TAG"):
            size = ID3V1_BYTES
        elif tail[-APE_BYTES:].startswith(b"APETAGEX"):
            size = int.from_bytes(tail[-20:-16], "little") + APE_BYTES * (tail[-9] >> 7)  # the header does not count
        else:
            size = 0
        if not 0 < size < stop:
            break
        stop -= size
    return stop


def w64_stop(file: BinaryIO) -> int:
    """Where the samples of a Wave64 file end, behind which libsndfile reads on: it takes other chunks for sound."""
    size = file.seek(0, os.SEEK_END)
    data_chunk = next((chunk for chunk in w64_chunks(file) if chunk.name == W64_NAMES["data"]), None)
    return size if data_chunk is None or not data_chunk.size else min(size, data_chunk.start + data_chunk.size)


__all__ = [
    "Chunk", "GUID_TAIL", "W64_NAMES", "caf_chunks", "flac_blocks", "flac_start", "flac_stop", "iff_chunks",
    "w64_chunks", "w64_stop",
]  # fmt: skip
