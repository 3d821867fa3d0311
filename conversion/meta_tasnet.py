# SPDX-License-Identifier: Apache-2.0
"""Meta-TasNet's published checkpoint to `MetaTasNetForAudioSeparation`.

Layouts: the authors' `.pt`, where the weights stand under `state_dict` and what the shapes do not tell under `args`; a
bare state dict; a `.safetensors` file of the same keys. What a file does not state is taken from the published model,
where it cannot be anything else, or an override that must be set. Dropped on purpose: the last residual product of a
stage, which is never used, and the windows of the Fourier transforms, after a look at whether they are Hann windows.
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
from hubsep.hub.bounds import shown
from hubsep.models.meta_tasnet.configuration_meta_tasnet import MetaTasNetConfig
from hubsep.models.meta_tasnet.modeling_meta_tasnet import MetaTasNetForAudioSeparation
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


SEGMENT_SECONDS, OVERLAP_SECONDS = 12, 2
PUBLISHED_BLOCKS, PUBLISHED_REPEATS = 6, 3
PUBLISHED_STRIDE, PUBLISHED_RATE = 20, 8_000  # of the first stage
WINDOW_TOLERANCE = 1e-6

STAGE, LEAF = r"stages\.(?P<stage>\d+)\.", r"(?P<leaf>weight|bias)"
BLOCK = rf"{STAGE}mask\.tcn\.(?P<index>\d+)\."
OUTER = {"in_conv": "bottleneck", "mask_output": "head"}
INNER = {"conv1d": "expand", "dconv1d": "convolution", "res_out": "residual", "skip_out": "skip"}


def _layer(source: str, target: str) -> KeyTable:
    """Rows of a layer whose weights may be generated: both forms of both kinds."""
    return [
        (rf"{source}\.bottleneck\.{LEAF}", f"{target}.bottleneck.{{leaf}}"),
        (rf"{source}\.(?P<head>kernel|bias|affine)\.{LEAF}", f"{target}.heads.{{head}}.{{leaf}}"),
        (rf"{source}\.conv\.weight", f"{target}.tensors.kernel"),
        (rf"{source}\.conv\.bias", f"{target}.tensors.bias"),
        (rf"{source}\.group_norm\.{LEAF}", f"{target}.{{leaf}}"),
    ]


TABLE: KeyTable = [
    (rf"{STAGE}instrument_embedding\.weight", "stages.{stage}.embedding"),
    (rf"{STAGE}encoder\.spectrogram\.(?P<name>window|mean|std)", "stages.{stage}.encoder.spectrogram.{name}"),
    (rf"{STAGE}encoder\.spectrogram\.affine_scale", "stages.{stage}.encoder.spectrogram.scale"),
    (rf"{STAGE}encoder\.spectrogram\.affine_bias", "stages.{stage}.encoder.spectrogram.shift"),
    (rf"{STAGE}encoder\.spectrogram\.mel_transform\.{LEAF}", "stages.{stage}.encoder.spectrogram.mel.{leaf}"),
    (rf"{STAGE}(?P<side>encoder|decoder)\.filters\.(?P<index>\d+)\.weight", "stages.{stage}.{side}.filters.{index}"),
    (rf"{STAGE}(?P<side>encoder|decoder)\.bottleneck\.0\.weight", "stages.{stage}.{side}.expand.weight"),
    (rf"{STAGE}encoder\.bottleneck\.2\.weight", "stages.{stage}.encoder.project.weight"),
    (rf"{STAGE}mask\.prelu_(?P<index>\d)\.weight", "stages.{stage}.masker.activation{index}.weight"),
    (rf"{BLOCK}prelu_(?P<part>\d)\.weight", "stages.{stage}.masker.blocks.{index}.activation{part}.weight"),
    *_layer(rf"{STAGE}mask\.norm_(?P<part>\d)", "stages.{stage}.masker.norm{part}"),
    *_layer(rf"{BLOCK}norm_(?P<part>\d)", "stages.{stage}.masker.blocks.{index}.norm{part}"),
    *(row for old, new in OUTER.items() for row in _layer(rf"{STAGE}mask\.{old}", f"stages.{{stage}}.masker.{new}")),
    *(
        row
        for old, new in INNER.items()
        for row in _layer(rf"{BLOCK}{old}", f"stages.{{stage}}.masker.blocks.{{index}}.{new}")
    ),
]

# axes of one that convolutions have and products do not
AXES = (
    (r".*\.encoder\.spectrogram\.(mean|std|scale|shift)", (0, 2)),
    (r".*\.filters\.\d", (1,)),
    (r".*\.(mel|expand|project)\.weight", (2,)),
)

# the authors' names of what the shapes tell, and of what they do not
SIZES = {
    "N": "num_filters", "filters": "num_filter_lengths", "L": "kernel_size",
    "B": "bottleneck_channels", "H": "hidden_channels",
    "kernel": "conv_kernel_size", "num_mels": "num_mels", "stages_num": "num_stages",
    "residual_bias": "residual_bias", "E_1": "embedding_size", "E_2": "generator_size",
}  # fmt: skip
STATED = {
    "W": "stride", "layers": "num_blocks", "stack": "num_repeats",
    "reconstruction_loss_weight": "reconstruction_weight", "similarity_loss_weight": "similarity_weight",
    "dissimilarity_loss_weight": "dissimilarity_weight",
}  # fmt: skip


def check(overrides: Mapping[str, Any]) -> None:
    """Refuses overrides that no checkpoint of the system could take, before there is one.

    Raises:
        ConversionError: naming the override.
    """
    check_overrides(overrides, MetaTasNetConfig)


def convert(
    source: Path, output: Path | None = None, *, licence: str | None = None, **overrides: Any
) -> MetaTasNetForAudioSeparation:
    """Converts a Meta-TasNet checkpoint; see `hubsep.conversion.convert`.

    Args:
        source: the authors' `.pt`, or a `.safetensors` file of the same keys.
        output: folder to write.
        licence: of the weights.
        overrides: fields of `MetaTasNetConfig` that the source does not state. Bare weights take the published ones
            unless set: a stride of 20, 8 kHz for the first stage, six blocks a repeat where there are 18.
    """
    check(overrides)
    # argparse.Namespace is what the authors' arguments are in: a class that does nothing but hold values
    with torch.serialization.safe_globals([argparse.Namespace]):
        tensors, metadata = read_tensors(source), read_metadata(source)
    if not any(name.startswith("stages.0.mask.") for name in tensors):
        raise ConversionError(f"{shown(source.name)} holds no Meta-TasNet, but {offenders(list(tensors))}")
    stored = rename(tensors, TABLE)
    blocks = count_of(stored, r"stages\.0\.masker\.blocks\.(\d+)\.")
    config = _config(_facts(stored), blocks, _arguments(metadata, source), overrides)
    with torch.device("meta"):
        model = MetaTasNetForAudioSeparation(config)
    fill(model, _state(stored, config))
    if output is not None:
        paper = SYSTEMS["meta_tasnet"].paper
        write(
            output, model, card(title="Meta-TasNet", tag="meta_tasnet", paper=paper, licence=licence, sources=[source])
        )
    return model


def _arguments(metadata: Mapping[Any, Any], source: Path) -> dict[str, Any]:
    """What the authors' command line said; nothing if it was not kept."""
    arguments = metadata.get("args", {})
    if isinstance(arguments, argparse.Namespace):
        arguments = vars(arguments)
    if not isinstance(arguments, Mapping):
        raise ConversionError(f"args of {shown(source.name)} is a {type(arguments).__name__}, not a table")
    return dict(arguments)


