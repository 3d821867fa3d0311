# SPDX-License-Identifier: Apache-2.0
"""Conv-TasNet (1809.07454): masks on a learnt filterbank, from a stack of dilated depthwise convolutions.

Decisions:
- Channels come last, (batch, frames, channels): every pointwise convolution is a matrix product, and encoder and
  decoder are products with the framed waveform. The dilated depthwise convolution is a sum of shifted products: on a
  CPU torch's own takes longer backwards than all matrix products together.
- The residual and the skip convolution of a block read the same and are one product. The last residual convolution is
  never used and does not exist.
- Filterbanks, norm statistics and the two sums over blocks are float32 in half precision too.
- When nothing is learnt, global norms go into the weights around them; see `inference_conv_tasnet`. A causal model
  with other norms runs strip by strip as it would on a live recording, in memory that does not grow.
- `masker` holds all but the filterbanks. Its graph is static, `model.masker.compile()` is the way to train on a CPU.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers import initialization as init
from transformers.utils import can_return_tuple

from ...hub import HubsepModelMixin
from ...losses import LOSSES
from ...modeling_inputs import check_keywords, check_waveform
from ...modeling_outputs import AudioSeparationOutput
from ...plain import dtype_of, prelu, product
from .configuration_conv_tasnet import ConvTasNetConfig
from .inference_conv_tasnet import can_fuse, separate, strips


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
            frames = torch.stack([separate(self, recording) for recording in frames])
        elif self.config.can_stream and not torch.is_grad_enabled() and not torch.compiler.is_compiling():
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


def overlap_add(frames: Tensor, stride: int) -> Tensor:
    """Adds frames up where they lie: (batch, frames, num_sources, kernel_size) -> (batch, num_sources, samples)."""
    kernel_size = frames.shape[-1]
    parts = -(-kernel_size // stride)
    pieces = F.pad(frames, (0, parts * stride - kernel_size)).transpose(1, 2).unflatten(-1, (parts, stride))
    shifted = [F.pad(pieces[..., part, :], (0, 0, part, parts - 1 - part)) for part in range(parts)]
    waveform = torch.stack(shifted).sum(dim=0).flatten(2)
    return waveform[..., : (frames.shape[1] - 1) * stride + kernel_size]


__all__ = ["ConvTasNetForAudioSeparation", "ConvTasNetPreTrainedModel", "MaskerState", "overlap_add"]
