# SPDX-License-Identifier: Apache-2.0
"""Trains AudioLDM 2's latent diffusion on recordings without labels (2308.05734, section 3.3).

The U-Net learns to make the latents of a recording out of noise, told the recording's own language of audio (LOA) by
AudioMAE: every recording teaches it, whatever it is called. It predicts noise, velocity or the latents, whichever the
scheduler's configuration says. One recording in ten comes without LOA, which is zeros then, so that guidance has
something to lead away from. The text that later stages add is zeros as well, one state of it: attention to it adds
nothing but a bias.
"""

from __future__ import annotations

from contextlib import nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

from ...errors import DataError
from .encoded import Encoder, FeatureDataset
from .stages import GenerationRecipe, Objective, load_parts, load_sounds, read_recipe, train_stage


NOISE_SCHEDULE = {
    "beta_start": 0.0015, "beta_end": 0.0195, "beta_schedule": "scaled_linear", "clip_sample": False,
    "set_alpha_to_one": False, "steps_offset": 1, "num_train_timesteps": 1_000,
}  # fmt: skip
HEAD_WIDTH = 32


@dataclass
class DiffusionRecipe(GenerationRecipe):
    """Settings of a stage that trains the U-Net; `model` has fields of `AudioLDM2UNet2DConditionModel`.

    Attributes:
        scheduler: fields of `DDIMScheduler` that differ from the published ones, for instance `prediction_type`.
        condition_dropout: how often what the U-Net is told is left out.
        loa_size: numbers in a token of LOA, those of AudioMAE's hidden size.
        text_size: numbers in a state of the text, those of T5's hidden size.
    """

    model_type: str = "diffusion"
    scheduler: dict[str, Any] = field(default_factory=dict)
    condition_dropout: float = 0.1
    loa_size: int = 192
    text_size: int = 64


def make_scheduler(fields: dict[str, Any]) -> Any:
    """The published noise schedule with some fields changed."""
    from diffusers import DDIMScheduler

    return DDIMScheduler(**{**NOISE_SCHEDULE, **fields})


def diffusion_loss(
    unet: Any, scheduler: Any, latents: Tensor, loa: Tensor, text: Tensor | None = None, mask: Tensor | None = None
) -> Tensor:
    """Mean squared error of what the U-Net predicts at a time drawn for each item.

    Args:
        unet: the network.
        scheduler: says how noise is added, and what is predicted.
        latents: (batch, channels, latent frames, latent bands).
        loa: (batch, tokens, size).
        text: states of the text, (batch, states, size); None for a network that knows no text.
        mask: which of them count, (batch, states), float.

    Raises:
        DataError: if the scheduler predicts something else.
    """
    noise = torch.randn_like(latents)
    times = torch.randint(scheduler.config.num_train_timesteps, (len(latents),), device=latents.device)
    noisy = scheduler.add_noise(latents, noise, times)
    kind = scheduler.config.prediction_type
    if kind not in ("epsilon", "v_prediction", "sample"):
        raise DataError(f"prediction_type is {kind!r}; the U-Net can learn epsilon, v_prediction and sample")
    target = noise if kind == "epsilon" else latents
    if kind == "v_prediction":
        target = scheduler.get_velocity(latents, noise, times)
    # on a CPU the gradient of fused attention to so few keys is a fifth of a step; with the plain one a step takes 5/6
    plain = sdpa_kernel(SDPBackend.MATH) if latents.device.type == "cpu" else nullcontext()
    with plain:
        predicted = unet(
            noisy.to(unet.dtype), times, encoder_hidden_states=loa.to(unet.dtype),
            encoder_hidden_states_1=text if text is None else text.to(unet.dtype), encoder_attention_mask_1=mask,
        ).sample  # fmt: skip
    return F.mse_loss(predicted.float(), target.float())


def dropped(batch: int, probability: float, like: Tensor) -> Tensor:
    """Which items are told nothing: (batch,)."""
    return torch.rand(batch, device=like.device) < probability


class DiffusionObjective(Objective):
    """The loss of a U-Net that is told language of audio alone."""

    def __init__(self, unet: Any, scheduler: Any, condition_dropout: float, text_size: int | None):
        super().__init__({"unet": unet})
        self.scheduler, self.condition_dropout, self.text_size = scheduler, condition_dropout, text_size

    def forward(self, latents: Tensor, loa: Tensor) -> dict[str, Tensor]:
        """`loss`; LOA (batch, tokens, size) is left out at random in training only."""
        if self.training:
            loa = loa.masked_fill(dropped(len(loa), self.condition_dropout, loa)[:, None, None], 0.0)
        text = None if self.text_size is None else loa.new_zeros(len(loa), 1, self.text_size)
        return {"loss": diffusion_loss(self.trained["unet"], self.scheduler, latents, loa, text)}

    def save_pretrained(self, folder: Path) -> None:
        """Writes `unet` and `scheduler`."""
        unet: Any = self.trained["unet"]
        unet.save_pretrained(folder / "unet")
        self.scheduler.save_pretrained(folder / "scheduler")


def build_unet(recipe: DiffusionRecipe, output: Path) -> Any:
    """A new U-Net of the recipe, with attention heads of width 32 as the original, or one named in `components`."""
    from diffusers.pipelines.audioldm2 import AudioLDM2UNet2DConditionModel

    if "unet" in recipe.components:
        return load_parts(recipe, output, ("unet",))["unet"]
    fields = dict(recipe.model)
    channels = fields.get("block_out_channels", [128, 256, 384, 640])
    fields.setdefault("attention_head_dim", [max(1, width // HEAD_WIDTH) for width in channels])
    fields.setdefault("cross_attention_dim", [[None, recipe.loa_size, recipe.text_size]] * len(channels))
    fields.setdefault("down_block_types", ["DownBlock2D"] + ["CrossAttnDownBlock2D"] * (len(channels) - 1))
    up = [name.replace("Down", "Up") for name in reversed(fields["down_block_types"])]
    fields.setdefault("up_block_types", up)
    return AudioLDM2UNet2DConditionModel(**fields)


def main(config: Path | None, data: Path, output: Path, **overrides: Any) -> dict[str, float]:
    """Trains, going on from the newest checkpoint under `output`; `output/model` holds `unet` and `scheduler`.

    Args:
        config: a YAML file of `DiffusionRecipe` settings.
        data: the folder that the recipe's folders are relative to; labels are not used.
        output: checkpoints, curve, `best` and `model`.

    Returns:
        The last point of the validation curve.
    """
    recipe: DiffusionRecipe = read_recipe(DiffusionRecipe, config, overrides)
    parts = load_parts(recipe, output, ("vae", "audio_mae"))
    unet = build_unet(recipe, output)
    sounds, heldout = load_sounds(recipe, data)
    encoder = Encoder(sounds, recipe, parts["vae"], parts["audio_mae"])
    objective = DiffusionObjective(
        unet, make_scheduler(recipe.scheduler), recipe.condition_dropout, recipe.text_size or None
    )
    title = "error of what the U-Net predicts, dB below 1 (held out)"
    fixed = [encoder(sound) for sound in heldout]
    return train_stage(recipe, objective, FeatureDataset(sounds, encoder), fixed, title, output, data=data)


__all__ = [
    "DiffusionObjective", "DiffusionRecipe", "NOISE_SCHEDULE", "build_unet", "diffusion_loss", "dropped", "main",
    "make_scheduler",
]  # fmt: skip
