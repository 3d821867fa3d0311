# SPDX-License-Identifier: Apache-2.0
"""How Conv-TasNet runs with global norms when nothing is learnt: the same numbers in fewer passes and less memory.

- A global norm is one scale and one shift a channel once its statistics are known. Before a pointwise convolution they
  go into its weights, before the depthwise one into the kernel, where the frames near the edges, which see zeros
  instead of shifts, are put right.
- A global norm is also a barrier: between two of them each frame is on its own, or needs neighbours that are there
  already. So everything between two barriers runs in strips of frames that stay in a core's cache, where torch's
  passes over data are four to twenty times faster than over whole maps. What has to be kept in full length is two
  maps of a block and the sums over blocks. The encoded mixture is computed anew each time, at 1 % of the work.
- Residual stream and skip sum lie beside each other and take the product of a block in place. Biases of the products
  are added up apart, as one vector, and join where the sums are read.

Nothing is prepared ahead or kept: weights that are changed, moved or loaded meanwhile need no bookkeeping. Recordings
of a batch go one after the other, because their statistics, and so the weights, differ.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ...plain import may_read


if TYPE_CHECKING:
    from .modeling_conv_tasnet import ConvTasNetBlock, ConvTasNetForAudioSeparation, ConvTasNetNorm

STRIP_BYTES = 2**20  # of the widest map of a block in float32; 2**18 to 2**21 were measured, in both precisions
MINIMUM_STRIP = 64  # frames
EPSILON = 1e-8
# Modules whose weights are used here without calling them.
FOLDED: dict[str, tuple[type, ...]] = dict.fromkeys(
    ("encoder", "decoder", "expand", "project", "bottleneck", "head"), (nn.Linear,)
) | dict.fromkeys(("activation", "activation1", "activation2"), (nn.PReLU,))


def can_fuse(model: ConvTasNetForAudioSeparation) -> bool:
    """Whether a model may run as here: its norms are global, nothing is learnt or traced, its weights are in place."""
    if torch.is_autocast_enabled("cpu") or torch.is_autocast_enabled("cuda"):
        return False
    return model.config.norm == "gln" and may_read(model, FOLDED)


def strips(frames: int, channels: int, device: torch.device) -> Iterator[slice]:
    """Frames in strips whose map of so many channels stays in a core's cache; all of them on a GPU."""
    length = max(STRIP_BYTES // (4 * channels), MINIMUM_STRIP) if device.type == "cpu" else frames
    return (slice(start, min(start + length, frames)) for start in range(0, frames, length))


class Statistics:
    """Mean and variance of a map that is seen in strips."""

    def __init__(self) -> None:
        self.counts: list[int] = []
        self.moments: list[Tensor] = []  # mean and variance of each strip

    def add(self, strip: Tensor) -> None:
        flat = strip.float().flatten()
        self.counts.append(flat.numel())
        self.moments.append(moments(flat))

    def moments_of_all(self) -> tuple[Tensor, Tensor]:
        """Mean and variance of all strips, in float64 where the device has it."""
        found = torch.stack(self.moments)
        found = found if found.device.type == "mps" else found.double()  # it costs nothing here
        shares = torch.tensor(self.counts, dtype=found.dtype, device=found.device) / sum(self.counts)
        mean = (shares * found[:, 0]).sum()
        return mean, (shares * (found[:, 1] + (found[:, 0] - mean).square())).sum()

    def scale_and_shift(self, norm: ConvTasNetNorm) -> tuple[Tensor, Tensor]:
        """What the norm does to each channel, (channels,) both, float32."""
        mean, variance = self.moments_of_all()
        scale = (variance + EPSILON).rsqrt() * norm.weight
        return scale.float(), (norm.bias - mean * scale).float()


def moments(flat: Tensor) -> Tensor:
    """Mean and variance of a vector, (2,), float32.

    The difference of two sums is five times faster than the sum of squared differences, and as good unless the mean is
    larger than the deviation; a processor can look, without waiting for it.
    """
    count = flat.numel()
    mean = flat.sum() / count
    variance = torch.dot(flat, flat) / count - mean.square()
    if flat.device.type == "cpu" and bool(variance > mean.square()):
        return torch.stack([mean, variance])
    centred = flat - mean
    missing = centred.sum() / count
    return torch.stack([mean + missing, (torch.dot(centred, centred) / count - missing.square()).clamp_min(0)])


def folded(linear: nn.Linear, scale: Tensor, shift: Tensor) -> tuple[Tensor, Tensor]:
    """Weight and bias of a product that also scales and shifts what it reads; the bias is float32."""
    weight = linear.weight.float()
    return (weight * scale).to(linear.weight.dtype), torch.addmv(linear.bias.float(), weight, shift)


def separate(model: ConvTasNetForAudioSeparation, frames: Tensor) -> Tensor:
    """Frames of a recording to frames of its sources, (frames, kernel_size) -> (frames, num_sources, kernel_size)."""
    return _Run(model, frames).run()


class _Run:
    """The maps of one recording, and the steps between two norms."""

    def __init__(self, model: ConvTasNetForAudioSeparation, frames: Tensor):
        self.model, self.masker, self.frames = model, model.masker, frames
        config, count = model.config, len(frames)
        dtype = self.masker.bottleneck.weight.dtype
        self.hidden = frames.new_empty(count, config.hidden_channels, dtype=dtype)
        self.convolved = torch.empty_like(self.hidden)
        self.width = config.bottleneck_channels
        self.stream = frames.new_empty(count, self.width + config.skip_channels)  # residual and skip sums
        self.stream[:, self.width :] = 0
        self.bias = frames.new_zeros(self.width + config.skip_channels)  # to be added to every frame of them

    def strips(self) -> Iterator[slice]:
        return strips(self.hidden.shape[0], self.hidden.shape[1], self.hidden.device)

    def run(self) -> Tensor:
        blocks: list[Any] = list(self.masker.blocks)
        statistics = Statistics()
        for strip in self.strips():
            statistics.add(self.model.encode(self.frames[strip]))
        # what is encoded may lie far from 0 for its deviation, as after a sigmoid: the mean is taken off, not folded
        mean, variance = statistics.moments_of_all()
        scale = ((variance + EPSILON).rsqrt() * self.masker.norm.weight).float()
        weight, self.bias[: self.width] = folded(self.masker.bottleneck, scale, self.masker.norm.bias.float())
        statistics, after = Statistics(), self._expansion(blocks[0])
        for strip in self.strips():
            encoded = self.model.encode(self.frames[strip]).sub_(mean.float()).to(weight.dtype)
            self._product(self.stream[strip, : self.width], encoded, weight, first=True)
            self._expand(strip, after, statistics)
        for block, following in zip(blocks, [*blocks[1:], None], strict=True):
            statistics = self._block(block, following, statistics)
        return self._decode()

    def _block(self, block: ConvTasNetBlock, following: ConvTasNetBlock | None, statistics: Statistics) -> Statistics:
        """A block from its first norm on, and the next one up to there, with the statistics for that."""
        kernel = _Kernel(block, *statistics.scale_and_shift(block.norm1))
        slope, statistics = block.activation2.weight.item(), Statistics()
        for strip in self.strips():
            part = kernel.convolve(self.hidden, self.convolved, strip)
            statistics.add(F.leaky_relu_(part, slope))
        weight, bias = folded(block.project, *statistics.scale_and_shift(block.norm2))
        first = self.width - block.residual_channels
        self.bias[first:] += bias
        after, statistics = self._expansion(following) if following is not None else None, Statistics()
        for strip in self.strips():
            self._product(self.stream[strip, first:], self.convolved[strip], weight)
            if after is not None:
                self._expand(strip, after, statistics)
        return statistics

    def _product(self, sums: Tensor, x: Tensor, weight: Tensor, first: bool = False) -> None:
        if weight.dtype == sums.dtype:
            sums.addmm_(x, weight.t(), beta=0 if first else 1)
        elif first:
            sums.copy_(F.linear(x, weight))
        else:
            sums.add_(F.linear(x, weight))

    def _expansion(self, block: ConvTasNetBlock) -> tuple[Tensor, Tensor, float]:
        """Weight of a block's first product, its bias with what the residual stream still lacks, and its slope."""
        weight = block.expand.weight
        bias = torch.addmv(block.expand.bias.float(), weight.float(), self.bias[: self.width])
        return weight, bias.to(weight.dtype), block.activation1.weight.item()

    def _expand(self, strip: slice, after: tuple[Tensor, Tensor, float], statistics: Statistics) -> None:
        weight, bias, slope = after
        x = self.stream[strip, : self.width].to(weight.dtype)
        part = torch.addmm(bias, x, weight.t(), out=self.hidden[strip])
        statistics.add(F.leaky_relu_(part, slope))

    def _decode(self) -> Tensor:
        """Masks from the sums, and the frames of the sources."""
        head, columns = self.masker.head, slice(self.width if self.masker.has_skip else 0, None)
        slope, bias = self.masker.activation.weight.item(), self.bias[columns]
        result = self.frames.new_empty(len(self.frames), self.masker.num_sources, self.frames.shape[1])
        for strip in self.strips():
            x = F.leaky_relu_(self.stream[strip, columns] + bias, slope)
            masks = F.linear(x.to(head.weight.dtype), head.weight, head.bias)
            encoded = self.model.encode(self.frames[strip])
            result[strip] = self.model.decode(self.masker.apply_masks(masks, encoded))
        return result


class _Kernel:
    """A depthwise convolution that also scales and shifts what it reads."""

    def __init__(self, block: ConvTasNetBlock, scale: Tensor, shift: Tensor):
        kernel, dtype = block.kernel.float(), block.kernel.dtype
        reach = (len(kernel) - 1) * block.dilation
        before = reach if block.causal else reach // 2
        self.offsets = [index * block.dilation - before for index in range(len(kernel))]
        self.taps = list((kernel * scale).to(dtype))
        self.shifts = list((kernel * shift).to(dtype))
        self.bias = (block.kernel_bias.float() + kernel.sum(dim=0) * shift).to(dtype)

    def convolve(self, x: Tensor, result: Tensor, strip: slice) -> Tensor:
        """Fills the frames `strip` of `result`, (frames, channels) both, and returns them."""
        part, frames = result[strip], len(x)
        centre = self.offsets.index(0)  # always there, and within the edges for every frame
        torch.addcmul(self.bias, x[strip], self.taps[centre], out=part)
        for offset, tap, shift in zip(self.offsets, self.taps, self.shifts, strict=True):
            if offset == 0:
                continue
            low = min(max(strip.start, -offset), strip.stop)  # the frames whose neighbour is not beyond the edges
            high = max(min(strip.stop, frames - offset), low)
            part[low - strip.start : high - strip.start].addcmul_(x[low + offset : high + offset], tap)
            part[: low - strip.start] -= shift
            part[high - strip.start :] -= shift
        return part


__all__ = ["can_fuse", "separate", "strips"]
