# SPDX-License-Identifier: Apache-2.0
"""Plain files out of a `.tar.gz`, without unpacking it.

Nothing is written under a name from the archive: the caller gets the last part of each name, and a stream. Links,
devices and the like are refused. Every header is of fixed size, what stands before a name (extended headers) is
skipped within a limit, and the unpacked bytes are counted, so that a small archive cannot claim all memory or disk.
The archive is read to its end, where gzip keeps its checksum.
"""

from __future__ import annotations

import gzip
import zlib
from collections.abc import Iterator
from pathlib import Path

from hubsep.errors import ConversionError
from hubsep.hub.bounds import shown


BLOCK, COPIED = 512, 1 << 20  # bytes
MAX_UNPACKED = 8 << 30
MAX_MEMBERS = 1_000
MAX_EXTENDED = 1 << 20
PLAIN, FOLDER, EXTENDED = (b"0", b"\0"), (b"5",), (b"x", b"g", b"L")


def is_gzip(path: Path) -> bool:
    """Whether a file begins as gzip does."""
    with path.open("rb") as file:
        return file.read(2) == b"\x1f\x8b"


class Member:
    """One plain file of an archive, to be read before the next one is asked for."""

    def __init__(self, name: str, size: int, archive: _Stream):
        self.name, self.size, self.left, self.archive = name, size, size, archive

    def blocks(self) -> Iterator[bytes]:
        """What is left of it, a megabyte at a time."""
        while self.left:
            block = self.archive.read(min(self.left, COPIED))
            self.left -= len(block)
            yield block


def members(path: Path) -> Iterator[Member]:
    """The plain files of a `.tar.gz`, in its order; `name` is the last part of the name there.

    Raises:
        ConversionError: the archive is damaged, too large, or holds more than plain files and folders.
    """
    label = shown(path.name)
    with path.open("rb") as file, gzip.GzipFile(fileobj=file) as unpacked:
        archive = _Stream(unpacked, label)
        yield from _members(archive, label)
        archive.finish()


class _Stream:
    """Counts what is read, and raises where there is less than asked for."""

    def __init__(self, file: gzip.GzipFile, label: str):
        self.file, self.label, self.done = file, label, 0

    def read(self, size: int) -> bytes:
        self.done += size
        if self.done > MAX_UNPACKED:
            raise ConversionError(f"{self.label} has more than {MAX_UNPACKED} bytes unpacked")
        parts = []
        while size:
            part = self._part(size)
            if not part:
                raise ConversionError(f"{self.label} is cut short")
            parts.append(part)
            size -= len(part)
        return b"".join(parts)

    def skip(self, size: int) -> None:
        while size:
            size -= len(self.read(min(size, COPIED)))

    def finish(self) -> None:
        while block := self._part(COPIED):
            self.done += len(block)
            if self.done > MAX_UNPACKED or any(block):
                raise ConversionError(f"{self.label} goes on after its end")

    def _part(self, size: int) -> bytes:
        try:
            return self.file.read(size)
        except (OSError, EOFError, zlib.error) as error:
            raise ConversionError(f"{self.label} cannot be unpacked: {error}") from error


def _members(archive: _Stream, label: str) -> Iterator[Member]:
    for _ in range(MAX_MEMBERS):
        header = archive.read(BLOCK)
        if not any(header):
            return
        kind, size = header[156:157], _number(header[124:136], label)
        if int(_number(header[148:156], label)) != sum(header[:148]) + 8 * 32 + sum(header[156:]):
            raise ConversionError(f"{label} is no tar archive, or damaged: a header does not fit its checksum")
        name = header[:100].partition(b"\0")[0].decode("utf-8", "replace")
        if kind not in (*PLAIN, *FOLDER, *EXTENDED):
            raise ConversionError(f"{label} holds {shown(name)}, which is a link or no plain file")
        if kind in EXTENDED and size > MAX_EXTENDED:
            raise ConversionError(f"{label} has an extended header of {size} bytes")
        member = Member(name.rpartition("/")[2], size, archive)
        if kind in PLAIN and not name.endswith("/"):
            yield member
        archive.skip(member.left + -size % BLOCK)
    raise ConversionError(f"{label} holds more than {MAX_MEMBERS} entries")


def _number(field: bytes, label: str) -> int:
    text = field.strip(b" \0")
    if not text.isdigit() or set(text) - set(b"01234567"):
        raise ConversionError(f"{label} is no tar archive, or damaged: {shown(field)} is no octal number")
    return int(text, 8)


__all__ = ["Member", "is_gzip", "members"]