def _facts(stored: Mapping[str, Tensor]) -> dict[str, Any]:
    """What names and shapes tell, as fields of the configuration."""
    mask = "stages.0.masker"
    filters, _, _ = shape_of(stored, "stages.0.encoder.project.weight", 3)
    _, _, kernel_size = shape_of(stored, "stages.0.encoder.filters.0", 3)
    num_mels, bins, _ = shape_of(stored, "stages.0.encoder.spectrogram.mel.weight", 3)
    facts: dict[str, Any] = {
        "num_stages": count_of(stored, r"stages\.(\d+)\."),
        "num_filters": filters,
        "num_filter_lengths": count_of(stored, r"stages\.0\.encoder\.filters\.(\d+)"),
        "kernel_size": kernel_size,
        "n_fft": 2 * (bins - 1),
        "hop_length": (bins - 1) // 2,
        "num_mels": num_mels,
        "generated": "stages.0.embedding" in stored,
    }
    if facts["generated"]:
        sources, facts["embedding_size"] = shape_of(stored, "stages.0.embedding", 2)
        bottleneck, facts["generator_size"] = shape_of(stored, f"{mask}.norm2.heads.affine.weight", 2)
        bottleneck, hidden = bottleneck // 2, shape_of(stored, f"{mask}.blocks.0.norm1.heads.affine.weight", 2)[0] // 2
        kernel = shape_of(stored, f"{mask}.blocks.0.convolution.heads.kernel.weight", 2)[0] // max(hidden, 1)
    else:
        bottleneck = shape_of(stored, f"{mask}.blocks.0.expand.tensors.kernel", 3)[1]
        hidden = shape_of(stored, f"{mask}.blocks.0.skip.tensors.kernel", 3)[1]
        kernel = shape_of(stored, f"{mask}.blocks.0.convolution.tensors.kernel", 3)[2]
        sources = shape_of(stored, f"{mask}.bottleneck.tensors.kernel", 3)[0] // max(bottleneck, 1)
    skip = f"{mask}.blocks.0.skip"
    return {
        **facts,
        "num_sources": sources,
        "bottleneck_channels": bottleneck,
        "hidden_channels": hidden,
        "conv_kernel_size": kernel,
        "residual_bias": f"{skip}.heads.bias.weight" in stored or f"{skip}.tensors.bias" in stored,
    }


