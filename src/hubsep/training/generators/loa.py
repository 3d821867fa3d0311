# SPDX-License-Identifier: Apache-2.0
"""Trains GPT-2 to make the language of audio (LOA) of a recording out of words for it (2308.05734, section 3.2).

GPT-2 reads what CLAP and T5 make of the words and is taught the LOA that AudioMAE heard, token after token, from the
right ones before. CLAP is frozen; its embedding of a caption is computed once. T5 learns too if the recipe says so,
for a small one that nobody has trained before. Words are padded to one length in a batch, where in use a prompt mostly
stands alone: positions count what is no padding, as in use, and in some batches all, as diffusers does in a batch.
A T5 that learns from a few thousand phrases knows no others; CLAP's text side may, if it is a sentence encoder's. So
that it is listened to, T5's words may be hidden or another sound's now and then, and noise lie on CLAP's embedding.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from ...data.generation import Sound, every_caption
from ...errors import DataError
from .diffusion import dropped
from .encoded import Encoder, FeatureDataset
from .stages import GenerationRecipe, Item, Objective, load_parts, load_sounds, read_recipe, train_stage


@dataclass
class LoaRecipe(GenerationRecipe):
    """Settings of GPT-2's training; `model` has fields of `GPT2Config`.

    Attributes:
        train_text_encoder_2: whether T5 learns too.
        loa_tokens: how many tokens GPT-2 is to make, as many as AudioMAE's pooling gives.
        text_tokens: that captions are padded to.
        running_positions: in how many batches positions count padding too.
        freeze_words: whether T5's table of words stays as it is while the rest of T5 learns.
        hidden_words: how often T5's states of a caption are those of the empty text.
        foreign_words: how often they are those of another caption of the batch.
        embedding_noise: length of the noise on CLAP's embedding, for an embedding of length 1.
    """

    model_type: str = "loa"
    train_text_encoder_2: bool = False
    loa_tokens: int = 8
    text_tokens: int = 24
    running_positions: float = 0.3
    freeze_words: bool = False
    hidden_words: float = 0.0
    foreign_words: float = 0.0
    embedding_noise: float = 0.0
    components: dict[str, str] = field(default_factory=dict)


class Captions:
    """What the models read of a caption: CLAP's embedding, computed once, and padded token ids for T5."""

    def __init__(self, text_encoder: Any, tokenizer: Any, tokenizer_2: Any, tokens: int):
        self.text_encoder, self.tokenizer, self.tokenizer_2, self.tokens = text_encoder, tokenizer, tokenizer_2, tokens
        self.known: dict[str, Item] = {}

    @torch.no_grad()
    def __call__(self, caption: str) -> Item:
        if caption not in self.known:
            self.learn([caption])
        return dict(self.known[caption])

    @torch.no_grad()
    def learn(self, captions: Iterable[str], bf16: bool = False, batch: int = 64) -> None:
        """Computes many captions beforehand, those of one length together: nine times faster than one by one.

        Args:
            captions: in an order that decides what is computed together.
            bf16: whether in bfloat16 where that is safe.
            batch: how many at once.
        """
        lengths: dict[int, list[str]] = {}
        for caption in captions:
            lengths.setdefault(len(self.tokenizer(caption)["input_ids"]), []).append(caption)
        parts = [rows[start : start + batch] for rows in lengths.values() for start in range(0, len(rows), batch)]
        device = next(self.text_encoder.parameters()).device
        for part in parts:
            encoded = self.tokenizer(part, return_tensors="pt").to(device)
            with torch.autocast(device.type, dtype=torch.bfloat16, enabled=bf16):
                features = self.text_encoder.get_text_features(
                    encoded["input_ids"], attention_mask=encoded["attention_mask"]
                )
            embeddings = getattr(features, "pooler_output", features).float().cpu()
            for caption, embedding in zip(part, embeddings, strict=True):
                self._keep(caption, embedding[None])

    def _keep(self, caption: str, embedding: Tensor) -> None:
        padded = self.tokenizer_2([caption], padding="max_length", max_length=self.tokens, return_tensors="pt")
        length = padded["input_ids"].shape[1]
        if length > self.tokens:
            raise DataError(f"{caption!r} has {length} tokens, text_tokens is {self.tokens}; raise it")
        self.known[caption] = {
            "text_embeds": embedding.clone(),
            "input_ids": padded["input_ids"][0],
            "attention_mask": padded["attention_mask"][0],
        }


