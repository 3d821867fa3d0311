# SPDX-License-Identifier: Apache-2.0
"""Everything a recording may be given as, behind one interface.

Decisions: arrays are channels-first floating point, and one whose layout or scale would have to be guessed is refused.
A file object is read from where it stands; what cannot seek is copied to a temporary file first. A torchcodec decoder
is asked for all its samples at once, because it knows parts only by seconds, and where those begin would depend on
rounding.
"""

from __future__ import annotations

import os
import re
import stat
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote

import numpy as np
from numpy.typing import NDArray

from ..errors import AudioError
from .arrays import plain_array
from .decoding import Source, Window, decoding
from .files import open_file
from .layouts import Layout
from .limits import AudioLimits
from .notes import Notes
from .url import download


if TYPE_CHECKING:
    from typing import Protocol, TypeAlias

    from torch import Tensor

    class Readable(Protocol):
        """A binary file object."""

        def read(self, size: int = ..., /) -> bytes | None: ...

    class Decoder(Protocol):
        """Of torchcodec."""

        def get_all_samples(self) -> Any: ...

    Bytes: TypeAlias = bytes | bytearray | memoryview
    Samples: TypeAlias = NDArray[Any] | Tensor | Mapping[str, Any] | Decoder
    AudioInput: TypeAlias = str | os.PathLike[str] | Bytes | Readable | Samples

URL = re.compile(r"[A-Za-z][A-Za-z0-9+.-]+:/")
WIDEST_LAYOUT = 8  # channels of 7.1; more of them than samples is a (samples, channels) array


def open_source(source: Any, sampling_rate: int | None, limits: AudioLimits) -> Source:
    """Opens whatever `open_audio` takes.

    Raises:
        AudioError: if it is no recording, or one that cannot be read; or says another sampling rate than is given.
    """
    opened = _open(source, sampling_rate, limits)
    if sampling_rate not in (None, opened.sampling_rate):
        opened.close()
        raise AudioError(
            f"sampling_rate is {sampling_rate}, and {opened.name} says {opened.sampling_rate} itself: leave "
            "sampling_rate out, which is for bare arrays"
        )
    return opened


def _open(source: Any, sampling_rate: int | None, limits: AudioLimits) -> Source:
    if isinstance(source, str | os.PathLike):
        return _open_named(source, limits)
    if isinstance(source, bytes | bytearray | memoryview):
        return _open_bytes(source, limits)
    if isinstance(source, Mapping):
        return _open_mapping(source, limits)
    if hasattr(source, "read"):
        name = _stem(getattr(source, "name", None))
        with decoding(name):
            file = _seekable(source, limits)
        return open_file(file, name, limits)
    if type(source).__name__ == "AudioDecoder":
        with decoding("audio"):
            decoded = source.get_all_samples()
        return ArraySource(decoded.data, decoded.sample_rate, limits)
    if hasattr(source, "__array__"):
        return ArraySource(source, sampling_rate, limits)
    raise AudioError(
        "a recording is a path, https address, bytes, binary file, array (channels, samples), a dict with array and "
        f"sampling_rate, or a torchcodec AudioDecoder; got {type(source).__name__}"
    )


class ArraySource:
    """An array or tensor in memory, (channels, samples) or (samples,)."""

    name = "audio"
    format: str | None = None
    subtype: str | None = None
    cut: str | None = None
    layout: Layout | None = None
    notes = Notes()
    slack_samples = 0
    lossy = False

    def __init__(self, array: Any, sampling_rate: Any, limits: AudioLimits):
        if sampling_rate is None:
            raise AudioError(
                "an array does not say its sampling rate; pass sampling_rate=, or a dict with array and sampling_rate"
            )
        self.sampling_rate = limits.check_sampling_rate(sampling_rate, self.name)
        self._array = _channels_first(array)
        self.channels: int = self._array.shape[0]
        self.claimed_samples: int | None = self._array.shape[1]
        limits.check_channels(self.channels, self.name)
        self._start = 0

    def read(self, samples: int) -> NDArray[np.floating]:
        """The next (channels, at most `samples`), in the array's own type."""
        block = self._array[:, self._start : self._start + samples]
        self._start += block.shape[1]
        return block

    def close(self) -> None:
        """Lets go of the array."""
        self._array = self._array[:, :0].copy()


def _channels_first(array: Any) -> NDArray[np.floating]:
    array = plain_array(array)
    if array.dtype.kind != "f":
        raise AudioError(
            f"an array must hold floating point samples with full scale 1, got {array.dtype}{_way_to_floats(array)}"
        )
    if array.ndim == 1:
        array = array[None]
    if array.ndim != 2:
        raise AudioError(f"an array must be (channels, samples) or (samples,), got {array.shape}; pass one recording")
    channels, samples = array.shape
    if channels > WIDEST_LAYOUT and channels > samples > 0:
        raise AudioError(
            f"shape {array.shape} has more channels than samples; pass array.T if it is (samples, channels)"
        )
    return array


