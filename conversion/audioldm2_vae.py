# SPDX-License-Identifier: Apache-2.0
"""AudioLDM 2's VAE and vocoder, which its file keeps together as the first stage.

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

from ..errors import ConversionError
from ..hub_bounds import shown
from .audioldm2_fields import filled, merged, required
from .audioldm2_names import VAE, VOCODER, forward, squeezed, vae_pairs, vocoder_pairs
from .common import count_of, shape_of


GROUPS = 32
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


__all__ = ["convert_vae", "convert_vocoder", "vae_fields", "vocoder_fields"]
