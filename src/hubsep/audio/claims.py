# SPDX-License-Identifier: Apache-2.0
"""What the container of a recording says about its end, so that a file cut short is noticed.

libsndfile reads most truncated files as if they ended there (measured with 1.2.2, files cut to half): of WAV, AIFF,
AU, W64 and RF64 it reports only the samples that are left. How a cut shows:

- chunked formats: the declared end of the audio chunk lies behind the end of the file;
- Matroska, AVI and MP4: an outermost element reaches behind the end of the file;
- MP3: `audio.mp3`; Ogg: `audio.ogg`; FLAC: the header counts the samples, and libsndfile reports it.

Lengths that mean "not known when writing began" (0, all bits set, and what sox, arecord and espeak write into pipes)
claim nothing.
"""

from __future__ import annotations

import os
import struct
from collections.abc import Iterator
from typing import BinaryIO

from .chunks import W64_NAMES, caf_chunks, iff_chunks, w64_chunks
from .counts import UNKNOWN_SIZES


MP4_BOXES = (b"ftyp", b"moov", b"mdat", b"wide", b"free", b"skip")
MAX_BOXES = 200_000
EBML_HEADER, EBML_SEGMENT = b"\x1a\x45\xdf\xa3", b"\x18\x53\x80\x67"


def missing_share(file: BinaryIO) -> tuple[int, int] | None:
    """Declared bytes of audio, and those that are there, of a chunked file whose audio is cut.

    None if the audio is complete, or the format or length is not known.
    """
    file_size = file.seek(0, os.SEEK_END)
    audio = _audio_chunk(file)
    if audio is None:
        return None
    start, declared = audio
    there = max(0, file_size - start)
    return (declared, there) if declared not in UNKNOWN_SIZES and declared > there else None


def video_is_cut(file: BinaryIO) -> bool:
    """Whether a Matroska, WebM, AVI or MP4 file ends before an outermost element does; False where it does not say."""
    file_size = file.seek(0, os.SEEK_END)
    file.seek(0)
    head = file.read(12)
    if head[:4] == b"RIFF" and head[8:] == b"AVI ":
        declared = int.from_bytes(head[4:8], "little")
        return declared not in UNKNOWN_SIZES and 8 + declared > file_size
    if head[4:8] in MP4_BOXES:
        return any(stop > file_size for name, stop in _boxes(file) if name in (b"mdat", b"moof", b"moov"))
    if head[:4] != EBML_HEADER:
        return False
    header_size, start = _ebml_size(file, 4)
    file.seek(start + (header_size or 0))
    if file.read(4) != EBML_SEGMENT:
        return False
    size, start = _ebml_size(file, start + (header_size or 0) + 4)
    return size is not None and start + size > file_size


def has_index(file: BinaryIO) -> bool:
    """Whether an MP4 file has its index, which most programs write last."""
    return any(name in (b"moov", b"moof") for name, _ in _boxes(file))


def _boxes(file: BinaryIO) -> Iterator[tuple[bytes, int]]:
    """The names of an MP4 file's outermost boxes, and where they say that they end; a size of 0 is the file's."""
    file_size, start = file.seek(0, os.SEEK_END), 0
    for _ in range(MAX_BOXES):
        file.seek(start)
        head = file.read(16)
        size = int.from_bytes(head[8:], "big") if head[:4] == b"\0\0\0\1" else int.from_bytes(head[:4], "big")
        if len(head) < 8 or 0 < size < 8:
            return
        start = start + size if size else file_size
        yield head[4:8], start


def _ebml_size(file: BinaryIO, start: int) -> tuple[int | None, int]:
    """A size as Matroska writes it, None if unknown, and the position behind it."""
    file.seek(start)
    data = file.read(8)
    length = 9 - data[0].bit_length() if data and data[0] else 1
    size = int.from_bytes(data[:length], "big") & (1 << 7 * length) - 1
    return (None if size == (1 << 7 * length) - 1 else size), start + length


def _audio_chunk(file: BinaryIO) -> tuple[int, int] | None:
    """Start and declared size, in bytes, of the chunk with the audio."""
    file.seek(0)
    magic = file.read(12)
    if magic[:4] in (b".snd", b"dns.") and len(magic) == 12:
        start, size = struct.unpack(">II" if magic[:4] == b".snd" else "<II", magic[4:])
        return start, size
    if magic[:4] == b"riff":
        data_chunk = next((chunk for chunk in w64_chunks(file) if chunk.name == W64_NAMES["data"]), None)
        return None if data_chunk is None else (data_chunk.start, data_chunk.size)
    if magic[:4] == b"caff":
        data_chunk = next((chunk for chunk in caf_chunks(file) if chunk.name == b"data"), None)
        return None if data_chunk is None or data_chunk.size < 0 else (data_chunk.start, data_chunk.size)
    long_size = None
    for chunk in iff_chunks(file):
        if chunk.name == b"ds64" and chunk.size >= 16:
            content = chunk.read(16)[8:]
            long_size = int.from_bytes(content, "little") if len(content) == 8 else None
        if chunk.name in (b"data", b"SSND", b"BODY"):
            return chunk.start, long_size if long_size is not None and chunk.size == 0xFFFF_FFFF else chunk.size
    return None


__all__ = ["MP4_BOXES", "has_index", "missing_share", "video_is_cut"]
