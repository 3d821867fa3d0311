# SPDX-License-Identifier: Apache-2.0
"""Trains GPT-2 to make the language of audio (LOA) of a recording out of words for it (2308.05734, section 3.2).

GPT-2 reads what CLAP and T5 make of the words and is taught the LOA that AudioMAE heard, token after token, from the
right ones before. CLAP is frozen; its embedding of a caption is computed once. T5 learns too if the recipe says so,
for a small one that nobody has trained before. Words are padded to one length in a batch, where in use a prompt mostly
stands alone: positions count what is no padding, and in some batches all, as they do where prompts are batched.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from ..data.generation import Sound
from ..errors import DataError
from .encoded import Encoder, FeatureDataset
from .generation import (
    GenerationRecipe,
    Item,
    Objective,
    load_parts,
    load_sounds,
    read_recipe,
    train_stage,
)


@dataclass
class LoaRecipe(GenerationRecipe):
    """Settings of GPT-2's training; `model` has fields of `GPT2Config`.

    Attributes:
        train_text_encoder_2: whether T5 learns too.
        loa_tokens: how many tokens GPT-2 is to make, as many as AudioMAE's pooling gives.
        text_tokens: that captions are padded to.
        running_positions: in how many batches positions count padding too.
    """

    model_type: str = "loa"
    train_text_encoder_2: bool = False
    loa_tokens: int = 8
    text_tokens: int = 24
    running_positions: float = 0.3
    components: dict[str, str] = field(default_factory=dict)


class Captions:
    """What the models read of a caption: CLAP's embedding, computed once, and padded token ids for T5."""

    def __init__(self, text_encoder: Any, tokenizer: Any, tokenizer_2: Any, tokens: int):
        self.text_encoder, self.tokenizer, self.tokenizer_2, self.tokens = text_encoder, tokenizer, tokenizer_2, tokens
        self.known: dict[str, Item] = {}

    @torch.no_grad()
    def __call__(self, caption: str) -> Item:
        if caption not in self.known:
            encoded = self.tokenizer([caption], return_tensors="pt")
            features = self.text_encoder.get_text_features(
                encoded["input_ids"], attention_mask=encoded["attention_mask"]
            )
            embedding = getattr(features, "pooler_output", features)
            padded = self.tokenizer_2([caption], padding="max_length", max_length=self.tokens, return_tensors="pt")
            found = padded["input_ids"].shape[1]
            if found > self.tokens:
                raise DataError(f"{caption!r} has {found} tokens, text_tokens is {self.tokens}; raise it")
            self.known[caption] = {
                "text_embeds": embedding.clone(),
                "input_ids": padded["input_ids"][0],
                "attention_mask": padded["attention_mask"][0],
            }
        return dict(self.known[caption])


