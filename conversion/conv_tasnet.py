# SPDX-License-Identifier: Apache-2.0
"""Conv-TasNet's published checkpoints to `ConvTasNetForAudioSeparation`.

Layouts: asteroid's `pytorch_model.bin`, alone or in its folder, where the weights stand under `state_dict` and what
the shapes do not tell under `model_args`; torchaudio's bare state dict; a `.safetensors` file of either's keys. A
field that a file does not state is, in this order: what the original assumes where it is missing too; the published
value, where all published weights agree; an override that must be set. Dropped on purpose: asteroid's last residual
convolution, which is never used.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from hubsep.errors import ConversionError
from hubsep.hub.bounds import shown
from hubsep.hub.licences import allows_commercial_use, stated_in
from hubsep.models.conv_tasnet.configuration_conv_tasnet import ConvTasNetConfig
from hubsep.models.conv_tasnet.modeling_conv_tasnet import ConvTasNetForAudioSeparation
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
    weights_file,
)
from .writing import LicenceError, card, check_licence, check_stated, write


WEIGHTS_FILES = ("pytorch_model.bin", "model.safetensors")  # of a folder, the first that is there
SEGMENT_SECONDS, OVERLAP_SECONDS = 10, 2
PUBLISHED_BLOCKS, PUBLISHED_REPEATS = 8, 3
PUBLISHED_RATES = {16: 8_000, 32: 16_000}  # by kernel size, of every published file
ASTEROID_RATE = 8_000  # what asteroid takes files without a rate for

BLOCK, LEAF = r"masker\.TCN\.(?P<index>\d+)\.shared_block\.", r"(?P<leaf>weight|bias)"
LAYER = r"mask_generator\.conv_layers\.(?P<index>\d+)\."

ASTEROID: KeyTable = [
    (r"(?P<side>encoder|decoder)\.filterbank\._filters", "{side}.weight"),
    (r"masker\.bottleneck\.0\.gamma", "masker.norm.weight"),
    (r"masker\.bottleneck\.0\.beta", "masker.norm.bias"),
    (rf"masker\.bottleneck\.1\.{LEAF}", "masker.bottleneck.{leaf}"),
    (rf"{BLOCK}0\.{LEAF}", "masker.blocks.{index}.expand.{leaf}"),
    (rf"{BLOCK}1\.weight", "masker.blocks.{index}.activation1.weight"),
    (rf"{BLOCK}2\.gamma", "masker.blocks.{index}.norm1.weight"),
    (rf"{BLOCK}2\.beta", "masker.blocks.{index}.norm1.bias"),
    (rf"{BLOCK}3\.(0\.)?weight", "masker.blocks.{index}.kernel"),  # one level deeper in causal models
    (rf"{BLOCK}3\.(0\.)?bias", "masker.blocks.{index}.kernel_bias"),
    (rf"{BLOCK}4\.weight", "masker.blocks.{index}.activation2.weight"),
    (rf"{BLOCK}5\.gamma", "masker.blocks.{index}.norm2.weight"),
    (rf"{BLOCK}5\.beta", "masker.blocks.{index}.norm2.bias"),
    (rf"masker\.TCN\.(?P<index>\d+)\.res_conv\.{LEAF}", "masker.blocks.{index}.residual.{leaf}"),
    (rf"masker\.TCN\.(?P<index>\d+)\.skip_conv\.{LEAF}", "masker.blocks.{index}.skip.{leaf}"),
    (r"masker\.mask_net\.0\.weight", "masker.activation.weight"),
    (rf"masker\.mask_net\.1\.{LEAF}", "masker.head.{leaf}"),
]

TORCHAUDIO: KeyTable = [
    (r"(?P<side>encoder|decoder)\.weight", "{side}.weight"),
    (rf"mask_generator\.input_norm\.{LEAF}", "masker.norm.{leaf}"),
    (rf"mask_generator\.input_conv\.{LEAF}", "masker.bottleneck.{leaf}"),
    (rf"{LAYER}conv_layers\.0\.{LEAF}", "masker.blocks.{index}.expand.{leaf}"),
    (rf"{LAYER}conv_layers\.1\.weight", "masker.blocks.{index}.activation1.weight"),
    (rf"{LAYER}conv_layers\.2\.{LEAF}", "masker.blocks.{index}.norm1.{leaf}"),
    (rf"{LAYER}conv_layers\.3\.weight", "masker.blocks.{index}.kernel"),
    (rf"{LAYER}conv_layers\.3\.bias", "masker.blocks.{index}.kernel_bias"),
    (rf"{LAYER}conv_layers\.4\.weight", "masker.blocks.{index}.activation2.weight"),
    (rf"{LAYER}conv_layers\.5\.{LEAF}", "masker.blocks.{index}.norm2.{leaf}"),
    (rf"{LAYER}res_out\.{LEAF}", "masker.blocks.{index}.residual.{leaf}"),
    (rf"{LAYER}skip_out\.{LEAF}", "masker.blocks.{index}.skip.{leaf}"),
    (r"mask_generator\.output_prelu\.weight", "masker.activation.weight"),
    (rf"mask_generator\.output_conv\.{LEAF}", "masker.head.{leaf}"),
]

# products that are stored as convolutions with a kernel of one
POINTWISE = (".expand.weight", ".residual.weight", ".skip.weight", ".bottleneck.weight", ".head.weight")

# asteroid's names of what the shapes tell, and of what they do not
SIZES = {
    "n_filters": "num_filters", "kernel_size": "kernel_size", "bn_chan": "bottleneck_channels",
    "hid_chan": "hidden_channels", "skip_chan": "skip_channels", "conv_kernel_size": "conv_kernel_size",
    "n_src": "num_sources",
}  # fmt: skip
STATED = {
    "stride": "stride", "sample_rate": "sampling_rate", "n_blocks": "num_blocks", "n_repeats": "num_repeats",
    "norm_type": "norm", "mask_act": "mask_activation", "encoder_activation": "encoder_activation", "causal": "causal",
}  # fmt: skip


def check(overrides: Mapping[str, Any]) -> None:
    """Refuses overrides that no checkpoint of the system could take, before there is one.

    Raises:
        ConversionError: naming the override.
    """
    check_overrides(overrides, ConvTasNetConfig)


def convert(
    source: Path, output: Path | None = None, *, licence: str | None = None, **overrides: Any
) -> ConvTasNetForAudioSeparation:
    """Converts a Conv-TasNet checkpoint; see `hubsep.conversion.convert`.

    Args:
        source: asteroid's `pytorch_model.bin` or the folder it is in, torchaudio's state dict, or a `.safetensors`
            file of either's keys.
        output: folder to write.
        licence: of the weights.
        overrides: fields of `ConvTasNetConfig` that the source does not state. Bare weights take the published ones
            unless set: masks by "relu", for causal ones the norm "cln", half a kernel as the stride.
    """
    check(overrides)
    file = weights_file(source, ConvTasNetConfig.model_type, WEIGHTS_FILES)
    tensors = read_tensors(file, mapped=False)  # two thirds are joined below: as pages they would be there twice
    names, stored = frozenset(tensors), _renamed(tensors, file)
    del tensors
    blocks = count_of(stored, r"masker\.blocks\.(\d+)\.")
    config = _config(_facts(names, stored), blocks, _stated(names, file), overrides)
    with torch.device("meta"):
        model = ConvTasNetForAudioSeparation(config)
    fill(model, _state(stored, config))
    if output is not None:
        _check_note(names, file, licence)
        paper = SYSTEMS["conv_tasnet"].paper
        write(
            output, model, card(title="Conv-TasNet", tag="conv_tasnet", paper=paper, licence=licence, sources=[file])
        )
    return model


def _is_asteroid(names: Iterable[str]) -> bool:
    return any(name.startswith(("encoder.filterbank.", "masker.")) for name in names)


def _renamed(tensors: dict[str, Tensor], file: Path) -> dict[str, Tensor]:
    """All tensors by our names, residual and skip convolutions still apart, and without axes of one."""
    if not _is_asteroid(tensors) and not any(name.startswith("mask_generator.") for name in tensors):
        raise ConversionError(f"{shown(file.name)} holds no Conv-TasNet, but {offenders(list(tensors))}")
    whole = [name for name, tensor in tensors.items() if not tensor.is_floating_point()]
    if whole:
        raise ConversionError(f"kinds of numbers do not fit: there are whole numbers in {offenders(whole)}")
    stored = rename(tensors, ASTEROID if _is_asteroid(tensors) else TORCHAUDIO)
    for name, tensor in stored.items():
        is_filterbank = name in ("encoder.weight", "decoder.weight") or name.endswith(".kernel")
        if not is_filterbank and not name.endswith(POINTWISE):
            continue
        axis = 1 if is_filterbank else 2
        if shape_of(stored, name, 3)[axis] != 1:
            raise ConversionError(f"{shown(name)} has the shape {tuple(tensor.shape)}; axis {axis} must be 1")
        tensor = tensor.squeeze(axis)
        stored[name] = tensor if name == "encoder.weight" or not is_filterbank else tensor.t()
    return stored


def _stated(names: Iterable[str], file: Path) -> dict[str, Any] | None:
    """The fields a file states beside its weights, in asteroid's names and values; None if it states nothing."""
    metadata = read_metadata(file) if _is_asteroid(names) else {}
    name, arguments = metadata.get("model_name", "ConvTasNet"), metadata.get("model_args")
    if name != "ConvTasNet":
        raise ConversionError(f"{shown(file.name)} is a {shown(name)}, not a ConvTasNet")
    if arguments is None:
        return None
    if not isinstance(arguments, Mapping):
        raise ConversionError(f"model_args of {shown(file.name)} is a {type(arguments).__name__}, not a table")
    if str(arguments.get("fb_name", "free")).lower() not in ("free", "freefb"):
        raise ConversionError(f"{shown(file.name)} has the filterbank {shown(arguments['fb_name'])}, not a free one")
    return dict(arguments)


