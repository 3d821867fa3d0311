# SPDX-License-Identifier: Apache-2.0
"""Conv-TasNet (1809.07454): masks on a learnt filterbank, from a stack of dilated depthwise convolutions.

Decisions:
- Channels come last, (batch, frames, channels): every pointwise convolution is a matrix product, and encoder and
  decoder are products with the framed waveform. The dilated depthwise convolution is a sum of shifted products: on a
  CPU torch's own takes longer backwards than all matrix products together.
- The residual and the skip convolution of a block read the same and are one product. The last residual convolution is
  never used and does not exist.
- Filterbanks, norm statistics and the two sums over blocks are float32 in half precision too.
- When nothing is learnt, global norms go into the weights around them; see `_Run`. A causal model with other norms
  runs strip by strip as it would on a live recording, in memory that does not grow.
- `masker` holds all but the filterbanks. Its graph is static, `model.masker.compile()` is the way to train on a CPU.

Also here: how Conv-TasNet runs with global norms when nothing is learnt: the same numbers in fewer passes and less
memory.

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

from collections.abc import Callable, Iterator
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers import initialization as init
from transformers.utils import can_return_tuple

from ...hub.models import HubsepModelMixin
from ...layers import dtype_of, is_autocast, may_read, nothing_is_learnt, overlap_add, prelu, product
from ...losses import LOSSES
from ...modeling import AudioSeparationOutput, check_keywords, check_waveform
from .configuration_conv_tasnet import ConvTasNetConfig


STRIP_BYTES = 2**20  # of the widest map of a block in float32; 2**18 to 2**21 were measured, in both precisions
MINIMUM_STRIP = 64  # frames
# Modules whose weights are used here without calling them.
FOLDED: dict[str, tuple[type, ...]] = dict.fromkeys(
    ("encoder", "decoder", "expand", "project", "bottleneck", "head"), (nn.Linear,)
) | dict.fromkeys(("activation", "activation1", "activation2"), (nn.PReLU,))


EPSILON = 1e-8  # of every norm, in float32
ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "linear": lambda x: x,
    "relu": torch.relu,
    "sigmoid": torch.sigmoid,
    "softmax": lambda x: torch.softmax(x, dim=-2),  # over the sources of (..., num_sources, num_filters)
    "tanh": torch.tanh,
}


class ConvTasNetNorm(nn.Module):
    """Layer norm of (batch, frames, channels): global, per frame, or cumulative over the frames so far.

    Source: 1809.07454, section III-C ("gln", "cgln"); "cln" is what published causal weights have.
    """

    def __init__(self, channels: int, kind: str):
        super().__init__()
        self.kind = kind
        self.weight = nn.Parameter(torch.ones(channels))
        self.bias = nn.Parameter(torch.zeros(channels))

    def forward(self, x: Tensor, state: NormState | None = None) -> Tensor:
        weight, bias, wide = self.weight.float(), self.bias.float(), x.float()
        if self.kind == "cln":
            return F.layer_norm(wide, weight.shape, weight, bias, EPSILON).to(x.dtype)
        if self.kind == "cgln":
            centred, variance = (NormState() if state is None else state).update(wide)
        else:
            # the mean first: what a sigmoid makes of a quiet recording lies around 0.5, a thousand deviations from 0
            centred = wide - wide.mean(dim=(1, 2), keepdim=True)
            variance = centred.square().mean(dim=(1, 2), keepdim=True)
        return (centred * ((variance + EPSILON).rsqrt() * weight) + bias).to(x.dtype)


class NormState:
    """Sums of a cumulative norm over the frames so far, in float64: the sum over minutes outgrows float32.

    They are of differences from the mean of the first frame: squares of numbers far from 0 would hide the variance.
    """

    def __init__(self) -> None:
        self.frames = 0
        self.sums: Tensor | float = 0.0
        self.origin: Tensor | None = None

    def update(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Takes frames in and returns them less the mean up to each, and the variance, (batch, frames, 1), float32."""
        if self.origin is None:
            self.origin = x[:, :1].detach().mean(dim=2, keepdim=True)
        x, frames = x - self.origin, x.shape[1]
        dtype = torch.float32 if x.device.type == "mps" else torch.float64  # it has no float64
        sums = torch.stack([x.mean(dim=2), x.square().mean(dim=2)]).to(dtype).cumsum(dim=2) + self.sums
        counts = torch.arange(self.frames + 1, self.frames + frames + 1, device=x.device)
        self.frames, self.sums = self.frames + frames, sums[:, :, -1:]
        mean, square = sums / counts
        variance = (square - mean.square()).clamp_min(0)
        return x - mean.float().unsqueeze(-1), variance.float().unsqueeze(-1)


