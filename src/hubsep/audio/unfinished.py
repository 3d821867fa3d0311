# SPDX-License-Identifier: Apache-2.0
"""Headers that were never finished: they count nothing, and there is audio behind them, as after a recorder's crash.

Decisions: such a file is read as far as it goes, as one that is cut short. Where whole chunks follow the audio that
counts nothing, it is empty as it says. Sizes that programs write into pipes, all bits set, are no fault and stay.
libsndfile reads FLAC that counts no samples by itself.
"""

from __future__ import annotations

import os
import struct
from typing import BinaryIO

from .chunks import W64_NAMES, Chunk, caf_chunks, iff_chunks, w64_chunks
from .overrun import wave_sizes


Patches = dict[int, bytes]
UNFINISHED = "its header was never finished: it counts no samples, and there is audio behind it"
SSND_HEAD = 8  # bytes before the samples of an AIFF file
LARGEST = 2**32 - 2


def finished_header(file: BinaryIO) -> Patches:
    """What a header would say where, had it been finished; nothing where it was, or there is no audio.

    Args:
        file: seekable; it is left somewhere else.
    """
    size = file.seek(0, os.SEEK_END)
    file.seek(0)
    magic = file.read(12)
    if magic[8:] == b"WAVE":
        return _of_wave(file, size)
    if magic[8:] in (b"AIFF", b"AIFC"):
        return _of_aiff(file, size)
    if magic[:4] == b"riff":
        return _of_wave64(file, size)
    if magic[:4] == b"caff":
        return _of_caf(file, size)
    if magic[:4] in (b".snd", b"dns.") and magic[8:] == bytes(4):
        start = int.from_bytes(magic[4:8], "big" if magic[:4] == b".snd" else "little")
        return {8: b"\xff" * 4} if 24 <= start < size else {}
    return {}


def _of_wave(file: BinaryIO, size: int) -> Patches:
    long: Chunk | None = None
    width = 1
    for chunk in iff_chunks(file):
        if chunk.name == b"ds64" and chunk.size >= 24:
            long = chunk
        if chunk.name == b"fmt ":
            width = max(1, int.from_bytes(chunk.read(14)[12:], "big" if chunk.big else "little"))
        if chunk.name != b"data":
            continue
        there = size - chunk.start
        in_ds64 = long is not None and chunk.size == 0xFFFF_FFFF and not any(long.read(16)[8:])
        if (chunk.size and not in_ds64) or there < width or _chunks_follow(file, chunk.start, size, big=chunk.big):
            return {}
        if long is not None and in_ds64:
            return {long.start: struct.pack("<QQQ", size - 8, there, there // width)}
        return wave_sizes(chunk, size, there)
    return {}


def _of_aiff(file: BinaryIO, size: int) -> Patches:
    frames, width, at = 0, 1, 0
    for chunk in iff_chunks(file):
        if chunk.name == b"COMM":
            channels, frames, bits = struct.unpack(">HIH", chunk.read(8).ljust(8, b"\0"))
            width, at = max(1, channels * -(-bits // 8)), chunk.start + 2
        if chunk.name != b"SSND":
            continue
        patches: Patches = {}
        there, declared = size - chunk.start - SSND_HEAD, chunk.size - SSND_HEAD
        if declared <= 0 and not _chunks_follow(file, chunk.start + max(0, chunk.size), size, big=True):
            patches = {4: struct.pack(">I", min(size - 8, LARGEST))}
            patches[chunk.start - 4] = struct.pack(">I", min(there + SSND_HEAD, LARGEST))
        else:
            there = min(there, declared)
        if there < width or (frames and not patches):
            return {}
        return patches | ({at: struct.pack(">I", min(there // width, LARGEST))} if at else {})
    return {}


def _of_wave64(file: BinaryIO, size: int) -> Patches:
    chunk = next((chunk for chunk in w64_chunks(file) if chunk.name == W64_NAMES["data"]), None)
    if chunk is None or chunk.size or size <= chunk.start:
        return {}
    return {16: struct.pack("<Q", size), chunk.start - 8: struct.pack("<Q", size - chunk.start + 24)}


def _of_caf(file: BinaryIO, size: int) -> Patches:
    chunk = next((chunk for chunk in caf_chunks(file) if chunk.name == b"data"), None)
    if chunk is None or chunk.size not in (0, 4) or size - chunk.start <= 4:
        return {}
    follows = _chunks_follow(file, chunk.start + chunk.size, size, big=True, long=True)
    return {} if follows else _sized(chunk, size)


def open_ended(file: BinaryIO) -> Patches:
    """The size of the audio where libsndfile refuses what is declared.

    That is one left open, which CAF may and FFmpeg does in Wave64, and in CAF one far behind the end of the file.
    """
    size = file.seek(0, os.SEEK_END)
    chunk = next((chunk for chunk in caf_chunks(file) if chunk.name == b"data"), None)
    if chunk is not None:
        return _sized(chunk, size) if chunk.size == -1 or chunk.start + chunk.size > size else {}
    chunk = next((chunk for chunk in w64_chunks(file) if chunk.name == W64_NAMES["data"]), None)
    if chunk is None or chunk.size + 24 != 2**63 - 1:
        return {}
    return {16: struct.pack("<Q", size), chunk.start - 8: struct.pack("<Q", size - chunk.start + 24)}


def even_chunks(file: BinaryIO) -> Patches:
    """Sizes with their padding, of chunks in RF64 files behind which libsndfile 1.2.2 would lose its way.

    BW64 (ITU-R BS.2088) is RF64 by another name, which libsndfile does not know.
    """
    file.seek(0)
    name = file.read(4)
    if name not in (b"RF64", b"BW64"):
        return {}
    patches: Patches = {} if name == b"RF64" else {0: b"RF64"}
    for chunk in iff_chunks(file):
        if chunk.name == b"data":
            return patches
        if chunk.size % 2:
            patches[chunk.start - 4] = struct.pack("<I", chunk.size + 1)
    return {}


def _sized(chunk: Chunk, size: int) -> Patches:
    return {chunk.start - 8: struct.pack(">q", size - chunk.start)}


def _chunks_follow(file: BinaryIO, start: int, stop: int, *, big: bool, long: bool = False) -> bool:
    """Whether chunks fill what is left of a file, whose sizes have 4 bytes, or 8."""
    width = 8 if long else 4
    while start + 4 + width <= stop:
        file.seek(start)
        head = file.read(4 + width)
        if not all(32 <= letter < 127 for letter in head[:4]):
            return False
        size = int.from_bytes(head[4:], "big" if big else "little")
        start += 4 + width + size + (0 if long else size % 2)
    return start in (stop, stop + 1)


__all__ = ["UNFINISHED", "even_chunks", "finished_header", "open_ended"]
