# SPDX-License-Identifier: Apache-2.0
"""Tables of MP4 files, checked against the size of the file before FFmpeg makes room for what they claim.

Measured with FFmpeg 8: an m4a of 5,129 bytes whose table of sizes says "30 million samples of one byte each" takes 370
MB, and a fragment that says so three times as much. Decisions: a list must fit into its box; samples that no list
names must fit into the file with the size they are said to have; and what is counted in runs or chunks may be a
multiple of the file at most, because one byte of some codecs is many samples. Boxes are found by their names anywhere
outside of the audio itself, because FFmpeg takes them in places where the standard has none; but not in texts, which
may speak of keys and trunks. A box of compressed boxes is refused, because what is in it cannot be seen. What is only
cut short is FFmpeg's to report.

Boxes are those of ISO/IEC 14496-12 and of QuickTime. The tables of Matroska and AVI list what they claim, and FFmpeg
reads them as they come; those of MP3, Ogg and the formats of libsndfile are checked where those are read.
"""

from __future__ import annotations

import os
import re
from bisect import bisect_right
from collections.abc import Iterator
from typing import BinaryIO, NoReturn

import numpy as np
from numpy.typing import NDArray

from ..errors import AudioError


ENTRY_BYTES = {  # of lists whose number of entries stands behind version and flags: at least so many each
    b"co64": 8, b"ctts": 8, b"dref": 8, b"elst": 12, b"ipma": 3, b"keys": 8, b"saio": 4, b"stco": 4, b"stps": 4,
    b"stsc": 12, b"stsd": 8, b"stsh": 8, b"stss": 4, b"stts": 8,
}  # fmt: skip
LAYOUTS = (b"chan", b"chnl")
CHECKED = (
    *ENTRY_BYTES,
    *LAYOUTS,
    b"SA3D",
    b"cmov",
    b"hdlr",
    b"iinf",
    b"iloc",
    b"saiz",
    b"sbgp",
    b"sgpd",
    b"stsz",
    b"stz2",
    b"tfhd",
    b"trak",
    b"trex",
    b"trun",
)
NAMES = re.compile(b"|".join(CHECKED))
# boxes of texts and pictures, in which FFmpeg looks for no others, and where to find them; those of iTunes begin with
# (c), those that QuickTime numbers with zero
TEXTS = frozenset((
    b"----", b"aART", b"catg", b"covr", b"cprt", b"data", b"desc", b"free", b"keys", b"keyw", b"ldes", b"name",
    b"purl", b"skip", b"soaa", b"soal", b"soar", b"soco", b"sonm", b"sosn", b"tven", b"tvsh", b"uuid",
))  # fmt: skip
TEXT_BEGINNINGS = (b"\xa9", b"\0")
AROUND_TEXTS = frozenset((b"ilst", b"meta", b"moov", b"trak", b"udta"))
MAX_BOXES = 200_000  # an hour of fragments of a second has 30,000
SEARCHED_AT_ONCE = 2**20
RUN_SAMPLES_PER_BYTE = 256
CHUNK_SAMPLES = 1_024  # FFmpeg makes one entry for so many samples of a chunk


class _Track:
    """What the boxes of one track said."""

    def __init__(self) -> None:
        self.kinds: set[bytes] = set()
        self.durations: set[int] = set()
        self.chunks = 0
        self.runs: list[NDArray[np.int64]] = []
        self.equal_bytes = 0  # of samples that are said to have one size


def check_tables(file: BinaryIO, name: str) -> list[int]:
    """Refuses an MP4 file with a table that claims more than the file can hold.

    Args:
        file: seekable; it is left somewhere else.
        name: of the recording.

    Returns:
        Where the names of the boxes are that state a layout of channels, or look like one, in bytes.

    Raises:
        AudioError: if a table claims more.
    """
    tables = _Tables(file, name)
    tables.check()
    return tables.layouts


