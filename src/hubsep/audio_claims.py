# SPDX-License-Identifier: Apache-2.0
"""What the container of a recording says about its end, so that a file cut short is noticed.

libsndfile reads most truncated files as if they ended there (measured with 1.2.2, files cut to half): of WAV, AIFF,
AU, W64 and RF64 it reports only the samples that are left, of Ogg those up to the last whole page. How a cut shows:

- chunked formats: the declared end of the audio chunk lies behind the end of the file;
- Ogg: the last page does not carry the end-of-stream flag, or is incomplete;
- Matroska and AVI: the outermost element reaches behind the end of the file;
- MP3: `audio_mp3`; FLAC: the header counts the samples, and libsndfile reports it.

Lengths that mean "not known when writing began" (0, all bits set, and what sox, arecord and espeak write into pipes)
claim nothing.
"""

from __future__ import annotations

import os
import struct
from collections.abc import Iterator
from typing import BinaryIO, NamedTuple


UNKNOWN_SIZES = frozenset({0, 0xFFFF_F000, 0xFFFF_FFFF, 2**63 - 1, 2**64 - 1, *range(0x7FFF_F000, 0x8000_0001)})
MAX_CHUNKS = 10_000
EBML_HEADER, EBML_SEGMENT = b"\x1a\x45\xdf\xa3", b"\x18\x53\x80\x67"
W64_AUDIO = b"data\xf3\xac\xd3\x11\x8c\xd1\x00\xc0\x4f\x8e\xdb\x8a"


class OggLink(NamedTuple):
    """One of the recordings of an Ogg file, which may follow each other; positions in bytes."""

    start: int
    stop: int
    ended: bool


def missing_share(file: BinaryIO) -> tuple[int, int] | None:
    """Declared bytes of audio, and those that are there, of a chunked file whose audio is cut.

    None if the audio is complete, or the format or length is not known.
    """
    file_size = file.seek(0, os.SEEK_END)
    found = _audio_chunk(file, file_size)
    if found is None:
        return None
    start, declared = found
    there = max(0, file_size - start)
    return (declared, there) if declared not in UNKNOWN_SIZES and declared > there else None


def ogg_links(file: BinaryIO) -> list[OggLink]:
    """The recordings of an Ogg file: a page that begins a stream after one that does not begins the next recording.

    What is no page, such as a tag behind the last one, ends the search; the last link then reaches to the end.
    """
    file_size = file.seek(0, os.SEEK_END)
    starts, ended, position, after_first_pages = [0], [False], 0, False
    while position + 27 <= file_size:
        file.seek(position)
        header = file.read(27 + 255)
        if header[:5] != b"OggS\x00":
            break
        segments = header[26]
        stop = position + 27 + segments + sum(header[27 : 27 + segments])
        begins = bool(header[5] & 2)
        if begins and after_first_pages:
            starts.append(position)
            ended.append(False)
        after_first_pages = not begins
        ended[-1] = bool(header[5] & 4) and stop <= file_size and len(header) >= 27 + segments
        position = stop
    return [OggLink(*link) for link in zip(starts, [*starts[1:], file_size], ended, strict=True)]


def video_is_cut(file: BinaryIO) -> bool:
    """Whether a Matroska, WebM or AVI file ends before its outermost element does; False where it does not say."""
    file_size = file.seek(0, os.SEEK_END)
    file.seek(0)
    head = file.read(12)
    if head[:4] == b"RIFF" and head[8:] == b"AVI ":
        declared = int.from_bytes(head[4:8], "little")
        return declared not in UNKNOWN_SIZES and 8 + declared > file_size
    if head[:4] != EBML_HEADER:
        return False
    header_size, start = _ebml_size(file, 4)
    file.seek(start + (header_size or 0))
    if file.read(4) != EBML_SEGMENT:
        return False
    size, start = _ebml_size(file, start + (header_size or 0) + 4)
    return size is not None and start + size > file_size


def _ebml_size(file: BinaryIO, start: int) -> tuple[int | None, int]:
    """A size as Matroska writes it, None if unknown, and the position behind it."""
    file.seek(start)
    data = file.read(8)
    length = 9 - data[0].bit_length() if data and data[0] else 1
    size = int.from_bytes(data[:length], "big") & (1 << 7 * length) - 1
    return (None if size == (1 << 7 * length) - 1 else size), start + length


def _audio_chunk(file: BinaryIO, file_size: int) -> tuple[int, int] | None:
    """Start and declared size, in bytes, of the chunk with the audio."""
    file.seek(0)
    magic = file.read(12)
    if magic[:4] in (b"RIFF", b"RF64", b"BW64") and magic[8:] == b"WAVE":
        return _find(file, _chunks(file, file_size, "<"), b"data")
    if magic[:4] == b"RIFX" and magic[8:] == b"WAVE":
        return _find(file, _chunks(file, file_size, ">"), b"data")
    if magic[:4] == b"FORM" and magic[8:] in (b"AIFF", b"AIFC"):
        return _find(file, _chunks(file, file_size, ">"), b"SSND")
    if magic[:4] in (b".snd", b"dns.") and len(magic) == 12:
        start, size = struct.unpack(">II" if magic[:4] == b".snd" else "<II", magic[4:])
        return start, size
    if magic[:4] == b"riff":
        return _find_w64(file, file_size)
    return None


def _chunks(file: BinaryIO, file_size: int, order: str) -> Iterator[tuple[bytes, int, int]]:
    """Name, start of the content and declared size of each chunk; contents are padded to even lengths."""
    start = 12
    for _ in range(MAX_CHUNKS):
        if start + 8 > file_size:
            return
        file.seek(start)
        name, size = struct.unpack(f"{order}4sI", file.read(8))
        yield name, start + 8, size
        start += 8 + size + size % 2


def _find(file: BinaryIO, chunks: Iterator[tuple[bytes, int, int]], wanted: bytes) -> tuple[int, int] | None:
    long_size = None
    for name, start, size in chunks:
        if name == b"ds64" and size >= 16:
            file.seek(start + 8)
            content = file.read(8)
            long_size = int.from_bytes(content, "little") if len(content) == 8 else None
        if name == wanted:
            return start, long_size if long_size is not None and size == 0xFFFF_FFFF else size
    return None


def _find_w64(file: BinaryIO, file_size: int) -> tuple[int, int] | None:
    """The same in Sony's Wave64: names of 16 bytes, sizes of 8 that count the header of 24, padded to 8 bytes."""
    start = 40
    for _ in range(MAX_CHUNKS):
        if start + 24 > file_size:
            return None
        file.seek(start)
        name, size = struct.unpack("<16sQ", file.read(24))
        if name == W64_AUDIO:
            return start + 24, max(0, size - 24)
        start += max(24, size + -size % 8)
    return None


__all__ = ["OggLink", "missing_share", "ogg_links", "video_is_cut"]
