# SPDX-License-Identifier: Apache-2.0
"""Makes the text encoders of a small AudioLDM 2 out of a trained AudioSep: `text_encoder`, `text_encoder_2` and all.

CLAP and T5 of published size are 2.7 GB. A small model takes these instead, in the classes a pipeline's folder names:

- `ClapModel` with both towers of AudioSep's query encoder, a sentence encoder of six layers that knows words no
  recording taught it, and an audio tower that was taught to meet it, so that candidates can be ranked. That encoder
  describes a text by the mean of its tokens where CLAP takes the first: one layer more, whose attention is uniform and
  whose feed-forward network is zero, makes the first token the mean. Its vocabulary is cut down once more.
- `T5EncoderModel` of two narrow layers, new: it learns with GPT-2 (`hubsep train loa`). It reads the same tokens. Its
  table of words may be what the sentence encoder makes of each token, on the axes that tell taught phrases apart, so
  that a word no training uses lies where words of its meaning lie.

A text's embedding is compared with what AudioSep makes of it, and the cosine is part of the result.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from ...data.prompts import catalogue, heldout_phrases
from ...errors import DataError
from ..recipe import load_recipe
from ..separators.text_tower import TextTowerRecipe, Tower, all_phrases, choose_tokens, shorten_tokenizer


MEAN_GAIN = 256.0  # how much the mean outweighs the first token itself; a number that 8 bits hold
POOLER_SCALE = 1 / 64  # small, so that the pooler's tanh is a line


@dataclass
class TextEncodersRecipe:
    """Settings of the text encoders.

    Attributes:
        common_words: how many of the most common words are kept, besides those taught.
        piece_letters: the longest pieces of words that are kept, but for those that words which are taught fall into.
            With 3,000 common words, 2,500 for sounds and pieces of one letter, the mean cosine of phrases that were
            not taught to what they mean with all 24,000 tokens is 0.79; with 8,000 common words and all pieces, twice
            the tokens, 0.93. Phrases that are taught keep their meaning to 1e-4.
        sound_words: how many words for sounds, by AudioSep's judgement.
        text_encoder_2: fields of `T5Config`.
        words_from_encoder: whether T5's table of words comes from the sentence encoder.
        seed: of T5's first weights.
    """

    common_words: int = 3_000
    sound_words: int = 2_500
    piece_letters: int = 1
    text_encoder_2: dict[str, Any] = field(default_factory=dict)
    words_from_encoder: bool = False
    seed: int = 0


def kept_tokens(tower: Tower, recipe: TextEncodersRecipe) -> list[str]:
    """The vocabulary to keep: `text_tower.choose_tokens` without long pieces that no taught phrase needs."""
    settings = TextTowerRecipe(common_words=recipe.common_words, sound_words=recipe.sound_words)
    texts = [phrase for group in all_phrases().values() for phrase in group]
    needed = {piece for text in texts for piece in tower.tokenizer.tokenize(text)}
    longest = len("##") + recipe.piece_letters
    tokens = choose_tokens(tower, settings)
    return [token for token in tokens if not token.startswith("##") or len(token) <= longest or token in needed]


@torch.no_grad()
def pooled_by_mean(query_encoder: Any, tokens: list[str], vocabulary: dict[str, int]) -> Any:
    """A `ClapModel` whose text embedding is that of the mean of the tokens by a model without the last layer.

    Args:
        query_encoder: the `ClapModel` of an AudioSep with `query_pooling` "mean".
        tokens: the vocabulary to keep.
        vocabulary: the number of each token now.
    """
    from transformers import ClapModel

    config = copy.deepcopy(query_encoder.config)
    layers = config.text_config.num_hidden_layers
    config.text_config.num_hidden_layers = layers + 1
    config.text_config.vocab_size = len(tokens)
    state = dict(query_encoder.state_dict())
    words = "text_model.embeddings.word_embeddings.weight"
    state[words] = state[words][torch.tensor([vocabulary[token] for token in tokens])]
    size = config.text_config.hidden_size
    identity, zeros = torch.eye(size), torch.zeros(size)
    wide = torch.zeros(config.text_config.intermediate_size, size)
    last = f"text_model.encoder.layer.{layers}."
    parts = {
        "attention.self.query": torch.zeros(size, size), "attention.self.key": torch.zeros(size, size),
        "attention.self.value": identity, "attention.output.dense": MEAN_GAIN * identity, "intermediate.dense": wide,
        "output.dense": wide.T,
    }  # fmt: skip
    for name, weight in parts.items():
        state[f"{last}{name}.weight"], state[f"{last}{name}.bias"] = weight.clone(), torch.zeros(len(weight))
    for name in ("attention.output", "output"):
        state[f"{last}{name}.LayerNorm.weight"], state[f"{last}{name}.LayerNorm.bias"] = zeros + 1, zeros.clone()
    state["text_model.pooler.dense.weight"] = POOLER_SCALE * identity
    state["text_model.pooler.dense.bias"] = zeros.clone()
    state["text_projection.linear1.weight"] = state["text_projection.linear1.weight"] / POOLER_SCALE
    model = ClapModel(config).eval()
    model.load_state_dict(state)
    return model


@torch.no_grad()
def keep_level(model: Any, means: Tensor) -> None:
    """Gives the last norm the offset and deviation that means of tokens (texts, size) have, which a norm takes out."""
    norm = model.text_model.encoder.layer[-1].output.LayerNorm
    norm.weight.fill_(float(means.std(dim=1, unbiased=False).mean()))
    norm.bias.fill_(float(means.mean()))


@torch.no_grad()
def token_table(model: Any, tokenizer: Any, size: int) -> Tensor:
    """Each token by itself as a `ClapModel` reads it, on the main axes of the phrases that are taught: (tokens, size).

    The table has a standard deviation of 1, as that of a new T5.
    """

    def embedded(ids: Tensor, mask: Tensor) -> Tensor:
        features = model.get_text_features(ids, attention_mask=mask)
        return getattr(features, "pooler_output", features)

    tokenizer = copy.deepcopy(tokenizer)  # it remembers, and would save, that it padded
    phrases = [phrase for group in all_phrases().values() for phrase in group]
    rows = [
        tokenizer(phrases[start : start + 256], padding=True, return_tensors="pt")
        for start in range(0, len(phrases), 256)
    ]
    taught = torch.cat([embedded(row["input_ids"], row["attention_mask"]) for row in rows])
    if size > min(taught.shape):
        raise DataError(f"d_model of text_encoder_2 is {size}, the sentence encoder gives {min(taught.shape)} axes")
    axes = torch.linalg.svd(taught - taught.mean(0), full_matrices=False).Vh[:size]
    numbers = torch.arange(len(tokenizer))
    ids = torch.stack(
        [torch.full_like(numbers, tokenizer.cls_token_id), numbers, torch.full_like(numbers, tokenizer.sep_token_id)],
        1,
    )
    table = torch.cat([embedded(part, torch.ones_like(part)) for part in ids.split(256)])
    table = (table - taught.mean(0)) @ axes.T
    return table / table.std()


@torch.no_grad()
def token_means(tower: Tower, texts: list[str]) -> Tensor:
    """The mean of the tokens of each text, (texts, size)."""
    batch = tower.tokenizer(texts, padding=True, return_tensors="pt")
    hidden = tower.model.text_model(**batch).last_hidden_state
    weight = batch["attention_mask"].unsqueeze(-1)
    means: Tensor = (hidden * weight).sum(1) / weight.sum(1)
    return means


@torch.no_grad()
def cosines(model: Any, tokenizer: Any, tower: Tower, texts: list[str]) -> Tensor:
    """Of each text, between its embedding by a `ClapModel` and by the tower it was made from."""
    batch = tokenizer(texts, padding=True, return_tensors="pt")
    features = model.get_text_features(**batch)
    return F.cosine_similarity(getattr(features, "pooler_output", features), tower.many(texts))


def main(config: Path | None, data: Path, output: Path, **overrides: Any) -> dict[str, float]:
    """Writes `text_encoder`, `tokenizer`, `feature_extractor`, `text_encoder_2` and `tokenizer_2`.

    Args:
        config: a YAML file of `TextEncodersRecipe` settings.
        data: folder of a trained AudioSep with both towers, for instance the shipped audiosep-small.
        output: where the folders go.

    Returns:
        `tokens` of the vocabulary, and the mean and the lowest `cosine` over phrases that no training run sees.

    Raises:
        DataError: if the AudioSep takes the first token of a text instead of the mean.
    """
    from transformers import T5Config, T5EncoderModel

    from ...auto import AutoModelForAudioSeparation, load_processor

    recipe = load_recipe(TextEncodersRecipe, config, **overrides)
    torch.manual_seed(recipe.seed)
    separator = AutoModelForAudioSeparation.from_pretrained(data, dtype=torch.float32).eval()
    if getattr(separator.config, "query_pooling", None) != "mean":
        raise DataError(f"{data} describes a text by its first token: copy its CLAP as it is, nothing has to be added")
    processor = load_processor(separator, data)
    tower = Tower(separator.query_encoder, processor.tokenizer)
    tokens = kept_tokens(tower, recipe)
    tokenizer = shorten_tokenizer(processor.tokenizer, tokens)
    model = pooled_by_mean(separator.query_encoder, tokens, processor.tokenizer.get_vocab())
    keep_level(model, token_means(tower, [phrase for group in all_phrases().values() for phrase in group]))
    fields = {"d_model": 64, "d_kv": 16, "num_heads": 4, "d_ff": 128, "num_layers": 2, **recipe.text_encoder_2}
    t5 = T5EncoderModel(
        T5Config(vocab_size=len(tokens), pad_token_id=tokens.index("[PAD]"), is_encoder_decoder=False, **fields)
    )
    if recipe.words_from_encoder:
        t5.shared.weight.data.copy_(token_table(model, tokenizer, t5.config.d_model))
    parts = {
        "text_encoder": model, "tokenizer": tokenizer, "feature_extractor": processor.feature_extractor,
        "text_encoder_2": t5, "tokenizer_2": tokenizer,
    }  # fmt: skip
    for name, part in parts.items():
        part.save_pretrained(output / name)
    phrases = [phrase for label in catalogue()["sounds"] for phrase in heldout_phrases(label)]
    similarities = cosines(model, tokenizer, tower, phrases)
    return {
        "tokens": float(len(tokens)),
        "cosine": float(similarities.mean()),
        "lowest_cosine": float(similarities.min()),
    }


__all__ = ["TextEncodersRecipe", "cosines", "main", "pooled_by_mean"]
