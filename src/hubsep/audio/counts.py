# SPDX-License-Identifier: Apache-2.0
"""How many samples a header counts, beside the bytes that it says there are; libsndfile believes the bytes alone.

AIFF counts in COMM, RF64 and BW64 in ds64, WAVE and Wave64 in fact, CAF in the table of its packets, NIST in a line.
FLAC counts too, but libsndfile stops there, whatever follows: so its last frame is asked. Of rare formats libsndfile
writes down what their headers count, and does not compare it. PAF, PVF and IRCAM count nothing.

What is let pass, because programs write it: counts of nothing or of all bits, as into a pipe; those of a file whose
audio has no known size; the samples of all channels together; an unknown count of libsndfile's own Wave64; whole
packets in CAF, as older versions of FFmpeg counted.
"""

from __future__ import annotations

import functools
import re
import struct
from collections.abc import Iterator
from typing import BinaryIO, NamedTuple

from .chunks import W64_NAMES, caf_chunks, flac_blocks, flac_stop, iff_chunks, w64_chunks


UNKNOWN_SIZES = frozenset(
    {0, 0xFFFF_F000, 0xFFFF_FFFF, 2**63 - 25, 2**63 - 1, 2**64 - 1}
    | {*range(0x7FFF_F000, 0x8000_0001), *range(0x7EFF_FE00, 0x7F00_0009)}  # up to these, whole frames
)
UNKNOWN_COUNTS = frozenset({0, 0xFFFF_FFFF, 2**63 - 1, 2**64 - 1})
MOST_SAMPLES = 2**62
SEARCHED_AT_ONCE = 2**20
LONGEST_FRAME = 2**18  # bytes of FLAC that are looked through for the last one; 64 kB are usual at the very most
MOST_TRIES = 8  # what begins like a frame and is none
NIST_MAGIC, NIST_HEADER_BYTES = b"NIST_1A\n", 1_024
# what libsndfile writes down of a header: the samples of a channel
WRITTEN_DOWN = {
    "AVR": r"Frames +: ([0-9]{1,18})\b",
    "MAT4": r"Cols +: ([0-9]{1,18})\b",
    "MAT5": r"Cols +: ([0-9]{1,18})\b",
    "MPC2K": r"Frames +: ([0-9]{1,18})\b",
    "WVE": r"Data length ([0-9]{1,18}) should be",
}
BLOCK_SIZES = {
    1: 192,
    **{code: 576 << code - 2 for code in range(2, 6)},
    **{code: 256 << code - 8 for code in range(8, 16)},
}
CRC_8 = (8, 0x07)
CRC_16 = (16, 0x8005)


class FlacCount(NamedTuple):
    """Samples that the header counts, those up to the last frame, and what it would say where, to count those."""

    counted: int
    there: int
    patches: dict[int, bytes]


def counted_samples(file: BinaryIO, samples: int, channels: int) -> int | None:
    """How many samples the header counts, where those are more than there are.

    Args:
        file: seekable; it is left somewhere else.
        samples: in each channel, that there are.
        channels: of the recording.
    """
    counts = [count for count in _counts(file) if count not in UNKNOWN_COUNTS and count != samples * channels]
    return max((count for count in counts if count > samples), default=None)


def written_count(format_: str, log: str) -> int | None:
    """How many samples of each channel the header of a rare format counts, as libsndfile wrote it down.

    Args:
        format_: in libsndfile's words.
        log: what it wrote while it opened the file.
    """
    found = re.findall(WRITTEN_DOWN[format_], log) if format_ in WRITTEN_DOWN else []
    return int(found[-1]) if found else None


def _counts(file: BinaryIO) -> Iterator[int]:
    """What the header counts."""
    yield from _iff_counts(file)
    file.seek(0)
    head = file.read(NIST_HEADER_BYTES)
    if head.startswith(NIST_MAGIC) and (line := re.search(rb"\nsample_count -i ([0-9]{1,18})\n", head)):
        yield int(line[1])
    for chunk in w64_chunks(file):
        if chunk.name == W64_NAMES["fact"] and (count := int.from_bytes(chunk.read(8), "little")) < MOST_SAMPLES:
            yield count
    packet = 0
    for chunk in caf_chunks(file):
        if chunk.name == b"desc":
            packet = int.from_bytes(chunk.read(24)[20:], "big")
        if chunk.name == b"pakt" and chunk.size >= 24:
            packets, valid, before = struct.unpack(">qqi", chunk.read(20).ljust(20, b"\0"))
            yield (packets - 1) * packet + 1 - max(0, before)  # of the last one, a sample at least
            if valid != packets * packet:
                yield valid


