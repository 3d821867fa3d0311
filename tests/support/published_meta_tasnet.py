# SPDX-License-Identifier: Apache-2.0
"""Files laid out as Meta-TasNet's authors publish theirs, with golden weights."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor


GOLDEN = Path(__file__).parents[1] / "golden" / "meta_tasnet"
PARTS = ("filterbanks", "masks")  # of the weights, which are two files to keep each small


def tensors() -> dict[str, Tensor]:
    """Weights of the case that is part of the repository."""
    return {
        name: tensor for part in PARTS for name, tensor in load_file(GOLDEN / f"biased_{part}.safetensors").items()
    }


def arguments(folder: Path | None = None) -> dict[str, Any]:
    """The authors' arguments, of that case or of a folder of vectors."""
    file = GOLDEN / "biased_meta.json" if folder is None else folder / "meta.json"
    return json.loads(file.read_text())["config"]


def write(path: Path, state: dict[str, Tensor], folder: Path | None = None, **replaced: Any) -> Path:
    """What the authors' training leaves; an argument replaced by `...` is left out."""
    stated = {**arguments(folder), **replaced}
    content = {
        "epoch": 250,
        "steps": 1_000,
        "state_dict": state,
        "optimizer": {"state": {0: {"step": 3, "exp_avg": torch.zeros(2)}}, "param_groups": [{"lr": 1e-3}]},
        "args": argparse.Namespace(**{name: value for name, value in stated.items() if value is not ...}),
    }
    torch.save(content, path)
    return path
