# SPDX-License-Identifier: Apache-2.0
"""How Spleeter's U-Net runs when nothing is learnt: the same numbers in fewer passes over memory.

A norm with stored statistics is one scale and one shift a channel. Its pass writes where the next convolution reads:
into the middle of a map that has the zeros around it already, on the way down, and beside the convolution it is joined
with, on the way up. Activations work in place.

The last transposed convolution makes one channel, which torch's own is slow at: as a plain convolution that makes the
four results of each place it takes a third of the time. The others do not gain from that. ELU by exponentials takes a
sixth of the time of torch's own on a CPU, which was a quarter of all.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ...plain import may_read
from .configuration_spleeter import NEGATIVE_SLOPE


if TYPE_CHECKING:
    from .modeling_spleeter import SpleeterUNet

# of a transposed convolution of five taps and stride two: those that make even results, and those that make odd ones,
# from the input before, at and after the place
TAPS = ([3, 1], [4, 2, 0])
ELU_FRAMES = 16  # at once, which stay in a core's cache


def can_fuse(unet: SpleeterUNet, kinds: dict[str, tuple[type, ...]] | None = None) -> bool:
    """Whether a network may run as here: nothing is learnt or traced, its weights are in place."""
    if torch.is_autocast_enabled("cpu") or torch.is_autocast_enabled("cuda"):
        return False
    return may_read(unet, kinds)


def estimate_logits(unet: SpleeterUNet, x: Tensor) -> Tensor:
    """What `SpleeterUNet.forward` does."""
    skips: list[Tensor] = []
    padded = F.pad(x, (1, 2, 1, 2))
    encoder: list[Any] = list(unet.encoder)
    for down in encoder:
        skips.append(down.conv(padded))
        if down.norm is not None:
            padded = _padded(down, skips[-1])
    layers: list[Any] = list(unet.decoder)
    previous, *others, last = layers
    x = activate(previous.conv(skips.pop()), previous.activation)
    for up in others:
        x = activate(up.conv(_joined(skips.pop(), x, previous)), up.activation)
        previous = up
    x = activate(_one_channel(last.conv, _joined(skips.pop(), x, previous)), last.activation)
    scale, shift = _scale_and_shift(last, x)
    return unet.head(torch.addcmul(shift, x, scale))


def activate(x: Tensor, name: str) -> Tensor:
    """An activation in place."""
    if name == "leaky_relu":
        return F.leaky_relu_(x, NEGATIVE_SLOPE)
    return F.relu_(x) if name == "relu" else elu(x)


def elu(x: Tensor) -> Tensor:
    """ELU in place: the larger of a number and the exponential of its negative part, minus one."""
    if x.device.type != "cpu":
        return F.elu_(x)
    for rows in x.split(ELU_FRAMES, dim=2):
        negative = rows.clamp(max=0).float().exp_().sub_(1)
        torch.maximum(rows, negative.to(rows.dtype), out=rows)
    return x


def _scale_and_shift(layer: Any, x: Tensor) -> tuple[Tensor, Tensor]:
    scale, shift = layer.norm.scale_and_shift()
    return scale.to(x.dtype), shift.to(x.dtype)


def _padded(down: Any, skip: Tensor) -> Tensor:
    """A convolution normalised and activated, with the zeros around it that the next one reads."""
    batch, channels, frames, bins = skip.shape
    padded = skip.new_empty(batch, frames + 3, bins + 3, channels).permute(0, 3, 1, 2)  # channels last
    for edge in (padded[:, :, :1], padded[:, :, -2:], padded[..., :1], padded[..., -2:]):
        edge.zero_()
    middle = padded[:, :, 1:-2, 1:-2]
    scale, shift = _scale_and_shift(down, skip)
    activate(torch.addcmul(shift, skip, scale, out=middle), down.activation)
    return padded


def _one_channel(conv: nn.ConvTranspose2d, x: Tensor) -> Tensor:
    """The last transposed convolution, as a plain one that makes the four results of each place as channels."""
    weight = conv.weight.new_zeros(2, 2, conv.in_channels, 3, 3)
    for row, rows in enumerate(TAPS):
        for column, columns in enumerate(TAPS):
            taps = conv.weight[:, 0, rows][..., columns]
            weight[row, column, :, : len(rows), : len(columns)] = taps
    bias = None if conv.bias is None else conv.bias.expand(4)
    return F.pixel_shuffle(F.conv2d(x, weight.flatten(0, 1), bias, padding=1), 2)


def _joined(skip: Tensor, x: Tensor, previous: Any) -> Tensor:
    """A convolution of the way down and, normalised, what was activated on the way up, beside each other."""
    batch, channels, frames, bins = skip.shape
    joined = skip.new_empty(batch, frames, bins, 2 * channels).permute(0, 3, 1, 2)
    joined[:, :channels] = skip
    scale, shift = _scale_and_shift(previous, x)
    torch.addcmul(shift, x, scale, out=joined[:, channels:])
    return joined


__all__ = ["can_fuse", "estimate_logits"]
