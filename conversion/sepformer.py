# SPDX-License-Identifier: Apache-2.0
"""SpeechBrain's published SepFormer folders to `SepFormerForAudioSeparation`.

A folder holds `encoder.ckpt`, `masknet.ckpt`, `decoder.ckpt` and `hyperparams.yaml`; a single file holds the same keys
with the file's name before them (`masknet.norm.weight`). Sizes come from the shapes. What no shape tells, the heads,
the chunks, the stride and the sampling rate, comes from the numbers of `hyperparams.yaml`, which is read as data and
never run; a number in it that contradicts the weights is an error. Dropped on purpose: the position tables, once they
are known to be the formula this model computes.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from hubsep.errors import ConversionError
from hubsep.hub.bounds import shown
from hubsep.models.sepformer.configuration_sepformer import SepFormerConfig
from hubsep.models.sepformer.modeling_sepformer import SepFormerForAudioSeparation, position_table
from hubsep.registry import SYSTEMS

from .common import (
    KeyTable,
    check_overrides,
    conversion_errors,
    count_of,
    fill,
    offenders,
    read_tensors,
    refuse_converted,
    rename,
    shape_of,
)
from .speechbrain import Hyperparameters
from .writing import card, write


PARTS = ("encoder", "masknet", "decoder")
HYPERPARAMETERS = "hyperparams.yaml"
TABLE_TOLERANCE = 1e-4  # a table of 2,500 places made in float64 is within 8e-5
SEGMENT_SECONDS, OVERLAP_SECONDS = 16, 4
PUBLISHED = {"num_attention_heads": 8, "chunk_size": 250, "encoder_stride": 8}

STACK = r"masknet\.dual_mdl\.(?P<block>\d+)\.(?P<path>intra|inter)_mdl"
LAYER = rf"{STACK}\.mdl\.layers\.(?P<layer>\d+)"
LEAF = r"(?P<leaf>weight|bias)"
TO_STACK = "masker.blocks.{block}.{path}"
TO_LAYER = TO_STACK + ".layers.{layer}"

KEYS: KeyTable = [
    (r"encoder\.conv1d\.weight", "encoder.weight"),
    (r"decoder\.weight", "decoder.weight"),
    (rf"masknet\.norm\.{LEAF}", "masker.norm.{leaf}"),
    (r"masknet\.conv1d\.weight", "masker.projection.weight"),
    (rf"{STACK}\.pos_enc\.pe", None),
    (rf"{LAYER}\.self_att\.att\.in_proj_{LEAF}", TO_LAYER + ".attention.qkv.{leaf}"),
    (rf"{LAYER}\.self_att\.att\.out_proj\.{LEAF}", TO_LAYER + ".attention.output.{leaf}"),
    (rf"{LAYER}\.pos_ffn\.ffn\.0\.{LEAF}", TO_LAYER + ".linear1.{leaf}"),
    (rf"{LAYER}\.pos_ffn\.ffn\.3\.{LEAF}", TO_LAYER + ".linear2.{leaf}"),
    (rf"{LAYER}\.norm1\.norm\.{LEAF}", TO_LAYER + ".attention_norm.{leaf}"),
    (rf"{LAYER}\.norm2\.norm\.{LEAF}", TO_LAYER + ".ffn_norm.{leaf}"),
    (rf"{STACK}\.mdl\.norm\.norm\.{LEAF}", TO_STACK + ".norm.{leaf}"),
    (
        rf"masknet\.dual_mdl\.(?P<block>\d+)\.(?P<path>intra|inter)_norm\.{LEAF}",
        "masker.blocks.{block}.{path}_norm.{leaf}",
    ),
    (rf"masknet\.conv2d\.{LEAF}", "masker.split.{leaf}"),
    (r"masknet\.prelu\.weight", "masker.activation.weight"),
    (rf"masknet\.output\.0\.{LEAF}", "masker.output.{leaf}"),
    (rf"masknet\.output_gate\.0\.{LEAF}", "masker.gate.{leaf}"),
    (r"masknet\.end_conv1x1\.weight", "masker.head.weight"),
]

# where `hyperparams.yaml` says what a field is
STATED: list[tuple[str, tuple[str, ...]]] = [
    ("sampling_rate", ("sample_rate",)),
    ("num_sources", ("num_spks",)),
    ("num_sources", ("MaskNet", "num_spks")),
    ("encoder_channels", ("N_encoder_out",)),
    ("encoder_kernel_size", ("kernel_size",)),
    ("encoder_kernel_size", ("Encoder", "kernel_size")),
    ("encoder_kernel_size", ("Decoder", "kernel_size")),
    ("encoder_stride", ("kernel_stride",)),
    ("encoder_stride", ("Decoder", "stride")),
    ("encoder_channels", ("Encoder", "out_channels")),
    ("encoder_channels", ("MaskNet", "in_channels")),
    ("hidden_size", ("MaskNet", "out_channels")),
    ("num_blocks", ("MaskNet", "num_layers")),
    ("chunk_size", ("MaskNet", "K")),
    ("num_intra_layers", ("MaskNet", "intra_model", "num_layers")),
    ("num_inter_layers", ("MaskNet", "inter_model", "num_layers")),
    *((field, ("MaskNet", path, key)) for path in ("intra_model", "inter_model") for field, key in (
        ("hidden_size", "d_model"), ("num_attention_heads", "nhead"), ("intermediate_size", "d_ffn"),
    )),
]  # fmt: skip
# what this model does; weights that were trained with something else may have the same names and shapes
FIXED: list[tuple[tuple[str, ...], Any]] = [
    (("MaskNet", "norm"), "ln"),
    (("MaskNet", "skip_around_intra"), True),
    (("MaskNet", "linear_layer_after_inter_intra"), False),
    (("MaskNet", "use_global_pos_enc"), False),
    *((("MaskNet", path, key), True) for path in ("intra_model", "inter_model") for key in (
        "norm_before", "use_positional_encoding",
    )),
]  # fmt: skip


def check(overrides: Mapping[str, Any]) -> None:
    """Refuses overrides that no checkpoint of the system could take, before there is one.

    Raises:
        ConversionError: naming the override.
    """
    check_overrides(overrides, SepFormerConfig)


def convert(
    source: Path, output: Path | None = None, *, licence: str | None = None, **overrides: Any
) -> SepFormerForAudioSeparation:
    """Converts a SepFormer checkpoint; see `hubsep.conversion.convert`.

    Args:
        source: the published folder, or one `.safetensors` or `.ckpt` file of the same keys.
        output: folder to write.
        licence: of the weights.
        overrides: fields of `SepFormerConfig` that neither the weights nor `hyperparams.yaml` tell.
    """
    check(overrides)
    files, parameters = _files(source)
    tensors = _tensors(source, files)
    config = _config(tensors, parameters, overrides)
    _check_tables(tensors, config)
    with torch.device("meta"):
        model = SepFormerForAudioSeparation(config)
    fill(model, {name: _as_matrix(name, tensor) for name, tensor in rename(tensors, KEYS).items()})
    if output is not None:
        origins = [*files, *([source / HYPERPARAMETERS] if parameters else [])]
        paper = SYSTEMS["sepformer"].paper
        write(output, model, card(title="SepFormer", tag="sepformer", paper=paper, licence=licence, sources=origins))
    return model


def _files(source: Path) -> tuple[list[Path], Hyperparameters | None]:
    if not source.is_dir():
        return [source], None
    refuse_converted(source, SepFormerConfig.model_type)
    files = [source / f"{part}.ckpt" for part in PARTS]
    absent = [file.name for file in files if not file.is_file()]
    if absent:
        raise ConversionError(
            f"{shown(source.name)} holds no {' and no '.join(absent)}; a published folder has encoder.ckpt, "
            f"masknet.ckpt, decoder.ckpt and {HYPERPARAMETERS}"
        )
    parameters = source / HYPERPARAMETERS
    return files, Hyperparameters(parameters) if parameters.is_file() else None


def _tensors(source: Path, files: list[Path]) -> dict[str, Tensor]:
    """All tensors, with the name of their part in front."""
    if len(files) > 1:
        parts = zip(PARTS, files, strict=True)
        return {f"{part}.{name}": tensor for part, file in parts for name, tensor in read_tensors(file).items()}
    tensors = read_tensors(source)
    if not any(name.startswith("masknet.") for name in tensors):
        hint = "; give the folder it lies in" if source.stem in PARTS else ""
        raise ConversionError(f"{shown(source.name)} holds no whole SepFormer, but {offenders(list(tensors))}{hint}")
    return tensors


def _config(
    tensors: Mapping[str, Tensor], parameters: Hyperparameters | None, overrides: Mapping[str, Any]
) -> SepFormerConfig:
    fields = _sizes(tensors)
    known_from = dict.fromkeys(fields, "the weights")
    rows = [] if parameters is None else _stated(parameters)
    for field, value, where in [*rows, *((name, value, "the settings") for name, value in overrides.items())]:
        if field in fields and fields[field] != value:
            raise ConversionError(
                f"{field} is {shown(fields[field])} in {known_from[field]}; it cannot be {shown(value)}, as in {where}"
            )
        fields[field] = value
        known_from[field] = where
    published = fields["encoder_kernel_size"] == 16 and fields["hidden_size"] == 256
    for field, value in PUBLISHED.items():
        if field not in fields and not published:
            raise ConversionError(
                f"no weight tells {field}, there is no {HYPERPARAMETERS}, and the sizes are not the published ones: "
                f"set {field}=N"
            )
        fields.setdefault(field, value)
    if "sampling_rate" not in fields:
        raise ConversionError("no weight tells the sampling rate: set sampling_rate=8000 or sampling_rate=16000")
    with conversion_errors("the configuration of SepFormer"):
        if isinstance(fields["sampling_rate"], int) and not {"segment_samples", "overlap_samples"} & fields.keys():
            fields["segment_samples"] = SEGMENT_SECONDS * fields["sampling_rate"]
            fields["overlap_samples"] = OVERLAP_SECONDS * fields["sampling_rate"]
        return SepFormerConfig(**fields)


def _stated(parameters: Hyperparameters) -> list[tuple[str, int, str]]:
    """Fields with the numbers `hyperparams.yaml` gives them and where; checks what this model cannot do otherwise."""
    for keys, expected in FIXED:
        value = parameters.get(*keys)
        if value is not None and value != expected:
            stated = shown(value) if isinstance(value, (str, int)) else f"a {type(value).__name__}"
            raise ConversionError(
                f"{'.'.join(keys)} is {stated} in {parameters.name}; this model only does {expected}"
            )
    values = [(field, parameters.get(*keys), f"{'.'.join(keys)} of {parameters.name}") for field, keys in STATED]
    return [entry for entry in values if isinstance(entry[1], int) and not isinstance(entry[1], bool)]


def _sizes(tensors: Mapping[str, Tensor]) -> dict[str, Any]:
    hidden, channels, _ = shape_of(tensors, "masknet.conv1d.weight", 3)
    split = shape_of(tensors, "masknet.conv2d.weight", 4)[0]
    if hidden == 0 or split % hidden:
        raise ConversionError(f"'masknet.conv2d.weight' has {split} rows, no multiple of the {hidden} channels")
    first = "masknet.dual_mdl.0.intra_mdl.mdl.layers.0"
    counted = {path: rf"masknet\.dual_mdl\.0\.{path}_mdl\.mdl\.layers\.(\d+)\." for path in ("intra", "inter")}
    return {
        "encoder_kernel_size": shape_of(tensors, "encoder.conv1d.weight", 3)[2],
        "encoder_channels": channels,
        "hidden_size": hidden,
        "num_sources": split // hidden,
        "num_blocks": count_of(tensors, r"masknet\.dual_mdl\.(\d+)\."),
        "num_intra_layers": count_of(tensors, counted["intra"]),
        "num_inter_layers": count_of(tensors, counted["inter"]),
        "intermediate_size": shape_of(tensors, f"{first}.pos_ffn.ffn.0.weight", 2)[0],
    }


def _check_tables(tensors: Mapping[str, Tensor], config: SepFormerConfig) -> None:
    """Leaving position tables out is right only if every stack has one, and it holds what the model computes."""
    for block in range(config.num_blocks):
        for path in ("intra", "inter"):
            name = f"masknet.dual_mdl.{block}.{path}_mdl.pos_enc.pe"
            one, length, size = shape_of(tensors, name, 3)
            right = one == 1 and size == config.hidden_size
            if not right or not (tensors[name][0] - position_table(length, size)).abs().max() <= TABLE_TOLERANCE:
                raise ConversionError(
                    f"{shown(name)} is not the table of sines and cosines this model computes; it cannot be left out"
                )


def _as_matrix(name: str, tensor: Tensor) -> Tensor:
    """Filterbanks without their one input channel, and convolutions over one frame as the matrices they are."""
    if name in ("encoder.weight", "decoder.weight"):
        if tensor.ndim != 3 or tensor.shape[1] != 1:
            raise ConversionError(f"{name} has the shape {tuple(tensor.shape)}; (filters, 1, samples) is expected")
        return tensor[:, 0] if name == "encoder.weight" else tensor[:, 0].T
    return tensor.flatten(1) if tensor.ndim > 2 else tensor


__all__ = ["check", "convert"]