class BlockState:
    """What a block of a streamed model keeps: the frames its convolution looks back to, and the sums of its norms."""

    def __init__(self) -> None:
        self.norm1, self.norm2 = NormState(), NormState()
        self.context: Tensor | None = None


class MaskerState:
    """What a streamed masker keeps of the frames so far."""

    def __init__(self, blocks: int) -> None:
        self.norm = NormState()
        self.blocks = [BlockState() for _ in range(blocks)]


class ConvTasNetBlock(nn.Module):
    """Pointwise, dilated depthwise and pointwise convolution, with PReLU and a norm after the first two.

    Returns what is added to the residual stream and to the skip sum, beside each other on the last axis.
    Source: 1809.07454, figure 1 C.
    """

    def __init__(self, config: ConvTasNetConfig, index: int):
        super().__init__()
        hidden, last = config.hidden_channels, index == config.num_blocks * config.num_repeats - 1
        self.dilation = 2 ** (index % config.num_blocks)
        self.causal = config.causal
        self.residual_channels = 0 if last and config.skip_channels else config.bottleneck_channels
        self.expand = nn.Linear(config.bottleneck_channels, hidden)
        self.activation1 = nn.PReLU()
        self.norm1 = ConvTasNetNorm(hidden, config.norm)
        self.kernel = nn.Parameter(torch.empty(config.conv_kernel_size, hidden))
        self.kernel_bias = nn.Parameter(torch.zeros(hidden))
        self.activation2 = nn.PReLU()
        self.norm2 = ConvTasNetNorm(hidden, config.norm)
        self.project = nn.Linear(hidden, self.residual_channels + config.skip_channels)

    def forward(self, x: Tensor, state: BlockState | None = None) -> Tensor:
        hidden = prelu(self.activation1, self.expand(x.to(dtype_of(self.expand))))
        hidden = self.norm1(hidden, state and state.norm1)
        hidden = prelu(self.activation2, self.convolve(hidden, state))
        return self.project(self.norm2(hidden, state and state.norm2)).float()

    def convolve(self, x: Tensor, state: BlockState | None = None) -> Tensor:
        """The dilated depthwise convolution; zeros beyond the edges, or the frames before of a streamed model."""
        frames, reach = x.shape[1], (len(self.kernel) - 1) * self.dilation
        before = reach if self.causal else reach // 2
        if state is None:
            x = F.pad(x, (0, 0, before, reach - before))
        else:
            context = x.new_zeros(x.shape[0], reach, x.shape[2]) if state.context is None else state.context
            x = torch.cat([context, x], dim=1)
            state.context = x[:, frames:]
        kernel, result = self.kernel.to(x.dtype), self.kernel_bias.to(x.dtype)
        for index, start in enumerate(range(0, reach + 1, self.dilation)):
            result = torch.addcmul(result, x[:, start : start + frames], kernel[index])
        return result


