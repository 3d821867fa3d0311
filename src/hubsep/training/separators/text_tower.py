# SPDX-License-Identifier: Apache-2.0
"""Makes a CLAP text tower out of a published sentence encoder.

A tower trained only on the captions of a small corpus understands no word outside it. So the tower is a sentence
encoder (BERT layout, read from a local folder) with mean pooling and a projection on its principal axes, over the part
of its vocabulary that describes sounds or is common. Distilling it into fewer layers or narrower ones was tried: after
1,800 steps the cosine to the whole was 0.75 to 0.77 on unseen phrases, where 8-bit storage of all layers costs a
hundredth (`release.py`).
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from transformers import (
    AutoModel,
    ClapTextConfig,
    ClapTextModelWithProjection,
    PreTrainedTokenizerFast,
)

from ...data.prompts import catalogue, heldout_phrases, phrases
from ...hub.loading import load_checked_tokenizer
from ...hub.manifest import write_whole
from ..recipe import load_recipe


@dataclass
class TextTowerRecipe:
    """Settings of a text tower: the size of its embeddings, and how many words to keep (0: all)."""

    projection_dim: int = 256
    common_words: int = 16_000
    sound_words: int = 3_000


@dataclass
class Tower:
    """A CLAP text model with its tokenizer; a text is the mean of its tokens, projected, at unit length."""

    model: ClapTextModelWithProjection
    tokenizer: PreTrainedTokenizerFast

    def __call__(self, texts: list[str]) -> Tensor:
        batch = self.tokenizer(texts, padding=True, truncation=True, max_length=64, return_tensors="pt")
        hidden = self.model.text_model(**batch).last_hidden_state
        weight = batch["attention_mask"].unsqueeze(-1)
        pooled = (hidden * weight).sum(1) / weight.sum(1)
        return F.normalize(self.model.text_projection(pooled).float(), dim=-1)  # (texts, projection_dim)

    @torch.no_grad()
    def many(self, texts: list[str]) -> Tensor:
        """Embeddings of any number of texts."""
        return torch.cat([self(texts[i : i + 256]) for i in range(0, len(texts), 256)])

    def save(self, folder: Path) -> None:
        """Writes model and tokenizer as a transformers folder."""
        self.model.eval().save_pretrained(folder)
        self.tokenizer.save_pretrained(folder)


def all_phrases() -> dict[str, list[str]]:
    """Every class of the catalogue with the phrases taught for it."""
    tables = catalogue()
    return {label: phrases(label) for label in [*tables["sounds"], *tables["others"]]}


def choose_tokens(tower: Tower, recipe: TextTowerRecipe) -> list[str]:
    """The vocabulary to keep: pieces of words, the most common words (the list is by frequency), words for sounds.

    Without all the pieces a rare word falls apart into other ones than the encoder learnt it from: "downpour", which
    is "down" and "##pour", then has a cosine of 0.4 to what it meant.
    """
    vocabulary = sorted(tower.tokenizer.get_vocab(), key=tower.tokenizer.get_vocab().__getitem__)
    special = [token for token in vocabulary if token in tower.tokenizer.all_special_tokens]
    plain = [token for token in vocabulary if token.isascii() and not token.startswith("[")]
    pieces = [token for token in plain if token.startswith("##") or len(token) == 1]
    words = [token for token in plain if len(token) > 1 and not token.startswith("##")]
    common, words = words[: recipe.common_words], words[recipe.common_words :]
    sounds = tower.many([phrase for group in all_phrases().values() for phrase in group])
    scores = (tower.many(words) @ sounds.T).amax(1)
    nearest = [words[i] for i in scores.argsort(descending=True)[: recipe.sound_words]]
    taught = [piece for group in all_phrases().values() for p in group for piece in tower.tokenizer.tokenize(p)]
    return list(dict.fromkeys([*special, *pieces, *common, *taught, *nearest]))


def shorten_tokenizer(whole: PreTrainedTokenizerFast, tokens: list[str]) -> PreTrainedTokenizerFast:
    """A tokenizer over the kept tokens only; other words fall apart into the pieces that remain."""
    from tokenizers import Tokenizer

    state = json.loads(whole.backend_tokenizer.to_str())
    state["model"]["vocab"] = {token: i for i, token in enumerate(tokens)}
    kept = [t for t in state["added_tokens"] if t["content"] in tokens]
    state["added_tokens"] = [t | {"id": tokens.index(t["content"])} for t in kept]
    for token in (state.get("post_processor") or {}).get("special_tokens", {}).values():
        token["ids"] = [tokens.index(name) for name in token["tokens"]]
    for name in ("sep", "cls"):  # the older form of the same post-processor
        if name in (state.get("post_processor") or {}):
            state["post_processor"][name][1] = tokens.index(state["post_processor"][name][0])
    state["padding"] = state["truncation"] = None
    names = {"cls_token": "[CLS]", "sep_token": "[SEP]", "pad_token": "[PAD]", "unk_token": "[UNK]"}
    backend = Tokenizer.from_str(json.dumps(state))
    return PreTrainedTokenizerFast(
        tokenizer_object=backend, model_max_length=64, model_input_names=["input_ids", "attention_mask"], **names
    )


def tower_from_encoder(folder: Path, projection_dim: int, tokens: list[str] | None) -> Tower:
    """A tower whose embeddings and layers are a sentence encoder's; its projection is left random.

    RoBERTa, which CLAP's text model is, counts positions from `pad_token_id + 1`: one row is put before the table.
    """
    whole = load_checked_tokenizer(folder)
    encoder = AutoModel.from_pretrained(folder, dtype=torch.float32, use_safetensors=True, trust_remote_code=False)
    vocabulary = whole.get_vocab()
    tokens = tokens or sorted(vocabulary, key=vocabulary.__getitem__)
    source = encoder.config
    config = ClapTextConfig(
        vocab_size=len(tokens), hidden_size=source.hidden_size, num_hidden_layers=source.num_hidden_layers,
        num_attention_heads=source.num_attention_heads, intermediate_size=source.intermediate_size,
        max_position_embeddings=66, type_vocab_size=1, layer_norm_eps=source.layer_norm_eps, hidden_act="gelu",
        pad_token_id=tokens.index("[PAD]"), bos_token_id=tokens.index("[CLS]"), eos_token_id=tokens.index("[SEP]"),
        projection_dim=projection_dim, projection_hidden_act="linear",
    )  # fmt: skip
    model = ClapTextModelWithProjection(config)
    old, new = encoder.state_dict(), model.text_model.state_dict()
    new["embeddings.word_embeddings.weight"] = old["embeddings.word_embeddings.weight"][
        torch.tensor([vocabulary[token] for token in tokens])
    ]
    positions = old["embeddings.position_embeddings.weight"]
    shift = config.pad_token_id + 1
    new["embeddings.position_embeddings.weight"] = torch.cat([positions[:1] * 0] * shift + [positions[: 66 - shift]])
    new["embeddings.token_type_embeddings.weight"] = old["embeddings.token_type_embeddings.weight"][:1]
    for name in ("weight", "bias"):
        new[f"embeddings.LayerNorm.{name}"] = old[f"embeddings.LayerNorm.{name}"]
    new.update({name: tensor for name, tensor in old.items() if name.startswith("encoder.layer.")})
    model.text_model.load_state_dict(new)
    return Tower(model.eval(), shorten_tokenizer(whole, tokens))


@torch.no_grad()
def whole_tower(folder: Path, projection_dim: int) -> Tower:
    """The encoder with all its words, projected on the principal axes of the prompts and common words."""
    tower = tower_from_encoder(folder, projection_dim, None)
    projection, hidden = tower.model.text_projection, tower.model.config.hidden_size
    projection.linear1, projection.linear2 = torch.nn.Identity(), torch.nn.Identity()
    texts = [p for group in all_phrases().values() for p in group] + general_words(tower)[:8_000:2]
    _, _, directions = torch.linalg.svd(tower.many(texts), full_matrices=False)
    projection.linear1 = torch.nn.Linear(hidden, projection_dim)
    projection.linear2 = torch.nn.Linear(projection_dim, projection_dim)
    for linear, weight in ((projection.linear1, directions[:projection_dim]), (projection.linear2, None)):
        linear.weight.copy_(torch.eye(projection_dim) if weight is None else weight)
        linear.bias.zero_()
    return tower


def general_words(tower: Tower) -> list[str]:
    """The whole words of a tower's vocabulary, most common first."""
    vocabulary = tower.tokenizer.get_vocab()
    words = [token for token in vocabulary if token.isascii() and token.isalpha() and len(token) > 2]
    return sorted(words, key=vocabulary.__getitem__)


