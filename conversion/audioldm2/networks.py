# SPDX-License-Identifier: Apache-2.0
"""AudioLDM 2's U-Net: its sizes, from the shapes alone, and diffusers' model of it.

At every place of attention there is a chain of transformers: one without a context, then one for each context. A
context's width is that of the keys it makes; one whose keys are as wide as the level itself at every level has no
context and attends to itself. Heads are 32 wide, so their number grows with the channels: diffusers' default, eight
everywhere, gives another result from the same weights (0.08 on outputs of 0.58).

Also here: AudioLDM 2's VAE and vocoder, which its file keeps together as the first stage.

`scale_factor`, one over the spread of the latents of the first batch it was trained on, becomes the VAE's
`scaling_factor`. No shape tells the vocoder's rates, dilations and sampling rate: they are known of the two published
ones, of 16 and 48 kHz, and must be set for others.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor
from transformers import SpeechT5HifiGan, SpeechT5HifiGanConfig

from hubsep.errors import ConversionError
from hubsep.hub.bounds import shown

from ..common import count_of, shape_of
from .fields import filled, merged, required
from .names import UNET, VAE, VOCODER, forward, squeezed, unet_pairs, vae_pairs, vocoder_pairs


RATES = {(16, 16, 8, 4, 4): [5, 4, 2, 2, 2], (12, 10, 8, 4, 4): [6, 5, 4, 2, 2]}  # by the kernels
DILATIONS = {3: [1, 3, 5]}  # by their number
SAMPLING_RATES = {64: 16_000, 256: 48_000}  # by the mel bands


def convert_vae(tensors: Mapping[str, Tensor], scale_factor: Tensor, overrides: Mapping[str, Any]) -> Any:
    """The VAE.

    Args:
        tensors: by the authors' names, the VAE's alone.
        scale_factor: of its latents.
        overrides: fields of its configuration.
    """
    from diffusers import AutoencoderKL

    fields = {**vae_fields(tensors), "scaling_factor": _scaling(scale_factor)}
    fields = merged("vae", fields, overrides, AutoencoderKL)
    fields.setdefault("norm_num_groups", GROUPS)
    pairs = vae_pairs(fields)
    return filled(
        "vae",
        lambda: AutoencoderKL(**fields),
        lambda: forward(tensors, pairs, VAE, squeezed(fields, pairs)),
    )


def _scaling(scale_factor: Tensor) -> float:
    value = float(scale_factor) if scale_factor.numel() == 1 else float("nan")
    if not 0 < value < float("inf"):
        raise ConversionError(f"scale_factor is {value} of shape {tuple(scale_factor.shape)}; it must be above 0")
    return value


def vae_fields(tensors: Mapping[str, Tensor]) -> dict[str, Any]:
    """Fields of the configuration that the shapes tell."""
    levels = count_of(tensors, rf"{VAE}encoder\.down\.(\d+)\.")
    if not levels:
        raise ConversionError(f"the source is missing the levels of the VAE ({VAE}encoder.down)")
    places = [f"{VAE}encoder.down.{level}.block.0.conv1.weight" for level in range(levels)]
    return {
        "in_channels": shape_of(tensors, f"{VAE}encoder.conv_in.weight", 4)[1],
        "out_channels": shape_of(tensors, f"{VAE}decoder.conv_out.weight", 4)[0],
        "latent_channels": shape_of(tensors, f"{VAE}post_quant_conv.weight", 4)[1],
        "block_out_channels": [shape_of(tensors, place, 4)[0] for place in places],
        "layers_per_block": count_of(tensors, rf"{VAE}encoder\.down\.0\.block\.(\d+)\."),
        "down_block_types": ["DownEncoderBlock2D"] * levels,
        "up_block_types": ["UpDecoderBlock2D"] * levels,
    }


def convert_vocoder(tensors: Mapping[str, Tensor], overrides: Mapping[str, Any]) -> SpeechT5HifiGan:
    """The vocoder; the mean and scale that its class has places for are not used and set to do nothing.

    Args:
        tensors: by the authors' names, the vocoder's alone.
        overrides: fields of its configuration.
    """
    fields = merged("vocoder", vocoder_fields(tensors), overrides, SpeechT5HifiGanConfig)
    bands, kernels = fields["model_in_dim"], tuple(fields["upsample_kernel_sizes"])
    dilation = DILATIONS.get(count_of(tensors, r"first_stage_model\.vocoder\.resblocks\.0\.convs1\.(\d+)\."))
    sizes = [dilation] * len(fields["resblock_kernel_sizes"]) if dilation else None
    required("vocoder", fields, "upsample_rates", RATES.get(kernels))
    required("vocoder", fields, "resblock_dilation_sizes", sizes)
    required("vocoder", fields, "sampling_rate", SAMPLING_RATES.get(bands))
    if len(fields["upsample_rates"]) != len(kernels):
        raise ConversionError(
            f"vocoder: upsample_rates are {shown(fields['upsample_rates'])}, but the source has {len(kernels)} steps "
            "of upsampling"
        )
    unused = {"mean": torch.zeros(bands), "scale": torch.ones(bands)}
    return filled(
        "vocoder",
        lambda: SpeechT5HifiGan(SpeechT5HifiGanConfig(**fields, normalize_before=False)),
        lambda: {**forward(tensors, vocoder_pairs(fields), VOCODER), **unused},
    )


def vocoder_fields(tensors: Mapping[str, Tensor]) -> dict[str, Any]:
    """Fields of the configuration that the shapes tell."""
    first, bands, _ = shape_of(tensors, f"{VOCODER}conv_pre.weight", 3)
    stages = count_of(tensors, rf"{VOCODER}ups\.(\d+)\.")
    blocks = count_of(tensors, rf"{VOCODER}resblocks\.(\d+)\.")
    if not stages or blocks % stages:
        raise ConversionError(f"vocoder: {blocks} residual blocks do not go with {stages} steps of upsampling")
    kernels = [f"{VOCODER}resblocks.{block}.convs1.0.weight" for block in range(blocks // stages)]
    return {
        "model_in_dim": bands,
        "upsample_initial_channel": first,
        "upsample_kernel_sizes": [shape_of(tensors, f"{VOCODER}ups.{n}.weight", 3)[2] for n in range(stages)],
        "resblock_kernel_sizes": [shape_of(tensors, kernel, 3)[2] for kernel in kernels],
    }


HEAD_WIDTH = 32
GROUPS = 32
MEL_FRAMES = 1_024  # 10.24 s, the length of every published model


def convert_unet(tensors: Mapping[str, Tensor], overrides: Mapping[str, Any], vae_scale: int) -> Any:
    """The U-Net.

    Args:
        tensors: by the authors' names, the U-Net's alone.
        overrides: fields of its configuration.
        vae_scale: mel frames for one frame of latents, which the length it was trained on follows from.
    """
    from diffusers.pipelines.audioldm2 import AudioLDM2UNet2DConditionModel

    fields = {**unet_fields(tensors), "sample_size": overrides.get("sample_size", MEL_FRAMES // vae_scale)}
    fields = merged("unet", fields, overrides, AudioLDM2UNet2DConditionModel)
    if "attention_head_dim" not in fields:
        fields["attention_head_dim"] = original_heads(fields)
    fields.setdefault("norm_num_groups", GROUPS)
    return filled(
        "unet",
        lambda: AudioLDM2UNet2DConditionModel(**fields),
        lambda: forward(tensors, unet_pairs(fields), UNET),
    )


def original_heads(fields: Mapping[str, Any]) -> list[int]:
    """Heads of each level, of the original's width; a level without attention gets a number nobody reads.

    Raises:
        ConversionError: that width does not divide a level that attends.
    """
    heads = []
    for channels, kind in zip(fields["block_out_channels"], fields["down_block_types"], strict=True):
        if channels % HEAD_WIDTH and kind.startswith("CrossAttn"):
            raise ConversionError(
                f"unet: {channels} channels are no multiple of {HEAD_WIDTH}, the width of the published models' "
                "heads, and no weight tells another: set unet={attention_head_dim: [HEADS OF EACH LEVEL]}"
            )
        heads.append(max(1, channels // HEAD_WIDTH))
    return heads


def unet_fields(tensors: Mapping[str, Tensor]) -> dict[str, Any]:
    """Fields of the configuration that the shapes tell.

    Raises:
        ConversionError: a tensor that sizes are read from is missing, or the blocks are not those of a U-Net.
    """
    base, latents = shape_of(tensors, f"{UNET}input_blocks.0.0.weight", 4)[:2]
    levels = count_of(tensors, rf"{UNET}input_blocks\.(\d+)\.0\.op\.") + 1
    blocks = count_of(tensors, rf"{UNET}input_blocks\.(\d+)\.")
    if blocks % levels or blocks // levels < 2:
        raise ConversionError(f"unet: {blocks} input blocks do not make {levels} levels of equally many layers")
    layers = blocks // levels - 1
    firsts = [f"{UNET}input_blocks.{1 + level * (layers + 1)}" for level in range(levels)]
    channels = [shape_of(tensors, f"{first}.0.out_layers.3.weight", 4)[0] for first in firsts]
    attending = [f"{first}.1.norm.weight" in tensors for first in firsts]
    chains = count_of(tensors, rf"{UNET}middle_block\.(\d+)\.") - 2
    fields: dict[str, Any] = {
        "in_channels": latents,
        "out_channels": shape_of(tensors, f"{UNET}out.2.weight", 4)[0],
        "block_out_channels": channels,
        "layers_per_block": layers,
        "down_block_types": ["CrossAttnDownBlock2D" if here else "DownBlock2D" for here in attending],
        "up_block_types": ["CrossAttnUpBlock2D" if here else "UpBlock2D" for here in attending[::-1]],
        "cross_attention_dim": [_contexts(tensors, firsts, attending, chains)] * levels,
        "transformer_layers_per_block": count_of(tensors, rf"{UNET}middle_block\.1\.transformer_blocks\.(\d+)\."),
    }
    if channels[0] != base:
        raise ConversionError(f"unet: the first level has {channels[0]} channels behind a stem of {base}")
    if f"{UNET}film_emb.weight" in tensors:
        fields.update(
            class_embed_type="simple_projection",
            projection_class_embeddings_input_dim=shape_of(tensors, f"{UNET}film_emb.weight", 2)[1],
            class_embeddings_concat=True,
        )
    return fields


def _contexts(
    tensors: Mapping[str, Tensor], firsts: list[str], attending: list[bool], chains: int
) -> list[int | None]:
    """Width of the context of each transformer of a chain, None for one that attends to itself."""
    places = [first for first, here in zip(firsts, attending, strict=True) if here]
    contexts: list[int | None] = []
    for chain in range(1, chains + 1):
        keys = [f"{place}.{chain}.transformer_blocks.0.attn2.to_k.weight" for place in places]
        keys.append(f"{UNET}middle_block.{chain}.transformer_blocks.0.attn2.to_k.weight")
        shapes = [shape_of(tensors, key, 2) for key in keys]
        widths = {width for _, width in shapes}
        if all(width == channels for channels, width in shapes):
            contexts.append(None)
        elif len(widths) == 1:
            contexts.append(widths.pop())
        else:
            raise ConversionError(f"unet: transformer {chain} of a place has contexts of {shown(sorted(widths))}")
    if len(contexts) < 2 or contexts[0] is not None:
        raise ConversionError(
            f"unet: the contexts of a place are {shown(contexts)}; a chain begins without one and has others behind it"
        )
    return contexts


__all__ = [
    "HEAD_WIDTH",
    "convert_unet",
    "convert_vae",
    "convert_vocoder",
    "original_heads",
    "unet_fields",
    "vae_fields",
    "vocoder_fields",
]
