# SPDX-License-Identifier: Apache-2.0
"""Spleeter's checkpoints laid out as they are published: TensorFlow bundles, their folders and archives."""

from __future__ import annotations

import gzip
import io
import tarfile
from pathlib import Path
from typing import Any

import torch
from rounding import assert_same
from safetensors.torch import load_file
from torch import Tensor

from hubsep.conversion.spleeter import DEPTH, LAYERS
from hubsep.conversion.tensorflow_bundle import crc32c, masked


GOLDEN = Path(__file__).parents[1] / "golden" / "spleeter"
DATA = "model.data-00000-of-00001"
NORM = {"weight": "gamma", "bias": "beta", "running_mean": "moving_mean", "running_var": "moving_variance"}
SLOTS = ("Adam", "Adam_1")
STEMS = ("vocals", "accompaniment")
SUMS = {"terms": 32 * 25, "layers": 20}  # channels times taps; convolutions in a row and two Fourier transforms
KINDS = {torch.float32: 1, torch.float64: 2, torch.int32: 3, torch.int64: 9, torch.float16: 19}


def golden_files() -> dict[str, bytes]:
    """The checkpoint TensorFlow wrote, its data put together."""
    files = {name: (GOLDEN / name).read_bytes() for name in ("checkpoint", "model.index")}
    return {**files, DATA: b"".join((GOLDEN / f"model.data.part{part}").read_bytes() for part in (0, 1))}


def golden_io(case: str) -> dict[str, Tensor]:
    return load_file(GOLDEN / f"{case}_io.safetensors")


def shared_io(folder: Path, case: str) -> dict[str, Tensor]:
    """Waveforms of the reference material, which has their channels last."""
    vectors = load_file(folder / f"io_{case}.safetensors")
    return {name: vectors[name].T for name in ("waveform", *(f"est.{stem}" for stem in STEMS))}


def write_folder(folder: Path, files: dict[str, bytes]) -> Path:
    folder.mkdir(parents=True)
    for name, content in files.items():
        (folder / name).write_bytes(content)
    return folder


def write_archive(path: Path, files: dict[str, bytes]) -> Path:
    plain = io.BytesIO()
    with tarfile.open(fileobj=plain, mode="w", format=tarfile.PAX_FORMAT) as archive:
        for name, content in files.items():
            member = tarfile.TarInfo(f"./{name}")
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    path.write_bytes(gzip.compress(plain.getvalue(), 1, mtime=0))
    return path


def write_published(path: Path, tensors: dict[str, Any]) -> Path:
    """An archive of tensors by names with a dot for each slash, whatever they are."""
    index, data = bundle(tensors)
    return write_archive(path, {"checkpoint": (GOLDEN / "checkpoint").read_bytes(), "model.index": index, DATA: data})


def tensors_of(model: Any, *, slots: bool = False) -> dict[str, Tensor]:
    """The weights of a model of ours by TensorFlow's names; with what an optimiser keeps of them, if `slots`."""
    state = {}
    for name, tensor in model.state_dict().items():
        _, stem, side, *place, leaf = name.split(".")
        kind, layer = "conv2d", int(place[0]) if place else DEPTH
        if place[1:] == ["norm"]:
            kind, layer = "batch_normalization", layer + (DEPTH if side == "decoder" else 0)
        elif side == "decoder":
            kind = "conv2d_transpose"
        leaf = NORM[leaf] if kind == "batch_normalization" else {"weight": "kernel"}.get(leaf, leaf)
        turned = tensor.permute(2, 3, 1, 0) if tensor.ndim == 4 else tensor
        state[numbered(kind, LAYERS[kind] * int(stem) + layer, leaf)] = turned.contiguous()
    for stem in range(model.config.num_sources):  # the sixth norm on the way down, which changes nothing
        for leaf in NORM.values():
            place = LAYERS["batch_normalization"] * stem + DEPTH - 1
            state[numbered("batch_normalization", place, leaf)] = torch.ones(model.config.conv_channels[-1])
    if not slots:
        return state
    kept = {f"{name.replace('.', '/')}.{slot}": tensor for name, tensor in state.items() for slot in SLOTS}
    return {**state, **kept, "beta1_power": torch.tensor(0.9), "beta2_power": torch.tensor(0.999)}


def numbered(kind: str, place: int, leaf: str) -> str:
    """TensorFlow counts the layers of a kind through all stems, and leaves the number of the first one out."""
    return f"{kind}_{place}.{leaf}" if place else f"{kind}.{leaf}"


def bundle(tensors: dict[str, Any], shards: int = 1) -> tuple[bytes, bytes]:
    """Index and data of a bundle."""
    rows, data = {b"": field(1, shards)}, b""
    for name, tensor in tensors.items():
        key = "/".join(name.rsplit(".", 1)).encode()
        if not isinstance(tensor, Tensor):
            rows[key] = field(1, 7) + field(5, 4)  # a text
            continue
        held = tensor.contiguous() if tensor.numel() < 1 << 30 else tensor[:1]  # what claims more than there is
        content = held.numpy().tobytes()
        rows[key] = entry(KINDS[tensor.dtype], tuple(tensor.shape), len(data), len(content), masked(crc32c(content)))
        data += content
    return table(rows), data


def entry(kind: int, shape: tuple[int, ...], offset: int, size: int, checksum: int) -> bytes:
    axes = b"".join(text(2, field(1, axis)) for axis in shape)
    numbers = field(4, offset) + field(5, size) + b"\x35" + checksum.to_bytes(4, "little")
    return field(1, kind) + text(2, axes) + numbers


def table(rows: dict[bytes, bytes]) -> bytes:
    """The sorted table of a `.index`, all rows in one block."""
    content = b"".join(
        varint(0) + varint(len(key)) + varint(len(value)) + key + value for key, value in sorted(rows.items())
    )
    result = b""
    handles: list[bytes] = []
    for rows_of_block in (content, b"", None):
        if rows_of_block is None:
            rows_of_block = varint(0) + varint(1) + varint(len(handles[0])) + b"z" + handles[0]
        block = rows_of_block + (0).to_bytes(4, "little") + (1).to_bytes(4, "little")
        handles.append(varint(len(result)) + varint(len(block)))
        result += block + b"\0" + masked(crc32c(block + b"\0")).to_bytes(4, "little")
    footer = handles[1] + handles[2]
    return result + footer.ljust(40, b"\0") + 0xDB4775248B80FB57.to_bytes(8, "little")


def field(number: int, value: int) -> bytes:
    return varint(number << 3) + varint(value)


def text(number: int, value: bytes) -> bytes:
    return varint(number << 3 | 2) + varint(len(value)) + value


def varint(value: int) -> bytes:
    result = b""
    while value >= 0x80:
        result += bytes([value & 0x7F | 0x80])
        value >>= 7
    return result + bytes([value])


@torch.no_grad()
def assert_golden(model: Any, expected: dict[str, Tensor]) -> None:
    """It separates as the original does, of which `expected` is a file of vectors."""
    output = model(expected["waveform"][None])
    for stem, name in enumerate(STEMS):
        reference = expected[f"est.{name}"]
        found = output.sources[0, stem, :, : reference.shape[1]]
        assert_same(found, reference, **SUMS)
        if f"mask.{name}" in expected:
            assert_same(output.masks[0, stem], expected[f"mask.{name}"], **SUMS)
