# SPDX-License-Identifier: Apache-2.0
"""The file objects that decoders and encoders use from C.

An exception that leaves a function called from C, Ctrl-C included, is printed and forgotten, and the C side takes the
result for the end of the file or for success. So these keep it, and whoever called the C side raises it.


"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any, BinaryIO, Protocol

import numpy as np
from numpy.typing import NDArray

from ..errors import AudioError
from .layouts import Layout
from .notes import Notes


class Source(Protocol):
    """A recording that is read forwards.

    Attributes:
        claimed_samples: what its header promises, None if nothing; asked again at the end, by when more may be known.
        slack_samples: how many fewer may come without anything being lost.
        cut: what shows that its end is missing, if something does before it is decoded.
        lossy: whether a lossy codec decodes it.
        layout: what its channels are, if it says so; they come in that order.
        notes: what it says beside the samples.
    """

    name: str
    format: str | None
    subtype: str | None
    sampling_rate: int
    channels: int
    slack_samples: int
    cut: str | None
    lossy: bool
    layout: Layout | None
    notes: Notes

    @property
    def claimed_samples(self) -> int | None: ...

    def read(self, samples: int) -> NDArray[np.floating]:
        """The next (channels, at most `samples`); no samples at the end."""

    def close(self) -> None:
        """Gives files back; may be called twice."""


@contextmanager
def decoding(name: str) -> Iterator[None]:
    """Turns whatever a decoder raises into an AudioError: on damaged files they raise all kinds of errors."""
    try:
        yield
    except AudioError:
        raise
    except Exception as error:
        reason = str(getattr(error, "error_string", "") or error).strip().removeprefix("Error : ").rstrip(".")
        if "SF_INFO" in reason:
            reason = "its header gives no possible sampling rate"
        if "unsupported encoding" in reason:
            raise AudioError(
                f"{name}: the encoding of its samples cannot be read; convert it to wav or flac"
            ) from error
        raise AudioError(
            f"{name}: cannot be decoded; it is damaged, cut short or no audio ({reason or type(error).__name__})"
        ) from error


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


__all__ = ["Patched", "Sink", "Source", "Window", "decoding"]
