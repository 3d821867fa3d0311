# SPDX-License-Identifier: Apache-2.0
"""Makes a trained model small enough to ship: weights stored in half precision, loaded in single.

The weight matrices of the text tower, three quarters of all numbers, are stored in 8 bits: the query embedding is a
mean over tokens and keeps a cosine of 0.99 or more to the one it was trained with. Biases, slopes, statistics and
affine weights of norms stay in float32; they are a few kilobytes and their range is wide. The folder's `config.json`
says float32, so that `dtype="auto"` gives a model that is fast on CPUs.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn
from transformers import PreTrainedModel

from ...auto import AutoModelForAudioSeparation, load_processor
from ...hub.models import atomic_folder, check_folder, is_weights_of_model
from ..recipe import load_recipe


@dataclass
class ReleaseRecipe:
    """Settings of a release: the largest weight file, in the form transformers takes."""

    max_shard_size: str = "14MB"


def stored_state(model: nn.Module) -> dict[str, torch.Tensor]:
    """The state dict in the precision it is stored in."""
    stored = {}
    for name, tensor in model.state_dict().items():
        if tensor.is_floating_point() and tensor.ndim > 1:
            text_matrix = name.startswith("query_encoder.text_model.") and tensor.ndim == 2
            tensor = tensor.to(torch.float8_e4m3fn if text_matrix else torch.float16)
        stored[name] = tensor.contiguous()
    return stored


def main(config: Path | None, data: Path, output: Path, **overrides: Any) -> dict[str, float]:
    """Writes the model of a training run in half precision; a card that `output` holds stays.

    Args:
        config: a YAML file of `ReleaseRecipe` settings.
        data: the trained model's folder.
        output: where the released model goes.

    Returns:
        `megabytes`, of all weight files together.
    """
    recipe = load_recipe(ReleaseRecipe, config, **overrides)
    model = AutoModelForAudioSeparation.from_pretrained(data, dtype=torch.float32).eval()
    processor = load_processor(model, data)
    with atomic_folder(output, keep=lambda name: not is_weights_of_model(name)) as folder:
        PreTrainedModel.save_pretrained(  # the plain one: this folder is atomic already
            model, folder, state_dict=stored_state(model), max_shard_size=recipe.max_shard_size
        )
        if processor is not None:
            processor.save_pretrained(folder)
        check_folder(folder)
    return {"megabytes": sum(path.stat().st_size for path in output.glob("*.safetensors")) / 1e6}


__all__ = ["ReleaseRecipe", "main"]
