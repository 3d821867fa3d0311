# SPDX-License-Identifier: Apache-2.0
"""Files laid out as Meta-TasNet's authors publish theirs, with golden weights."""

from __future__ import annotations

import argparse
import json
import re
from pathlib import Path
from typing import Any

import torch
from renaming import renamed
from rounding import rounding
from safetensors.torch import load_file
from torch import Tensor

from hubsep.conversion.meta_tasnet import AXES, SIZES, STATED


GOLDEN = Path(__file__).parents[1] / "golden" / "meta_tasnet"
PARTS = ("filterbanks", "masks")  # of the weights, which are two files to keep each small
SUMS = {"terms": 24 * 3, "layers": 30}  # channels times taps; four blocks of five sums, filterbanks and generators
TOLERANCE = rounding(5.0, **SUMS)  # the peak of masked latents, from which the sources are decoded
# our words in the authors', in the order they are replaced
WORDS = [
    (r"\.embedding$", ".instrument_embedding.weight"),
    (r"spectrogram\.scale", "spectrogram.affine_scale"),
    (r"spectrogram\.shift", "spectrogram.affine_bias"),
    (r"spectrogram\.mel\.", "spectrogram.mel_transform."),
    (r"(coder\.filters\.\d+)$", r"\1.weight"),
    (r"coder\.expand\.", "coder.bottleneck.0."),
    (r"encoder\.project\.", "encoder.bottleneck.2."),
    (r"masker\.bottleneck\.", "masker.in_conv."),
    (r"masker\.head\.", "masker.mask_output."),
    (r"activation(\d)\.", r"prelu_\1."),
    (r"norm(\d)\.", r"norm_\1."),
    (r"\.expand\.", ".conv1d."),
    (r"\.convolution\.", ".dconv1d."),
    (r"\.residual\.", ".res_out."),
    (r"\.skip\.", ".skip_out."),
    (r"masker\.blocks\.", "masker.tcn."),
    (r"\.heads\.", "."),
    (r"\.masker\.", ".mask."),
]


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


def tensors_of(model: Any) -> dict[str, Tensor]:
    """The weights of a model of ours, whose weights are generated, by the authors' names."""
    state = {}
    for name, tensor in model.state_dict().items():
        if name.endswith(".decoder.expand.weight"):
            tensor = tensor.T
        for pattern, axes in AXES:
            if re.fullmatch(pattern, name):
                for axis in axes:
                    tensor = tensor.unsqueeze(axis)
        state[name] = tensor.contiguous()
    windows = {
        f"stages.{stage}.encoder.spectrogram.window": torch.hann_window(model.config.n_fft * 2**stage)
        for stage in range(model.config.num_stages)
    }
    return {**renamed(state, WORDS), **windows}


def write_model(path: Path, model: Any) -> Path:
    """What the authors' training leaves of a model of ours."""
    config = model.config
    stated = {theirs: getattr(config, ours) for theirs, ours in {**SIZES, **STATED}.items()}
    rate = config.sampling_rate // 2 ** (config.num_stages - 1)
    return write(path, tensors_of(model), **stated, sampling_rate=rate)


def whole_frames(golden: dict[str, Tensor], stages: int) -> list[Tensor]:
    """The golden mixtures, (1, samples) each, cut as the original does."""
    samples = golden["mix_stage0"].shape[-1] // 20 * 20
    return [golden[f"mix_stage{stage}"][:, 0, : samples * 2**stage] for stage in range(stages)]


def assert_stages(model: Any, golden: dict[str, Tensor]) -> None:
    """Every stage makes what that of the original does, of which `golden` is a file of vectors."""
    outputs = model.separate_stages(whole_frames(golden, model.config.num_stages))
    for stage, output in enumerate(outputs):
        expected = golden[f"est_n1_stage{stage}"][:, :, 0].transpose(0, 1)
        torch.testing.assert_close(output.sources, expected, atol=TOLERANCE, rtol=0)
        if f"enc_stage{stage}" in golden:
            torch.testing.assert_close(output.latents.mT, golden[f"enc_stage{stage}"], atol=TOLERANCE, rtol=0)
            hidden = golden[f"hidden_stage{stage}"].permute(1, 0, 3, 2)
            torch.testing.assert_close(output.hidden, hidden, atol=TOLERANCE, rtol=0)
