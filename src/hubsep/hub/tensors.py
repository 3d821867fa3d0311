# SPDX-License-Identifier: Apache-2.0
"""The header and the numbers of a `.safetensors` file, checked without loading it.

The format itself cannot run code; what it leaves open is closed here: duplicate keys, tensors named like paths,
headers of up to 100 MB, files with no tensor at all, weights that are not finite, and tables of places that lead out
of what they point into. Memory is bounded by the header limit plus one buffer of 4 MiB, whatever the size of the file.
The file is read rather than mapped: a mapped file that another process cuts short ends this process with a bus error.
"""

from __future__ import annotations

import math
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from ..errors import CheckpointError
from .bounds import shown
from .json_files import parse_json


MAX_HEADER_BYTES = 4 << 20
MAX_TENSORS = 20_000
MAX_NAME_CHARACTERS = 512
BLOCK_BYTES = 4 << 20
WINDOW_PLACES = "relative_position_index"
WIDEST_WINDOW = 32  # patches; a table of 8 MB

ITEM_BYTES = {
    **dict.fromkeys(("F64", "I64", "U64"), 8),
    **dict.fromkeys(("F32", "I32", "U32"), 4),
    **dict.fromkeys(("F16", "BF16", "I16", "U16"), 2),
    **dict.fromkeys(("BOOL", "I8", "U8", "F8_E4M3"), 1),
}
# unsigned view of a float type and the bits that are all set in infinities and NaNs, and only there
EXPONENT_BITS = {
    "F64": (np.uint64, 0x7FF0_0000_0000_0000),
    "F32": (np.uint32, 0x7F80_0000),
    "F16": (np.uint16, 0x7C00),
    "BF16": (np.uint16, 0x7F80),
    "F8_E4M3": (np.uint8, 0x7F),  # it has no infinities, and one pattern for NaN
}


