# SPDX-License-Identifier: Apache-2.0
"""Files laid out as torchaudio and asteroid publish theirs, with the golden weights."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor


GOLDEN = Path(__file__).parents[1] / "golden" / "conv_tasnet"
CASES = ("torchaudio", "asteroid", "asteroid_causal", "asteroid_causal_cgln", "asteroid_noskip")


def tensors(case: str = "asteroid") -> dict[str, Tensor]:
    return load_file(GOLDEN / f"{case}_state_dict.safetensors")


def arguments(case: str = "asteroid") -> dict[str, Any]:
    return json.loads((GOLDEN / f"{case}_meta.json").read_text())["model_args"]


def write_asteroid(
    path: Path, state: dict[str, Tensor], case: str = "asteroid", facts: dict[str, Any] | None = None, **replaced: Any
) -> Path:
    """What asteroid's `serialize` and its Hub uploads leave, and `facts`; an argument that is `...` is left out."""
    model_args = {**arguments(case), **replaced}
    content = {
        "model_name": "ConvTasNet",
        "state_dict": state,
        "model_args": {name: value for name, value in model_args.items() if value is not ...},
        "infos": {"software_versions": {"torch_version": torch.__version__, "asteroid_version": "0.7.0"}},
        "dataset": "Libri2Mix",
        "licenses": [{"title_link": "link", "license": "CC BY 4.0", "non_commercial": False}],
        **(facts or {}),
    }
    torch.save(content, path)
    return path


def write(path: Path, case: str) -> Path:
    """The file of a case in the layout of its family."""
    if case == "torchaudio":
        torch.save(tensors(case), path)
        return path
    return write_asteroid(path, tensors(case), case)


def overrides(case: str) -> dict[str, Any]:
    """What a file of the case does not state."""
    return {"num_blocks": 3} if case == "torchaudio" else {}
