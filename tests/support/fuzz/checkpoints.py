# SPDX-License-Identifier: Apache-2.0
"""Published checkpoints for conversion: pickles in both layouts of PyTorch, TensorFlow's bundles, archives, folders.

What is asked: a refusal that leaves nothing behind, or a folder that loads and holds what was converted.
"""

from __future__ import annotations

import io
import os
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import published_conv_tasnet
import published_meta_tasnet
import published_sepformer
import torch
from published_spleeter import DATA, golden_files
from safetensors.torch import save_file

from fuzz.bundles import as_archive, as_folder
from fuzz.cases import Action, Case, Kind, expect
from fuzz.pickles import change_archive
from fuzz.tensors import CHANGES, change_weights
from fuzz.values import changed_text, hostile
from hubsep.auto import AutoModelForAudioSeparation
from hubsep.conversion import convert
from hubsep.conversion.tensorflow_bundle import read_bundle
from hubsep.errors import HubsepError


SPLEETER = {"n_fft": 512, "segment_frames": 64, "num_bins": 128, "segment_samples": 7_680, "overlap_samples": 1_024}
OVERRIDES: dict[str, dict[str, Any]] = {
    "conv_tasnet": {},
    "meta_tasnet": {},
    "spleeter": SPLEETER,
    "sepformer": published_sepformer.UNTOLD,
    "sepformer folder": {},
}

YAML_VALUES = (
    *"0 -1 1e9 99999999 .nan null [] {} yes *a".split(),
    *(
        "!ref <x>",
        "!ref <K>",
        "&a [*a]",
        "<<: x",
        "!apply:os.system [touch canary]",
        "!new:os.system",
        "!name:evil.Evil",
    ),
    "!!python/object/apply:os.system [x]",
)


def prepare(place: Path) -> None:
    """Small state dicts of each system, and each converted once."""
    states = {
        "conv_tasnet": published_conv_tasnet.tensors(),
        "meta_tasnet": published_meta_tasnet.tensors(),
        "spleeter": spleeter_tensors(),
        "sepformer": published_sepformer.golden_tensors("3spk"),
    }
    for name, state in states.items():
        save_file({key: tensor.contiguous() for key, tensor in state.items()}, place / f"{name}.safetensors")
        _states[name] = state


_states: dict[str, dict[str, torch.Tensor]] = {}


def spleeter_tensors() -> dict[str, torch.Tensor]:
    """The golden checkpoint by its names with dots."""
    files = golden_files()
    return dict(read_bundle(files["model.index"], io.BytesIO(files[DATA]), len(files[DATA]), "golden"))


def make(case: Case) -> Action:
    """A checkpoint, and what its conversion writes."""
    system = case.choose({name: name for name in OVERRIDES})
    model_type = system.partition(" ")[0]
    state = dict(_states[model_type])
    if case.chance(0.3):
        change_state(state, case)
    if model_type == "spleeter":
        source = case.choose(BUNDLES)(state, case)
    elif system == "sepformer folder":
        source = speechbrain_folder(state, case)
    else:
        source = pickled(model_type, state, case)
    overrides = dict(OVERRIDES[system])
    if case.chance(0.05):
        overrides[case.random.choice(["segment_samples", "num_blocks", "x", "sampling_rate"])] = hostile(
            5, case.random
        )
        case.note(f"overrides {overrides!a}")
    return lambda: converted(model_type, source, case.folder / "result" / "model", overrides)


def change_state(state: dict[str, Any], case: Case) -> None:
    """A tensor changed, renamed, or something else in its place."""
    name = case.random.choice(sorted(state))
    roll = case.random.random()
    if roll < 0.6:
        changed = case.choose(CHANGES)(state[name].clone(), case.random)
        state.pop(name) if changed is None else state.update({name: changed})
    elif roll < 0.8:
        new = case.random.choice(
            [
                name + "x",
                "../" + name,
                "a\0b",
                "",
                name.upper(),
                "x" * 600,
                name.replace(".0.", ".99999999."),
                name.replace(".0.", ".7."),
            ]
        )
        case.note(f"{name} is called {new!a:.60}")
        state[new] = state.pop(name)
    else:
        odd: dict[str, Any] = {
            "strides of zero": torch.zeros(1).expand(1 << 40),
            "meta": torch.empty(1 << 40, device="meta"),
            "sparse": torch.eye(4).to_sparse(),
            "complex": torch.ones(3, dtype=torch.complex64),
            "quantized": torch.quantize_per_tensor(torch.ones(3), 0.1, 0, torch.qint8),
            "number": 3.0,
            "none": None,
            "text": "x",
            "list": [1, 2],
            "parameter": torch.nn.Parameter(torch.ones(3)),
            "numpy": np.float64(1.0),
            "conjugated": torch.ones(3, dtype=torch.complex64).conj(),
        }
        state[name] = case.choose(odd)


