# SPDX-License-Identifier: Apache-2.0
"""Fine-tunes GPT-2 and the U-Net of AudioLDM 2 together, on recordings with labels (2308.05734, section 3.3).

The U-Net is told the text by T5, which it did not know before, and language of audio (LOA) that a switch takes from
the recording itself or from GPT-2: from the recording with a probability of 0.25, as published. GPT-2's tokens are
made one from the other, as in use, and learn from what the U-Net makes of them; an error against the recording's own
LOA keeps their meaning. One item in ten is told nothing: zeros, and the empty text. Judged is what happens in use:
GPT-2's LOA.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from ...data.generation import Sound, every_caption
from .diffusion import diffusion_loss, dropped, make_scheduler
from .encoded import Encoder, FeatureDataset
from .loa import Captions, LoaObjective, LoaRecipe, text_parts
from .stages import Item, load_parts, load_sounds, read_recipe, train_stage


@dataclass
class JointRecipe(LoaRecipe):
    """Settings of the joint fine-tuning; `model` is not used, as all components are there.

    Attributes:
        scheduler: fields of `DDIMScheduler`, the same as the U-Net was trained with.
        truth_probability: how often the U-Net is told the recording's own LOA.
        condition_dropout: how often it is told nothing.
        loa_weight: of the error of GPT-2's tokens.
    """

    model_type: str = "joint"
    scheduler: dict[str, Any] = field(default_factory=dict)
    truth_probability: float = 0.25
    condition_dropout: float = 0.1
    loa_weight: float = 0.2


class JointObjective(LoaObjective):
    """The loss of the U-Net on what GPT-2 or the recording tells it.

    Args:
        parts: components by name.
        recipe: the settings.
        scheduler: of the noise.
        empty: token ids and mask of the empty text, by the names `forward` takes.
    """

    recipe: JointRecipe

    def __init__(self, parts: dict[str, Any], recipe: JointRecipe, scheduler: Any, empty: Item):
        super().__init__(parts, recipe, empty, ("unet",))
        self.scheduler = scheduler

    def forward(  # type: ignore[override]
        self, latents: Tensor, loa: Tensor, text_embeds: Tensor, input_ids: Tensor, attention_mask: Tensor
    ) -> dict[str, Tensor]:
        """`loss`, and of it `diffusion` and `loa`, the mean absolute error of GPT-2's tokens."""
        read, mask, states = self.read(text_embeds, input_ids, attention_mask)
        tokens = self.made(read, mask, loa.shape[1]).float()
        error = F.l1_loss(tokens, loa)
        condition = tokens
        states, weights = self.disturbed(states, attention_mask)  # not as for GPT-2: each has to do without words
        if self.training:
            truth = torch.rand(len(loa), device=loa.device) < self.recipe.truth_probability
            nothing = dropped(len(loa), self.recipe.condition_dropout, loa)
            condition = torch.where(truth[:, None, None], loa, tokens).masked_fill(nothing[:, None, None], 0.0)
            empty, empty_mask = self.empty()
            states = torch.where(nothing[:, None, None], empty, states)
            weights = torch.where(nothing[:, None], empty_mask, weights)
        diffusion = diffusion_loss(self.part("unet"), self.scheduler, latents, condition, states, weights.float())
        return {"loss": diffusion + self.recipe.loa_weight * error, "diffusion": diffusion, "loa": error}


def main(config: Path | None, data: Path, output: Path, **overrides: Any) -> dict[str, float]:
    """Fine-tunes, going on from the newest checkpoint under `output`; `output/model` holds a folder of each component.

    Args:
        config: a YAML file of `JointRecipe` settings.
        data: the folder that the recipe's folders are relative to.
        output: checkpoints, curve, `best` and `model`.

    Returns:
        The last point of the validation curve.
    """
    recipe: JointRecipe = read_recipe(JointRecipe, config, overrides)
    names = ("vae", "audio_mae", "unet", "projection_model", "language_model")
    parts = {**load_parts(recipe, output, names), **text_parts(recipe, output)}
    sounds, heldout = load_sounds(recipe, data)
    encoder = Encoder(sounds, recipe, parts["vae"], parts["audio_mae"])
    captions = Captions(parts["text_encoder"], parts["tokenizer"], parts["tokenizer_2"], recipe.text_tokens)
    captions.learn(every_caption(sounds.labels), recipe.bf16)

    def features(sound: Sound) -> Item:
        return {**encoder(sound), **captions(sound.caption)}

    objective = JointObjective(parts, recipe, make_scheduler(recipe.scheduler), captions(""))
    fixed = [features(sound) for sound in heldout]
    title = "error with GPT-2's language of audio, dB below 1 (held out)"
    return train_stage(recipe, objective, FeatureDataset(sounds, features), fixed, title, output, data=data)


__all__ = ["JointObjective", "JointRecipe", "main"]