def _way_to_floats(array: NDArray[Any]) -> str:
    """How samples that are whole numbers, as files of this kind hold them, become numbers with full scale 1."""
    bits, full = 8 * array.dtype.itemsize, 2 ** (8 * array.dtype.itemsize - 1)
    if array.dtype.kind not in "iu":
        return ""
    if bits > 32:  # no file holds these: they were read as something else, and Python made them
        return "; divide by the full scale of what they were read from, which is 32768 for 16-bit integers"
    if array.dtype.kind == "u":  # silence is in the middle, as in WAV files of 8 bits
        return f"; turn {bits}-bit integers without a sign into floats, subtract {full}, then divide by {full}"
    return f"; divide {bits}-bit integers by {full}"


@contextmanager
def repeatable(source: Any, limits: AudioLimits | None = None) -> Iterator[Callable[[], Any]]:
    """Gives a function that returns a recording to be opened from its start, as often as it is called.

    What can be read once only, such as a pipe, or would be fetched anew, is copied to a temporary file first.
    """
    limits = limits or AudioLimits()
    with ExitStack() as files:
        if isinstance(source, str) and URL.match(source):
            copy = files.enter_context(download(source, limits))
            source = _Copy(copy, unquote(re.split("[?#]", source)[0]))
        elif hasattr(source, "read") and not (hasattr(source, "seekable") and source.seekable()):
            name = getattr(source, "name", None)
            with decoding(_stem(name)):
                source = _Copy(files.enter_context(_seekable(source, limits)), name)
        with decoding(_stem(getattr(source, "name", None))):
            start = source.tell() if hasattr(source, "read") else 0

        def from_its_start() -> Any:
            if hasattr(source, "read"):
                with decoding(_stem(getattr(source, "name", None))):
                    source.seek(start)
            return source

        yield from_its_start


class _Copy:
    """A temporary file under the name of what is in it."""

    def __init__(self, file: Any, name: Any):
        self.name = name
        self.read, self.seek, self.tell, self.seekable = file.read, file.seek, file.tell, file.seekable
        file.seek(0)


def _open_mapping(source: Mapping[str, Any], limits: AudioLimits) -> Source:
    if source.get("array") is None and source.get("raw") is None and source.keys() & {"bytes", "path"}:
        return _open_row(source.get("bytes"), source.get("path"), limits)
    arrays = [key for key in ("array", "raw") if source.get(key) is not None]
    if len(arrays) != 1 or source.get("sampling_rate") is None:
        keys = ", ".join(map(str, source)) or "nothing"
        raise AudioError(f"a dict must hold sampling_rate and either array or raw, got {keys}")
    return ArraySource(source[arrays[0]], source["sampling_rate"], limits)


def _open_row(content: Any, path: Any, limits: AudioLimits) -> Source:
    """What `datasets` gives with `Audio(decode=False)`."""
    there = isinstance(content, bytes | bytearray | memoryview)
    if there and len(content):
        return _open_bytes(content, limits)
    if isinstance(path, str | os.PathLike) and (content is None or there):
        return _open_named(path, limits)
    kinds = f"{type(content).__name__} and {type(path).__name__}"
    raise AudioError(f"a dict of a file must hold bytes, or None and a path, as bytes and path; got {kinds}")


def _open_bytes(content: Bytes, limits: AudioLimits) -> Source:
    with decoding("audio"):  # a view may be released, or skip bytes, which a file cannot
        apart = isinstance(content, memoryview) and not content.c_contiguous
        file = BytesIO(bytes(content) if apart else content)
    return open_file(Window(file), "audio", limits)


def _open_named(source: str | os.PathLike[str] | os.PathLike[bytes], limits: AudioLimits) -> Source:
    try:
        text = os.fsdecode(source)
    except Exception as error:  # of an object's own __fspath__
        reason = str(error) or type(error).__name__
        raise AudioError(
            f"this {type(source).__name__} gives no path ({reason}); pass a str or pathlib.Path"
        ) from error
    if isinstance(source, str) and URL.match(source):
        return open_file(download(source, limits), _stem(unquote(re.split("[?#]", source)[0])), limits)
    path = Path(text)
    try:
        mode = path.stat().st_mode
        if not stat.S_ISREG(mode):
            kind = "a folder" if stat.S_ISDIR(mode) else "not a regular file"
            raise AudioError(f"{path} is {kind}; pass the path of a recording")
        file = path.open("rb", buffering=0)
    except (OSError, ValueError) as error:
        if isinstance(error, AudioError):
            raise
        raise AudioError(f"{path} cannot be opened: {getattr(error, 'strerror', None) or error}") from error
    return open_file(file, path.stem or "audio", limits)


def _seekable(source: Any, limits: AudioLimits) -> Any:
    """What is left to read of a file object, as a file that can seek; the object itself stays open."""
    if not isinstance(source.read(0), bytes | bytearray | memoryview):
        raise AudioError('a file object must be opened in binary mode: open(path, "rb")')
    if hasattr(source, "seekable") and source.seekable():
        return Window(source, source.tell())
    copy = tempfile.TemporaryFile(buffering=0)  # noqa: SIM115 - closed with the source
    try:
        while chunk := source.read(2**20):
            if copy.tell() + len(chunk) > limits.max_download_bytes:
                raise AudioError(f"the stream has more bytes than the limit of {limits.max_download_bytes}")
            copy.write(chunk)
    except BaseException:
        copy.close()
        raise
    return copy


def _stem(name: Any) -> str:
    return (Path(name).stem or "audio") if isinstance(name, str) else "audio"


__all__ = ["ArraySource", "open_source", "repeatable"]
