# SPDX-License-Identifier: Apache-2.0
"""The ends of AudioLDM 2's autoencoder and vocoder in float32, where the models are in half precision.

A spectrogram is a logarithm down to -11.5, which bfloat16 rounds by up to 0.03, a quarter of a decibel; a sample it
rounds to eight bits. Both are made by a last convolution to one channel, and the spectrogram is read by one from 64
bands: in float32 these three cost next to nothing. What is between them stays in half precision.

In float32 the models are called as they are, and so they are where their layers are moved one by one (sequential
offloading), since then a layer's weights are there only while it is called.

Also here: HiFi-GAN, AudioLDM 2's vocoder, in bfloat16 on a processor: the sums of transformers' with the channels
last.

torch convolves along time with the channels first, where oneDNN's dilated convolutions of five samples' distance reach
a third of what it does with the channels last (two threads of an EPYC, Zen 5: 167 to 670 GFLOP/s against 500 to 960),
and the leaky ReLU and the residual that follow a convolution are done before it leaves the registers. A weight is laid
out when it is used, which is once for a spectrogram, so nothing is kept.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn import functional

from hubsep import onednn
from hubsep.onednn import along

from ..loading.mapped import Release
from .unet import on_processor


def runs_here(vocoder: Any, states: Tensor) -> bool:
    """Whether a vocoder's layers are the usual ones, in bfloat16 on a processor that has it, and learn nothing."""
    fits = states.device.type == "cpu" and vocoder.dtype == torch.bfloat16 and not torch.is_grad_enabled()
    if not (fits and onednn.available(torch.bfloat16)):
        return False
    blocks = all(type(block).__name__ == "HifiGanResidualBlock" for block in vocoder.resblocks)
    inner = [module for part in (vocoder.upsampler, vocoder.resblocks) for module in part.modules()]
    hooked = any(others_listen(module) for module in inner)
    layers = [module for module in inner if not list(module.children())]
    usual = all(
        type(layer) in (nn.Conv1d, nn.ConvTranspose1d)
        and layer.padding_mode == "zeros"
        and not isinstance(layer.padding, str)
        for layer in layers
    )
    return blocks and usual and not hooked


def others_listen(module: Any) -> bool:
    """Whether anything but the release of its weights is hooked to a module."""
    hooks = [*module._forward_hooks.values(), *module._forward_pre_hooks.values()]
    return hasattr(module, "_hf_hook") or any(not isinstance(hook, Release) for hook in hooks)


def release(module: Any) -> None:
    """Has a module that ran here, and not by being called, let go of its weights where they are mapped."""
    for hook in module._forward_hooks.values():
        hook()


def hidden_states(vocoder: Any, states: Tensor) -> Tensor:
    """What the vocoder has before its last convolution.

    Args:
        vocoder: `SpeechT5HifiGan`, for which `runs_here` holds.
        states: (batch, channels, frames), what its first convolution makes of a mel spectrogram.

    Returns:
        (batch, channels, samples).
    """
    slope, kinds = vocoder.config.leaky_relu_slope, vocoder.num_kernels
    maps = states[:, :, None].contiguous(memory_format=torch.channels_last)
    for stage, upsampler in enumerate(vocoder.upsampler):
        maps = enlarged(upsampler, F.leaky_relu(maps, slope))
        release(upsampler)
        blocks = vocoder.resblocks[stage * kinds : (stage + 1) * kinds]
        total = residual(blocks[0], maps)
        for block in blocks[1:]:
            total += residual(block, maps)
        maps = total.div_(kinds)
    return maps[:, :, 0]


def residual(block: Any, maps: Tensor) -> Tensor:
    """A block of convolutions, `HifiGanResidualBlock`, of (batch, channels, 1, samples)."""
    slope = block.leaky_relu_slope
    for first, second in zip(block.convs1, block.convs2, strict=True):
        inner = along(first, F.leaky_relu(maps, slope), slope=slope)
        maps = along(second, inner, plus=maps)
    release(block)
    return maps


def enlarged(layer: nn.ConvTranspose1d, maps: Tensor) -> Tensor:
    """A transposed convolution along time of (batch, channels, 1, samples)."""
    padding, more = (0, int(layer.padding[0])), (0, layer.output_padding[0])
    stride, dilation = (1, layer.stride[0]), (1, layer.dilation[0])
    weight = layer.weight[:, :, None]
    return F.conv_transpose2d(maps, weight, layer.bias, stride, padding, more, layer.groups, dilation)


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
        mel: Tensor = vae.decode(latents).sample
        return mel.float()
    vae.decoder.conv_out = InFloat32(last)
    try:
        # on a CPU, convolutions of half precision are faster with the channels last
        latents = latents.contiguous(memory_format=torch.channels_last)
        with on_processor(vae, latents.device):
            mel = vae.decode(latents).sample
    finally:
        vae.decoder.conv_out = last
    return mel.contiguous()


def vocoded(vocoder: Any, mel: Tensor, known: Tensor | None = None) -> Tensor:
    """The waveform (batch, samples) of a mel spectrogram (batch, frames, bands), in float32.

    `known` is that of the first frames, for a vocoder whose waveform is not settled by what is near alone.
    """
    if getattr(vocoder, "continues", False):
        whole: Tensor = vocoder(mel, known=known)
        return whole
    if vocoder.dtype == torch.float32 or hasattr(vocoder.conv_pre, "_hf_hook"):
        waveform: Tensor = vocoder(mel.to(vocoder.dtype))
        return waveform.float()
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
        conv = self.convolution
        work = functional.conv2d if isinstance(conv, nn.Conv2d) else functional.conv1d
        bias = None if conv.bias is None else conv.bias.float()
        return work(states.float(), conv.weight.float(), bias, conv.stride, conv.padding, conv.dilation, conv.groups)


__all__ = ["decoded", "hidden_states", "runs_here", "vocoded"]
