# SPDX-License-Identifier: Apache-2.0
"""Weights that stay in their file and are in memory only while the block that needs them works.

A mapped file is read page by page as it is touched, and pages can be given up at any time, since the file has them.
Left alone, all that was ever touched counts as this process's memory; here a block's pages are given up when it has
run, so a model takes what its largest block does. Getting them back is cheap as long as the system, which keeps files
in memory that nobody else wants, has them: a step of the published U-Net in bfloat16 takes 0.82 s instead of 0.68 on
two threads of a CPU, and a part of that is weights that are not laid out beforehand.

Weights stored in another precision are converted once, into a temporary file without a name (it goes when the process
does), a few megabytes at a time. Where pages cannot be given up (Windows) mapped weights stay until they are dropped.
"""

from __future__ import annotations

import mmap
import tempfile
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from hubsep.errors import CheckpointError
from hubsep.hub.tensors import StoredTensor


KINDS = {
    "F64": torch.float64, "F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16, "I64": torch.int64,
    "I32": torch.int32, "U8": torch.uint8, "I8": torch.int8, "BOOL": torch.bool,
}  # fmt: skip
BLOCK_BYTES = 64 * 2**20  # a block this large or smaller is kept together
PIECE = 4 * 2**20  # numbers that are converted at a time
ALIGNMENT = 64


class Span(NamedTuple):
    """Bytes of a mapped file."""

    file: MappedFile
    start: int
    stop: int


class MappedFile:
    """A file in memory as far as it is used; what is written to its tensors does not reach it.

    Args:
        file: open for reading; it may be closed afterwards.
    """

    def __init__(self, file: BinaryIO):
        self._bytes = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_COPY)

    def tensor(self, start: int, stop: int, dtype: torch.dtype, shape: Sequence[int]) -> Tensor:
        """What lies between two bytes."""
        if start == stop:
            return torch.empty(*shape, dtype=dtype)
        count = (stop - start) // dtype.itemsize
        return torch.frombuffer(self._bytes, dtype=dtype, count=count, offset=start).view(tuple(shape))

    def release(self, start: int = 0, stop: int | None = None) -> None:
        """Gives up the pages these bytes are on, until they are touched again."""
        if hasattr(self._bytes, "madvise"):
            first = start - start % mmap.PAGESIZE
            self._bytes.madvise(mmap.MADV_DONTNEED, first, (len(self._bytes) if stop is None else stop) - first)


def mapped(path: Path, entries: Sequence[StoredTensor]) -> Iterable[tuple[Tensor, Span]]:
    """Tensors of a safetensors file as they are stored."""
    with path.open("rb") as file:
        whole = MappedFile(file)
    for entry in entries:
        span = Span(whole, entry.start, entry.stop)
        yield whole.tensor(entry.start, entry.stop, KINDS[entry.dtype], entry.shape), span


def converted(path: Path, entries: Sequence[StoredTensor], kinds: Sequence[torch.dtype]) -> list[tuple[Tensor, Span]]:
    """Tensors of a safetensors file in other precisions, in a temporary file.

    Raises:
        CheckpointError: if there is no room for it.
    """
    spans = []
    try:
        with path.open("rb") as source, tempfile.TemporaryFile(prefix="hubsep-") as file:
            for entry, kind in zip(entries, kinds, strict=True):
                file.seek(-file.tell() % ALIGNMENT, 1)
                start = file.tell()
                for piece in pieces(source, entry):
                    file.write(piece.to(kind).view(torch.uint8).numpy().data)
                spans.append((start, file.tell()))
            file.flush()
            whole = MappedFile(file)
    except OSError as error:
        raise CheckpointError(
            f"{path.name} could not be converted in {tempfile.gettempdir()}: {error}; make room there, or have TMPDIR "
            "name another folder, or load the pipeline without on_demand"
        ) from error
    return [
        (whole.tensor(start, stop, kind, entry.shape), Span(whole, start, stop))
        for (start, stop), entry, kind in zip(spans, entries, kinds, strict=True)
    ]


def pieces(file: BinaryIO, entry: StoredTensor) -> Iterable[Tensor]:
    """A stored tensor in pieces, without its shape."""
    kind = KINDS[entry.dtype]
    step = PIECE * kind.itemsize
    file.seek(entry.start)
    for start in range(entry.start, entry.stop, step):
        yield torch.frombuffer(bytearray(file.read(min(step, entry.stop - start))), dtype=kind)


def blocks_of(module: nn.Module, size: Callable[[nn.Module], int]) -> list[nn.Module]:
    """The largest parts that take at most `BLOCK_BYTES`, or have no parts themselves, and are called as a whole."""
    if size(module) == 0:
        return []
    children = list(module.children())
    if children and (isinstance(module, nn.ModuleList | nn.ModuleDict) or size(module) > BLOCK_BYTES):
        return [block for child in children for block in blocks_of(child, size)]
    return [module]


class Release:
    """A hook that gives up the pages of a block; it takes what hooks are called with, and looks at none of it."""

    def __init__(self, spans: list[Span]):
        self.spans = spans

    def __call__(self, *_: Any) -> None:
        """Gives them up."""
        for span in self.spans:
            span.file.release(span.start, span.stop)


def release_after_use(module: nn.Module, spans: dict[int, Span]) -> list[RemovableHandle]:
    """Has every block of a module give up its pages when it has run.

    Args:
        module: some of whose parameters are mapped.
        spans: where these are, by the `id` of the parameter.

    Returns:
        The handles of the hooks, to remove them.
    """

    def held(part: nn.Module) -> list[Span]:
        return merged(spans[id(weight)] for weight in part.parameters() if id(weight) in spans)

    def size(part: nn.Module) -> int:
        return sum(span.stop - span.start for span in held(part))

    return [block.register_forward_hook(Release(held(block))) for block in blocks_of(module, size)]


def merged(spans: Iterable[Span]) -> list[Span]:
    """Spans in order, those that touch as one."""
    runs: list[Span] = []
    for span in sorted(spans, key=lambda span: (id(span.file), span.start)):
        last = runs[-1] if runs else None
        if last is not None and last.file is span.file and span.start - last.stop <= ALIGNMENT:
            runs[-1] = Span(last.file, last.start, max(last.stop, span.stop))
        else:
            runs.append(span)
    return runs


__all__ = ["BLOCK_BYTES", "KINDS", "MappedFile", "Release", "Span", "converted", "mapped", "release_after_use"]