def pickled(model_type: str, state: dict[str, Any], case: Case) -> Path:
    """A file of PyTorch's, or a `.safetensors`, with one thing wrong."""
    path = case.folder / "published.pt"
    whole = model_type != "sepformer"  # the table alone is what that system's file is
    writer: dict[str, Callable[..., Path]] = {
        "conv_tasnet": published_conv_tasnet.write_asteroid,
        "meta_tasnet": published_meta_tasnet.write,
    }
    roll = case.random.random()
    if roll < 0.12:
        path = path.with_suffix(".safetensors")
        save_file(_states[model_type], path)
        change_weights(path, case)
        return path
    stated = {}
    if whole and case.chance(0.35):
        arguments = (
            published_conv_tasnet.arguments() if model_type == "conv_tasnet" else published_meta_tasnet.arguments()
        )
        key = case.random.choice(sorted(arguments))
        stated = {
            key: case.random.choice([..., hostile(arguments[key], case.random), hostile(arguments[key], case.random)])
        }
        case.note(f"states {stated!a:.100}")
    if whole:
        writer[model_type](path, state, **stated)
    else:
        torch.save(state, path, _use_new_zipfile_serialization=case.chance(0.7))
    change_archive(path, case)
    return path


def speechbrain_folder(state: dict[str, Any], case: Case) -> Path:
    """A folder of SpeechBrain's, with hyperparameters in YAML."""
    text = published_sepformer.HYPERPARAMETERS.format(**published_sepformer.golden_config("3spk"))
    lines, random = text.splitlines(), case.random
    for _ in range(random.choice([0, 1, 1, 2])):
        place = random.randrange(len(lines))
        key, _, value = lines[place].partition(": ")
        line = random.choice(
            [
                f"{key}: {random.choice(YAML_VALUES)}",
                "",
                lines[place] + "\n" + lines[place],
                f"{key}: !ref <{key.strip()}>",
                "\t" + lines[place],
                f"{key}: {'[' * 3_000}",
                f"{key}: {value}0",
                f"? {key}",
                "%YAML 9",
                "---",
            ]
        )
        case.note(f"{lines[place]!a:.60} becomes {line!a:.60}")
        lines[place] = line
    folder = published_sepformer.write_folder(case.folder / "published", state, "\n".join(lines))
    if case.chance(0.15):
        path = folder / "hyperparams.yaml"
        path.write_bytes(random.choice([yaml_bomb(), changed_text(path.read_bytes(), case, "YAML"), b"", b"\x00"]))
    if case.chance(0.25):
        change_archive(folder / random.choice(["encoder.ckpt", "masknet.ckpt", "decoder.ckpt"]), case)
    if case.chance(0.08):
        path = folder / random.choice(["encoder.ckpt", "hyperparams.yaml", "masknet.ckpt"])
        path.unlink()
        case.random.choice([lambda: path.symlink_to(case.outside / "x"), lambda: os.mkfifo(path), path.mkdir])()
        case.note(f"{path.name} is no file")
    return folder


def yaml_bomb() -> bytes:
    """Ten to the ninth entries in ten lines."""
    lines = ["a: &a [x, x, x, x, x, x, x, x, x, x]"]
    lines += [
        f"{chr(98 + level)}: &{chr(98 + level)} [{', '.join([f'*{chr(97 + level)}'] * 10)}]" for level in range(8)
    ]
    return "\n".join(lines).encode()


def as_tensors(state: dict[str, Any], case: Case) -> Path:
    path = case.folder / "published.safetensors"
    save_file(_states["spleeter"], path)
    change_weights(path, case)
    return path


BUNDLES: dict[str, Callable[[dict[str, Any], Case], Path]] = {
    "folder": as_folder,
    "archive": as_archive,
    "archive again": as_archive,
    "tensors": as_tensors,
}


def converted(model_type: Any, source: Path, output: Path, overrides: dict[str, Any]) -> str:
    """Converts, and loads what was written; a refusal leaves nothing."""
    output.parent.mkdir()
    state = random.getstate()
    try:
        model = convert(model_type, source, output, licence="MIT", **overrides)
    except HubsepError:
        left = [path.name for path in output.parent.iterdir() if path.name != ".hubsep-lock"]
        expect(not left, f"a conversion that was refused left {left}")
        raise
    expect(random.getstate() == state, "the generator of random numbers is another")
    expect(
        all(tensor.isfinite().all() for tensor in model.state_dict().values()), "the weights hold NaN or infinities"
    )
    loaded = AutoModelForAudioSeparation.from_pretrained(output).state_dict()
    expect(
        all(torch.equal(loaded[name], tensor) for name, tensor in model.state_dict().items()),
        "what was written is not what was converted",
    )
    return "converted"


CHECKPOINTS = Kind(prepare, make, unpickles=True)


__all__ = ["CHECKPOINTS"]
