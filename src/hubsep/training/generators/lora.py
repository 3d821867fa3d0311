# SPDX-License-Identifier: Apache-2.0
"""Fine-tunes an AudioLDM 2 of any size on a few recordings: low-rank adapters (2106.09685, by peft) on the U-Net.

Everything of the pipeline's folder stays as it is but what is added to the attention of the U-Net. Adapters are saved
on their own, a few megabytes, as peft does: `pipe.load_lora_weights(folder)` puts them into a pipeline, and `push_to`
puts them on the Hub, with a card that names the model they belong to, their licence and what they were trained on.
What the U-Net is told is what it is told in use: GPT-2's language of audio and T5's states of the caption, computed
once for each caption.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import pad

from ...data.generation import Sound, SoundDataset
from ...errors import DataError
from ...hub.push import README
from ...mel import MelSettings, mel_spectrogram
from ..finetune.adapters import checkpoint_blocks
from .diffusion import diffusion_loss, dropped
from .encoded import FeatureDataset
from .lora_card import adapter_card, base_name, checked_licence, push_adapters
from .stages import GenerationRecipe, Item, Objective, load_sounds, read_recipe, train_stage


@dataclass
class LoraRecipe(GenerationRecipe):
    """Settings of a fine-tuning; rate, hop and mel bins are the pipeline's, `seconds` its length if 0.

    Attributes:
        pipeline: folder or repository of the AudioLDM 2.
        rank: of the adapters.
        alpha: their scale is this over the rank.
        target_modules: ends of the names of the layers that get one.
        condition_dropout: how often the U-Net is told nothing.
        text_tokens: that captions are padded to.
        base_dtype: precision that the frozen weights are kept in.
        gradient_checkpointing: less memory, more time.
        push_to: repository on the Hub that the adapters are pushed to, "" for none.
        base_model: what the card calls the pipeline; by default its name, of a folder without where it lies.
        licence: SPDX id of the adapters' licence; by default what the pipeline's own card says, which binds them too.
    """

    model_type: str = "lora"
    pipeline: str = ""
    seconds: float = 0.0
    rank: int = 16
    alpha: float = 16.0
    target_modules: list[str] = field(default_factory=lambda: ["to_q", "to_k", "to_v", "to_out.0"])
    condition_dropout: float = 0.1
    text_tokens: int = 48
    base_dtype: str = "float32"
    gradient_checkpointing: bool = False
    push_to: str = ""
    base_model: str = ""
    licence: str = ""


class LoraObjective(Objective):
    """The loss of a U-Net with adapters; `text`, `mask` and `empty` are T5's states as the pipeline makes them."""

    empty_text: Tensor
    empty_mask: Tensor

    def __init__(
        self, adapted: Any, scheduler: Any, condition_dropout: float, empty: tuple[Tensor, Tensor], card: str = ""
    ):
        super().__init__({"unet": adapted})
        self.scheduler, self.condition_dropout, self.card = scheduler, condition_dropout, card
        self.register_buffer("empty_text", empty[0], persistent=False)
        self.register_buffer("empty_mask", empty[1], persistent=False)

    def forward(self, latents: Tensor, loa: Tensor, text: Tensor, mask: Tensor) -> dict[str, Tensor]:
        """`loss`; the conditions are left out at random in training only."""
        if self.training:
            nothing = dropped(len(loa), self.condition_dropout, loa)
            loa = loa.masked_fill(nothing[:, None, None], 0.0)
            text = torch.where(nothing[:, None, None], self.empty_text, text)
            mask = torch.where(nothing[:, None], self.empty_mask, mask)
        return {"loss": diffusion_loss(self.trained["unet"], self.scheduler, latents, loa, text, mask)}

    def save_pretrained(self, folder: Path) -> None:
        """Writes the adapters alone, and their card."""
        adapted: Any = self.trained["unet"]
        adapted.save_pretrained(folder, save_embedding_layers=False)  # "auto" would ask the Hub about the base
        (folder / README).write_text(self.card, encoding="utf-8")  # instead of peft's, which says nothing


def add_adapters(unet: Any, recipe: LoraRecipe) -> Any:
    """Freezes a U-Net and adds adapters, in float32, to its layers of those names: a `peft.PeftModel` around it.

    Raises:
        DataError: if no layer is called that.
    """
    from peft import LoraConfig, get_peft_model

    layers = recipe.target_modules
    fields: dict[str, Any] = {"r": recipe.rank, "lora_alpha": recipe.alpha, "target_modules": layers}
    unet.requires_grad_(False)
    if recipe.gradient_checkpointing:  # the U-Net's own hands a context's mask to self-attention (diffusers 0.42)
        checkpoint_blocks(unet, ("ResnetBlock2D", "Transformer2DModel"))
    try:
        adapted = get_peft_model(unet, LoraConfig(**fields), autocast_adapter_dtype=True)
    except ValueError as error:
        raise DataError(f"target_modules {layers}: {error}") from error
    adapted.peft_config["default"].base_model_name_or_path = base_name(recipe)
    for parameter in adapted.parameters():
        if parameter.requires_grad:
            parameter.data = parameter.data.float()
    return adapted


