# SPDX-License-Identifier: Apache-2.0
"""Trains the autoencoder of mel spectrograms, diffusers' `AutoencoderKL`: AudioLDM 2's first stage (2308.05734, 3.4).

The loss is the absolute error of the log mel spectrogram and of its changes in time and frequency, and a small
divergence of the posterior from a normal distribution. There is no adversarial part: it would make sharper textures,
at twice the price of a step. The scaling factor, one over the deviation of the latents, is measured at the end.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from ...data.generation import Sound
from ...mel import mel_spectrogram
from .encoded import FeatureDataset
from .stages import GenerationRecipe, Item, Objective, batches, load_parts, load_sounds, read_recipe, train_stage


@dataclass
class AutoencoderRecipe(GenerationRecipe):
    """Settings of the autoencoder's training; `model` has fields of `AutoencoderKL`.

    Attributes:
        kl_weight: of the mean divergence.
        slope_weight: of the error of changes from bin to bin and from frame to frame.
    """

    model_type: str = "autoencoder"
    views: int = 0
    kl_weight: float = 1e-4
    slope_weight: float = 0.5


class AutoencoderObjective(Objective):
    """The loss of an autoencoder on mel spectrograms (batch, 1, frames, num_mels)."""

    def __init__(self, vae: Any, kl_weight: float, slope_weight: float):
        super().__init__({"vae": vae})
        self.kl_weight, self.slope_weight = kl_weight, slope_weight

    def forward(self, mel: Tensor) -> dict[str, Tensor]:
        """`loss`, and of it `l1` (in units of the natural logarithm) and the mean divergence `kl`."""
        vae: Any = self.trained["vae"]
        posterior = vae.encode(mel).latent_dist
        latents = posterior.mean + posterior.std * torch.randn_like(posterior.mean)
        reconstruction = vae.decode(latents).sample.float()
        mean, log_variance = posterior.mean.float(), posterior.logvar.float()
        divergence = 0.5 * (mean.square() + log_variance.exp() - 1 - log_variance).mean()
        error = F.l1_loss(reconstruction, mel)
        slopes = sum(F.l1_loss(reconstruction.diff(dim=axis), mel.diff(dim=axis)) for axis in (2, 3)) / 2
        loss = error + self.slope_weight * slopes + self.kl_weight * divergence
        return {"loss": loss, "l1": error, "kl": divergence}


def build_vae(recipe: AutoencoderRecipe, output: Path) -> Any:
    """A new autoencoder of the recipe, or the one it names in `components`."""
    from diffusers import AutoencoderKL

    if "vae" in recipe.components:
        return load_parts(recipe, output, ("vae",))["vae"]
    fields: dict[str, Any] = {"in_channels": 1, "out_channels": 1, **recipe.model}
    levels = len(fields.get("block_out_channels", (64,)))
    fields.setdefault("down_block_types", ["DownEncoderBlock2D"] * levels)
    fields.setdefault("up_block_types", ["UpDecoderBlock2D"] * levels)
    return AutoencoderKL(**fields)


@torch.no_grad()
def scaling_factor(vae: Any, items: list[Item], batch_size: int) -> float:
    """One over the deviation of the latents of some items."""
    means = [vae.encode(batch["mel"]).latent_dist.mean.flatten() for batch in batches(items, batch_size, vae.device)]
    return float(1 / torch.cat(means).std())


def main(config: Path | None, data: Path, output: Path, **overrides: Any) -> dict[str, float]:
    """Trains, going on from the newest checkpoint under `output`, and saves the autoencoder in `output/model`.

    Args:
        config: a YAML file of `AutoencoderRecipe` settings.
        data: the folder that the recipe's folders are relative to.
        output: checkpoints, curve, `best` and `model`.

    Returns:
        The last point of the validation curve, and the scaling factor.
    """
    from diffusers import AutoencoderKL

    recipe: AutoencoderRecipe = read_recipe(AutoencoderRecipe, config, overrides)
    sounds, heldout = load_sounds(recipe, data)

    def features(sound: Sound) -> Item:
        return {"mel": mel_spectrogram(sounds.waveform(sound)[None], recipe.mel)}

    fixed = [features(sound) for sound in heldout]
    objective = AutoencoderObjective(build_vae(recipe, output), recipe.kl_weight, recipe.slope_weight)
    title = "error of log mel spectrograms, dB below 1 (held out)"
    result = train_stage(recipe, objective, FeatureDataset(sounds, features), fixed, title, output, data=data)
    factor = 1.0
    for name in ("best", "model"):
        if (output / name).is_dir():
            vae = AutoencoderKL.from_pretrained(output / name).eval()
            factor = scaling_factor(vae, fixed, recipe.validation_batch)
            vae.register_to_config(scaling_factor=factor)
            vae.save_pretrained(output / name)
    return {**result, "scaling_factor": factor}


__all__ = ["AutoencoderObjective", "AutoencoderRecipe", "build_vae", "main", "scaling_factor"]
