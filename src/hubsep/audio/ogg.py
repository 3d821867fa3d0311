# SPDX-License-Identifier: Apache-2.0
"""The pages of Ogg files, which say where recordings begin and end, and whether all of them are there and whole.

libsndfile leaves out what is damaged, and says nothing: measured with 1.2.2, one flipped byte in the last page of a
Vorbis file made it a third of a second shorter, a lost first page just as much, and of two recordings with a few bytes
of something else between them it read the first. Each page has a checksum and a number (RFC 3533), so all of that
shows here. Reading a file for it takes a second for a gigabyte.
"""

from __future__ import annotations

import os
import zlib
from typing import BinaryIO, NamedTuple


CAPTURE = b"OggS\0"
HEAD_BYTES = 27  # of a page, before the sizes of its segments
MOST_SEGMENTS = 255
FIRST, LAST = 2, 4  # what a page says of itself
MOST_FAULTS = 100  # which take time to look at: what is in fact no page may begin like one very often
SEARCHED_AT_FIRST, SEARCHED_AT_MOST = 512, 2**20
MIRRORED = bytes(int(f"{byte:08b}"[::-1], 2) for byte in range(256))


class OggLink(NamedTuple):
    """One of the recordings of an Ogg file, which may follow each other; positions in bytes."""

    start: int
    stop: int


class OggPages(NamedTuple):
    """What the pages of a file say.

    Attributes:
        links: its recordings.
        fault: what shows that a part of them is missing or damaged, None if nothing does.
    """

    links: list[OggLink]
    fault: str | None


class _Page(NamedTuple):
    start: int
    stop: int
    head: bytes

    @property
    def kind(self) -> int:
        return self.head[5]

    @property
    def stream(self) -> bytes:
        return self.head[14:18]

    @property
    def number(self) -> int:
        return int.from_bytes(self.head[18:22], "little")


def read_pages(file: BinaryIO) -> OggPages:
    """The recordings of an Ogg file: a page that begins a stream after one that does not begins the next recording.

    What stands behind the last page, such as a tag, belongs to none and is no fault.

    Args:
        file: seekable; it is left somewhere else.
    """
    size = file.seek(0, os.SEEK_END)
    starts, ended, position, after_first_pages = [0], [False], 0, False
    faults: list[str] = []
    numbers: dict[bytes, int] = {}
    while (start := _next_page(file, position, size)) is not None:
        page = _page_at(file, start)
        if page is None and start > position:
            break
        if page is None or page.stop > size:
            ended[-1] = False
            position = start + len(CAPTURE)
            continue
        if len(faults) < MOST_FAULTS and not _is_whole(file, page):  # as the decoder, which goes on right behind it
            faults.append(f"its page at byte {start} is damaged")
            position = start + len(CAPTURE)
            continue
        begins = bool(page.kind & FIRST)
        if start > position:
            faults.append(f"the {start - position} bytes at byte {position} are no page of it")
        elif not begins and (number := numbers.get(page.stream, page.number)) != page.number:
            faults.append(f"its page at byte {start} has the number {page.number} where {number} should be")
        if begins and after_first_pages:
            starts.append(start)
            ended.append(False)
        after_first_pages = not begins
        ended[-1] = bool(page.kind & LAST)
        numbers[page.stream] = page.number + 1
        position = page.stop
    stops = [*starts[1:], size]
    if not faults and not all(ended):
        stop = stops[ended.index(False)]
        faults.append("its last page is missing" if stop == size else f"the last page before byte {stop} is missing")
    return OggPages([OggLink(*link) for link in zip(starts, stops, strict=True)], faults[0] if faults else None)


def _is_whole(file: BinaryIO, page: _Page) -> bool:
    file.seek(page.start)
    return page_checksum(file.read(page.stop - page.start)) == page.head[22:26]


def page_checksum(page: bytes) -> bytes:
    """The checksum that a page should have: zlib's with bits the other way round, and zero at both ends."""
    mirrored = (page[:22] + bytes(4) + page[26:]).translate(MIRRORED)
    checksum = zlib.crc32(mirrored, 0xFFFF_FFFF) ^ 0xFFFF_FFFF
    return checksum.to_bytes(4, "big").translate(MIRRORED)


def _page_at(file: BinaryIO, start: int) -> _Page | None:
    """The page that begins there; None if the file ends within its header."""
    file.seek(start)
    head = file.read(HEAD_BYTES + MOST_SEGMENTS)
    if len(head) < HEAD_BYTES or len(head) < HEAD_BYTES + head[26]:
        return None
    sizes = head[HEAD_BYTES : HEAD_BYTES + head[26]]
    return _Page(start, start + HEAD_BYTES + len(sizes) + sum(sizes), head)


def _next_page(file: BinaryIO, start: int, size: int) -> int | None:
    """Where the next page begins; None if none does. One of which not even the first bytes are there counts."""
    step = SEARCHED_AT_FIRST
    while start < size:
        file.seek(start)
        data = file.read(step)
        if (at := data.find(CAPTURE)) >= 0:
            return start + at
        if start + len(data) >= size or len(data) < len(CAPTURE):
            tail = next((length for length in range(len(CAPTURE) - 1, 1, -1) if data.endswith(CAPTURE[:length])), 0)
            return size - tail if tail else None
        start += len(data) - len(CAPTURE) + 1
        step = min(2 * step, SEARCHED_AT_MOST)
    return None


__all__ = ["OggLink", "OggPages", "page_checksum", "read_pages"]