class _Tables:
    def __init__(self, file: BinaryIO, name: str):
        self._file, self._name = file, name
        self._size = file.seek(0, os.SEEK_END)
        self._track = _Track()
        self._boxes_left, self._list_bytes_left = MAX_BOXES, self._size
        self._unlisted_bytes = 0
        self._default_sizes: list[int] = []  # of samples in fragments
        self._fragment_size: int | None = None
        self.layouts: list[int] = []
        self._texts = self._found_texts()

    def check(self) -> None:
        for box, start, stop in self._boxes():
            if box in LAYOUTS:
                self.layouts.append(start - len(box))
            else:
                self._check_box(box, start, stop)
        self._end_track()

    def _boxes(self) -> Iterator[tuple[bytes, int, int]]:
        """Name, start and stop of the content of what is checked, wherever it stands but in the audio itself."""
        for start, stop in self._outside_of_audio():
            while start < stop:
                self._file.seek(start)
                data = self._file.read(min(SEARCHED_AT_ONCE, stop - start) + 3)
                for match in NAMES.finditer(data):
                    if self._is_text(start + match.start()):
                        continue
                    self._boxes_left -= 1
                    if self._boxes_left < 0:
                        self._refuse("it has more boxes than a recording needs")
                    content = start + match.end()
                    if start + match.start() < stop and (end := self._end_of(content)) is not None:
                        yield match[0], content, end
                start += SEARCHED_AT_ONCE

    def _found_texts(self) -> list[tuple[int, int]]:
        """Starts and stops of the texts of an honest file, in order; where a size lies, nothing more is looked for."""
        texts, pending = [], [(0, self._size)]
        for _ in range(MAX_BOXES):
            position, stop = pending.pop() if pending else (0, 0)
            if position >= stop:
                if not pending:
                    break
                continue
            head = self._read(position, 8)
            size, box = int.from_bytes(head[:4], "big"), head[4:]
            if not 8 <= size <= stop - position:
                continue
            pending.append((position + size, stop))
            if box in TEXTS or box[:1] in TEXT_BEGINNINGS:
                texts.append((position + 8, position + size))
            elif box in AROUND_TEXTS:
                # the version of a meta box, which QuickTime leaves out
                start = position + 8 + 4 * (box == b"meta" and self._read(position + 12, 4) != b"hdlr")
                pending.append((start, position + size))
        return sorted(texts)

    def _is_text(self, position: int) -> bool:
        index = bisect_right(self._texts, (position, self._size))
        return index > 0 and position < self._texts[index - 1][1]

    def _outside_of_audio(self) -> Iterator[tuple[int, int]]:
        position = 0
        for _ in range(MAX_BOXES):
            head = self._read(position, 16)
            if len(head) < 8:
                return
            size, header = int.from_bytes(head[:4], "big"), 8
            if size == 1 and len(head) == 16:
                size, header = int.from_bytes(head[8:], "big"), 16
            stop = self._size if size == 0 else min(self._size, position + size)
            if 0 < size < header:  # then nobody knows what FFmpeg goes on with
                yield position, self._size
                return
            if head[4:8] != b"mdat":
                yield position, stop
            position = stop
        self._refuse("it has more boxes than a recording needs")

    def _end_of(self, content: int) -> int | None:
        """Where the box ends whose content starts there, None if no box has the name."""
        size = int.from_bytes(self._read(content - 8, 4), "big") if content >= 8 else -1
        if size in (0, 1):
            return self._size
        return min(self._size, content - 8 + size) if size >= 8 else None

    def _read(self, start: int, count: int) -> bytes:
        self._file.seek(start)
        return self._file.read(count)

    def _numbers(self, start: int, stop: int, columns: int) -> NDArray[np.int64]:
        self._list_bytes_left -= stop - start
        if self._list_bytes_left < 0:  # else each byte could be read as often as there are boxes
            self._refuse("its boxes are in each other's place")
        data = self._read(start, stop - start)
        rows = len(data) // (4 * columns)
        return np.frombuffer(data, ">u4", rows * columns).reshape(rows, columns).astype(np.int64)

    def _check_box(self, box: bytes, start: int, stop: int) -> None:
        head = self._read(start, 20).ljust(20, b"\0")
        first, second, third = (int.from_bytes(head[at : at + 4], "big") for at in (4, 8, 12))
        if box in ENTRY_BYTES:
            self._check_list(box, first, ENTRY_BYTES[box] * 8, stop - start - 8)
            self._check_counts(box, first, start + 8)
        elif box == b"stsz" and first:
            self._track.equal_bytes = max(self._track.equal_bytes, first * second)
        elif box in (b"stsz", b"stz2"):
            self._check_list(box, second, 32 if box == b"stsz" else max(4, first & 0xFF), stop - start - 12)
        elif box == b"sgpd":
            count, length = (third, second) if head[0] else (second, 0)
            self._check_list(box, count, 8 * length, stop - start - 12)
        elif box == b"sbgp":
            at = 12 if head[0] else 8
            self._check_list(box, int.from_bytes(head[at : at + 4], "big"), 64, stop - start - at - 4)
        elif box == b"saiz":
            at = 13 if head[3] & 1 else 5
            listed = 8 if not head[at - 1] else 0
            self._check_list(box, int.from_bytes(head[at : at + 4], "big"), listed, stop - start - at - 4)
        elif box in (b"iinf", b"iloc"):  # of pictures; FFmpeg makes room for them wherever they stand
            at, wide = (4, head[0] > 0) if box == b"iinf" else (6, head[0] > 1)
            count = int.from_bytes(head[at : at + (4 if wide else 2)], "big")
            self._check_list(box, count, 8 * (8 if box == b"iinf" else 6), stop - start - at - (4 if wide else 2))
        elif box == b"SA3D":  # sound in spherical harmonics, with the number of each channel
            self._check_list(box, int.from_bytes(head[8:12], "big"), 32, stop - start - 12)
        elif box == b"cmov":
            self._refuse("its header is compressed; save it again with another program")
        else:
            self._check_fragment(box, head, start, stop)

    def _check_fragment(self, box: bytes, head: bytes, start: int, stop: int) -> None:
        """What begins a track or a fragment of one."""
        flags = int.from_bytes(head[1:4], "big")
        if box == b"trak":
            self._end_track()
        elif box == b"hdlr":
            self._track.kinds.add(head[8:12])
        elif box == b"trex":
            self._default_sizes.append(int.from_bytes(head[16:20], "big"))
        elif box == b"tfhd":
            at = 8 + sum(width for flag, width in ((1, 8), (2, 4), (8, 4)) if flags & flag)
            self._fragment_size = int.from_bytes(self._read(start + at, 4), "big") if flags & 0x10 else None
        elif box == b"trun":
            count, fields = int.from_bytes(head[4:8], "big"), bin(flags & 0xF00).count("1")
            self._check_list(box, count, 32 * fields, stop - start - 8)
            if not flags & 0x200:
                size = min(self._default_sizes, default=0) if self._fragment_size is None else self._fragment_size
                self._add_unlisted(box, count * max(1, size))

    def _check_counts(self, box: bytes, count: int, start: int) -> None:
        """What the entries of a list claim in turn."""
        track = self._track
        if box in (b"stts", b"ctts"):
            runs = self._numbers(start, start + 8 * count, 2)
            if box == b"stts":
                track.durations |= {int(duration) for duration in runs[:2, 1]} | ({-1} if len(runs) != 1 else set())
            if int(runs[:, 0].sum()) > RUN_SAMPLES_PER_BYTE * self._size:
                self._refuse_table(box, int(runs[:, 0].sum()))
        elif box == b"stsc":
            track.runs.append(self._numbers(start, start + 12 * count, 3))
        elif box in (b"stco", b"co64"):
            track.chunks = max(track.chunks, count)

    def _end_track(self) -> None:
        """What can only be said of a track as a whole, and the beginning of the next."""
        track, self._track = self._track, _Track()
        for runs in track.runs:
            first = np.minimum(runs[:, 0], track.chunks + 1)
            chunks = np.maximum(np.diff(first, append=track.chunks + 1), 0)
            entries = int((chunks * (runs[:, 1] // CHUNK_SAMPLES + 1)).sum())
            if entries > self._size:
                self._refuse_table(b"stsc", entries * CHUNK_SAMPLES)
        in_chunks = track.durations == {1} and track.kinds <= {b"soun", b"alis", b"url "}
        if not in_chunks:  # FFmpeg makes an entry for each sample
            self._add_unlisted(b"stsz", track.equal_bytes)

    def _add_unlisted(self, box: bytes, size: int) -> None:
        self._unlisted_bytes += size
        if self._unlisted_bytes > self._size:
            self._refuse(f"its table {box.decode()} claims {size} bytes of samples, and the file has {self._size}")

    def _check_list(self, box: bytes, count: int, bits: int, room: int) -> None:
        if count * bits > 8 * max(0, room):
            self._refuse_table(box, count)

    def _refuse_table(self, box: bytes, count: int) -> NoReturn:
        self._refuse(f"its table {box.decode()} claims {count} entries, for which it has no room")

    def _refuse(self, reason: str) -> NoReturn:
        raise AudioError(f"{self._name}: cannot be decoded; it is damaged or cut short ({reason})")


__all__ = ["check_tables"]
