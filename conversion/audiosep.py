# SPDX-License-Identifier: Apache-2.0
"""AudioSep's published checkpoints to `AudioSepForAudioSeparation`.

Layouts: the Lightning `.ckpt` (separator under `ss_model.`, CLAP under `query_encoder.model.`), the folder a
`PyTorchModelHubMixin` export makes of the same keys, and the separator alone, which needs `clap=FILE` beside it. Sizes
come from the shapes; the hop and the text heads cannot, and are the published ones unless set. Dropped on purpose: the
Fourier transform as convolution kernels, once they are known to be just that, and in each decoder block a norm and a
shift that the original never uses. The tokenizer is in no checkpoint; `tokenizer=` names its folder or repository.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from transformers import ClapTextConfig

from hubsep.errors import ConversionError, QueryError
from hubsep.hub.bounds import shown
from hubsep.hub.loading import load_any_tokenizer
from hubsep.models.audiosep.configuration_audiosep import AudioSepConfig
from hubsep.models.audiosep.modeling_audiosep import AudioSepForAudioSeparation
from hubsep.registry import SYSTEMS

from .clap import check_towers, clap_config, clap_state, clap_tensors, feature_extractor, is_clap
from .common import (
    KeyTable,
    check_overrides,
    conversion_errors,
    count_of,
    fill,
    offenders,
    read_tensors,
    rename,
    shape_of,
    weights_file,
)
from .writing import card, write


WEIGHTS_FILES = ("model.safetensors", "pytorch_model.bin")  # of a folder, the first that is there
SEPARATOR, QUERY_ENCODER = "ss_model.", "query_encoder.model."
OPTIONS = ("clap", "tokenizer")
TOKENIZER = "FacebookAI/roberta-base"
PUBLISHED_N_FFT, PUBLISHED_HOP = 2_048, 320
KERNEL_TOLERANCE = 1e-5  # torchlibrosa's float32 kernels are within 3e-8 of the exact ones

ENCODER, DECODER = r"encoder_block(?P<number>\d+)", r"decoder_block(?P<number>\d+)"
NORM, CONV, SHORTCUT = r"bn(?P<which>[12])\.(?P<leaf>.+)", r"(?P<conv>conv[12])\.weight", r"shortcut\.(?P<leaf>.+)"
SHIFT = r"beta(?P<which>[12])\.(?P<leaf>.+)"

KEYS: KeyTable = [
    (r"base\.i?stft\.conv_(real|imag)\.weight|base\.istft\.ola_window", None),
    (r"base\.bn0\.(?P<leaf>.+)", "input_norm.{leaf}"),
    (r"base\.pre_conv\.(?P<leaf>.+)", "stem.{leaf}"),
    (r"base\.after_conv\.(?P<leaf>.+)", "unet.head.{leaf}"),
    (rf"base\.{ENCODER}\.conv_block1\.{NORM}", "unet.encoder.{number}.block.film{which}.norm.{leaf}"),
    (rf"base\.{ENCODER}\.conv_block1\.{CONV}", "unet.encoder.{number}.block.{conv}.weight"),
    (rf"base\.{ENCODER}\.conv_block1\.{SHORTCUT}", "unet.encoder.{number}.block.shortcut.{leaf}"),
    (rf"film\.{ENCODER}->conv_block1->{SHIFT}", "unet.encoder.{number}.block.film{which}.shift.{leaf}"),
    (rf"base\.conv_block7a\.conv_block1\.{NORM}", "unet.bottleneck.film{which}.norm.{leaf}"),
    (rf"base\.conv_block7a\.conv_block1\.{CONV}", "unet.bottleneck.{conv}.weight"),
    (rf"film\.conv_block7a->conv_block1->{SHIFT}", "unet.bottleneck.film{which}.shift.{leaf}"),
    (rf"base\.{DECODER}\.bn1\.(?P<leaf>.+)", "unet.decoder.{number}.film.norm.{leaf}"),
    (rf"base\.{DECODER}\.bn2\..+", None),
    (rf"base\.{DECODER}\.conv1\.weight", "unet.decoder.{number}.upsample.weight"),
    (rf"base\.{DECODER}\.conv_block2\.{NORM}", "unet.decoder.{number}.block.film{which}.norm.{leaf}"),
    (rf"base\.{DECODER}\.conv_block2\.{CONV}", "unet.decoder.{number}.block.{conv}.weight"),
    (rf"base\.{DECODER}\.conv_block2\.{SHORTCUT}", "unet.decoder.{number}.block.shortcut.{leaf}"),
    (rf"film\.{DECODER}->beta1\.(?P<leaf>.+)", "unet.decoder.{number}.film.shift.{leaf}"),
    (rf"film\.{DECODER}->beta2\..+", None),
    (rf"film\.{DECODER}->conv_block2->{SHIFT}", "unet.decoder.{number}.block.film{which}.shift.{leaf}"),
]


class MissingQueryEncoder(nn.Module):
    """Stands where CLAP would be in a separator converted alone, which takes `query_embeds` only."""

    def __getattr__(self, name: str) -> Any:
        if name in ("audio_model", "audio_projection", "text_model", "text_projection"):
            raise QueryError(
                "this model was converted from a file without CLAP: pass query_embeds, or convert again with clap=FILE"
            )
        return super().__getattr__(name)


def check(overrides: Mapping[str, Any]) -> None:
    """Refuses overrides that no checkpoint of the system could take, before there is one.

    Raises:
        ConversionError: naming the override.
    """
    check_overrides(overrides, AudioSepConfig, (*OPTIONS, "query_config"))
    queries, clap = overrides.get("query_config") or {}, overrides.get("clap")
    if not isinstance(queries, Mapping):
        raise ConversionError(f"query_config must be a table of text_config and audio_config, got {shown(queries)}")
    check_towers(queries)
    if clap is not None and not Path(str(clap)).is_file():
        raise ConversionError(f"{shown(str(clap), 200)} is not a file")


def convert(
    source: Path, output: Path | None = None, *, licence: str | None = None, **overrides: Any
) -> AudioSepForAudioSeparation:
    """Converts an AudioSep checkpoint; see `hubsep.conversion.convert`.

    Args:
        source: the Lightning `.ckpt`, a folder of the Hub export, or a `.safetensors` file of the same keys.
        output: folder to write.
        licence: of the weights.
        overrides: fields of `AudioSepConfig` (`query_config` only in part, as a table of `text_config` and
            `audio_config` entries); `clap`, a LAION-CLAP file for a separator that comes without; `tokenizer`, the
            folder or repository of the text tower's tokenizer, by default FacebookAI/roberta-base.
    """
    check(overrides)
    file = weights_file(source, AudioSepConfig.model_type, WEIGHTS_FILES)
    separator, clap = _parts(read_tensors(file), file)
    sources = [file]
    if overrides.get("clap") is not None:
        if clap:
            raise ConversionError(f"{shown(file.name)} holds its own CLAP; leave clap={shown(overrides['clap'])} out")
        sources.append(Path(str(overrides["clap"])))
        clap = clap_tensors(read_tensors(sources[-1]))
    if output is not None and not clap:
        raise ConversionError(f"{shown(file.name)} holds no CLAP, which turns text into queries; set clap=FILE")
    config = _config(separator, clap, overrides)
    _check_kernels(separator, config.n_fft)
    model = _model(config, separator, clap)
    if output is not None:
        from hubsep.models.audiosep.processing_audiosep import AudioSepProcessor

        query_config: Any = config.query_config
        tokenizer = _tokenizer(overrides.get("tokenizer", TOKENIZER), query_config.text_config)
        processor = AudioSepProcessor(feature_extractor(query_config), tokenizer)
        paper = SYSTEMS["audiosep"].paper
        fields = card(title="AudioSep", tag="audiosep", paper=paper, licence=licence, sources=sources)
        write(output, model, fields, processor=processor)
    return model


def _parts(tensors: dict[str, Tensor], file: Path) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Separator and CLAP, without prefixes; no CLAP if the file holds the separator alone."""
    if not any(name.startswith(SEPARATOR) for name in tensors):
        if is_clap(tensors):
            raise ConversionError(
                f"{shown(file.name)} is a CLAP checkpoint, the query encoder, not the separator. Convert "
                "audiosep_base_4M_steps.ckpt, which has CLAP inside; only for a separator without it, set clap=FILE"
            )
        if not any(name.startswith("base.") for name in tensors):
            raise ConversionError(f"{shown(file.name)} holds no AudioSep separator, but {offenders(list(tensors))}")
        return tensors, {}
    foreign = [name for name in tensors if not name.startswith((SEPARATOR, QUERY_ENCODER))]
    if foreign:
        raise ConversionError(f"{shown(file.name)} holds tensors this converter does not know: {offenders(foreign)}")
    separator, clap = (
        {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}
        for prefix in (SEPARATOR, QUERY_ENCODER)
    )
    return separator, clap


