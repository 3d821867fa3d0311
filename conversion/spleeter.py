# SPDX-License-Identifier: Apache-2.0
"""Spleeter's published checkpoints to `SpleeterForAudioSeparation`.

A source is the published folder (`checkpoint`, `model.index`, `model.data-00000-of-00001`), the `.tar.gz` it comes in,
a folder of one's own training (`model.ckpt-<step>.*`), or a `.safetensors` file of the same names with a dot for each
slash. Variables are numbered through all stems; channels and the number of stems come from names and shapes. What
they do not tell, the names of the stems and the activations, is taken from the published models where there are 2, 4
or 5 stems, with a warning, and must be set otherwise. Dropped on purpose: what optimisers stored, and the sixth norm
on the way down, which changes nothing.
"""

from __future__ import annotations

import re
import tempfile
import warnings
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, BinaryIO

import torch
from torch import Tensor

from hubsep.errors import ConversionError
from hubsep.hub.bounds import shown
from hubsep.models.spleeter.configuration_spleeter import DEPTH, SpleeterConfig
from hubsep.models.spleeter.modeling_spleeter import SpleeterForAudioSeparation
from hubsep.registry import SYSTEMS

from .archives import is_gzip, members
from .common import (
    KeyTable,
    check_overrides,
    conversion_errors,
    fill,
    offenders,
    read_tensors,
    refuse_converted,
    rename,
    shape_of,
)
from .tensorflow_bundle import DATA_SUFFIX, MAX_CHECKPOINT_BYTES, MAX_INDEX_BYTES, bundle_name, read_bundle
from .writing import card, write


# how many layers of a kind a stem has
LAYERS = {"conv2d": DEPTH + 1, "conv2d_transpose": DEPTH, "batch_normalization": 2 * DEPTH}
LEAVES = "kernel|bias|gamma|beta|moving_mean|moving_variance"
# after numbering: `<stem>.<kind>.<layer>.<leaf>`
STEM, NORM = r"(?P<stem>\d+)", {"gamma": "weight", "beta": "bias"}
STATISTICS = {"moving_mean": "running_mean", "moving_variance": "running_var"}
KEYS: KeyTable = [
    (r".*\.(Adam|Adadelta|Momentum)(_\d)?|beta[12]_power|global_step", None),
    (rf"{STEM}\.conv2d\.6\.kernel", "unets.{stem}.head.weight"),
    (rf"{STEM}\.conv2d\.6\.bias", "unets.{stem}.head.bias"),
    (rf"{STEM}\.conv2d\.(?P<layer>\d)\.kernel", "unets.{stem}.encoder.{layer}.conv.weight"),
    (rf"{STEM}\.conv2d\.(?P<layer>\d)\.bias", "unets.{stem}.encoder.{layer}.conv.bias"),
    (rf"{STEM}\.conv2d_transpose\.(?P<layer>\d)\.kernel", "unets.{stem}.decoder.{layer}.conv.weight"),
    (rf"{STEM}\.conv2d_transpose\.(?P<layer>\d)\.bias", "unets.{stem}.decoder.{layer}.conv.bias"),
    (rf"{STEM}\.batch_normalization\.5\.(gamma|beta|moving_mean|moving_variance)", None),
    *(
        (rf"{STEM}\.batch_normalization\.{layer}\.{theirs}", f"unets.{{stem}}.{place}.norm.{ours}")
        for layer, place in enumerate([f"{side}.{i}" for side in ("encoder", "decoder") for i in range(DEPTH)])
        for theirs, ours in {**NORM, **STATISTICS}.items()
        if layer != DEPTH - 1
    ),
]
ELU: dict[str, Any] = {"encoder_activation": "elu", "decoder_activation": "elu"}
PUBLISHED: dict[int, dict[str, Any]] = {
    2: {
        "stems": ["vocals", "accompaniment"],
        "mask_activation": "sigmoid",
        "encoder_activation": "leaky_relu",
        "decoder_activation": "relu",
    },
    4: {"stems": ["vocals", "drums", "bass", "other"], "mask_activation": "sigmoid", **ELU},
    5: {"stems": ["vocals", "piano", "drums", "bass", "other"], "mask_activation": "softmax", **ELU},
}


def check(overrides: Mapping[str, Any]) -> None:
    """Refuses overrides that no checkpoint of the system could take, before there is one.

    Raises:
        ConversionError: naming the override.
    """
    check_overrides(overrides, SpleeterConfig)


def convert(
    source: Path, output: Path | None = None, *, licence: str | None = None, **overrides: Any
) -> SpleeterForAudioSeparation:
    """Converts a Spleeter checkpoint; see `hubsep.conversion.convert`.

    Args:
        source: the published folder or its `.tar.gz`, or a `.safetensors` file of the same names.
        output: folder to write.
        licence: of the weights.
        overrides: fields of `SpleeterConfig` that the weights do not tell, such as `stems`, or `num_bins` (1536 for
            the published variants up to 16 kHz, which have the same weights).
    """
    check(overrides)
    tensors, files = _read(source)
    state = rename({_numbered(name): tensor for name, tensor in tensors.items()}, KEYS)
    del tensors
    config = _config(state, overrides)
    with torch.device("meta"):
        model = SpleeterForAudioSeparation(config)
    fill(model, state)
    if output is not None:
        paper = SYSTEMS["spleeter"].paper
        write(output, model, card(title="Spleeter", tag="spleeter", paper=paper, licence=licence, sources=files))
    return model