def _check_note(names: Iterable[str], file: Path, licence: str | None) -> None:
    """Asteroid's files hold a notice of the model's licence and a table of those of the data it was trained on."""
    metadata = read_metadata(file) if _is_asteroid(names) else {}
    name, note, data = check_licence(licence), metadata.get("license_note"), metadata.get("licenses")
    check_stated(name, stated_in(note) if isinstance(note, str) else None, f"the note in {shown(file.name)}")
    barred = any(isinstance(row, Mapping) and row.get("non_commercial") is True for row in data or ())
    if barred and allows_commercial_use(name):
        raise LicenceError(
            f"licence {name} allows commercial use, and {shown(file.name)} says that what it was trained on does not: "
            "pass a non-commercial one, or 'unknown'"
        )


def _facts(names: Iterable[str], stored: Mapping[str, Tensor]) -> dict[str, Any]:
    """What names and shapes tell, as fields of the configuration."""
    num_filters, kernel_size = shape_of(stored, "encoder.weight", 2)
    bottleneck, _ = shape_of(stored, "masker.bottleneck.weight", 2)
    conv_kernel_size, hidden = shape_of(stored, "masker.blocks.0.kernel", 2)
    outputs, _ = shape_of(stored, "masker.head.weight", 2)
    if num_filters == 0 or outputs % num_filters:
        raise ConversionError(f"masker.head.weight makes {outputs} masks, which {num_filters} filters do not divide")
    skip = "masker.blocks.0.skip.weight"
    family = (
        {"pad_edges": False} if _is_asteroid(names) else {"pad_edges": True, "stride": kernel_size // 2, "norm": "gln"}
    )
    return {
        **family,
        "num_sources": outputs // num_filters,
        "num_filters": num_filters,
        "kernel_size": kernel_size,
        "bottleneck_channels": bottleneck,
        "hidden_channels": hidden,
        "skip_channels": shape_of(stored, skip, 2)[0] if skip in stored else 0,
        "conv_kernel_size": conv_kernel_size,
        "causal": any(".shared_block.3.0." in name for name in names),
    }


def _config(
    facts: dict[str, Any], blocks: int, stated: Mapping[str, Any] | None, overrides: Mapping[str, Any]
) -> ConvTasNetConfig:
    fields = facts if stated is None else {**facts, **_from_arguments(stated, facts)}
    for name, value in overrides.items():
        if name in fields and fields[name] != value:
            raise ConversionError(f"{name} is {shown(fields[name])} in the source; it cannot be {shown(value)}")
    fields = {**fields, **overrides}
    fields = {**_assumed(fields, blocks, stated is not None), **fields}
    for name in ("num_blocks", "sampling_rate"):
        if name not in fields:
            raise ConversionError(f"these weights do not tell {name}; set {name}=N")
    with conversion_errors("the configuration of Conv-TasNet"):
        config = ConvTasNetConfig(**fields)
    if config.num_blocks * config.num_repeats != blocks:
        raise ConversionError(
            f"the source holds {blocks} blocks, not {config.num_repeats} repeats of {config.num_blocks}"
        )
    return config


def _assumed(fields: Mapping[str, Any], blocks: int, is_stated: bool) -> dict[str, Any]:
    """What holds where neither the source nor an override says anything."""
    kernel_size, rate = fields["kernel_size"], fields.get("sampling_rate")
    assumed: dict[str, Any] = {"stride": max(kernel_size // 2, 1), "mask_activation": "relu"}
    assumed["norm"] = "cln" if fields["causal"] else "gln"
    if rate is None:
        rate = ASTEROID_RATE if is_stated else PUBLISHED_RATES.get(kernel_size)
        assumed.update({} if rate is None else {"sampling_rate": rate})
    if isinstance(rate, int):
        assumed.update(segment_samples=SEGMENT_SECONDS * rate, overlap_samples=OVERLAP_SECONDS * rate)
    parts = {"num_blocks": PUBLISHED_BLOCKS, "num_repeats": PUBLISHED_REPEATS}
    counts = {name: fields[name] for name in parts if isinstance(fields.get(name), int) and fields[name] > 0}
    if not counts and blocks == PUBLISHED_BLOCKS * PUBLISHED_REPEATS:
        return {**assumed, **parts}
    if len(counts) == 1:
        assumed.update({name: blocks // value for value in counts.values() for name in parts if name not in counts})
    return assumed


def _from_arguments(arguments: Mapping[str, Any], facts: Mapping[str, Any]) -> dict[str, Any]:
    """Fields from asteroid's arguments, which must agree with the shapes."""
    for name, field in SIZES.items():
        value = arguments.get(name, facts[field])
        if (value or 0) != facts[field]:
            raise ConversionError(f"model_args has {name} {shown(value)}, but the weights have {facts[field]}")
    fields = {field: arguments[name] for name, field in STATED.items() if name in arguments}
    for field in ("norm", "mask_activation", "encoder_activation"):
        if field in fields:
            fields[field] = "linear" if fields[field] is None else str(fields[field]).lower()
    rate = fields.get("sampling_rate")
    if isinstance(rate, float) and rate.is_integer():
        fields["sampling_rate"] = int(rate)
    if "mask_activation" not in fields:
        raise ConversionError("model_args has no mask_act, and asteroid's default has changed: set mask_activation=")
    if fields.get("causal", facts["causal"]) is not facts["causal"]:
        raise ConversionError(
            f"causal is {facts['causal']} in the weights' names, {shown(fields['causal'])} in model_args"
        )
    if facts["causal"] and fields.get("norm") not in ("cln", "cgln"):
        fields["norm"] = "cln"  # as asteroid does
    return fields


def _state(stored: dict[str, Tensor], config: ConvTasNetConfig) -> dict[str, Tensor]:
    """Residual and skip convolution of each block as one product, out of `stored`; the last residual is dropped."""
    state = {name: tensor for name, tensor in stored.items() if ".residual." not in name and ".skip." not in name}
    last = config.num_blocks * config.num_repeats - 1
    for index in range(last + 1):
        parts = ["skip"] if config.skip_channels else []
        if index < last or not parts:
            parts.insert(0, "residual")
        for leaf in ("weight", "bias"):
            names = [f"masker.blocks.{index}.{part}.{leaf}" for part in parts]
            missing = [name for name in names if name not in stored]
            if missing:
                raise ConversionError(f"the source is missing {offenders(missing)}")
            state[f"masker.blocks.{index}.project.{leaf}"] = torch.cat([stored.pop(name) for name in names])
    return state


__all__ = ["check", "convert"]