def heldout_accuracy(tower: Tower) -> float:
    """Share of phrases never used in training that lie nearest to their own class, among all of the catalogue."""
    classes = all_phrases()
    centres = torch.stack([tower.many(taught).mean(0) for taught in classes.values()])
    pairs = [(phrase, label) for label in catalogue()["sounds"] for phrase in heldout_phrases(label)]
    nearest = (tower.many([phrase for phrase, _ in pairs]) @ F.normalize(centres, dim=-1).T).argmax(1)
    return sum(list(classes)[i] == label for i, (_, label) in zip(nearest, pairs, strict=True)) / len(pairs)


def main(config: Path | None, data: Path, output: Path, **overrides: Any) -> dict[str, float]:
    """Makes a text tower and writes it, with its tokenizer, as a transformers folder.

    Args:
        config: a YAML file of `TextTowerRecipe` settings.
        data: the sentence encoder's folder (config.json, model.safetensors, tokenizer.json).
        output: where the tower goes.

    Returns:
        `heldout_accuracy`, and the mean cosine to the tower with all words on phrases never used in training.
    """
    recipe = load_recipe(TextTowerRecipe, config, **overrides)
    whole = tower = whole_tower(data, recipe.projection_dim)
    if recipe.common_words:
        tower = tower_from_encoder(data, recipe.projection_dim, choose_tokens(whole, recipe))
        tower.model.text_projection.load_state_dict(whole.model.text_projection.state_dict())
    tower.save(output)
    unseen = [phrase for label in catalogue()["sounds"] for phrase in heldout_phrases(label)]
    report = {
        "heldout_accuracy": heldout_accuracy(tower),
        "heldout_similarity": (tower.many(unseen) * whole.many(unseen)).sum(-1).mean().item(),
    }
    write_whole(output / "training.json", json.dumps({"recipe": vars(recipe), "result": report}, indent=1))
    return report


__all__ = ["TextTowerRecipe", "main"]
