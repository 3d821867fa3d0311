# SPDX-License-Identifier: Apache-2.0
"""Products and convolutions of Meta-TasNet where nothing is learnt, on a processor.

Decisions:
- oneDNN multiplies float32 faster than what torch takes by itself, and applies PReLU before a result leaves the
  registers. Measured on one core of an EPYC (Zen 4): 105 GFLOP/s instead of 78 for the product of the last decoder,
  (4000, 1760) by (1760, 1540), 100 instead of 93 for the small ones of a block. Where a build has none, or the
  processor lacks the dtype, `hubsep.onednn` takes torch's own product.
- A depthwise convolution of (frames, channels) is one of oneDNN too, with the norm before it in its taps: 0.23 ms
  for (4000, 160), where shifted multiply-adds take 1.1 ms. Without oneDNN torch would run every channel by itself.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ... import onednn
from ...layers import is_plain, may_overwrite


STRIP_ELEMENTS = 2**18  # of a map, which then stays in the cache of a core


def overwrites(x: Tensor) -> bool:
    """Whether maps may be overwritten, on a processor: nothing is learnt or traced, and nobody looks."""
    return x.device.type == "cpu" and may_overwrite()


def strips(frames: int, width: int) -> Iterator[slice]:
    """Cuts the frames of a map that is `width` wide into strips of at most `STRIP_ELEMENTS`."""
    length = max(STRIP_ELEMENTS // width, 1)
    return (slice(start, min(start + length, frames)) for start in range(0, frames, length))


def channel_moments(x: Tensor) -> Tensor:
    """Mean and variance over frames, (..., frames, channels) -> (2, ..., channels), float32.

    The variance is that of differences from the mean: a difference of two sums would be lost in rounding where a
    channel lies far from 0. Of one map, (frames, channels), strips are looked at one after another.
    """
    parts = list(strips(*x.shape)) if x.ndim == 2 and overwrites(x) else []
    if len(parts) > 1:
        return joined_moments(
            [channel_moments(x[strip]) for strip in parts], [part.stop - part.start for part in parts]
        )
    wide = x.float()
    mean = wide.mean(dim=-2)
    centred = wide - mean.unsqueeze(-2)
    return torch.stack([mean, torch.linalg.vecdot(centred, centred, dim=-2) / x.shape[-2]])


def joined_moments(moments: Sequence[Tensor], frames: Sequence[int]) -> Tensor:
    """Mean and variance of a map, from those of strips of so many frames."""
    stacked = torch.stack(list(moments))
    shares = stacked.new_tensor(frames).div_(sum(frames)).view(-1, *[1] * (stacked.ndim - 2))
    mean = (shares * stacked[:, 0]).sum(dim=0)
    return torch.stack([mean, (shares * (stacked[:, 1] + (stacked[:, 0] - mean).square())).sum(dim=0)])


def rows(x: Tensor, weight: Tensor, bias: Tensor | None = None, slope: float | None = None) -> Tensor:
    """A linear layer and PReLU, without gradients.

    Args:
        x: (..., inputs).
        weight: (outputs, inputs), in the dtype of `x`.
        bias: (outputs,) or None.
        slope: of PReLU for negative values, or None for no PReLU.

    Returns:
        (..., outputs), in the dtype of `x`.
    """
    return onednn.product(weight, bias)(x, slope=slope)


def linear(layer: Any, x: Tensor, rectified: bool = False) -> Tensor:
    """A linear layer without bias, or an adapter around one, and perhaps ReLU; by `rows` where that may be."""
    if overwrites(x) and is_plain(layer, nn.Linear) and not torch.is_autocast_enabled("cpu"):
        return rows(x, layer.weight, None, 0.0 if rectified else None)
    return layer(x).relu() if rectified else layer(x)


def depthwise(x: Tensor, scale: Tensor, shift: Tensor, kernel: Tensor, dilation: int) -> Tensor:
    """Scales and shifts every channel, then convolves it; beyond the edges are zeros.

    Only where `onednn.available`: torch would run every channel by itself.

    Args:
        x: (frames, channels).
        scale: (channels,), float32.
        shift: as `scale`.
        kernel: (channels, taps), an odd number of taps, float32.
        dilation: frames between taps.

    Returns:
        (frames, channels), in the dtype of `x`.
    """
    (frames, channels), reach = x.shape, kernel.shape[-1] // 2
    taps = (kernel * scale.unsqueeze(-1)).to(x.dtype).view(channels, 1, -1, 1)
    missing = kernel * shift.unsqueeze(-1)  # what the shift adds by way of each tap
    maps = x.view(1, frames, 1, channels).permute(0, 3, 1, 2)  # channels last, as oneDNN wants them
    constant, padding = missing.sum(dim=-1).to(x.dtype), (reach * dilation, 0)
    maps = F.conv2d(maps, taps, constant, padding=padding, dilation=(dilation, 1), groups=channels)
    result = maps.permute(0, 2, 3, 1).reshape(frames, channels)
    for index, part in enumerate(missing.to(x.dtype).unbind(dim=-1)):
        offset = (index - reach) * dilation  # zeros beyond the edges are not shifted
        if offset < 0:
            result[:-offset] -= part
        elif offset > 0:
            result[max(frames - offset, 0) :] -= part
    return result


__all__ = ["channel_moments", "depthwise", "joined_moments", "linear", "overwrites", "rows", "strips"]
