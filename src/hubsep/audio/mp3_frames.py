# SPDX-License-Identifier: Apache-2.0
"""The frames of an MP3: what their headers say, and how many there are.

Decisions: whatever a file holds between its frames, counting them reads it once. All headers of a chunk are found at
once, and where frames are lost, the next two that follow each other are looked up in what was found: a file made of
false starts costs as much as one made of frames.

The layout of the frames is that of ISO/IEC 11172-3 and 13818-3.
"""

from __future__ import annotations

from typing import BinaryIO, NamedTuple

import numpy as np
from numpy.typing import NDArray


CHUNK_BYTES = 2**20
LONGEST_FRAME = 4_096  # no frame is longer than 2,881 bytes

_LOW_RATES = (0, 8, 16, 24, 32, 40, 48, 56, 64, 80, 96, 112, 128, 144, 160)
_KBPS = {  # (MPEG 1, layer)
    (True, 1): tuple(range(0, 449, 32)),
    (True, 2): (0, 32, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320, 384),
    (True, 3): (0, 32, 40, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320),
    (False, 1): (0, 32, 48, 56, 64, 80, 96, 112, 128, 144, 160, 176, 192, 224, 256),
    (False, 2): _LOW_RATES,
    (False, 3): _LOW_RATES,
}


class Frame(NamedTuple):
    """What the four bytes at the start of a frame say; frames of one recording agree on `kind`."""

    size: int
    samples: int
    kind: tuple[int, int, int]
    side_bytes: int


def parse_frame(head: bytes) -> Frame | None:
    """Reads a frame header; None if it is not one, or leaves the size of the frame open."""
    if len(head) < 4 or head[0] != 0xFF or head[1] & 0xE0 != 0xE0:
        return None
    version, layer = head[1] >> 3 & 3, 4 - (head[1] >> 1 & 3)
    kbps_index, rate_index, padding, mono = head[2] >> 4, head[2] >> 2 & 3, head[2] >> 1 & 1, head[3] >> 6 == 3
    if version == 1 or layer == 4 or kbps_index in (0, 15) or rate_index == 3:
        return None
    first = version == 3
    rate = (44_100, 48_000, 32_000)[rate_index] // {3: 1, 2: 2, 0: 4}[version]
    samples = 384 if layer == 1 else 576 if layer == 3 and not first else 1_152
    unit = 4 if layer == 1 else 1
    size = (samples // 8 // unit * _KBPS[first, layer][kbps_index] * 1_000 // rate + padding) * unit
    side_bytes = (17 if mono else 32) if first else (9 if mono else 17)
    return Frame(size, samples, (version, layer, rate), side_bytes)


def count_frames(file: BinaryIO, start: int, file_size: int, kind: tuple[int, int, int]) -> int:
    """Complete frames of one kind from `start` on, whatever stands between them."""
    headers, count = _Headers(file, kind), 0
    while start + 4 <= file_size:
        size = headers.size_at(start)
        if size:
            count += start + size <= file_size
            start += size
        else:
            tag = headers.tag_at(start)
            start = start + tag if tag else headers.next_pair(start + 1, file_size)
    return count


class _Headers:
    """The headers of one kind of frame in a chunk of a file, which moves on through the file."""

    def __init__(self, file: BinaryIO, kind: tuple[int, int, int]):
        self._file = file
        second = 0xE0 | kind[0] << 3 | 4 - kind[1] << 1
        self._seconds = (second, second | 1)  # with a checksum and without
        heads = [parse_frame(bytes([0xFF, second, third, 0])) for third in range(256)]
        self._sizes_by_third = np.array([head.size if head and head.kind == kind else 0 for head in heads], np.int32)
        self._base, self._data = 0, b""
        self._sizes: NDArray[np.int32] = np.zeros(0, np.int32)
        self._pairs: NDArray[np.int64] = np.zeros(0, np.int64)

    def size_at(self, position: int) -> int:
        """Bytes of the frame that begins there, 0 if none does."""
        self._load(position)
        at = position - self._base
        return int(self._sizes[at]) if at < len(self._sizes) else 0

    def tag_at(self, position: int) -> int:
        """Bytes of the ID3v2 tag that begins there, 0 if none does."""
        self._load(position)
        return id3_size(self._data[position - self._base : position - self._base + 10])

    def next_pair(self, position: int, file_size: int) -> int:
        """Where the next two frames follow each other; the end of the file if nowhere."""
        while position + 4 <= file_size:
            self._load(position)
            at = int(np.searchsorted(self._pairs, position - self._base))
            if at < len(self._pairs):
                return self._base + int(self._pairs[at])
            position = self._base + CHUNK_BYTES
        return file_size

    def _load(self, position: int) -> None:
        if self._data and self._base <= position < self._base + CHUNK_BYTES:
            return
        self._file.seek(position)
        self._base, self._data = position, self._file.read(CHUNK_BYTES + LONGEST_FRAME)
        self._sizes = self._sizes_in(np.frombuffer(self._data, np.uint8))
        starts = np.flatnonzero(self._sizes[:CHUNK_BYTES])
        followers = starts + self._sizes[starts]
        inside = followers < len(self._sizes)
        self._pairs = starts[inside][self._sizes[followers[inside]] > 0]

    def _sizes_in(self, data: NDArray[np.uint8]) -> NDArray[np.int32]:
        """The size of the frame that begins at each byte, 0 where none does."""
        if len(data) < 4:
            return np.zeros(0, np.int32)
        first, second, third = data[:-3], data[1:-2], data[2:-1]
        begins = (first == 0xFF) & ((second == self._seconds[0]) | (second == self._seconds[1]))
        return np.where(begins, self._sizes_by_third[third], 0)


def id3_size(head: bytes) -> int:
    """Bytes of the ID3v2 tag whose first ten bytes these are; 0 if they are not."""
    if len(head) < 10 or head[:3] != b"ID3":
        return 0
    size = head[6] << 21 | head[7] << 14 | head[8] << 7 | head[9]
    return 10 + size + (10 if head[5] & 0x10 else 0)


__all__ = ["Frame", "count_frames", "id3_size", "parse_frame"]
