# SPDX-License-Identifier: Apache-2.0
"""Files of weights with one thing wrong: in the header, in the numbers, or in the index of the shards."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from random import Random
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from fuzz.cases import Case
from fuzz.values import changed_bytes, changed_json, lying_size


KINDS = (torch.float16, torch.bfloat16, torch.float64, torch.int64, torch.uint8, torch.bool)


def change_weights(path: Path, case: Case) -> None:
    """Changes a `.safetensors` file in one of three ways."""
    if not path.is_file():
        raise FileNotFoundError(path)  # an earlier change put something else there, perhaps a pipe that never answers
    roll = case.random.random()
    if roll < 0.5:
        change_tensors(path, case)
    elif roll < 0.85:
        change_header(path, case)
    else:
        case.note(f"{path.name}: bytes")
        path.write_bytes(changed_bytes(path.read_bytes(), case))


def change_tensors(path: Path, case: Case) -> None:
    """Changes a tensor and writes a file that is well formed."""
    tensors = load_file(path)
    name = case.random.choice(sorted(tensors))
    case.note(f"{path.name}: {name}")
    change = case.choose(CHANGES)
    changed = change(tensors[name].clone(), case.random)
    others = {**tensors, name: changed}
    if changed is None or case.chance(0.1):
        del others[name]
    if case.chance(0.15):
        case.note("one more")
        others[case.random.choice(["extra", name + "2", "lm_head.weight", "a" * 400, "x.y"])] = torch.ones(3)
    if case.chance(0.05):
        others = {}
    save_file(others, path, metadata=case.random.choice([{"format": "pt"}] * 5 + [None, {"format": "tf"}]))


def _one(tensor: Tensor, value: float, random: Random) -> Tensor:
    if tensor.numel() and tensor.is_floating_point():
        tensor.view(-1)[random.randrange(tensor.numel())] = value
    return tensor


CHANGES: dict[str, Callable[[Tensor, Random], Any]] = {
    "as it was": lambda tensor, random: tensor,
    "a little": lambda tensor, random: tensor * 1.01 if tensor.is_floating_point() else tensor,
    "NaN": lambda tensor, random: _one(tensor, float("nan"), random),
    "infinity": lambda tensor, random: _one(tensor, float("-inf"), random),
    "one large": lambda tensor, random: _one(tensor, 3e38, random),
    "all large": lambda tensor, random: tensor * 1e20 if tensor.is_floating_point() else tensor,
    "zeros": lambda tensor, random: torch.zeros_like(tensor),
    "other kind": lambda tensor, random: tensor.to(random.choice(KINDS)),
    "flat": lambda tensor, random: tensor.reshape(-1).clone(),
    "turned": lambda tensor, random: tensor.flatten().reshape(tensor.shape[::-1]).clone(),
    "longer": lambda tensor, random: torch.cat([tensor, tensor]) if tensor.dim() else tensor,
    "shorter": lambda tensor, random: tensor[:-1].clone() if tensor.dim() else tensor,
    "empty": lambda tensor, random: torch.zeros(0),
    "scalar": lambda tensor, random: torch.tensor(1.0),
    "one axis more": lambda tensor, random: tensor[None].clone(),
    "gone": lambda tensor, random: None,
}


def change_header(path: Path, case: Case) -> None:
    """Changes what the header says and leaves the numbers."""
    data, random = path.read_bytes(), case.random
    size = int.from_bytes(data[:8], "little")
    header: dict[str, Any] = json.loads(data[8 : 8 + size])
    names = [name for name in header if name != "__metadata__"]
    entry, other = header[random.choice(names)], random.choice(names)
    start, stop = entry["data_offsets"]
    shape = entry["shape"]
    roll = random.randrange(9)
    case.note(f"{path.name}: header, change {roll}")
    if roll == 0:
        entry["data_offsets"] = [start, stop + random.choice([-4, 4, 1, 2**40])]
    elif roll == 1:
        entry["data_offsets"] = random.choice([[stop, start], [-4, 0], [start], [], [start, 2**64], [0, 0], None])
    elif roll == 2:
        entry["shape"] = random.choice(
            [[2**31, 2**31], [-1], [0], [stop - start], [1] * 200, [1.0], [2**62, 4], [*shape, 1], shape[::-1], None]
        )
    elif roll == 3:
        entry["dtype"] = random.choice(["F16", "F64", "I64", "F8_E4M3", "BOOL", "C64", "X", "", None, 4, "F4"])
    elif roll == 4:
        header[other] = dict(entry)
    elif roll == 5:
        header[random.choice(["../../x", "a\0b", "", "x" * 600, "a/b", "\ud800", "__metadata__", "a\nb"])] = (
            header.pop(other)
        )
    elif roll == 6:
        header["__metadata__"] = random.choice(
            [{}, {"format": "tf"}, {"a": 1}, [], None, {"format": "pt", "x": "y" * 100_000}]
        )
    elif roll == 7:
        del header[other]
    text = changed_json(header, case, label=path.name, most=1) if roll == 8 else json.dumps(header).encode()
    length = lying_size(len(text), random, 64) if case.chance(0.1) else len(text)
    path.write_bytes(length.to_bytes(8, "little") + text + data[8 + size :])


def shard(folder: Path, case: Case, stem: str = "model") -> None:
    """Splits the weights into two files and an index, which may lie."""
    path = folder / f"{stem}.safetensors"
    tensors, random = load_file(path), case.random
    names = sorted(tensors)
    half = len(names) // 2
    parts = {f"{stem}-00001-of-00002.safetensors": names[:half], f"{stem}-00002-of-00002.safetensors": names[half:]}
    path.unlink()
    for file, part in parts.items():
        save_file({name: tensors[name] for name in part}, folder / file, metadata={"format": "pt"})
    places: dict[str, Any] = {name: file for file, part in parts.items() for name in part}
    index: dict[str, Any] = {"metadata": {"total_size": 0}, "weight_map": places}
    lie = random.choice(
        [
            *[None] * 3,
            f"../outside/{stem}.safetensors",
            f"{case.outside}/{stem}.safetensors",
            "x.bin",
            "..",
            "a/../b.safetensors",
            "",
            3,
            next(iter(parts)),
            f"{stem}.safetensors.index.json",
            f"{stem}-00003-of-00002.safetensors",
            "C:\\x.safetensors",
        ]
    )
    case.note(f"sharded, {lie!a}")
    if lie is not None:
        places[random.choice(names)] = lie
    if case.chance(0.2):
        places.pop(random.choice(names), None)
    text = changed_json(index, case, label="index", most=1) if case.chance(0.3) else json.dumps(index).encode()
    (folder / f"{stem}.safetensors.index.json").write_bytes(text)


__all__ = ["change_header", "change_tensors", "change_weights", "shard"]
