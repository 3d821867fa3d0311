# SPDX-License-Identifier: Apache-2.0
"""How AudioSep's blocks run when nothing is learnt: the same numbers with less work and a fraction of the memory.

- With one query, a norm and its FiLM layer are one scale and one shift a channel. Those of the second norm of a
  residual block go into the weights and the bias of the convolution before it, the first are one pass over the data.
- On a CPU, maps of 100 MB cost more in page faults and cache misses than in arithmetic: torch hands each one back to
  the system, and touching a fresh one took as long as half of the convolution that filled it. The output of a residual
  block depends on two frames to either side, so blocks run in strips of frames, with two frames more at inner edges,
  and the frames that saw the cut are thrown away. Only what the decoder needs later is ever there in full length.

Nothing is prepared ahead or kept: folding the weights takes 1 % of a ten-second segment, and weights that are changed,
moved or loaded meanwhile need no bookkeeping.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ...plain import may_read


if TYPE_CHECKING:
    from .modeling_audiosep import DecoderBlock, EncoderBlock, FilmNorm, ResidualBlock

STRIP_BYTES = 2**23  # of the widest map of a block; 1 to 16 MB were measured, in both precisions
CONTEXT = 2  # frames that two 3x3 convolutions see to either side
# Modules whose weights are used here without calling them.
FOLDED: dict[str, tuple[type, ...]] = {
    "norm": (nn.BatchNorm2d,),
    "conv1": (nn.Conv2d,),
    "shortcut": (nn.Conv2d, nn.Identity),
}


def can_fuse(block: nn.Module, condition: Tensor) -> bool:
    """Whether a block may run as here: nothing is learnt or traced, its weights are in place, there is one query."""
    return condition.shape[0] == 1 and may_read(block, FOLDED)


def statistics(norm: nn.BatchNorm2d) -> tuple[Tensor, Tensor]:
    """Running mean and variance in float32; in float32 the norm's own tensors."""
    assert norm.running_mean is not None  # torch leaves them out only on request
    assert norm.running_var is not None
    return norm.running_mean.float(), norm.running_var.float()


def encode(block: EncoderBlock, x: Tensor, condition: Tensor, stem: nn.Conv2d | None = None) -> tuple[Tensor, Tensor]:
    """What `EncoderBlock.forward` does, with `stem` on each strip: the pooled map, and the map itself."""
    residual, channels = _folded(block.block, condition, x.dtype), block.block.conv1.out_channels
    skip, pooled = _empty(x, channels), []
    for outer, inner, kept in _strips(skip, block.stride[0]):
        part = x[:, :, outer] if stem is None else stem(x[:, :, outer])
        part = residual(part.contiguous(memory_format=torch.channels_last))[:, :, inner]
        pooled.append(block.pool(part))
        skip[:, :, kept] = part
    return torch.cat(pooled, dim=2), skip


def decode(block: DecoderBlock, x: Tensor, skip: Tensor, condition: Tensor, head: nn.Conv2d | None = None) -> Tensor:
    """What `DecoderBlock.forward` does, with `head` on each strip of the result."""
    residual, activated = _folded(block.block, condition, x.dtype), _activated(block.film, condition)
    result, stride = skip.new_empty(0), block.stride[0]
    for outer, inner, kept in _strips(skip, stride):
        hidden = activated(x[:, :, outer.start // stride : outer.stop // stride])
        hidden = residual(torch.cat([block.upsample(hidden), skip[:, :, outer]], dim=1))[:, :, inner]
        made = hidden if head is None else head(hidden)
        if not result.numel():
            result = _empty(skip, made.shape[1])
        result[:, :, kept] = made
    return result


def transform(block: ResidualBlock, x: Tensor, condition: Tensor) -> Tensor:
    """What `ResidualBlock.forward` does."""
    return _folded(block, condition, x.dtype)(x)


def _activated(film: FilmNorm, condition: Tensor) -> Callable[[Tensor], Tensor]:
    """The norm with one query's FiLM inside, and the leaky ReLU, for maps of any length."""
    mean, variance = statistics(film.norm)
    weight, bias = _film(film, condition)
    return lambda x: F.leaky_relu_(F.batch_norm(x, mean, variance, weight, bias, False, 0.0, film.norm.eps), 0.01)


def _film(film: FilmNorm, condition: Tensor) -> tuple[Tensor, Tensor]:
    """Weight and bias of a norm that does what FiLM does after it, (channels,) both, float32."""
    weight, bias = film.norm.weight.float(), film.norm.bias.float()
    if film.gain is not None:
        gain = 1 + film.gain(condition)[0].float()
        weight, bias = weight * gain, bias * gain
    return weight, bias + film.shift(condition)[0].float()


def _folded(block: ResidualBlock, condition: Tensor, dtype: torch.dtype) -> Callable[[Tensor], Tensor]:
    """The residual block for one query, its second norm inside the first convolution."""
    activated1 = _activated(block.film1, condition)
    mean, variance = statistics(block.film2.norm)
    scale, bias = _film(block.film2, condition)
    scale = scale * (variance + block.film2.norm.eps).rsqrt()
    bias = (bias - mean * scale).to(dtype)
    weight = (block.conv1.weight * scale[:, None, None, None]).to(dtype)

    def run(x: Tensor) -> Tensor:
        hidden = F.conv2d(activated1(x), weight, bias, padding=1)
        return block.conv2(F.leaky_relu_(hidden, 0.01)).add_(_shortcut(block, x))

    return run


def _shortcut(block: ResidualBlock, x: Tensor) -> Tensor:
    if isinstance(block.shortcut, nn.Identity):
        return x
    # With one thread and a small map, torch's 1x1 convolution takes a path many times slower than a matrix product.
    weight = block.shortcut.weight.flatten(1)
    return F.linear(x.permute(0, 2, 3, 1), weight, block.shortcut.bias).permute(0, 3, 1, 2)


def _empty(like: Tensor, channels: int) -> Tensor:
    """A map of `channels` for all frames, channels last in memory."""
    batch, _, frames, bins = like.shape
    return like.new_empty(batch, frames, bins, channels).permute(0, 3, 1, 2)


def _strips(x: Tensor, stride: int) -> Iterator[tuple[slice, slice, slice]]:
    """The frames to compute from, which of the computed ones to keep, and where those belong; one strip on a GPU."""
    frames = x.shape[2]
    length, context = frames, -(-CONTEXT // stride) * stride
    if x.device.type == "cpu":
        length = max(STRIP_BYTES * frames // (x.numel() * x.element_size()), 8 * CONTEXT) // stride * stride
    for start in range(0, frames, length):
        stop = min(start + length, frames)
        outer = slice(max(start - context, 0), min(stop + context, frames))
        yield outer, slice(start - outer.start, stop - outer.start), slice(start, stop)


__all__ = ["can_fuse", "decode", "encode", "statistics", "transform"]