def _config(separator: dict[str, Tensor], clap: dict[str, Tensor], overrides: dict[str, Any]) -> AudioSepConfig:
    fields = _sizes(separator)
    condition = shape_of(separator, "film.encoder_block1->conv_block1->beta1.weight", 2)[1]
    queries = overrides.get("query_config") or {}
    fields["query_config"] = clap_config(clap, queries) if clap else {"projection_dim": condition}
    for name in overrides.keys() - {*OPTIONS, "query_config"}:
        if name in fields and fields[name] != overrides[name]:
            raise ConversionError(f"{name} is {fields[name]} in the weights; it cannot be {shown(overrides[name])}")
        fields[name] = overrides[name]
    if "hop_length" not in fields and fields["n_fft"] != PUBLISHED_N_FFT:
        raise ConversionError(
            f"n_fft is {fields['n_fft']}, not the published {PUBLISHED_N_FFT}, so the hop is not the published "
            f"{PUBLISHED_HOP} either, and no weight tells it: set hop_length=N"
        )
    with conversion_errors("the configuration of AudioSep"):
        config = AudioSepConfig(**fields)
    if config.condition_size != condition:
        raise ConversionError(
            f"the separator takes queries of {condition} numbers, this CLAP makes {config.condition_size}: they do "
            "not belong together"
        )
    return config