class Told:
    """Latents of a sound, and what the pipeline tells its U-Net of a caption, each computed once."""

    def __init__(self, pipe: Any, sounds: SoundDataset, tokens: int):
        self.pipe, self.sounds, self.tokens = pipe, sounds, tokens
        self.mel = MelSettings.of(pipe.vocoder.config)
        self.captions: dict[str, Item] = {}
        self.latents: dict[str, Tensor] = {}

    @torch.no_grad()
    def __call__(self, sound: Sound) -> Item:
        if sound.seed not in self.latents:
            mel = mel_spectrogram(self.sounds.waveform(sound)[None], self.mel)[:, None]
            vae = self.pipe.vae
            mode = vae.encode(mel.to(vae.device, vae.dtype)).latent_dist.mode()[0]
            self.latents[sound.seed] = mode.float().cpu() * vae.config.scaling_factor
        if sound.caption not in self.captions:
            conditions = self.pipe.encode_prompt(sound.caption)
            text, mask = self.padded(conditions.text, conditions.weights, sound.caption)
            self.captions[sound.caption] = {"loa": conditions.loa[0].float().cpu(), "text": text[0], "mask": mask[0]}
        return {"latents": self.latents[sound.seed], **self.captions[sound.caption]}

    def padded(self, text: Tensor, mask: Tensor, caption: str) -> tuple[Tensor, Tensor]:
        """States and mask of one caption, filled up to the same number for all."""
        room = self.tokens - text.shape[1]
        if room < 0:
            raise DataError(f"{caption!r} has {text.shape[1]} tokens, text_tokens is {self.tokens}; raise it")
        return pad(text.float().cpu(), (0, 0, 0, room)), pad(mask.float().cpu(), (0, room))


def settings_of(pipe: Any, recipe: LoraRecipe) -> None:
    """Gives the recipe the pipeline's rate, hop, mel bins and, where it has none, its length.

    Raises:
        DataError: if the recipe says otherwise, or excerpts are no whole number of what the U-Net halves.
    """
    facts = {
        "sampling_rate": pipe.sampling_rate,
        "hop_length": pipe.hop_length,
        "num_mels": pipe.vocoder.config.model_in_dim,
    }
    for name, fact in facts.items():
        value = getattr(recipe, name)
        if value not in (fact, getattr(LoraRecipe, name)):
            raise DataError(
                f"recipe setting {name} is {value}, but {fact} for this pipeline, which decides it; leave {name} out"
            )
        setattr(recipe, name, fact)
    recipe.seconds = recipe.seconds or pipe.native_seconds
    step = pipe.vae_scale_factor * 2 ** (len(pipe.unet.config.block_out_channels) - 1)
    frames = recipe.samples // recipe.hop_length
    if frames % step:
        seconds = step * recipe.hop_length / recipe.sampling_rate
        raise DataError(f"seconds is {recipe.seconds}; take a multiple of {seconds:g}, what the U-Net halves evenly")


def main(config: Path | None, data: Path, output: Path, **overrides: Any) -> dict[str, float]:
    """Fine-tunes, going on from the newest checkpoint under `output`, and saves the adapters in `output/model`.

    Args:
        config: a YAML file of `LoraRecipe` settings.
        data: the folder that the recipe's folders are relative to.
        output: checkpoints, curve, `best` and `model`.

    Returns:
        The last point of the validation curve.
    """
    from ...pipelines.audioldm2.pipeline import AudioLDM2Pipeline

    recipe: LoraRecipe = read_recipe(LoraRecipe, config, overrides)
    if not recipe.pipeline:
        raise DataError("this stage needs pipeline: the folder or repository of the AudioLDM 2 to fine-tune")
    licence = checked_licence(recipe)
    pipe = AudioLDM2Pipeline.from_pretrained(recipe.pipeline, dtype=getattr(torch, recipe.base_dtype))
    if pipe.is_speech:
        raise DataError("an AudioLDM 2 that speaks needs transcriptions, which this stage does not read")
    if torch.cuda.is_available():
        pipe.to("cuda")
    settings_of(pipe, recipe)
    torch.manual_seed(recipe.seed)
    adapted = add_adapters(pipe.unet, recipe)
    sounds, heldout = load_sounds(recipe, data)
    features = Told(pipe, sounds, recipe.text_tokens)
    nothing = pipe.encode_prompt("")
    empty = features.padded(nothing.text, nothing.weights, "")
    card = adapter_card(recipe, licence, data, output)
    objective = LoraObjective(adapted, pipe.scheduler, recipe.condition_dropout, empty, card)
    title = "error of what the U-Net predicts, dB below 1 (held out)"
    fixed = [features(sound) for sound in heldout]
    result = train_stage(recipe, objective, FeatureDataset(sounds, features), fixed, title, output, data=data)
    if recipe.push_to:
        push_adapters(recipe.push_to, output / "model")
    return result


__all__ = ["LoraObjective", "LoraRecipe", "add_adapters", "main"]
