# SPDX-License-Identifier: Apache-2.0
"""The ends of AudioLDM 2's autoencoder and vocoder in float32, where the models are in half precision.

A spectrogram is a logarithm down to -11.5, which bfloat16 rounds by up to 0.03, a quarter of a decibel; a sample it
rounds to eight bits. Both are made by a last convolution to one channel, and the spectrogram is read by one from 64
bands: in float32 these three cost next to nothing. What is between them stays in half precision.

In float32 the models are called as they are, and so they are where their layers are moved one by one (sequential
offloading), since then a layer's weights are there only while it is called.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from hubsep.pipelines.audioldm2_processor import on_processor
from hubsep.pipelines.audioldm2_vocoding import hidden_states, runs_here


def decoded(vae: Any, latents: Tensor) -> Tensor:
    """What the autoencoder makes of latents, in float32.

    Args:
        vae: of diffusers.
        latents: (batch, channels, latent frames, latent bands), as the autoencoder scales them.

    Returns:
        (batch, 1, frames, bands).
    """
    latents = latents.to(vae.dtype)
    last = vae.decoder.conv_out
    if vae.dtype == torch.float32 or hasattr(last, "_hf_hook"):
        found: Tensor = vae.decode(latents).sample
        return found.float()
    vae.decoder.conv_out = InFloat32(last)
    try:
        # on a CPU, convolutions of half precision are faster with the channels last
        latents = latents.contiguous(memory_format=torch.channels_last)
        with on_processor(vae, latents.device):
            found = vae.decode(latents).sample
    finally:
        vae.decoder.conv_out = last
    return found.contiguous()


def vocoded(vocoder: Any, mel: Tensor, known: Tensor | None = None) -> Tensor:
    """The waveform (batch, samples) of a mel spectrogram (batch, frames, bands), in float32.

    `known` is that of the first frames, for a vocoder whose waveform is not settled by what is near alone.
    """
    if getattr(vocoder, "continues", False):
        whole: Tensor = vocoder(mel, known=known)
        return whole
    if vocoder.dtype == torch.float32 or hasattr(vocoder.conv_pre, "_hf_hook"):
        found: Tensor = vocoder(mel.to(vocoder.dtype))
        return found.float()
    dtype = vocoder.dtype
    if vocoder.config.normalize_before:
        mel = (mel - vocoder.mean.float()) / vocoder.scale.float()
    states = InFloat32(vocoder.conv_pre)(mel.transpose(1, 2)).to(dtype)
    states = hidden_states(vocoder, states) if runs_here(vocoder, states) else _hidden_states(vocoder, states)
    return InFloat32(vocoder.conv_post)(functional.leaky_relu(states)).tanh()[:, 0]


def _hidden_states(vocoder: Any, states: Tensor) -> Tensor:
    """What the vocoder has before its last convolution, by its own layers."""
    slope, kinds = vocoder.config.leaky_relu_slope, vocoder.num_kernels
    for stage, upsampler in enumerate(vocoder.upsampler):
        states = upsampler(functional.leaky_relu(states, slope))
        blocks = vocoder.resblocks[stage * kinds : (stage + 1) * kinds]
        total = blocks[0](states)
        for block in blocks[1:]:
            total += block(states)
        states = total / kinds
    return states


class InFloat32(nn.Module):
    """A convolution whose weights are in half precision, at work in float32."""

    def __init__(self, convolution: Any):
        super().__init__()
        self.convolution = convolution

    def forward(self, states: Tensor) -> Tensor:
        """As the convolution's."""
        own = self.convolution
        work = functional.conv2d if isinstance(own, nn.Conv2d) else functional.conv1d
        bias = None if own.bias is None else own.bias.float()
        return work(states.float(), own.weight.float(), bias, own.stride, own.padding, own.dilation, own.groups)


__all__ = ["decoded", "vocoded"]
