# SPDX-License-Identifier: Apache-2.0
"""Layers of Meta-TasNet: weights for each instrument, norms that become part of products, the filterbanks.

Decisions:
- Maps are (num_sources, batch, frames, channels): every pointwise convolution is one batch of matrix products.
- A norm over frames is one scale and one shift a channel once its statistics are known. In front of a product they go
  into its weights, which are small, instead of over the map, which is not.
- Filterbanks, statistics of norms and the making of weights are float32 in half precision too.
"""

from __future__ import annotations

from math import prod

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ...layers import dtype_of, overlap_add, stft
from ...layers import product as linear_in_float32
from .configuration_meta_tasnet import NORM_GROUPS, MetaTasNetConfig
from .products_meta_tasnet import linear, overwrites, strips


EPSILON = 1e-8  # of norms and of the logarithm
# the low-pass filter of the published evaluation: zeros of the sinc to either side, cutoff, and width of its window
FILTER_ZEROS, FILTER_CUTOFF, FILTER_BETA = 64, 0.9475937167399596, 14.769656459379492
FILTER_FRAMES = 2**12  # computed at once: each is a copy of some hundred samples


class InstrumentHead(nn.Linear):
    """Makes one tensor of a layer from what its bottleneck says.

    Args:
        inputs: of the bottleneck.
        name: of the tensor.
        shape: of the tensor.
    """

    def __init__(self, inputs: int, name: str, shape: tuple[int, ...]):
        super().__init__(inputs, prod(shape))
        self.name, self.shape = name, shape


class InstrumentTensors(nn.ParameterDict):
    """The tensors of a layer by name, (num_sources, *shape); called, so that hooks can fetch them, it gives them."""

    __call__ = nn.Module.__call__

    def forward(self) -> dict[str, Tensor]:
        """The tensors as they are."""
        return dict(self.items())


class InstrumentLayer(nn.Module):
    """The weights of one layer for every instrument: made from their embeddings, or kept as they are.

    Source: 2002.07016, section 3.2; each layer has a bottleneck of its own.

    Args:
        config: says whether weights are generated, and how many instruments there are.
        shapes: of one instrument's tensors, by name.
    """

    def __init__(self, config: MetaTasNetConfig, shapes: dict[str, tuple[int, ...]]):
        super().__init__()
        self.generated, self.shapes = config.generated, shapes
        if config.generated:
            self.bottleneck = nn.Linear(config.embedding_size, config.generator_size)
            self.heads = nn.ModuleDict(
                {name: InstrumentHead(config.generator_size, name, shape) for name, shape in shapes.items()}
            )
        else:
            self.tensors = InstrumentTensors(
                {name: nn.Parameter(torch.empty(config.num_sources, *shape)) for name, shape in shapes.items()}
            )

    def forward(self, embedding: Tensor | None) -> dict[str, Tensor]:
        """Tensors (num_sources, *shape) by name, float32, from embeddings (num_sources, embedding_size)."""
        if not self.generated:
            return {name: tensor.float() for name, tensor in self.tensors().items()}
        assert embedding is not None
        with torch.autocast(embedding.device.type, enabled=False):
            hidden = linear_in_float32(self.bottleneck, embedding)
            outputs = {name: linear_in_float32(head, hidden, InstrumentHead) for name, head in self.heads.items()}
            return {name: tensor.unflatten(-1, self.shapes[name]) for name, tensor in outputs.items()}


def pointwise(config: MetaTasNetConfig, inputs: int, outputs: int, bias: bool = False) -> InstrumentLayer:
    shapes: dict[str, tuple[int, ...]] = {"kernel": (outputs, inputs)}
    return InstrumentLayer(config, {**shapes, "bias": (outputs,)} if bias else shapes)


def norm(config: MetaTasNetConfig, channels: int) -> InstrumentLayer:
    """Scales in the first row, shifts in the second."""
    return InstrumentLayer(config, {"affine": (2, channels)})


def scale_and_shift(moments: Tensor, affine: Tensor) -> tuple[Tensor, Tensor]:
    """What a norm does to each channel.

    Args:
        moments: from `channel_moments`, (2, num_sources, batch, channels).
        affine: (num_sources, 2, channels).

    Returns:
        Scale and shift, (num_sources, batch, channels) both.
    """
    width = moments.shape[-1] // NORM_GROUPS
    means, variances = moments.unflatten(-1, (NORM_GROUPS, width))
    mean = means.mean(dim=-1)
    variance = (variances + (means - mean.unsqueeze(-1)).square()).mean(dim=-1)
    rate = (variance + EPSILON).rsqrt()
    scale = rate.repeat_interleave(width, dim=-1) * affine[:, :1]
    return scale, affine[:, 1:] - mean.repeat_interleave(width, dim=-1) * scale


