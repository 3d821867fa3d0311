# SPDX-License-Identifier: Apache-2.0
"""Checkpoints of TensorFlow ("V2 bundles"), read without TensorFlow.

A bundle is a table, `<name>.index`, of names, types, shapes, offsets and checksums, and the numbers in
`<name>.data-00000-of-00001`. Both are pure data. Every offset and size is bounded before it is used, every block of
the table and every tensor is held against its checksum, and of the text file `checkpoint` only the last part of a
name is taken. What Spleeter's checkpoints do not use is refused: several data files, big-endian numbers, compressed
blocks, tensors in slices, texts. Names have a dot for each slash, as names have it everywhere else here.

Also here: CRC-32C, the checksum of TensorFlow's files, with numpy alone.

A checksum is linear: data is cut into lanes of one length whose remainders are computed side by side, a word of each
at a time, and then joined in pairs, the left one advanced by the length of the right one. Measured: 150 MB take half a
second, where a loop over bytes takes half a minute.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import lru_cache
from typing import BinaryIO, TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from hubsep.errors import ConversionError
from hubsep.hub.bounds import shown
from hubsep.hub.tensors import MAX_NAME_CHARACTERS, MAX_TENSORS


Words = NDArray[np.uint32]

POLYNOMIAL = 0x82F63B78  # Castagnoli's, bits reversed
MASK_DELTA = 0xA282EAD8
SHORT = 64  # bytes up to which a loop is quicker
FEW_STEPS, MANY_STEPS = 64, 512  # words of a lane, of short and of long data
LONG = 1 << 16  # words
PIECE = 4 << 20  # bytes that are worked on at once
START = 0xFFFFFFFF  # the state before all data


def crc32c(data: bytes | bytearray | memoryview) -> int:
    """Checksum of `data`."""
    return _after_all(data, START) ^ START


def _after_all(data: bytes | bytearray | memoryview, state: int) -> int:
    """The state behind `data`, from the one before it."""
    view = memoryview(data)
    for start in range(0, len(view), PIECE):
        state = _after(view[start : start + PIECE], state)
    return state


def _after(data: memoryview, state: int) -> int:
    """The same, in several times the memory of `data`."""
    if len(data) < SHORT:
        table = _byte_table()
        for byte in bytes(data):
            state = (state >> 8) ^ int(table[(state ^ byte) & 0xFF])
        return state
    steps = FEW_STEPS if len(data) < 4 * LONG else MANY_STEPS
    lanes = 1
    while 4 * steps * lanes < len(data):
        lanes *= 2
    # zeros before the first word change nothing, once the state to begin with stands in the first bytes themselves
    padded = np.zeros(4 * steps * lanes, np.uint8)
    start = len(padded) - len(data)
    padded[start:] = np.frombuffer(data, np.uint8)
    padded[start : start + 4] ^= np.frombuffer(state.to_bytes(4, "little"), np.uint8)
    words = np.ascontiguousarray(padded.view("<u4").reshape(lanes, steps).T)
    low, high = _word_tables()
    states = np.zeros(lanes, np.uint32)
    for row in words:
        states ^= row
        states = low[states & 0xFFFF] ^ high[states >> 16]
    length = 4 * steps
    while len(states) > 1:
        states = _apply(_advance(length), states[::2]) ^ states[1::2]
        length *= 2
    return int(states[0])


def masked(checksum: int) -> int:
    """How checksums are stored, so that a file that holds checksums has no weak one."""
    return (((checksum >> 15) | (checksum << 17)) + MASK_DELTA) & 0xFFFFFFFF


@lru_cache(maxsize=1)
def _byte_table() -> Words:
    table: Words = np.arange(256, dtype=np.uint32)
    for _ in range(8):
        table = (table >> np.uint32(1)) ^ np.where(table & 1, np.uint32(POLYNOMIAL), np.uint32(0))
    return table


@lru_cache(maxsize=1)
def _word_tables() -> tuple[Words, Words]:
    """What four bytes of zeros make of the low and of the high half of a state."""
    halves = np.arange(1 << 16, dtype=np.uint32)
    return _four_zeros(halves), _four_zeros(halves << np.uint32(16))


def _four_zeros(states: Words) -> Words:
    table = _byte_table()
    for _ in range(4):
        states = (states >> 8) ^ table[states & 0xFF]
    return states


@lru_cache(maxsize=64)
def _advance(length: int) -> Words:
    """What `length` bytes of zeros, four times a power of two, make of each byte of a state, (4, 256)."""
    values = np.arange(256, dtype=np.uint32) << (8 * np.arange(4, dtype=np.uint32))[:, None]
    return _four_zeros(values) if length == 4 else _apply(_advance(length // 2), _advance(length // 2))


def _apply(table: Words, states: Words) -> Words:
    return (
        table[0][states & 0xFF]
        ^ table[1][(states >> 8) & 0xFF]
        ^ table[2][(states >> 16) & 0xFF]
        ^ table[3][states >> 24]
    )


MAX_INDEX_BYTES = 4 << 20
MAX_CHECKPOINT_BYTES = 1 << 20
MAX_AXES, MAX_AXIS = 8, 1 << 31
FOOTER, MAGIC, TRAILER = 48, 0xDB4775248B80FB57, 5  # bytes of the footer, its last 8, and what follows a block
DATA_SUFFIX = ".data-00000-of-00001"
# numbers of TensorFlow's DataType
TYPES = {1: "<f4", 2: "<f8", 3: "<i4", 9: "<i8", 19: "<f2"}


@dataclass(frozen=True)
class Entry:
    """Where a tensor lies in the data file; `checksum` as it is stored."""

    name: str
    dtype: np.dtype[np.generic]
    shape: tuple[int, ...]
    offset: int
    size: int
    checksum: int


def bundle_name(checkpoint: bytes | None, files: list[str], label: str) -> str:
    """The name of the bundle among the names of files beside each other, from the text file `checkpoint` if any.

    Raises:
        ConversionError: there is none, or several and no `checkpoint` to choose.
    """
    names = sorted(name.removesuffix(".index") for name in files if name.endswith(".index"))
    if checkpoint is not None:
        stated = re.search(rb'^model_checkpoint_path: "([^"\n]*)"\s*$', checkpoint, re.MULTILINE)
        if stated is None:
            raise ConversionError(f"the file checkpoint of {label} names no model_checkpoint_path")
        name = re.split(r"[/\\]", stated[1].decode("utf-8", "replace"))[-1]
        if name not in names:
            raise ConversionError(f"{label} holds no {shown(name + '.index')}, which its file checkpoint names")
    elif len(names) != 1:
        raise ConversionError(f"{label} holds {len(names)} files *.index and no file checkpoint; there must be one")
    else:
        name = names[0]
    if name + DATA_SUFFIX not in files:
        raise ConversionError(f"{label} holds no {shown(name + DATA_SUFFIX)}")
    return name


Empty: TypeAlias = Callable[[tuple[int, ...], torch.dtype], Tensor]


def read_bundle(
    index: bytes, data: BinaryIO, data_size: int, label: str, empty: Empty | None = None
) -> Iterator[tuple[str, Tensor]]:
    """Reads the tensors of a bundle one after the other, with their names; a few megabytes more than they take.

    Args:
        index: content of `<name>.index`.
        data: the data file, which is read from and sought in.
        data_size: its size in bytes.
        label: what errors call the checkpoint.
        empty: makes the tensor of a shape and a kind of number that one is read into, by default a plain one.

    Raises:
        ConversionError: saying what is damaged, beyond its bounds, or not supported.
    """
    for entry in read_index(index, data_size, label):
        yield entry.name, _read_tensor(entry, data, label, empty or _plain)


def read_index(index: bytes, data_size: int, label: str) -> list[Entry]:
    """Reads the table of a bundle, and checks everything that can be without the data; see `read_bundle`."""
    if len(index) > MAX_INDEX_BYTES:
        raise ConversionError(f"the index of {label} has {len(index)} bytes; at most {MAX_INDEX_BYTES} are read")
    try:
        rows = list(_table(index))
    except _Damaged as error:
        raise ConversionError(f"the index of {label} is damaged: {error}") from error
    if not rows or rows[0][0] != b"":
        raise ConversionError(f"the index of {label} is damaged: it has no header")
    entries = []
    try:
        _check_header(rows[0][1], label)
        entries = [_entry(key, value, data_size, label) for key, value in rows[1:]]
    except _Damaged as error:
        raise ConversionError(f"the index of {label} is damaged: {error}") from error
    names = {entry.name for entry in entries}
    if not entries or len(names) < len(entries) or len(entries) > MAX_TENSORS:
        raise ConversionError(f"the index of {label} holds {len(entries)} tensors with {len(names)} different names")
    claimed = sum(entry.size for entry in entries)
    if claimed > data_size:
        raise ConversionError(f"the tensors of {label} claim {claimed} bytes, its data file has {data_size}")
    return entries


class _Damaged(Exception):
    """What is wrong with a table or a message."""


def _table(index: bytes) -> Iterator[tuple[bytes, bytes]]:
    """Keys and values in their order: a footer leads to a block of handles, each of which leads to a block of rows."""
    if len(index) < FOOTER or int.from_bytes(index[-8:], "little") != MAGIC:
        raise _Damaged("it does not end as such a file does")
    footer = index[-FOOTER:]
    _, position = _handle(footer, 0)  # of a block that holds nothing
    handle, _ = _handle(footer, position)
    previous: bytes | None = None
    left = len(index)
    for _, value in _rows(_block(index, *handle)):
        handle, _ = _handle(value, 0)
        left -= handle[1] + TRAILER
        if left < 0:
            raise _Damaged("its blocks lie over each other")
        for key, content in _rows(_block(index, *handle)):
            if previous is not None and key <= previous:
                raise _Damaged("its keys are not in order")
            previous = key
            yield key, content


def _block(index: bytes, offset: int, size: int) -> bytes:
    end = offset + size
    if end + TRAILER > len(index) - FOOTER:
        raise _Damaged(f"a block reaches to byte {end + TRAILER}, beyond the end")
    stored = int.from_bytes(index[end + 1 : end + TRAILER], "little")
    if masked(crc32c(index[offset : end + 1])) != stored:
        raise _Damaged("a block does not fit its checksum")
    if index[end] != 0:
        raise _Damaged(f"a block is compressed (kind {index[end]}), which is not supported")
    return index[offset:end]


def _rows(block: bytes) -> Iterator[tuple[bytes, bytes]]:
    """Rows of a block: each key is told by how much of the one before it begins with, and the rest."""
    if len(block) < 4:
        raise _Damaged("a block is empty")
    end = len(block) - 4 - 4 * int.from_bytes(block[-4:], "little")
    if end < 0:
        raise _Damaged("a block has more restarts than bytes")
    position, key = 0, b""
    while position < end:
        shared, position = _varint(block, position)
        added, position = _varint(block, position)
        length, position = _varint(block, position)
        if shared > len(key) or position + added + length > end or shared + added > 4 * MAX_NAME_CHARACTERS:
            raise _Damaged("a row is longer than its block")
        key = key[:shared] + block[position : position + added]
        position += added
        yield key, block[position : position + length]
        position += length


def _handle(data: bytes, position: int) -> tuple[tuple[int, int], int]:
    offset, position = _varint(data, position)
    size, position = _varint(data, position)
    return (offset, size), position


def _varint(data: bytes, position: int) -> tuple[int, int]:
    value = 0
    for shift in range(0, 64, 7):
        if position >= len(data):
            raise _Damaged("a number is cut short")
        byte = data[position]
        position += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value & 0xFFFFFFFFFFFFFFFF, position
    raise _Damaged("a number is too long")


def _fields(message: bytes) -> Iterator[tuple[int, int | bytes]]:
    """Numbers and values of the fields of a protocol buffer."""
    position = 0
    while position < len(message):
        tag, position = _varint(message, position)
        kind = tag & 7
        if kind == 0:
            value, position = _varint(message, position)
            yield tag >> 3, value
            continue
        if kind not in (1, 2, 5):
            raise _Damaged(f"a field has the unknown kind {kind}")
        length = {1: 8, 5: 4}.get(kind, 0)
        if kind == 2:
            length, position = _varint(message, position)
        if position + length > len(message):
            raise _Damaged("a field is longer than its message")
        content = message[position : position + length]
        yield tag >> 3, content if kind == 2 else int.from_bytes(content, "little")
        position += length


def _check_header(message: bytes, label: str) -> None:
    fields = dict(_fields(message))
    if fields.get(1, 0) != 1:
        raise ConversionError(f"{label} has its data in {shown(fields.get(1, 0))} files; only one is supported")
    if fields.get(2, 0) != 0:
        raise ConversionError(f"{label} holds big-endian numbers, which are not supported")


def _entry(key: bytes, message: bytes, data_size: int, label: str) -> Entry:
    name = key.decode("utf-8", "replace").replace("/", ".")
    where = f"{label}: {shown(name, 160)}"
    if not name or len(name) > MAX_NAME_CHARACTERS or not name.isprintable() or "\\" in name or ".." in name:
        raise ConversionError(f"{where} is not accepted as the name of a tensor")
    values: dict[int, int] = {}
    shape: tuple[int, ...] = ()
    for number, value in _fields(message):
        if number == 7:
            raise ConversionError(f"{where} is stored in slices, which is not supported")
        if number == 2 and isinstance(value, bytes):
            shape = _shape(value, where)
        elif isinstance(value, int):
            values[number] = value
        else:
            raise _Damaged(f"field {number} of an entry is no number")
    kind, shard, offset, size = (values.get(number, 0) for number in (1, 3, 4, 5))
    if kind not in TYPES:
        raise ConversionError(f"{where} has numbers of the kind {kind}; accepted are {', '.join(map(str, TYPES))}")
    dtype = np.dtype(TYPES[kind])
    if size != math.prod(shape) * dtype.itemsize:
        raise ConversionError(f"{where} claims the shape {shape} but {size} bytes")
    if shard != 0 or offset + size > data_size:
        raise ConversionError(f"{where} reaches to byte {offset + size} of data file {shard}, which has {data_size}")
    return Entry(name, dtype, shape, offset, size, values.get(6, 0))


def _shape(message: bytes, where: str) -> tuple[int, ...]:
    shape: list[int] = []
    for number, value in _fields(message):
        if number != 2 or not isinstance(value, bytes):
            raise ConversionError(f"{where} has no known shape")
        size = dict(_fields(value)).get(1, 0)
        if not isinstance(size, int) or size > MAX_AXIS or len(shape) == MAX_AXES:
            raise ConversionError(f"{where} has an axis of {shown(size)}, or more than {MAX_AXES} axes")
        shape.append(size)
    return tuple(shape)


def _plain(shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
    return torch.empty(shape, dtype=dtype)


def _read_tensor(entry: Entry, data: BinaryIO, label: str, empty: Empty) -> Tensor:
    """Reads as many rows at once as make a piece, since large tensors are not to be in memory twice."""
    tensor = empty(entry.shape, torch.from_numpy(np.empty(0, entry.dtype)).dtype)
    rows = tensor if entry.shape else tensor[None]
    state, at_once = START, max(1, PIECE * len(rows) // max(entry.size, 1))
    data.seek(entry.offset)
    for start in range(0, len(rows), at_once):
        part = rows[start : start + at_once]
        content = bytearray(part.numel() * entry.dtype.itemsize)
        if data.readinto(content) != len(content):  # type: ignore[attr-defined]
            raise ConversionError(f"the data file of {label} ends within {shown(entry.name)}")
        state = _after_all(content, state)
        if content:
            part.copy_(torch.from_numpy(np.frombuffer(content, entry.dtype).reshape(part.shape)))
    if masked(state ^ START) != entry.checksum:
        raise ConversionError(f"{label}: {shown(entry.name, 160)} does not fit its checksum; the file is damaged")
    return tensor


__all__ = [
    "DATA_SUFFIX",
    "MAX_CHECKPOINT_BYTES",
    "MAX_INDEX_BYTES",
    "bundle_name",
    "crc32c",
    "masked",
    "read_bundle",
    "read_index",
]