@dataclass(frozen=True)
class StoredTensor:
    """One entry of a header; `start` and `stop` are byte offsets from the beginning of the file."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    start: int
    stop: int

    @property
    def elements(self) -> int:
        """Number of elements."""
        return math.prod(self.shape)


def read_header(path: Path, *, name: str | None = None) -> list[StoredTensor]:
    """Return the tensors of a `.safetensors` file in file order, after every check that needs no weights.

    Raises:
        CheckpointError: naming the file and the reason.
    """
    label = name or shown(path.name)
    total = path.stat().st_size
    with path.open("rb") as file:
        prefix = file.read(8)
        length = int.from_bytes(prefix, "little")
        if len(prefix) < 8 or length + 8 > total:
            raise CheckpointError(f"{label} is cut short: {total} bytes cannot hold its header.")
        if length > MAX_HEADER_BYTES:
            raise CheckpointError(f"{label} has a header of {length} bytes; at most {MAX_HEADER_BYTES} are accepted.")
        content = file.read(length)
    header = parse_json(content, f"the header of {label}")
    _check_metadata(header.pop("__metadata__", {}), label)
    if not 0 < len(header) <= MAX_TENSORS:
        raise CheckpointError(f"{label} holds {len(header)} tensors; 1 to {MAX_TENSORS} are accepted.")
    tensors = [_entry(key, value, 8 + length, label) for key, value in header.items()]
    tensors.sort(key=lambda tensor: (tensor.start, tensor.stop))
    _check_coverage(tensors, 8 + length, total, label)
    return tensors


def check_finite(path: Path, tensors: list[StoredTensor], *, name: str | None = None) -> None:
    """Read every floating-point tensor of a file once, block by block, and refuse NaN and infinities.

    Raises:
        CheckpointError: naming the file, the tensor and the position of the first such number.
    """
    buffer = bytearray(BLOCK_BYTES)
    with path.open("rb", buffering=0) as file:
        for run in _runs_of_one_dtype(tensors):
            position = _first_not_finite(file, run[0].dtype, run[0].start, run[-1].stop, buffer)
            if position is None:
                continue
            bad = next(tensor for tensor in run if tensor.start <= position < tensor.stop)
            index = (position - bad.start) // ITEM_BYTES[bad.dtype]
            raise CheckpointError(
                f"{name or shown(path.name)}: tensor {shown(bad.name)} holds NaN or an infinity at element {index}."
            )


def check_places(path: Path, tensors: list[StoredTensor], *, name: str | None = None) -> None:
    """Refuse tables of places in a window of attention, as CLAP keeps them, that are not those of the window.

    The models look up what they have learnt at these places. Any other number leads out of it, or to another place.

    Raises:
        CheckpointError: naming the file and the tensor.
    """
    for tensor in (tensor for tensor in tensors if tensor.name.endswith(WINDOW_PLACES)):
        width = math.isqrt(tensor.shape[0]) if tensor.shape else 0
        expected = window_places(width) if 0 < width <= WIDEST_WINDOW else np.zeros(0, np.int64)
        with path.open("rb") as file:
            file.seek(tensor.start)
            is_right = tensor.dtype == "I64" and tensor.shape == expected.shape
            if not is_right or file.read(expected.nbytes) != expected.astype("<i8").tobytes():
                raise CheckpointError(
                    f"{name or shown(path.name)}: tensor {shown(tensor.name)} does not hold the places in a window of "
                    "attention, which follow from its size."
                )


def window_places(width: int) -> NDArray[np.int64]:
    """For each two of the width * width patches of a window, where in a table their distance stands (Swin, eq. 4)."""
    rows, columns = np.indices((width, width)).reshape(2, -1)
    down = rows[:, None] - rows + width - 1
    right = columns[:, None] - columns + width - 1
    return (down * (2 * width - 1) + right).astype(np.int64)


def _first_not_finite(file: BinaryIO, dtype: str, start: int, stop: int, buffer: bytearray) -> int | None:
    """Byte position of the first number that is not finite in a run of one floating-point type, or None."""
    if dtype not in EXPONENT_BITS:
        return None
    kind, bits = EXPONENT_BITS[dtype]
    view = memoryview(buffer)
    file.seek(start)
    while start < stop:
        wanted = min(stop - start, len(buffer))
        if _read_into(file, view[:wanted]) < wanted:
            raise CheckpointError(f"{shown(os.path.basename(file.name))} became shorter while it was read.")
        numbers = np.frombuffer(buffer, dtype=kind, count=wanted // ITEM_BYTES[dtype])
        bad = (numbers & kind(bits)) == kind(bits)
        if bad.any():
            return start + int(bad.argmax()) * ITEM_BYTES[dtype]
        start += wanted
    return None


def _read_into(file: BinaryIO, view: memoryview) -> int:
    done = 0
    while done < len(view):
        count = file.readinto(view[done:])  # type: ignore[attr-defined]
        if not count:
            break
        done += count
    return done


def _runs_of_one_dtype(tensors: list[StoredTensor]) -> Iterator[list[StoredTensor]]:
    """Neighbours of the same type together: 20 000 tiny tensors are then read in a few blocks."""
    run: list[StoredTensor] = []
    for tensor in tensors:
        if run and tensor.dtype != run[0].dtype:
            yield run
            run = []
        run.append(tensor)
    if run:
        yield run


def _check_metadata(metadata: Any, label: str) -> None:
    if not isinstance(metadata, dict) or not all(isinstance(value, str) for value in metadata.values()):
        raise CheckpointError(f"the header of {label}: __metadata__ must map names to text.")
    if metadata.get("format", "pt") != "pt":
        raise CheckpointError(
            f"the header of {label}: format is {shown(metadata['format'])}; only weights saved for PyTorch are loaded."
        )


def _entry(name: str, entry: Any, offset: int, label: str) -> StoredTensor:
    if not name or len(name) > MAX_NAME_CHARACTERS or not name.isprintable() or set("/\\") & set(name) or ".." in name:
        raise CheckpointError(f"{label}: {shown(name)} is not accepted as the name of a tensor.")
    if not isinstance(entry, dict) or set(entry) != {"dtype", "shape", "data_offsets"}:
        raise CheckpointError(
            f"{label}: the entry of {shown(name)} needs dtype, shape and data_offsets, nothing else."
        )
    dtype, shape, offsets = entry["dtype"], entry["shape"], entry["data_offsets"]
    if not isinstance(dtype, str) or dtype not in ITEM_BYTES:
        raise CheckpointError(
            f"{label}: {shown(name)} has the type {shown(dtype)}; accepted are {', '.join(ITEM_BYTES)}."
        )
    if not _sizes(shape) or len(shape) > 16 or not _sizes(offsets) or len(offsets) != 2:
        raise CheckpointError(f"{label}: shape and data_offsets of {shown(name)} must be lists of sizes.")
    if math.prod(shape) * ITEM_BYTES[dtype] != offsets[1] - offsets[0]:
        raise CheckpointError(
            f"{label}: {shown(name)} has the shape {shown(shape)} but {shown(offsets[1] - offsets[0])} bytes."
        )
    return StoredTensor(name, dtype, tuple(shape), offset + offsets[0], offset + offsets[1])


def _sizes(value: Any) -> bool:
    return isinstance(value, list) and all(type(size) is int and 0 <= size < 1 << 48 for size in value)


def _check_coverage(tensors: list[StoredTensor], start: int, total: int, label: str) -> None:
    for tensor in tensors:
        if tensor.start != start:
            raise CheckpointError(f"{label}: {shown(tensor.name)} overlaps another tensor or leaves a gap before it.")
        start = tensor.stop
    if start != total:
        raise CheckpointError(f"{label} has {total} bytes, its header describes {start}.")


__all__ = ["StoredTensor", "check_finite", "check_places", "read_header", "window_places"]
