# SPDX-License-Identifier: Apache-2.0
"""AudioMAE's published checkpoint to `AudioMAEForPreTraining`, the encoder inside AudioLDM 2's to `AudioMAEModel`.

Layouts: AudioMAE's own `.pth`, with the weights under `model` and the settings of the run under `args`; AudioLDM 2's
`.pth`, with the weights of all its parts under `state_dict`; a `.safetensors` file of the keys of either. Sizes come
from the shapes; the number of heads, which no shape tells, is known for the published sizes and must be set for
others. Dropped on purpose: in AudioLDM 2's file whatever is no AudioMAE, and the decoder of the AudioMAE in it, which
was never trained.
"""

from __future__ import annotations

import argparse
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from hubsep.errors import ConversionError
from hubsep.hub.bounds import shown, true_or_false
from hubsep.models.audiomae.configuration_audiomae import AudioMAEConfig
from hubsep.models.audiomae.feature_extraction_audiomae import AudioMAEFeatureExtractor
from hubsep.models.audiomae.modeling_audiomae import AudioMAEForPreTraining, AudioMAEModel
from hubsep.registry import SYSTEMS

from .common import (
    KeyTable,
    check_overrides,
    conversion_errors,
    count_of,
    fill,
    offenders,
    read_metadata,
    read_tensors,
    rename,
    shape_of,
)
from .writing import card, write


# AudioMAE inside AudioLDM 2, among the conditions of its GPT-2
INSIDE = re.compile(r"cond_stage_models\.\d+\.cond_stage_models\.\d+\.audiomae\.model\.")
LEAF = r"(?P<leaf>weight|bias)"
LAYER = {
    "norm1": "attention_norm", "norm2": "ffn_norm", "attn.qkv": "attention.qkv", "attn.proj": "attention.output",
    "attn.meta_mlp.fc1": "attention.bias1", "attn.meta_mlp.fc2": "attention.bias2",
    "mlp.fc1": "linear1", "mlp.fc2": "linear2",
}  # fmt: skip


def _layers(source: str, target: str) -> KeyTable:
    """Rows of a stack of transformer layers."""
    return [
        (rf"{source}\.(?P<layer>\d+)\.{re.escape(theirs)}\.{LEAF}", f"{target}.{{layer}}.{ours}.{{leaf}}")
        for theirs, ours in LAYER.items()
    ]


# of the tensors that are in no layer
ENCODER_PAIRS = [
    ("cls_token", "embeddings.class_token"), ("pos_embed", "embeddings.positions"),
    ("patch_embed.proj.weight", "embeddings.patches.weight"), ("patch_embed.proj.bias", "embeddings.patches.bias"),
    ("norm.weight", "norm.weight"), ("norm.bias", "norm.bias"),
]  # fmt: skip
ENCODER: KeyTable = [
    *((re.escape(theirs), ours) for theirs, ours in ENCODER_PAIRS),
    *_layers("blocks", "layers"),
]
DECODER: KeyTable = [
    (r"mask_token", "decoder.mask_token"),
    (r"decoder_pos_embed", "decoder.positions"),
    (rf"decoder_embed\.{LEAF}", "decoder.embedding.{leaf}"),
    (r"decoder_blocks\.(?P<layer>\d+)\.attn\.tau", "decoder.layers.{layer}.attention.temperature"),
    *_layers("decoder_blocks", "decoder.layers"),
    (rf"decoder_norm\.{LEAF}", "decoder.norm.{leaf}"),
    (rf"decoder_pred\.{LEAF}", "decoder.head.{leaf}"),
]
WITH_DECODER: KeyTable = [*((pattern, f"audiomae.{target}") for pattern, target in ENCODER), *DECODER]
WITHOUT_DECODER: KeyTable = [*ENCODER, *((pattern, None) for pattern, _ in DECODER)]

