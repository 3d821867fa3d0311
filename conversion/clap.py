# SPDX-License-Identifier: Apache-2.0
"""LAION-CLAP (HTSAT audio tower, RoBERTa text tower, no fusion) to transformers' `ClapModel`.

Used for the CLAP inside other systems' checkpoints, and for LAION's own `.pt` files. Dropped on purpose: the log-mel
front end (the feature extractor replaces it), the classifier, the masks of shifted windows (made in the forward pass),
and the `*_transform` layers, which neither embedding passes through. What shapes cannot say is RoBERTa's and HTSAT's
own: 64 channels a text head, a layer norm eps of 1e-5 where transformers' default for CLAP is 1e-12.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import ClapConfig, ClapFeatureExtractor, ClapModel

from hubsep.errors import ConversionError
from hubsep.hub.bounds import shown

from .common import KeyTable, conversion_errors, count_of, fill, read_tensors, rename, shape_of
from .writing import card, check_licence, write


PAPER = "https://arxiv.org/abs/2211.06687"
ROBERTA_HEAD_CHANNELS = 64
TOWERS = ("text_config", "audio_config")
AUDIO, BLOCK = "audio_model.audio_encoder", r"audio_branch\.(?P<block>layers\.\d+\.blocks\.\d+)"

KEYS: KeyTable = [
    (r"logit_scale_(?P<tower>[at])", "logit_scale_{tower}"),
    (r"text_branch\.embeddings\.(position|token_type)_ids", None),  # buffers older transformers saved
    (r"text_branch\.(?P<rest>.+)", "text_model.{rest}"),
    (r"(?P<tower>text|audio)_projection\.0\.(?P<leaf>.+)", "{tower}_projection.linear1.{leaf}"),
    (r"(?P<tower>text|audio)_projection\.2\.(?P<leaf>.+)", "{tower}_projection.linear2.{leaf}"),
    (r"(text|audio)_transform\.sequential\..+", None),
    (r"audio_branch\.(spectrogram_extractor|logmel_extractor|tscam_conv|head)\..+", None),
    (rf"{BLOCK}\.attn_mask", None),
    (
        rf"{BLOCK}\.attn\.qkv\.(?P<leaf>.+)",
        tuple(f"{AUDIO}.{{block}}.attention.self.{part}.{{leaf}}" for part in ("query", "key", "value")),
    ),
    (rf"{BLOCK}\.attn\.proj\.(?P<leaf>.+)", f"{AUDIO}.{{block}}.attention.output.dense.{{leaf}}"),
    (rf"{BLOCK}\.attn\.(?P<leaf>relative_position_.+)", f"{AUDIO}.{{block}}.attention.self.{{leaf}}"),
    (rf"{BLOCK}\.mlp\.fc1\.(?P<leaf>.+)", f"{AUDIO}.{{block}}.intermediate.dense.{{leaf}}"),
    (rf"{BLOCK}\.mlp\.fc2\.(?P<leaf>.+)", f"{AUDIO}.{{block}}.output.dense.{{leaf}}"),
    (rf"{BLOCK}\.norm1\.(?P<leaf>.+)", f"{AUDIO}.{{block}}.layernorm_before.{{leaf}}"),
    (rf"{BLOCK}\.norm2\.(?P<leaf>.+)", f"{AUDIO}.{{block}}.layernorm_after.{{leaf}}"),
    (r"audio_branch\.bn0\.(?P<leaf>.+)", f"{AUDIO}.batch_norm.{{leaf}}"),
    (r"audio_branch\.(?P<rest>(layers\.\d+\.downsample|patch_embed|norm)\..+)", f"{AUDIO}.{{rest}}"),
]


def convert_clap(
    source: Path, output: Path | None = None, *, licence: str | None = None, **overrides: Any
) -> ClapModel:
    """Converts one of LAION's CLAP checkpoints to a `ClapModel`, and to a folder of it if `output` is given.

    Args:
        source: LAION's `.pt`, or a `.safetensors` file of the same keys.
        output: folder for the model, its feature extractor and its card.
        licence: of the weights; needed with `output`.
        overrides: entries of `text_config` and `audio_config`, which replace what was inferred.

    Raises:
        ConversionError: as `hubsep.conversion.convert`.
    """
    if output is not None:
        check_licence(licence)
    tensors = clap_tensors(read_tensors(source))
    config = clap_config(tensors, overrides)
    with torch.device("meta"):
        model = ClapModel(config)
    fill(model, clap_state(tensors, config))
    if output is not None:
        fields = card(title="LAION-CLAP", tag="clap", paper=PAPER, licence=licence, sources=[source])
        write(output, model, fields, processor=feature_extractor(config))
    return model


def clap_tensors(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """LAION's `.pt` comes from a data-parallel run, whose names all begin with `module.`."""
    return {name.removeprefix("module."): tensor for name, tensor in tensors.items()}


def is_clap(tensors: Mapping[str, Tensor]) -> bool:
    """Whether these are named like the tensors of LAION's files."""
    towers = ("text_branch.", "audio_branch.")
    return any(name.removeprefix("module.").startswith(towers) for name in tensors)