def folded(
    kernel: Tensor, scale: Tensor, shift: Tensor, bias: Tensor | None, dtype: torch.dtype
) -> tuple[Tensor, Tensor]:
    """Weights of a product that also scales and shifts what it reads.

    Args:
        kernel: (num_sources, outputs, inputs).
        scale: (num_sources, batch, inputs).
        shift: as `scale`.
        bias: (num_sources, outputs) or None.
        dtype: of the result.

    Returns:
        Weights (num_sources, batch, outputs, inputs) and bias (num_sources, batch, outputs).
    """
    with torch.autocast(kernel.device.type, enabled=False):
        constant = shift @ kernel.mT
        if bias is not None:
            constant = constant + bias.unsqueeze(1)
        return (kernel.unsqueeze(1) * scale.unsqueeze(-2)).to(dtype), constant.to(dtype)


def product(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """(num_sources, batch, frames, inputs) times weights from `folded`, (num_sources, batch, frames, outputs)."""
    rows = torch.baddbmm(bias.flatten(0, 1).unsqueeze(1), x.flatten(0, 1), weight.flatten(0, 1).mT)
    return rows.unflatten(0, x.shape[:2])


def decimate(waveform: Tensor, factor: int) -> Tensor:
    """Waveform at a whole fraction of its rate, (..., samples) -> (..., ceil(samples / factor)), float32.

    The filter is the one of the published evaluation: a sinc under a Kaiser window. It leaves next to nothing above
    its edge, and the logarithm of that makes much of how float32 was rounded: sums are float64 where the device has
    it, so that a recording gives the same alone, in a batch, and on any processor.
    """
    if factor == 1:
        return waveform.float()
    wide = torch.float32 if waveform.device.type == "mps" else torch.float64
    reach = FILTER_ZEROS * factor
    times = torch.arange(-reach, reach + 1, dtype=torch.float64) / factor
    window = torch.kaiser_window(2 * reach + 1, periodic=False, beta=FILTER_BETA, dtype=torch.float64)
    taps = (torch.sinc(FILTER_CUTOFF * times) * window * (FILTER_CUTOFF / factor)).float().to(waveform.device, wide)
    with torch.autocast(waveform.device.type, enabled=False):
        flat = F.pad(waveform.to(wide).reshape(-1, waveform.shape[-1]), (reach, reach))
        pieces = flat.unfold(-1, len(taps), factor).split(FILTER_FRAMES, dim=1)
        return torch.cat([(piece @ taps).float() for piece in pieces], dim=1).view(*waveform.shape[:-1], -1)


class MetaTasNetSpectrogram(nn.Module):
    """Logarithmic power spectra, brought to the frames of the filters. Source: 2002.07016, section 3.3."""

    mean: Tensor
    std: Tensor

    def __init__(self, config: MetaTasNetConfig, stage: int):
        super().__init__()
        self.n_fft, self.hop_length = config.n_fft * 2**stage, config.hop_length * 2**stage
        bins = self.n_fft // 2 + 1
        self.register_buffer("mean", torch.zeros(bins))
        self.register_buffer("std", torch.ones(bins))
        self.scale = nn.Parameter(torch.ones(bins))
        self.shift = nn.Parameter(torch.zeros(bins))
        self.mel = nn.Linear(bins, config.num_mels)

    def forward(self, waveform: Tensor, frames: int) -> Tensor:
        """(batch, samples) -> (batch, frames, num_mels), float32."""
        mean, std, scale, shift = (tensor.float() for tensor in (self.mean, self.std, self.scale, self.shift))
        with torch.autocast(waveform.device.type, enabled=False):
            spectra = torch.view_as_real(stft(waveform, self.n_fft, self.hop_length)).square().sum(dim=-1)
            spectra = ((spectra + EPSILON).log10() - mean) / std * scale + shift
            mels = linear_in_float32(self.mel, spectra)
            return F.interpolate(mels.mT, size=frames, mode="linear", align_corners=True).mT


class MetaTasNetFilters(nn.ParameterList):
    """Filters of several lengths, (number, length) each.

    Args:
        numbers: of filters, shortest first.
        config: says how long they are in the first stage.
        stage: they are for.
        inputs: what adds up to an output, if not the length.
    """

    def __init__(self, numbers: list[int], config: MetaTasNetConfig, stage: int, inputs: int | None = None):
        lengths = [config.kernel_size * 2 ** (stage + index) for index in range(config.num_filter_lengths)]
        super().__init__(nn.Parameter(torch.empty(shape)) for shape in zip(numbers, lengths, strict=True))
        self.inputs = inputs

    __call__ = nn.Module.__call__  # a list of parameters refuses to be called, but hooks fetch weights then

    def forward(self) -> list[Tensor]:
        """The filters as they are."""
        return list(self)


class MetaTasNetEncoder(nn.Module):
    """Waveform to latents: filters of several lengths and spectra beside each other, and two products."""

    def __init__(self, config: MetaTasNetConfig, stage: int):
        super().__init__()
        filters, self.stride = config.num_filters * 2**stage, config.stride * 2**stage
        self.filters = MetaTasNetFilters([filters // 4] * config.num_filter_lengths, config, stage)
        self.spectrogram = MetaTasNetSpectrogram(config, stage)
        self.expand = nn.Linear(config.num_filter_lengths * (filters // 4) + config.num_mels, filters, bias=False)
        self.project = nn.Linear(filters, filters, bias=False)

    def forward(self, waveform: Tensor) -> Tensor:
        """(batch, samples), a whole number of strides -> (batch, frames, num_filters)."""
        filters = self.filters()
        longest = filters[-1].shape[-1]
        margins = [(longest - kernel.shape[-1]) // 2 for kernel in filters]
        kernels = [F.pad(kernel.float(), (margin,) * 2) for kernel, margin in zip(filters, margins, strict=True)]
        edge = (longest - self.stride) // 2
        with torch.autocast(waveform.device.type, enabled=False):
            frames = F.pad(waveform, (edge, edge)).unfold(-1, longest, self.stride)
            # the lengths take turns along the channels
            encoded = F.linear(frames, torch.stack(kernels, dim=1).flatten(0, 1)).relu()
        encoded = torch.cat([encoded, self.spectrogram(waveform, frames.shape[1])], dim=-1)
        return linear(self.project, linear(self.expand, encoded.to(dtype_of(self.expand)), rectified=True))


class MetaTasNetDecoder(nn.Module):
    """Latents to a waveform: a product, and filters of several lengths that are added up."""

    def __init__(self, config: MetaTasNetConfig, stage: int):
        super().__init__()
        filters, self.stride = config.num_filters * 2**stage, config.stride * 2**stage
        self.widths = [filters // 2 ** (index + 1) for index in range(config.num_filter_lengths)]
        self.expand = nn.Linear(filters, sum(self.widths), bias=False)
        self.filters = MetaTasNetFilters(self.widths, config, stage, inputs=sum(self.widths))

    def forward(self, latents: Tensor) -> Tensor:
        """(batch, frames, num_filters) -> (batch, samples), float32."""
        frames = self.frames(latents)
        edge = (frames.shape[-1] - self.stride) // 2
        waveform = overlap_add(frames.unsqueeze(2), self.stride).squeeze(1)
        return waveform[..., edge : waveform.shape[-1] - edge]

    def frames(self, latents: Tensor) -> Tensor:
        """What each frame adds to the waveform, (..., num_filters) -> (..., longest filter), float32."""
        filters = self.filters()
        longest = filters[-1].shape[-1]
        if overwrites(latents):
            flat = latents.to(dtype_of(self.expand)).flatten(0, -2)
            total = torch.empty(flat.shape[0], longest, dtype=torch.float32)
            for strip in strips(flat.shape[0], sum(self.widths)):
                self._overwrite(total[strip], filters, linear(self.expand, flat[strip], rectified=True))
            return total.view(*latents.shape[:-1], longest)
        parts = self.expand(latents.to(dtype_of(self.expand))).relu().split(self.widths, dim=-1)
        with torch.autocast(latents.device.type, enabled=False):
            total = parts[-1].float() @ filters[-1].float()
            for part, kernel in zip(parts[:-1], filters[:-1], strict=True):
                total = total + F.pad(part.float() @ kernel.float(), ((longest - kernel.shape[-1]) // 2,) * 2)
        return total

    def _overwrite(self, total: Tensor, filters: list[Tensor], expanded: Tensor) -> None:
        """Fills `total`, (frames, longest filter), from (frames, sum of widths)."""
        parts = expanded.float().split(self.widths, dim=-1)
        with torch.autocast(total.device.type, enabled=False):
            torch.mm(parts[-1], filters[-1].float(), out=total)
            for part, kernel in zip(parts[:-1], filters[:-1], strict=True):
                margin = (total.shape[-1] - kernel.shape[-1]) // 2
                total[:, margin : margin + kernel.shape[-1]].addmm_(part, kernel.float())


__all__ = [
    "InstrumentHead",
    "InstrumentLayer",
    "InstrumentTensors",
    "MetaTasNetDecoder",
    "MetaTasNetEncoder",
    "MetaTasNetFilters",
    "MetaTasNetSpectrogram",
    "decimate",
    "folded",
    "norm",
    "pointwise",
    "product",
    "scale_and_shift",
]