class LoaObjective(Objective):
    """The loss of GPT-2 on LOA, with the linear layers before it and, if it learns, T5."""

    def __init__(self, parts: dict[str, Any], recipe: LoaRecipe, trained: tuple[str, ...] = ()):
        names = ["projection_model", "language_model", *trained]
        names += ["text_encoder_2"] if recipe.train_text_encoder_2 else []
        frozen = {} if recipe.train_text_encoder_2 else {"text_encoder_2": parts["text_encoder_2"]}
        super().__init__({name: parts[name] for name in names}, frozen)
        self.running_positions = recipe.running_positions

    def part(self, name: str) -> Any:
        """A component, whether it learns or not."""
        return self.trained[name] if name in self.trained else self.frozen[name]

    def read(self, text_embeds: Tensor, input_ids: Tensor, attention_mask: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """What GPT-2 reads (batch, positions, size), its mask, and T5's states."""
        states = self.part("text_encoder_2")(input_ids, attention_mask=attention_mask)[0]
        read = self.part("projection_model")(
            hidden_states=text_embeds, hidden_states_1=states,
            attention_mask=attention_mask.new_ones(len(attention_mask), 1), attention_mask_1=attention_mask,
        )  # fmt: skip
        return read.hidden_states, read.attention_mask, states

    def positions(self, mask: Tensor) -> Tensor | None:
        """Of each place, counted without padding; None to count all."""
        if self.training and torch.rand(()).item() < self.running_positions:
            return None
        return (mask.cumsum(dim=1) - 1).clamp(min=0)

    def taught(self, read: Tensor, mask: Tensor, loa: Tensor) -> Tensor:
        """Each token as GPT-2 makes it from the right ones before it, (batch, tokens, size)."""
        tokens = loa.shape[1]
        inputs = torch.cat([read, loa[:, :-1].to(read)], dim=1)
        whole = torch.cat([mask, mask.new_ones(len(mask), tokens - 1)], dim=1)
        output = self.part("language_model")(
            inputs_embeds=inputs, attention_mask=whole, position_ids=self.positions(whole)
        )
        made: Tensor = output.last_hidden_state[:, -tokens:]
        return made

    def made(self, read: Tensor, mask: Tensor, tokens: int) -> Tensor:
        """The tokens as GPT-2 makes them from its own before, as in use; gradients go all the way back."""
        whole = torch.cat([mask, mask.new_ones(len(mask), tokens - 1)], dim=1)
        positions, inputs = self.positions(whole), read
        for count in range(read.shape[1], whole.shape[1] + 1):
            output = self.part("language_model")(
                inputs_embeds=inputs, attention_mask=whole[:, :count],
                position_ids=None if positions is None else positions[:, :count],
            )  # fmt: skip
            inputs = torch.cat([inputs, output.last_hidden_state[:, -1:].to(inputs)], dim=1)
        return inputs[:, -tokens:]

    def forward(
        self, loa: Tensor, text_embeds: Tensor, input_ids: Tensor, attention_mask: Tensor
    ) -> dict[str, Tensor]:
        """`loss`, the mean absolute error of tokens; outside training also `made`, that of tokens made as in use."""
        read, mask, _ = self.read(text_embeds, input_ids, attention_mask)
        result = {"loss": F.l1_loss(self.taught(read, mask, loa).float(), loa)}
        if not self.training:
            result["made"] = F.l1_loss(self.made(read, mask, loa.shape[1]).float(), loa)
        return result


def build_language_model(recipe: LoaRecipe, output: Path, sizes: tuple[int, int, int]) -> dict[str, Any]:
    """New GPT-2 and linear layers of the recipe, or those it names in `components`.

    Args:
        recipe: the settings.
        output: of the run.
        sizes: of CLAP's embedding, of T5's states and of LOA.
    """
    from diffusers.pipelines.audioldm2 import AudioLDM2ProjectionModel
    from transformers import GPT2Config, GPT2Model

    names = ("projection_model", "language_model")
    if "language_model" in recipe.components:
        return load_parts(recipe, output, names)
    # it computes no vocabulary; the embeddings of words that its class has are as few as can be
    fields = {"vocab_size": 8, "n_positions": 160, "bos_token_id": 0, "eos_token_id": 0, **recipe.model}
    language_model = GPT2Model(GPT2Config(n_embd=sizes[2], max_new_tokens=recipe.loa_tokens, **fields))
    projection_model = AudioLDM2ProjectionModel(*sizes)
    with torch.no_grad():
        for name in ("sos_embed", "eos_embed", "sos_embed_1", "eos_embed_1"):  # all ones as they are made
            getattr(projection_model, name).normal_(std=0.5)
    return {"projection_model": projection_model, "language_model": language_model}


def text_parts(recipe: GenerationRecipe, output: Path) -> dict[str, Any]:
    """CLAP, T5 and their tokenizers."""
    return load_parts(recipe, output, ("text_encoder", "tokenizer", "text_encoder_2", "tokenizer_2"))


def main(config: Path | None, data: Path, output: Path, **overrides: Any) -> dict[str, float]:
    """Trains, going on from the newest checkpoint under `output`; `output/model` holds a folder for each component.

    Args:
        config: a YAML file of `LoaRecipe` settings.
        data: the folder that the recipe's folders are relative to.
        output: checkpoints, curve, `best` and `model`.

    Returns:
        The last point of the validation curve.
    """
    recipe: LoaRecipe = read_recipe(LoaRecipe, config, overrides)
    parts = {**load_parts(recipe, output, ("audio_mae",)), **text_parts(recipe, output)}
    loa_size = parts["audio_mae"].config.hidden_size
    sizes = (parts["text_encoder"].config.projection_dim, parts["text_encoder_2"].config.d_model, loa_size)
    parts |= build_language_model(recipe, output, sizes)
    sounds, heldout = load_sounds(recipe, data)
    encoder = Encoder(sounds, recipe, None, parts["audio_mae"])
    captions = Captions(parts["text_encoder"], parts["tokenizer"], parts["tokenizer_2"], recipe.text_tokens)

    def features(sound: Sound) -> Item:
        return {**encoder(sound), **captions(sound.caption)}

    fixed = [features(sound) for sound in heldout]
    found = fixed[0]["loa"].shape[0]
    if found != recipe.loa_tokens:
        raise DataError(f"audio_mae gives {found} tokens of language of audio, loa_tokens is {recipe.loa_tokens}")
    title = "error of language of audio, dB below 1 (held out)"
    return train_stage(recipe, LoaObjective(parts, recipe), FeatureDataset(sounds, features), fixed, title, output)


__all__ = ["Captions", "LoaObjective", "LoaRecipe", "build_language_model", "main", "text_parts"]