class ConvTasNetMasker(nn.Module):
    """From encoded frames (batch, frames, num_filters) to masked ones, (batch, frames, num_sources, num_filters)."""

    def __init__(self, config: ConvTasNetConfig):
        super().__init__()
        self.num_sources, self.mask_activation = config.num_sources, config.mask_activation
        self.norm = ConvTasNetNorm(config.num_filters, config.norm)
        self.bottleneck = nn.Linear(config.num_filters, config.bottleneck_channels)
        blocks = config.num_blocks * config.num_repeats
        self.blocks = nn.ModuleList(ConvTasNetBlock(config, index) for index in range(blocks))
        self.activation = nn.PReLU()
        self.has_skip = config.skip_channels > 0
        self.head = nn.Linear(
            config.skip_channels or config.bottleneck_channels, config.num_sources * config.num_filters
        )

    def forward(self, encoded: Tensor, state: MaskerState | None = None) -> Tensor:
        x = self.norm(encoded, state and state.norm)
        x = self.bottleneck(x.to(dtype_of(self.bottleneck))).float()
        skip: Tensor | None = None
        for index, block in enumerate(self.blocks):
            change = block(x, state and state.blocks[index])
            width = block.residual_channels
            x = x + change[..., :width] if width else x
            if self.has_skip:
                skip = change[..., width:] if skip is None else skip + change[..., width:]
        x = prelu(self.activation, x if skip is None else skip)
        return self.apply_masks(self.head(x.to(dtype_of(self.head))), encoded)

    def apply_masks(self, logits: Tensor, encoded: Tensor) -> Tensor:
        """Masked frames from what the head says, (..., num_sources * num_filters), and the encoded frames."""
        masks = ACTIVATIONS[self.mask_activation](logits.unflatten(-1, (self.num_sources, -1)))
        return masks * encoded.unsqueeze(-2)


# Saves half of the time: 8 s at 8 kHz by the published sizes, one thread of a Xeon with AMX, take 1.13 s in place of
# 2.18 in float32, and 1.00 in place of 1.95 in bfloat16.
def can_fuse(model: ConvTasNetForAudioSeparation) -> bool:
    """Whether a model may run as here: its norms are global, nothing is learnt or traced, its weights are in place."""
    return model.config.norm == "gln" and not is_autocast() and may_read(model, FOLDED)


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
        """Frames of the recording to frames of its sources, (frames, num_sources, kernel_size)."""
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
        parts = torch.stack(self.moments)
        parts = parts if parts.device.type == "mps" else parts.double()  # it costs nothing here
        shares = torch.tensor(self.counts, dtype=parts.dtype, device=parts.device) / sum(self.counts)
        mean = (shares * parts[:, 0]).sum()
        return mean, (shares * (parts[:, 1] + (parts[:, 0] - mean).square())).sum()

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


