# SPDX-License-Identifier: Apache-2.0
"""Puts what the stages of AudioLDM 2's training made into one folder that `AudioLDM2Pipeline` loads.

Weight matrices are stored in half precision, or in 8 bits where the recipe says so (the text encoder, whose matrices
lose a hundredth of a cosine), and loaded in float32; biases, norms and statistics stay in float32.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import nn

from ...errors import DataError
from ...models.griffin_lim.modeling_griffin_lim import GriffinLimVocoder, GriffinLimVocoderConfig
from ..recipe import load_recipe
from .diffusion import make_scheduler
from .stages import CLASSES


COMPONENTS = {
    "vae": "vae/model",
    "vocoder": "vocoder/model",
    "audio_mae": "audiomae/model",
    "text_encoder": "text/text_encoder",
    "tokenizer": "text/tokenizer",
    "feature_extractor": "text/feature_extractor",
    "tokenizer_2": "text/tokenizer_2",
    "text_encoder_2": "loa/model/text_encoder_2",
    "projection_model": "joint/model/projection_model",
    "language_model": "joint/model/language_model",
    "unet": "joint/model/unet",
}


@dataclass
class AssembleRecipe:
    """Settings of an assembly.

    Attributes:
        components: folder of each component that lies elsewhere than the stages' recipes put it.
        scheduler: fields of `DDIMScheduler`, those the U-Net was trained with.
        griffin_lim: fields of `GriffinLimVocoderConfig`, which then is the vocoder instead of a trained one.
        half: whether weight matrices are stored in half precision.
        eighth: components whose weight matrices are stored in 8 bits.
        max_shard_size: of one weight file.
    """

    components: dict[str, str] = field(default_factory=dict)
    scheduler: dict[str, Any] = field(default_factory=dict)
    griffin_lim: dict[str, Any] | None = None
    half: bool = True
    eighth: list[str] = field(default_factory=lambda: ["text_encoder"])
    max_shard_size: str = "14MB"


@torch.no_grad()
def store(module: nn.Module, *, eighth: bool) -> None:
    """Puts the matrices that were learnt, what has two axes or more, into the precision they are stored in."""
    for parameter in module.parameters():
        if parameter.ndim > 1 and parameter.requires_grad:
            small = torch.float8_e4m3fn if eighth and parameter.ndim == 2 else torch.float16
            parameter.data = parameter.data.to(small)


def check_sizes(parts: dict[str, Any]) -> None:
    """Refuses parts that were not trained for each other.

    Raises:
        DataError: naming both.
    """
    widths = parts["unet"].config.cross_attention_dim[-1]
    loa = parts["audio_mae"].config.hidden_size
    pairs = {
        "latent channels of vae and unet": (parts["vae"].config.latent_channels, parts["unet"].config.in_channels),
        "language of audio of audio_mae and language_model": (loa, parts["language_model"].config.n_embd),
        "language of audio of audio_mae and unet": (loa, widths[1] if isinstance(widths, list | tuple) else widths),
        "states of text_encoder_2 and unet": (parts["text_encoder_2"].config.d_model, widths[-1]),
        "rates of audio_mae and vocoder": (
            parts["audio_mae"].config.sampling_rate,
            parts["vocoder"].config.sampling_rate,
        ),
    }
    for what, (first, second) in pairs.items():
        if first != second:
            raise DataError(f"{what} are {first} and {second}; they were not trained for each other")


def load_all(recipe: AssembleRecipe, data: Path) -> dict[str, Any]:
    """All components but the scheduler, in float32.

    Raises:
        DataError: if one is missing.
    """
    from ...pipelines.audioldm2.loading.folder import load_component

    parts: dict[str, Any] = {}
    if recipe.griffin_lim is not None:
        parts["vocoder"] = GriffinLimVocoder(GriffinLimVocoderConfig(**recipe.griffin_lim)).eval()
    for name, place in {**COMPONENTS, **recipe.components}.items():
        if name not in CLASSES:
            raise DataError(f"components: {name!r} is none of {', '.join(CLASSES)}")
        if name in parts:
            continue
        folder = data / place
        if not folder.is_dir():
            raise DataError(f"{name}: {folder} does not exist; run its stage, or say in components where it is")
        library, kind = CLASSES[name]
        parts[name] = load_component(folder, library, kind, dtype=torch.float32, strict=True)
    return parts


def main(config: Path | None, data: Path, output: Path, **overrides: Any) -> dict[str, float]:
    """Writes a pipeline's folder; a card that `output` holds stays.

    Args:
        config: a YAML file of `AssembleRecipe` settings.
        data: the folder that the outputs of the stages lie in.
        output: where the pipeline goes.

    Returns:
        `megabytes` of all files, and of each component's.

    Raises:
        DataError: if a component is missing or does not go with another.
    """
    from ...pipelines.audioldm2.pipeline import AudioLDM2Pipeline

    recipe = load_recipe(AssembleRecipe, config, **overrides)
    parts = load_all(recipe, data)
    check_sizes(parts)
    for name, part in parts.items():
        if recipe.half and isinstance(part, nn.Module):
            store(part, eighth=name in recipe.eighth)
    pipe = AudioLDM2Pipeline(scheduler=make_scheduler(recipe.scheduler), **parts)
    pipe.save_pretrained(output, max_shard_size=recipe.max_shard_size)
    sizes = {name: megabytes(output / name) for name in sorted(parts)}
    return {"megabytes": round(megabytes(output), 3), **sizes}


def megabytes(folder: Path) -> float:
    """Of all files in a folder."""
    return round(sum(path.stat().st_size for path in folder.rglob("*") if path.is_file()) / 1e6, 3)


__all__ = ["AssembleRecipe", "check_sizes", "main", "store"]