def check_towers(overrides: Mapping[str, Any]) -> None:
    """Refuses what is no table of one of the towers.

    Raises:
        ConversionError: naming it.
    """
    for name, entries in overrides.items():
        if name not in TOWERS or not isinstance(entries, Mapping):
            raise ConversionError(f"query_config may set entries of {' and '.join(TOWERS)}, got {shown(name)}")


def clap_config(tensors: Mapping[str, Tensor], overrides: Mapping[str, Any]) -> ClapConfig:
    """Sizes of a CLAP model from the shapes of its tensors.

    Args:
        tensors: by LAION's names.
        overrides: `text_config` and `audio_config` entries that replace what was inferred.

    Raises:
        ConversionError: a tensor is missing, or the sizes make no model.
    """
    check_towers(overrides)
    towers = {"text_config": _text_sizes(tensors), "audio_config": _audio_sizes(tensors)}
    for name, entries in overrides.items():
        towers[name].update(entries)
    text = towers["text_config"]
    if "num_attention_heads" not in text:
        if text["hidden_size"] % ROBERTA_HEAD_CHANNELS:
            raise ConversionError(
                f"{text['hidden_size']} channels are not a multiple of RoBERTa's {ROBERTA_HEAD_CHANNELS} a head; "
                "set query_config={text_config: {num_attention_heads: N}}"
            )
        text["num_attention_heads"] = text["hidden_size"] // ROBERTA_HEAD_CHANNELS
    with conversion_errors("the configuration of CLAP"):
        return ClapConfig(**towers, projection_dim=shape_of(tensors, "text_projection.2.weight", 2)[0])


def _text_sizes(tensors: Mapping[str, Tensor]) -> dict[str, Any]:
    vocabulary, channels = shape_of(tensors, "text_branch.embeddings.word_embeddings.weight", 2)
    return {
        "vocab_size": vocabulary,
        "hidden_size": channels,
        "num_hidden_layers": count_of(tensors, r"text_branch\.encoder\.layer\.(\d+)\."),
        "intermediate_size": shape_of(tensors, "text_branch.encoder.layer.0.intermediate.dense.weight", 2)[0],
        "max_position_embeddings": shape_of(tensors, "text_branch.embeddings.position_embeddings.weight", 2)[0],
        "type_vocab_size": shape_of(tensors, "text_branch.embeddings.token_type_embeddings.weight", 2)[0],
        "layer_norm_eps": 1e-5,
    }


def _audio_sizes(tensors: Mapping[str, Tensor]) -> dict[str, Any]:
    channels, inputs, patch, _ = shape_of(tensors, "audio_branch.patch_embed.proj.weight", 4)
    stages = count_of(tensors, r"audio_branch\.layers\.(\d+)\.blocks\.")
    tables = [
        shape_of(tensors, f"audio_branch.layers.{stage}.blocks.0.attn.relative_position_bias_table", 2)
        for stage in range(stages)
    ]
    if not tables:
        raise ConversionError("the source is missing the layers of CLAP's audio tower (audio_branch.layers)")
    return {
        "patch_embeds_hidden_size": channels,
        "patch_embed_input_channels": inputs,
        "patch_size": patch,
        "patch_stride": [patch, patch],
        "depths": [count_of(tensors, rf"audio_branch\.layers\.{stage}\.blocks\.(\d+)\.") for stage in range(stages)],
        "num_attention_heads": [heads for _, heads in tables],
        "num_hidden_layers": stages,
        "window_size": (math.isqrt(tables[0][0]) + 1) // 2,  # the table holds every offset within a window
        "mlp_ratio": shape_of(tensors, "audio_branch.layers.0.blocks.0.mlp.fc1.weight", 2)[0] / channels,
        "hidden_size": shape_of(tensors, "audio_branch.norm.weight", 1)[0],
        "num_mel_bins": shape_of(tensors, "audio_branch.bn0.weight", 1)[0],
    }


def clap_state(tensors: Mapping[str, Tensor], config: ClapConfig) -> dict[str, Tensor]:
    """State of a `ClapModel`, with the two tables of indices that transformers saves and LAION does not."""
    positions = torch.arange(config.text_config.max_position_embeddings)[None]
    return {
        **rename(tensors, KEYS),
        "text_model.embeddings.position_ids": positions,
        "text_model.embeddings.token_type_ids": torch.zeros_like(positions),
    }


def feature_extractor(config: ClapConfig) -> ClapFeatureExtractor:
    """The log-mel front end LAION trained with; transformers' default starts at 0 Hz and fuses long recordings."""
    return ClapFeatureExtractor(
        feature_size=config.audio_config.num_mel_bins,
        frequency_min=50,
        truncation="rand_trunc",
        padding="repeatpad",
    )


__all__ = [
    "TOWERS",
    "check_towers",
    "clap_config",
    "clap_state",
    "clap_tensors",
    "convert_clap",
    "feature_extractor",
    "is_clap",
]