def _iff_counts(file: BinaryIO) -> Iterator[int]:
    """Of WAVE and AIFF, none if they leave the size of the audio open."""
    counts: list[int] = []
    long_size = None
    for chunk in iff_chunks(file):
        if chunk.name == b"ds64" and chunk.size >= 24:
            long_size, count = struct.unpack("<QQ", chunk.read(24).ljust(24, b"\0")[8:])
            counts.append(count)
        if chunk.name == b"fact":
            counts.append(int.from_bytes(chunk.read(4), "big" if chunk.big else "little"))
        if chunk.name == b"COMM":
            counts.append(int.from_bytes(chunk.read(6)[2:], "big"))
        size = long_size if chunk.size == 0xFFFF_FFFF and long_size is not None else chunk.size
        if chunk.name in (b"data", b"SSND") and size in UNKNOWN_SIZES:
            return
    yield from counts


def flac_samples(file: BinaryIO) -> FlacCount | None:
    """What a FLAC file counts, and what there is; None if it counts nothing, or its end cannot be read."""
    info = next((block for block in flac_blocks(file) if block.name == b"\0"), None)
    content = b"" if info is None else info.read(34)
    counted = int.from_bytes(content[13:18], "big") & 2**36 - 1
    if info is None or len(content) < 34 or not counted:
        return None
    there = _flac_end(file, int.from_bytes(content[2:4], "big"))
    if there is None or there >= 2**36 or (there > counted and _another_follows(file, info.start)):
        return None
    patch = (content[13] >> 4 << 36 | there).to_bytes(5, "big")
    return FlacCount(counted, there, {info.start + 13: patch})


def _another_follows(file: BinaryIO, start: int) -> bool:
    """Whether there is the beginning of another FLAC file, which is no part of this one."""
    file.seek(start)
    end = b""
    while block := file.read(SEARCHED_AT_ONCE):
        if b"fLaC" in end + block:
            return True
        end = block[-3:]
    return False


def _flac_end(file: BinaryIO, block_size: int) -> int | None:
    """Where the last frame of a FLAC file ends, in samples: the last thing that has both of its checksums."""
    stop = flac_stop(file)
    start = max(0, stop - LONGEST_FRAME)
    file.seek(start)
    data = file.read(stop - start)
    at, tries = len(data), 0
    while tries < MOST_TRIES and (at := data.rfind(b"\xff", 0, at)) >= 0:
        if (
            data[at + 1 : at + 2] not in (b"\xf8", b"\xf9")
            or (end := _frame_end(data[at : at + 16], block_size)) is None
        ):
            continue
        tries += 1
        if _checksum(data[at:], *CRC_16) == 0:
            return end
    return None


def _frame_end(head: bytes, block_size: int) -> int | None:
    """Up to which sample a frame of FLAC goes (RFC 9639, 9.1); None if this is the header of none.

    Args:
        head: its first bytes.
        block_size: of each frame but the last, where they are numbered by frames.
    """
    if len(head) < 16:
        return None
    size_code, rate_code = divmod(head[2], 16)
    ones = 8 - (head[4] ^ 0xFF).bit_length()  # of a number as in UTF-8
    number, at = head[4] & 0x7F >> ones, 4 + max(1, ones)
    for byte in head[5:at]:
        number = number << 6 | byte & 0x3F
    size_bytes = {6: 1, 7: 2}.get(size_code, 0)
    size = 1 + int.from_bytes(head[at : at + size_bytes], "big") if size_bytes else BLOCK_SIZES.get(size_code, 0)
    at += size_bytes + {12: 1, 13: 2, 14: 2}.get(rate_code, 0)
    if size == 0 or rate_code == 15 or ones in (1, 8) or _checksum(head[: at + 1], *CRC_8):
        return None
    return number + size if head[1] & 1 else number * block_size + size


def _checksum(data: bytes, bits: int, polynomial: int) -> int:
    """Zero for data that end with their own checksum."""
    table, checksum, shift, mask = _checksums(bits, polynomial), 0, bits - 8, (1 << bits) - 1
    for byte in data:
        checksum = (checksum << 8 & mask) ^ table[checksum >> shift ^ byte]
    return checksum


@functools.cache
def _checksums(bits: int, polynomial: int) -> tuple[int, ...]:
    """Of each byte."""
    sums = []
    for byte in range(256):
        value = byte << bits - 8
        for _ in range(8):
            value = value << 1 ^ (polynomial | 1 << bits if value >> bits - 1 else 0)
        sums.append(value)
    return tuple(sums)


__all__ = ["UNKNOWN_SIZES", "counted_samples", "flac_samples", "written_count"]