def _config(
    facts: dict[str, Any], blocks: int, arguments: Mapping[str, Any], overrides: Mapping[str, Any]
) -> MetaTasNetConfig:
    fields, sources = dict(facts), facts["num_sources"]
    del fields["num_sources"]
    fields.update(_from_arguments(arguments, facts))
    for name, value in overrides.items():
        if name in fields and fields[name] != value:
            raise ConversionError(f"{name} is {shown(fields[name])} in the source; it cannot be {shown(value)}")
    fields.update(overrides)
    if blocks == PUBLISHED_BLOCKS * PUBLISHED_REPEATS and not {"num_blocks", "num_repeats"} & fields.keys():
        fields["num_blocks"] = PUBLISHED_BLOCKS
    for name, other in (("num_blocks", "num_repeats"), ("num_repeats", "num_blocks")):
        if name not in fields and isinstance(fields.get(other), int) and fields[other] > 0:
            fields[name] = blocks // fields[other]
    if "num_blocks" not in fields:
        raise ConversionError("these weights do not tell num_blocks; set num_blocks=N")
    fields.setdefault("stride", PUBLISHED_STRIDE)
    # beyond its bounds the configuration will refuse the number of stages
    rate = fields.setdefault("sampling_rate", PUBLISHED_RATE * 2 ** (min(fields["num_stages"], 8) - 1))
    if isinstance(rate, int):
        fields.setdefault("segment_samples", SEGMENT_SECONDS * rate)
        fields.setdefault("overlap_samples", OVERLAP_SECONDS * rate)
    with conversion_errors("the configuration of Meta-TasNet"):
        config = MetaTasNetConfig(**fields)
    if config.num_blocks * config.num_repeats != blocks:
        raise ConversionError(
            f"the source holds {blocks} blocks, not {config.num_repeats} repeats of {config.num_blocks}"
        )
    if config.num_sources != sources:
        raise ConversionError(f"the source has {sources} instruments, not {config.num_sources}; set instruments=")
    return config