# what no shape tells, by what does: the sizes of the published models
HEADS = {768: 12}
DECODER_HEADS = {512: 16}
AVERAGED_LAYERS = {12: 3}
BINS = 128
TABLES = ("state_dict", "model")  # the weights of AudioLDM 2, and of AudioMAE, in a pickle
# settings of the authors' run, as fields
STATED = {
    "norm_pix_loss": "normalize_targets", "mask_ratio": "mask_ratio",
    "mask_t_prob": "mask_time_ratio", "mask_f_prob": "mask_frequency_ratio",
}  # fmt: skip


def check(overrides: Mapping[str, Any]) -> None:
    """Refuses overrides that no checkpoint of the system could take, before there is one.

    Raises:
        ConversionError: naming the override.
    """
    check_overrides(overrides, AudioMAEConfig, options=("encoder_only",))
    with conversion_errors("encoder_only"):
        true_or_false("encoder_only", overrides.get("encoder_only", False))


def convert(
    source: Path, output: Path | None = None, *, licence: str | None = None, **overrides: Any
) -> AudioMAEModel | AudioMAEForPreTraining:
    """Converts an AudioMAE checkpoint; see `hubsep.conversion.convert`.

    Args:
        source: AudioMAE's `.pth` or AudioLDM 2's, or a `.safetensors` file of the keys of either.
        output: folder to write.
        licence: of the weights.
        overrides: fields of `AudioMAEConfig` that the source does not tell, such as `num_attention_heads`; and
            `encoder_only`, which leaves a trained decoder out.
    """
    check(overrides)
    encoder_only = bool(overrides.pop("encoder_only", False))
    tensors, stated, trained_decoder = _read(source)
    encoder_only = encoder_only or not trained_decoder
    config = _config(tensors, stated, overrides, encoder_only)
    with torch.device("meta"):
        model = AudioMAEModel(config) if encoder_only else AudioMAEForPreTraining(config)
    fill(model, rename(tensors, WITHOUT_DECODER if encoder_only else WITH_DECODER))
    if output is not None:
        fields = card(
            title="AudioMAE", tag="audiomae", paper=SYSTEMS["audiomae"].paper, licence=licence, sources=[source],
            task=SYSTEMS["audiomae"].task, topic="audio",
        )  # fmt: skip
        write(output, model, fields, processor=AudioMAEFeatureExtractor.of(config))
    return model


def convert_encoder(tensors: Mapping[str, Tensor], overrides: Mapping[str, Any]) -> AudioMAEModel:
    """The encoder alone, of tensors by AudioMAE's own names; an untrained decoder among them is left out.

    Args:
        tensors: the names without what they begin with inside of AudioLDM 2.
        overrides: fields of `AudioMAEConfig` that no shape tells.

    Raises:
        ConversionError: as `hubsep.conversion.convert`.
    """
    check_overrides(overrides, AudioMAEConfig)
    config = _config(tensors, {}, overrides, encoder_only=True)
    with torch.device("meta"):
        model = AudioMAEModel(config)
    return fill(model, rename(tensors, WITHOUT_DECODER))


def _read(source: Path) -> tuple[dict[str, Tensor], Mapping[str, Any], bool]:
    """AudioMAE's tensors by its own names, the settings of its run, and whether there is a decoder of any use."""
    # argparse.Namespace is what the authors' settings are in: a class that does nothing but hold values
    with torch.serialization.safe_globals([argparse.Namespace]):
        tensors, metadata = read_tensors(source, TABLES), read_metadata(source, TABLES)
    prefixes = sorted({match[0] for name in tensors if (match := INSIDE.match(name))})
    if len(prefixes) > 1:
        raise ConversionError(f"{shown(source.name)} holds {len(prefixes)} AudioMAEs, under {offenders(prefixes)}")
    if prefixes:
        subset = {name: tensor for name, tensor in tensors.items() if name.startswith(prefixes[0])}
        return {name.removeprefix(prefixes[0]): tensor for name, tensor in subset.items()}, {}, False
    if not {"cls_token", "pos_embed"} & tensors.keys():
        raise ConversionError(f"{shown(source.name)} holds no AudioMAE, but {offenders(list(tensors))}")
    settings = metadata.get("args", {})
    if isinstance(settings, argparse.Namespace):
        settings = vars(settings)
    if not isinstance(settings, Mapping):
        raise ConversionError(f"args of {shown(source.name)} is a {type(settings).__name__}, not a table")
    return tensors, settings, any(name.startswith("decoder_") for name in tensors)


