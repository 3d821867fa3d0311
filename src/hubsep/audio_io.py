# SPDX-License-Identifier: Apache-2.0
"""The file objects that decoders and encoders use from C.

An exception that leaves a function called from C, Ctrl-C included, is printed and forgotten, and the C side takes the
result for the end of the file or for success. So these keep it, and whoever called the C side raises it.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any, BinaryIO


class Window:
    """A part of a seekable binary file, to be read: from `start` to `stop`, perhaps with other bytes before it."""

    def __init__(self, file: Any, start: int = 0, stop: int | None = None, prefix: bytes = b""):
        self._file, self._start, self._prefix = file, start, prefix
        stop = file.seek(0, os.SEEK_END) if stop is None else stop
        self._size = len(prefix) + max(0, stop - start)
        self._position = 0
        self.error: BaseException | None = None

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        """As of any file."""
        base = {os.SEEK_SET: 0, os.SEEK_CUR: self._position, os.SEEK_END: self._size}[whence]
        self._position = max(0, base + offset)
        return self._position

    def tell(self) -> int:
        """As of any file."""
        return self._position

    def read(self, size: int = -1) -> bytes:
        """As of any file."""
        left = max(0, self._size - self._position)
        size = left if size < 0 else min(size, left)
        parts = [self._prefix[self._position : self._position + size]]
        size -= len(parts[0])
        self._position += len(parts[0])
        try:
            if size:
                self._file.seek(self._start + self._position - len(self._prefix))
            while size and (part := self._file.read(size)):
                parts.append(part)
                size -= len(part)
                self._position += len(part)
        except BaseException as error:
            self.error = error
        return b"".join(parts)

    def check(self) -> None:
        """Raises what went wrong with the file."""
        if self.error is not None:
            raise self.error

    def close(self) -> None:
        """Leaves the file open: it is the caller's."""


class Patched:
    """A seekable binary file, to be read as if some of its bytes were others.

    Args:
        file: as it is.
        patches: what stands at which positions instead.
    """

    def __init__(self, file: Any, patches: Mapping[int, bytes]):
        self._file, self._patches = file, patches
        self.seek, self.tell, self.close = file.seek, file.tell, file.close
        self.check = getattr(file, "check", lambda: None)

    def read(self, size: int = -1) -> bytes:
        """As of any file."""
        start = self._file.tell()
        data = self._file.read(size)
        changed = None
        for position, patch in self._patches.items():
            first, last = max(start, position), min(start + len(data), position + len(patch))
            if first < last:
                changed = bytearray(data) if changed is None else changed
                changed[first - start : last - start] = patch[first - position : last - position]
        return data if changed is None else bytes(changed)


class Sink:
    """A file to be written, whose errors libsndfile does not always report."""

    def __init__(self, file: BinaryIO):
        self.file = file
        self.error: BaseException | None = None
        self.seek, self.tell, self.read = file.seek, file.tell, file.read

    def write(self, data: bytes) -> int:
        """Writes all of the data, or remembers why not."""
        left = memoryview(data)
        try:
            while left:
                left = left[self.file.write(left) :]
        except BaseException as error:
            self.error = self.error or error
        return len(data) - len(left)

    def check(self) -> None:
        """Raises what went wrong with the file."""
        if self.error is not None:
            raise self.error


__all__ = ["Patched", "Sink", "Window"]