def _read(source: Path) -> tuple[dict[str, Tensor], list[Path]]:
    """All tensors by their names with dots, kernels turned, and the files they are from."""
    if source.is_dir():
        return _read_folder(source)
    if source.suffix == ".safetensors":
        return _all_turned(read_tensors(source).items()), [source]
    if not source.is_file():
        raise ConversionError(f"{shown(str(source), 200)} is neither a file nor a folder")
    if not is_gzip(source):
        raise ConversionError(
            f"{shown(source.name)} was not opened: it is no .tar.gz and no .safetensors; give the folder that "
            "checkpoint, model.index and model.data-00000-of-00001 lie in"
        )
    return _read_archive(source), [source]


def _read_folder(folder: Path) -> tuple[dict[str, Tensor], list[Path]]:
    refuse_converted(folder, SpleeterConfig.model_type)
    checkpoint, label = folder / "checkpoint", shown(folder.name)
    stated = _whole(checkpoint, MAX_CHECKPOINT_BYTES) if checkpoint.is_file() else None
    name = bundle_name(stated, [path.name for path in folder.iterdir() if path.is_file()], label)
    index, data = folder / f"{name}.index", folder / f"{name}{DATA_SUFFIX}"
    with data.open("rb") as file:
        bundle = read_bundle(_whole(index, MAX_INDEX_BYTES), file, data.stat().st_size, label, _to_be_turned)
        return _all_turned(bundle), [index, data]


def _whole(path: Path, limit: int) -> bytes:
    size = path.stat().st_size
    if size > limit:
        raise ConversionError(f"{shown(path.name)} has {size} bytes; at most {limit} are read")
    return path.read_bytes()


def _read_archive(source: Path) -> dict[str, Tensor]:
    """Tensors of the bundle in a `.tar.gz`; its data goes through a file without a name."""
    label = shown(source.name)
    small: dict[str, bytes] = {}
    large: dict[str, BinaryIO] = {}
    try:
        for member in members(source):
            if member.name in small or member.name in large:
                raise ConversionError(f"{label} holds {shown(member.name)} twice")
            if member.name.startswith("._"):  # what macOS puts beside each file
                continue
            if member.name.endswith(DATA_SUFFIX):
                large[member.name] = tempfile.TemporaryFile()  # noqa: SIM115 - closed below, however this ends
                for block in member.blocks():
                    large[member.name].write(block)
            elif member.name == "checkpoint" or member.name.endswith(".index"):
                if member.size > MAX_INDEX_BYTES:
                    raise ConversionError(f"{label} has a {shown(member.name)} of {member.size} bytes")
                small[member.name] = b"".join(member.blocks())
        name = bundle_name(small.get("checkpoint"), [*small, *large], label)
        data = large[name + DATA_SUFFIX]
        return _all_turned(read_bundle(small[f"{name}.index"], data, data.seek(0, 2), label, _to_be_turned))
    finally:
        for file in large.values():
            file.close()


def _numbered(name: str) -> str:
    """`conv2d_8.kernel` as `1.conv2d.1.kernel`: the second stem's second; other names as they are."""
    match = re.fullmatch(rf"(conv2d|conv2d_transpose|batch_normalization)(?:_([1-9]\d{{0,5}}))?\.({LEAVES})", name)
    if match is None:
        return name
    stem, layer = divmod(int(match[2] or 0), LAYERS[match[1]])
    return f"{stem}.{match[1]}.{layer}.{match[3]}"


def _config(state: Mapping[str, Tensor], overrides: Mapping[str, Any]) -> SpleeterConfig:
    numbers = {int(match[1]) for name in state if (match := re.match(r"unets\.(\d+)\.", name))}
    if not numbers:
        raise ConversionError(f"the source holds no Spleeter, but {offenders(list(state)) or 'no weights'}")
    num_stems = max(numbers) + 1
    channels = [shape_of(state, f"unets.0.encoder.{layer}.conv.weight", 4)[0] for layer in range(DEPTH)]
    if list(overrides.get("conv_channels", channels)) != channels:
        raise ConversionError(f"conv_channels is {channels} in the source; it cannot be {overrides['conv_channels']}")
    assumed = PUBLISHED.get(num_stems, {})
    fields = {**assumed, "conv_channels": channels, **overrides}
    missing = [name for name in PUBLISHED[2] if name not in fields]
    if missing:
        raise ConversionError(
            f"the weights have {num_stems} stems and do not tell {', '.join(missing)}; only for 2, 4 and 5 stems "
            f"there are published values: set {missing[0]}=..."
        )
    guessed = {name: value for name, value in assumed.items() if name not in overrides}
    if guessed:
        listing = ", ".join(f"{name}={value}" for name, value in guessed.items())
        warnings.warn(f"the weights do not tell these, the published values are taken: {listing}", stacklevel=4)
    with conversion_errors("the configuration of Spleeter"):
        config = SpleeterConfig(**fields)
    if config.num_sources != num_stems:
        raise ConversionError(f"the source has {num_stems} stems; stems= names {config.num_sources}")
    return config


def _all_turned(tensors: Iterable[tuple[str, Tensor]]) -> dict[str, Tensor]:
    """Turns each as soon as it is read."""
    return {name: _turned(tensor) for name, tensor in tensors}


def _turned(tensor: Tensor) -> Tensor:
    """Kernels from (height, width, ...) to (..., height, width), the other axes turned around."""
    return tensor.permute(3, 2, 0, 1).contiguous() if tensor.ndim == 4 else tensor


def _to_be_turned(shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
    """A tensor whose numbers lie in memory as they will when it is turned, so that it need not be copied then."""
    if len(shape) != 4:
        return torch.empty(shape, dtype=dtype)
    height, width, *others = shape
    return torch.empty(*others[::-1], height, width, dtype=dtype).permute(2, 3, 1, 0)


__all__ = ["check", "convert"]