def _config(
    tensors: Mapping[str, Tensor], settings: Mapping[str, Any], overrides: Mapping[str, Any], encoder_only: bool
) -> AudioMAEConfig:
    fields = _sizes(tensors, overrides)
    if not encoder_only:
        fields.update(_decoder_sizes(tensors))
        fields.update({ours: settings[theirs] for theirs, ours in STATED.items() if theirs in settings})
    for name, value in overrides.items():
        if name in fields and fields[name] != value:
            raise ConversionError(f"{name} is {shown(fields[name])} in the source; it cannot be {shown(value)}")
    fields.update(overrides)
    defaults = {
        "num_attention_heads": HEADS.get(fields["hidden_size"]),
        "num_averaged_layers": AVERAGED_LAYERS.get(fields["num_hidden_layers"]),
    }
    if not encoder_only:
        defaults["decoder_num_attention_heads"] = DECODER_HEADS.get(fields["decoder_hidden_size"])
    for name, value in defaults.items():
        if fields.setdefault(name, value) is None:
            raise ConversionError(f"no weight tells {name}, and the sizes are not the published ones: set {name}=N")
    with conversion_errors("the configuration of AudioMAE"):
        return AudioMAEConfig(**fields)


def _sizes(tensors: Mapping[str, Tensor], overrides: Mapping[str, Any]) -> dict[str, Any]:
    """Fields that the encoder's shapes tell."""
    hidden, _, patch, _ = shape_of(tensors, "patch_embed.proj.weight", 4)
    patches = shape_of(tensors, "pos_embed", 3)[1] - 1
    bins = overrides.get("num_mel_bins", BINS)
    bands = bins // max(patch, 1) if isinstance(bins, int) else 0
    if bands < 1 or patches % bands:
        raise ConversionError(
            f"'pos_embed' has places for {patches} patches, which num_mel_bins={shown(bins)} do not divide; set "
            "num_mel_bins=N"
        )
    return {
        "hidden_size": hidden,
        "patch_size": patch,
        "num_mel_bins": bins,
        "num_frames": patches // bands * patch,
        "num_hidden_layers": count_of(tensors, r"blocks\.(\d+)\."),
        "intermediate_size": shape_of(tensors, "blocks.0.mlp.fc1.weight", 2)[0],
    }


def _decoder_sizes(tensors: Mapping[str, Tensor]) -> dict[str, Any]:
    """Fields that the decoder's shapes tell."""
    first = "decoder_blocks.0"
    fields: dict[str, Any] = {
        "decoder_type": "global",
        "decoder_hidden_size": shape_of(tensors, "decoder_embed.weight", 2)[0],
        "decoder_num_layers": count_of(tensors, r"decoder_blocks\.(\d+)\."),
        "decoder_intermediate_size": shape_of(tensors, f"{first}.mlp.fc1.weight", 2)[0],
    }
    if any(re.match(r"decoder_blocks\.\d+\.attn\.(tau|meta_mlp\.)", name) for name in tensors):
        (heads,) = shape_of(tensors, f"{first}.attn.tau", 1)
        bias = shape_of(tensors, f"{first}.attn.meta_mlp.fc1.weight", 2)[0]
        fields.update(decoder_type="shifted_window", decoder_num_attention_heads=heads, decoder_bias_hidden_size=bias)
    return fields


__all__ = ["check", "convert", "convert_encoder"]