def _from_arguments(arguments: Mapping[str, Any], facts: Mapping[str, Any]) -> dict[str, Any]:
    """Fields from the authors' arguments, which must agree with the shapes."""
    for name, field in SIZES.items():
        expected = facts.get(field)
        if name in arguments and expected is not None and arguments[name] != expected:
            raise ConversionError(f"args has {name} {shown(arguments[name])}, but the weights have {expected}")
    fields = {field: arguments[name] for name, field in STATED.items() if name in arguments}
    rate = arguments.get("sampling_rate")
    if rate is not None:
        if not isinstance(rate, int):
            raise ConversionError(f"args has the sampling_rate {shown(rate)}, which is no whole number")
        fields["sampling_rate"] = rate * 2 ** (min(facts["num_stages"], 8) - 1)
    return fields


def _state(stored: Mapping[str, Tensor], config: MetaTasNetConfig) -> dict[str, Tensor]:
    """Tensors in our shapes, without what is never used."""
    last = rf"stages\.\d+\.masker\.blocks\.{config.num_blocks * config.num_repeats - 1}\.residual\..*"
    state: dict[str, Tensor] = {}
    for name, tensor in stored.items():
        if name.endswith("spectrogram.window"):
            _check_window(name, tensor)
        elif re.fullmatch(last, name) is None:
            state[name] = _reshaped(name, tensor, config)
    for name in [name for name in state if re.fullmatch(r".*\.norm\d\.weight", name)]:
        base = name.removesuffix("weight")
        scale, shift = state.pop(name), state.pop(f"{base}bias", None)
        if shift is None or scale.shape != shift.shape:
            raise ConversionError(f"scale and shift of {shown(name)} do not fit together, or one is missing")
        state[f"{base}tensors.affine"] = torch.stack([scale, shift], dim=1)
    return state


def _reshaped(name: str, tensor: Tensor, config: MetaTasNetConfig) -> Tensor:
    """A tensor without its axes of one, and with an axis for the instruments where the authors have none."""
    axes = next((axes for pattern, axes in AXES if re.fullmatch(pattern, name)), ())
    for axis in reversed(axes):
        if tensor.ndim != 3 - (len(axes) > 1 and axis == 0) or tensor.shape[axis] != 1:
            raise ConversionError(f"{shown(name)} has the shape {tuple(tensor.shape)}; axis {axis} must be 1")
        tensor = tensor.squeeze(axis)
    if name.endswith(".decoder.expand.weight"):
        return tensor.t()
    is_norm = re.fullmatch(r".*\.norm\d\.(weight|bias)", name) is not None
    if ".tensors." not in name and not is_norm:
        return tensor
    if tensor.ndim == 0 or len(tensor) % config.num_sources:
        raise ConversionError(f"{shown(name)} has the shape {tuple(tensor.shape)}, no part for each instrument")
    tensor = tensor.unflatten(0, (config.num_sources, -1))
    if not name.endswith(".tensors.kernel"):
        return tensor
    axis = 2 if ".convolution." in name else 3
    if tensor.ndim != 4 or tensor.shape[axis] != 1:
        raise ConversionError(f"{shown(name)} has the shape {tuple(tensor.shape)}; axis {axis} must be 1")
    return tensor.squeeze(axis)


def _check_window(name: str, window: Tensor) -> None:
    hann = torch.hann_window(max(window.numel(), 1))
    is_floating = window.is_floating_point() and window.shape == hann.shape
    if not is_floating or not bool(((window.float() - hann).abs() <= WINDOW_TOLERANCE).all()):
        raise ConversionError(f"{shown(name)} is no periodic Hann window, which this model always takes")


__all__ = ["check", "convert"]