def strips(frames: int, channels: int, device: torch.device) -> Iterator[slice]:
    """Frames in strips whose map of so many channels stays in a core's cache; all of them on a GPU."""
    length = max(STRIP_BYTES // (4 * channels), MINIMUM_STRIP) if device.type == "cpu" else frames
    return (slice(start, min(start + length, frames)) for start in range(0, frames, length))


class ConvTasNetPreTrainedModel(HubsepModelMixin, PreTrainedModel):
    """Weights initialisation and loading shared by Conv-TasNet models."""

    config: ConvTasNetConfig
    config_class = ConvTasNetConfig
    base_model_prefix = "conv_tasnet"
    main_input_name = "input_values"
    input_modalities = ("audio",)
    _no_split_modules = ["ConvTasNetBlock"]

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        """As torch makes convolutions: uniform, within one over the root of the number of inputs; slopes 0.25."""
        if isinstance(module, nn.Linear):
            bound = module.in_features**-0.5
            init.uniform_(module.weight, -bound, bound)
            if module.bias is not None:
                init.uniform_(module.bias, -bound, bound)
        elif isinstance(module, nn.PReLU):
            init.constant_(module.weight, 0.25)
        elif isinstance(module, ConvTasNetNorm):
            init.ones_(module.weight)
            init.zeros_(module.bias)
        elif isinstance(module, ConvTasNetBlock):
            bound = len(module.kernel) ** -0.5
            init.uniform_(module.kernel, -bound, bound)
            init.uniform_(module.kernel_bias, -bound, bound)


class ConvTasNetForAudioSeparation(ConvTasNetPreTrainedModel):
    """Separates speakers, or speech from noise. Source: 1809.07454."""

    def __init__(self, config: ConvTasNetConfig):
        super().__init__(config)
        self.encoder = nn.Linear(config.kernel_size, config.num_filters, bias=False)
        self.masker = ConvTasNetMasker(config)
        self.decoder = nn.Linear(config.num_filters, config.kernel_size, bias=False)
        self.post_init()

    @can_return_tuple
    def forward(self, input_values: Tensor, labels: Tensor | None = None, **kwargs: object) -> AudioSeparationOutput:
        """Separates every mixture.

        Args:
            input_values: mixtures, (batch, 1, samples), at least `config.minimum_samples` long.
            labels: target waveforms (batch, num_sources, 1, samples), in any order.

        Returns:
            AudioSeparationOutput: `sources` (batch, num_sources, 1, samples), float32, and `loss` with labels. The
            level of the sources is whatever the scale-invariant loss left it at.

        Raises:
            AudioError: if the waveform has another rank or channel count, or is too short.
        """
        check_keywords(self, kwargs)
        check_waveform(self.config, input_values)
        samples = input_values.shape[-1]
        frames = self.frame(input_values[:, 0].float())
        if can_fuse(self):
            frames = torch.stack([_Run(self, recording).run() for recording in frames])
        elif self.config.can_stream and nothing_is_learnt():
            frames = torch.cat(list(self.stream(frames)), dim=1)
        else:
            frames = self.decode(self.masker(self.encode(frames)))
        sources = self.unframe(overlap_add(frames, self.config.stride), samples).unsqueeze(2)
        loss = None if labels is None else LOSSES[self.config.loss](sources, labels, input_values)
        return AudioSeparationOutput(loss=loss, sources=sources)

    def stream(self, frames: Tensor, state: MaskerState | None = None) -> Iterator[Tensor]:
        """Frames of the sources of a model that can be streamed, in strips that stay in a core's cache.

        Args:
            frames: (batch, frames, kernel_size).
            state: of the frames before, which is brought up to date; without, these are the first.

        Yields:
            Some frames of the sources, (batch, frames, num_sources, kernel_size).
        """
        state = MaskerState(len(self.masker.blocks)) if state is None else state
        for strip in strips(frames.shape[1], self.config.hidden_channels, frames.device):
            yield self.decode(self.masker(self.encode(frames[:, strip]), state))

    def frame(self, waveform: Tensor) -> Tensor:
        """Frames of a waveform, (batch, samples) -> (batch, frames, kernel_size), a view where nothing is padded."""
        kernel_size, stride = self.config.kernel_size, self.config.stride
        if self.config.pad_edges:
            waveform = F.pad(waveform, (stride, stride + (kernel_size - waveform.shape[-1]) % stride))
        return waveform.unfold(-1, kernel_size, stride)

    def encode(self, frames: Tensor) -> Tensor:
        """Encoded frames, (..., kernel_size) -> (..., num_filters), float32."""
        with torch.autocast(frames.device.type, enabled=False):
            return ACTIVATIONS[self.config.encoder_activation](product(self.encoder, frames))

    def decode(self, masked: Tensor) -> Tensor:
        """Frames of the sources, (..., num_filters) -> (..., kernel_size), float32."""
        with torch.autocast(masked.device.type, enabled=False):
            return product(self.decoder, masked)

    def unframe(self, waveform: Tensor, samples: int) -> Tensor:
        """What overlapping frames add up to, without the padding of `frame`, as long as the mixture."""
        before = self.config.stride if self.config.pad_edges else 0
        return F.pad(waveform, (-before, samples + before - waveform.shape[-1]))


__all__ = [
    "ConvTasNetForAudioSeparation",
    "ConvTasNetPreTrainedModel",
    "MaskerState",
    "can_fuse",
    "strips",
]