class LoaObjective(Objective):
    """The loss of GPT-2 on LOA, with the linear layers before it and, if it learns, T5.

    Args:
        parts: components by name.
        recipe: the settings.
        empty: token ids and mask of the empty text, by the names `forward` takes; needed where words are hidden.
        trained: components that learn besides.
    """

    empty_ids: Tensor
    empty_mask: Tensor

    def __init__(
        self, parts: dict[str, Any], recipe: LoaRecipe, empty: Item | None = None, trained: tuple[str, ...] = ()
    ):
        names = ["projection_model", "language_model", *trained]
        names += ["text_encoder_2"] if recipe.train_text_encoder_2 else []
        frozen = {} if recipe.train_text_encoder_2 else {"text_encoder_2": parts["text_encoder_2"]}
        super().__init__({name: parts[name] for name in names}, frozen)
        if recipe.freeze_words:
            parts["text_encoder_2"].get_input_embeddings().requires_grad_(False)
        if recipe.hidden_words and empty is None:
            raise DataError(f"hidden_words is {recipe.hidden_words}, which needs the empty text")
        self.recipe = recipe
        self.register_buffer("empty_ids", None if empty is None else empty["input_ids"][None], persistent=False)
        self.register_buffer("empty_mask", None if empty is None else empty["attention_mask"][None], persistent=False)

    def part(self, name: str) -> Any:
        """A component, whether it learns or not."""
        return self.trained[name] if name in self.trained else self.frozen[name]

    def read(self, text_embeds: Tensor, input_ids: Tensor, attention_mask: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """What GPT-2 reads (batch, positions, size), its mask, and T5's states."""
        states = self.part("text_encoder_2")(input_ids, attention_mask=attention_mask)[0]
        words, counted = self.disturbed(states, attention_mask)
        if self.training and self.recipe.embedding_noise:
            noise = torch.randn_like(text_embeds) / text_embeds.shape[-1] ** 0.5
            text_embeds = text_embeds + self.recipe.embedding_noise * noise
        read = self.part("projection_model")(
            hidden_states=text_embeds, hidden_states_1=words,
            attention_mask=attention_mask.new_ones(len(attention_mask), 1), attention_mask_1=counted,
        )  # fmt: skip
        return read.hidden_states, read.attention_mask, states

    def empty(self) -> tuple[Tensor, Tensor]:
        """T5's states of the empty text, and their mask."""
        return self.part("text_encoder_2")(self.empty_ids, attention_mask=self.empty_mask)[0], self.empty_mask

    def disturbed(self, states: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        """T5's states and their mask; in training some are those of another caption, or of the empty text."""
        recipe = self.recipe
        if not self.training:
            return states, mask
        if recipe.foreign_words:
            foreign = dropped(len(mask), recipe.foreign_words, mask)[:, None]
            states = torch.where(foreign[..., None], states.roll(1, dims=0), states)
            mask = torch.where(foreign, mask.roll(1, dims=0), mask)
        if recipe.hidden_words:
            hidden = dropped(len(mask), recipe.hidden_words, mask)[:, None]
            empty, empty_mask = self.empty()
            states = torch.where(hidden[..., None], empty, states)
            mask = torch.where(hidden, empty_mask, mask)
        return states, mask

    def positions(self, mask: Tensor) -> Tensor | None:
        """Of each place, counted without padding; None to count all."""
        if self.training and torch.rand(()).item() < self.recipe.running_positions:
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
        states: Tensor = output.last_hidden_state[:, -tokens:]
        return states

    def made(self, read: Tensor, mask: Tensor, tokens: int) -> Tensor:
        """The tokens as GPT-2 makes them from its own before, as in use; gradients go all the way back."""
        whole = torch.cat([mask, mask.new_ones(len(mask), tokens - 1)], dim=1)
        positions, inputs, cache, states = self.positions(whole), read, None, []
        for count in range(read.shape[1], whole.shape[1] + 1):
            output = self.part("language_model")(
                inputs_embeds=inputs, attention_mask=whole[:, :count], past_key_values=cache, use_cache=True,
                position_ids=None if positions is None else positions[:, count - inputs.shape[1] : count],
            )  # fmt: skip
            inputs, cache = output.last_hidden_state[:, -1:].to(read), output.past_key_values
            states.append(inputs)
        return torch.cat(states, dim=1)

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
    captions.learn(every_caption(sounds.labels), recipe.bf16)

    def features(sound: Sound) -> Item:
        return {**encoder(sound), **captions(sound.caption)}

    fixed = [features(sound) for sound in heldout]
    tokens = fixed[0]["loa"].shape[0]
    if tokens != recipe.loa_tokens:
        raise DataError(f"audio_mae gives {tokens} tokens of language of audio, loa_tokens is {recipe.loa_tokens}")
    title = "error of language of audio, dB below 1 (held out)"
    return train_stage(
        recipe, LoaObjective(parts, recipe, captions("")), FeatureDataset(sounds, features), fixed, title, output,
        data=data,
    )  # fmt: skip


__all__ = ["Captions", "LoaObjective", "LoaRecipe", "build_language_model", "main", "text_parts"]