def _sizes(separator: dict[str, Tensor]) -> dict[str, Any]:
    blocks = count_of(separator, r"base\.encoder_block(\d+)\.")
    channels = [
        shape_of(separator, f"base.encoder_block{number}.conv_block1.conv1.weight", 4)[0]
        for number in range(1, blocks + 1)
    ]
    # a decoder block undoes the pooling of its encoder block, by a transposed convolution with kernel = stride
    strides = [
        list(shape_of(separator, f"base.decoder_block{number}.conv1.weight", 4)[2:]) for number in range(blocks, 0, -1)
    ]
    stem, num_channels, _, _ = shape_of(separator, "base.pre_conv.weight", 4)
    return {
        "n_fft": 2 * (shape_of(separator, "base.bn0.weight", 1)[0] - 1),
        "num_channels": num_channels,
        "stem_channels": stem,
        "encoder_channels": channels,
        "encoder_strides": strides,
    }


def _check_kernels(separator: dict[str, Tensor], n_fft: int) -> None:
    """Dropping the kernels is right only if they are the Fourier transform with a periodic Hann window."""
    bins = n_fft // 2 + 1
    shapes = {
        "base.stft.conv_real.weight": (bins, 1, n_fft),
        "base.stft.conv_imag.weight": (bins, 1, n_fft),
        "base.istft.conv_real.weight": (n_fft, n_fft, 1),
        "base.istft.conv_imag.weight": (n_fft, n_fft, 1),
        "base.istft.ola_window": (n_fft,),
    }
    stored = {name: separator[name] for name in shapes if name in separator}
    exact = _kernels(n_fft) if stored else {}
    for name, kernel in stored.items():
        right = tuple(kernel.shape) == shapes[name]
        if not right or not (kernel - exact[name]).abs().max() <= KERNEL_TOLERANCE * exact[name].abs().max():
            raise ConversionError(
                f"{name} is not the Fourier transform of {n_fft} points with a Hann window, so it cannot be replaced "
                "by one"
            )


def _kernels(n_fft: int) -> dict[str, Tensor]:
    window = torch.hann_window(n_fft, dtype=torch.float64)
    samples = torch.arange(n_fft)
    angles = 2 * torch.pi / n_fft * (samples[:, None] * samples % n_fft).double()  # (frequency, sample), symmetric
    bins = n_fft // 2 + 1
    return {
        "base.stft.conv_real.weight": (angles[:bins].cos() * window)[:, None],
        "base.stft.conv_imag.weight": (-angles[:bins].sin() * window)[:, None],
        "base.istft.conv_real.weight": (angles.cos() / n_fft * window[:, None])[..., None],
        "base.istft.conv_imag.weight": (angles.sin() / n_fft * window[:, None])[..., None],
        "base.istft.ola_window": window.square(),
    }


def _model(
    config: AudioSepConfig, separator: dict[str, Tensor], clap: dict[str, Tensor]
) -> AudioSepForAudioSeparation:
    state = rename(separator, KEYS)
    with torch.device("meta"):
        model = AudioSepForAudioSeparation(config)
    if not clap:
        model.query_encoder = MissingQueryEncoder()
    encoder = clap_state(clap, config.query_config) if clap else {}
    return fill(model, {**state, **{f"query_encoder.{name}": tensor for name, tensor in encoder.items()}})


def _tokenizer(name: str, text_config: ClapTextConfig) -> Any:
    try:
        tokenizer = load_any_tokenizer(name)
    except Exception as error:  # offline, absent and broken come as half a dozen different errors
        raise ConversionError(
            f"the tokenizer {shown(name)} could not be had: {shown(' '.join(str(error).split()), 160)}. It is not in "
            f"the checkpoint; set tokenizer= to a folder or repository that holds {TOKENIZER}'s"
        ) from error
    if len(tokenizer) > text_config.vocab_size or tokenizer.pad_token_id != text_config.pad_token_id:
        raise ConversionError(
            f"the tokenizer {shown(name)} has {len(tokenizer)} tokens and pads with {tokenizer.pad_token_id}; the "
            f"text tower has {text_config.vocab_size} and {text_config.pad_token_id}: they do not belong together"
        )
    return tokenizer


__all__ = ["MissingQueryEncoder", "check", "convert"]
