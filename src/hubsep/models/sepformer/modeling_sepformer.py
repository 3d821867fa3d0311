# SPDX-License-Identifier: Apache-2.0
"""SepFormer (2010.13154): transformers within short chunks of a learnt representation, then across them.

A filterbank of short filters makes frames of the waveform; a dual-path network looks at them once within chunks of
2 x 125 frames and once across chunks, and gives a mask for each source; the masked frames go back through a second
filterbank. Decisions:

- Everything is kept with the channels last, so that filterbanks and 1x1 convolutions are matrix products.
- The sum over overlapping chunks is taken before the 1x1 convolution that splits it into sources, not after: both are
  linear and every frame lies in exactly two chunks, so it is the same with twice the bias, at half the work.
- Position tables are computed for the length at hand. The original stores 2,500 places and fails beyond.
- When nothing is learnt, sequences pass through a whole stack in groups that stay in the processor's cache, and
  residuals are added in place: apart from two copies of the chunks, memory does not grow with the recording.
- Filterbanks and the statistics of norms over a recording are float32 in models of half precision.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers import initialization as init
from transformers.modeling_layers import GradientCheckpointingLayer
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS
from transformers.utils import can_return_tuple

from ...hub.models import HubsepModelMixin
from ...layers import dtype_of, eager_attention, is_plain, may_overwrite, overlap_add, touched
from ...losses import LOSSES
from ...modeling import AudioSeparationOutput, check_keywords, check_waveform
from .configuration_sepformer import SepFormerConfig


GROUP_ROWS = {"cpu": 1_000}  # frames that pass through a stack at once; 500 to 4,000 are equally fast
GROUP_ROWS_ELSEWHERE = 2**18
UNFUSED_LENGTH = 1_000  # above, the weights of attention would take more memory than all the rest
PIECE_ELEMENTS = 2**20  # in which numbers of half precision are summed


def group_rows(device: torch.device) -> int:
    """How many frames pass through a stack of layers at once when nothing is learnt."""
    return GROUP_ROWS.get(device.type, GROUP_ROWS_ELSEWHERE)


def position_table(length: int, size: int, device: torch.device | None = None) -> Tensor:
    """Sines at even and cosines at odd places with wavelengths from 2 pi to 20,000 pi, (length, size), float32.

    In float32 step by step, as in the tables of published weights: beyond a thousand places that is not what exact
    arithmetic would give.
    """
    positions = torch.arange(length, device=device, dtype=torch.float32)
    frequencies = torch.exp(torch.arange(0, size, 2, device=device).float() * -(math.log(10_000.0) / size))
    angles = positions[:, None] * frequencies
    return torch.stack([angles.sin(), angles.cos()], dim=2).flatten(1)


def unfused_attention(query: Tensor, key: Tensor, value: Tensor, scaling: float) -> Tensor:
    """Attention as two batched products, (sequences, heads, length, size) -> (sequences, length, heads, size).

    On CPUs without matrix units PyTorch's fused kernel is no faster in bfloat16 than in float32: on sequences of 130,
    250 and 480 places this took 0.6, 0.85 and 0.7 of its time.
    """
    heads = query.shape[:2]
    query, key, value = (part.flatten(0, 1) for part in (query, key, value))
    weights = torch.baddbmm(query.new_zeros(1, 1, 1), query, key.transpose(1, 2), beta=0, alpha=scaling)
    torch.softmax(weights, dim=-1, out=weights)
    return torch.bmm(weights, value).unflatten(0, heads).transpose(1, 2)


class GlobalNorm(nn.Module):
    """Norm over all frames and channels of a recording with a weight and a bias a channel, in float32.

    A `skip` of the input's shape is added to the result.
    """

    def __init__(self, channels: int, eps: float):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(channels))
        self.bias = nn.Parameter(torch.zeros(channels))
        self.eps = eps

    def forward(self, x: Tensor, skip: Tensor | None = None) -> Tensor:
        """x: (batch, ..., channels), which is overwritten when nothing is learnt; then `skip` is, with the result."""
        overwrite = may_overwrite(self)
        mean, variance = _moments(x, in_pieces=overwrite)
        scale = self.weight.float() * (variance + self.eps).rsqrt()
        shift = self.bias.float() - mean * scale
        if overwrite:
            x = x.mul_(scale.to(x.dtype)).add_(shift.to(x.dtype))
            return x if skip is None else skip.add_(x)
        x = torch.addcmul(shift, x.float(), scale).to(x.dtype)
        return x if skip is None else skip + x


def _moments(x: Tensor, in_pieces: bool) -> tuple[Tensor, Tensor]:
    """Mean and variance of each item, (batch, 1, ..., 1), in float32; in pieces, to hold no second copy of it."""
    axes = tuple(range(1, x.ndim))
    if not in_pieces or x.dtype == torch.float32:
        variance, mean = torch.var_mean(x.float(), dim=axes, correction=0, keepdim=True)
        return mean, variance
    pieces = x.split(max(PIECE_ELEMENTS // x[:, 0].numel(), 1), dim=1)
    shares = [piece.shape[1] / x.shape[1] for piece in pieces]
    moments = [[part.double() for part in _moments(piece.float(), in_pieces=False)] for piece in pieces]
    mean = sum(share * piece_mean for share, (piece_mean, _) in zip(shares, moments, strict=True))
    parts = zip(shares, moments, strict=True)
    variance = sum(share * (spread + (piece_mean - mean).square()) for share, (piece_mean, spread) in parts)
    return mean.float(), variance.float()


def exact_product(x: Tensor, weight: Tensor) -> Tensor:
    """x times the transposed weight in float32, in autocast regions too."""
    with torch.autocast(x.device.type, enabled=False):
        return F.linear(x.float(), weight.float())


class AttentionInputs(nn.Linear):
    """Queries, keys and values in one product. A class of its own for `_init_weights` to see."""


class SepFormerAttention(nn.Module):
    """Multi-head self-attention over whole sequences; queries, keys and values come from one matrix product."""

    is_causal = False

    def __init__(self, config: SepFormerConfig):
        super().__init__()
        self.config = config
        self.num_heads = config.num_attention_heads
        self.scaling = (config.hidden_size // config.num_attention_heads) ** -0.5
        self.qkv = AttentionInputs(config.hidden_size, 3 * config.hidden_size)
        self.output = nn.Linear(config.hidden_size, config.hidden_size)

    def forward(self, x: Tensor) -> Tensor:
        """x: (sequences, length, hidden_size)."""
        query, key, value = self.qkv(x).unflatten(2, (3, self.num_heads, -1)).permute(2, 0, 3, 1, 4).unbind(0)
        if self._is_faster_unfused(query):
            return self.output(unfused_attention(query, key, value, self.scaling).flatten(2))
        attend = ALL_ATTENTION_FUNCTIONS.get_interface(self.config._attn_implementation, eager_attention)
        mixed, _ = attend(self, query, key, value, None, scaling=self.scaling, dropout=0.0, is_causal=False)
        return self.output(mixed.flatten(2))

    def _is_faster_unfused(self, query: Tensor) -> bool:
        on_cpu = query.device.type == "cpu" and query.dtype == torch.bfloat16 and may_overwrite(self)
        return on_cpu and self.config._attn_implementation == "sdpa" and query.shape[2] <= UNFUSED_LENGTH


class SepFormerLayer(GradientCheckpointingLayer):
    """A transformer layer with its norms before attention and feed-forward network."""

    def __init__(self, config: SepFormerConfig):
        super().__init__()
        self.attention_norm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.attention = SepFormerAttention(config)
        self.ffn_norm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.linear1 = nn.Linear(config.hidden_size, config.intermediate_size)
        self.linear2 = nn.Linear(config.intermediate_size, config.hidden_size)

    def forward(self, x: Tensor) -> Tensor:
        """x: contiguous (sequences, length, hidden_size), which is overwritten when nothing is learnt."""
        if not may_overwrite(self):
            x = x + self.attention(self.attention_norm(x))
            return x + self.linear2(F.relu(self.linear1(self.ffn_norm(x))))
        x.add_(self.attention(self.attention_norm(x)))
        for rows in x.view(-1, x.shape[2]).split(group_rows(x.device)):
            rows.add_(self.linear2(F.relu_(self.linear1(self.ffn_norm(rows)))))
        return x


class SepFormerStack(nn.Module):
    """Transformer layers over sequences that do not know of each other, with positions before and a norm after."""

    def __init__(self, config: SepFormerConfig, num_layers: int):
        super().__init__()
        self.layers = nn.ModuleList(SepFormerLayer(config) for _ in range(num_layers))
        self.norm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)

    def forward(self, x: Tensor) -> Tensor:
        """x: (batch, sequences, length, hidden_size); when nothing is learnt, the result has the same strides."""
        batch, sequences, length, size = x.shape
        positions = position_table(length, size, x.device).to(x.dtype)
        if not may_overwrite(self):
            return self._run(x.reshape(-1, length, size) + positions).view(x.shape)
        result = torch.empty_like(x)
        step = max(group_rows(x.device) // length, 1)
        for item in range(batch):
            for start in range(0, sequences, step):
                group = x[item, start : start + step].clone(memory_format=torch.contiguous_format)
                result[item, start : start + step] = self._run(group.add_(positions))
        return result

    def _run(self, x: Tensor) -> Tensor:
        for layer in self.layers:
            x = layer(x)
        return self.norm(x)


class SepFormerBlock(nn.Module):
    """A stack within chunks, a stack across chunks, each with a norm over the recording and a skip around both."""

    def __init__(self, config: SepFormerConfig):
        super().__init__()
        self.intra = SepFormerStack(config, config.num_intra_layers)
        self.intra_norm = GlobalNorm(config.hidden_size, config.global_norm_eps)
        self.inter = SepFormerStack(config, config.num_inter_layers)
        self.inter_norm = GlobalNorm(config.hidden_size, config.global_norm_eps)

    def forward(self, x: Tensor) -> Tensor:
        """x: (batch, chunks, frames, hidden_size), which is overwritten when nothing is learnt."""
        x = self.intra_norm(self.intra(x), skip=x)
        across = x.transpose(1, 2)
        return self.inter_norm(self.inter(across), skip=across).transpose(1, 2)


class SepFormerEncoder(nn.Module):
    """The filterbank: frames of the waveform to their rectified products with every filter, in float32."""

    def __init__(self, config: SepFormerConfig):
        super().__init__()
        self.kernel_size, self.stride = config.encoder_kernel_size, config.encoder_stride
        self.weight = nn.Parameter(torch.empty(config.encoder_channels, config.encoder_kernel_size))

    def forward(self, waveform: Tensor) -> Tensor:
        """(batch, samples) -> (batch, frames, encoder_channels); samples that fill no frame are not looked at."""
        return F.relu(exact_product(waveform.unfold(1, self.kernel_size, self.stride), self.weight))


class SepFormerDecoder(nn.Module):
    """The second filterbank: sums what every channel adds to the waveform, in float32."""

    def __init__(self, config: SepFormerConfig):
        super().__init__()
        self.weight = nn.Parameter(torch.empty(config.encoder_kernel_size, config.encoder_channels))

    def forward(self, features: Tensor) -> Tensor:
        """(..., encoder_channels) -> what each frame adds to the waveform, (..., encoder_kernel_size)."""
        return exact_product(features, self.weight)


class SepFormerMasker(nn.Module):
    """The dual-path network: features of the mixture to masks."""

    def __init__(self, config: SepFormerConfig):
        super().__init__()
        self.num_sources, self.chunk_size = config.num_sources, config.chunk_size
        size = config.hidden_size
        self.norm = GlobalNorm(config.encoder_channels, config.global_norm_eps)
        self.projection = nn.Linear(config.encoder_channels, size, bias=False)
        self.blocks = nn.ModuleList(SepFormerBlock(config) for _ in range(config.num_blocks))
        self.activation = nn.PReLU()
        self.split = nn.Linear(size, config.num_sources * size)
        self.output = nn.Linear(size, size)
        self.gate = nn.Linear(size, size)
        self.head = nn.Linear(size, config.encoder_channels, bias=False)

    def forward(self, features: Tensor) -> Tensor:
        """(batch, frames, encoder_channels) -> what the masks are made of, (batch, frames, hidden_size)."""
        dtype = dtype_of(self.projection)  # in autocast regions the residuals are float32
        hidden = self.norm(features.clone() if may_overwrite(self) else features)
        hidden = self._chunks(self.projection(hidden.to(dtype)).to(dtype))
        for block in self.blocks:
            hidden = block(hidden)
        return self._frames(hidden, features.shape[1])

    def masks(self, hidden: Tensor) -> Tensor:
        """Of some or all frames: (batch, frames, hidden_size) -> (batch, frames, num_sources, encoder_channels)."""
        # the sum of two chunks holds the bias of both
        if is_plain(self.split, nn.Linear):
            hidden = F.linear(hidden, self.split.weight, 2 * self.split.bias)
        else:
            hidden = self.split(hidden) + self.split(hidden.new_zeros(1, hidden.shape[-1]))
        hidden = hidden.unflatten(2, (self.num_sources, -1))
        return F.relu(self.head(torch.tanh(self.output(hidden)) * torch.sigmoid(self.gate(hidden))))

    def _chunks(self, x: Tensor) -> Tensor:
        """(batch, frames, size) -> (batch, chunks, chunk_size, size), zeros around; every frame is in two chunks.

        Frames that fit already get a whole chunk of zeros more: weights were trained with it.
        """
        half = self.chunk_size // 2
        gap = self.chunk_size - (half + x.shape[1]) % self.chunk_size
        padded = F.pad(x, (0, 0, half, gap + half))
        return padded.unfold(1, self.chunk_size, half).transpose(2, 3).contiguous()

    def _frames(self, x: Tensor, frames: int) -> Tensor:
        """The activation, and the sum over both chunks of each frame: the inverse of `_chunks`, times two."""
        half = self.chunk_size // 2
        first, second = x[:, 1:, :half], x[:, :-1, half:]
        return (self.activation(first) + self.activation(second)).flatten(1, 2)[:, :frames]


class SepFormerPreTrainedModel(HubsepModelMixin, PreTrainedModel):
    """Weights initialisation and loading shared by SepFormer models."""

    config: SepFormerConfig
    config_class = SepFormerConfig
    base_model_prefix = "sepformer"
    main_input_name = "input_values"
    input_modalities = ("audio",)
    supports_gradient_checkpointing = True
    _supports_sdpa = True
    _supports_flash_attn = True
    _supports_flex_attn = True
    _supports_attention_backend = True
    _no_split_modules = ["SepFormerBlock"]

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        """Uniform weights as wide as one over the root of the inputs; Xavier-uniform in front of attention."""
        if isinstance(module, nn.Linear):
            bound = module.in_features**-0.5
            init.uniform_(module.weight, -bound, bound)
            if module.bias is not None:
                init.zeros_(module.bias)
        elif isinstance(module, (nn.LayerNorm, GlobalNorm)):
            init.ones_(module.weight)
            init.zeros_(module.bias)
        elif isinstance(module, nn.PReLU):
            init.constant_(module.weight, 0.25)
        elif isinstance(module, (SepFormerEncoder, SepFormerDecoder)):
            bound = self.config.encoder_kernel_size**-0.5
            init.uniform_(module.weight, -bound, bound)
        if isinstance(module, AttentionInputs):
            init.xavier_uniform_(module.weight)


class SepFormerForAudioSeparation(SepFormerPreTrainedModel):
    """Separates speakers, or with one source speech from noise. Source: 2010.13154, section 2."""

    def __init__(self, config: SepFormerConfig):
        super().__init__(config)
        self.encoder = SepFormerEncoder(config)
        self.masker = SepFormerMasker(config)
        self.decoder = SepFormerDecoder(config)
        self.post_init()

    @can_return_tuple
    def forward(self, input_values: Tensor, labels: Tensor | None = None, **kwargs: object) -> AudioSeparationOutput:
        """Separates every mixture.

        Args:
            input_values: mixtures, (batch, 1, samples), at least `config.minimum_samples` long.
            labels: target waveforms (batch, num_sources, 1, samples), in any order.

        Returns:
            AudioSeparationOutput: `sources` (batch, num_sources, 1, samples), float32, `loss` with labels.

        Raises:
            AudioError: if the waveform has another rank or channel count, or is too short.
        """
        check_keywords(self, kwargs)
        check_waveform(self.config, input_values)
        features = self.encoder(input_values[:, 0].float())
        with touched(self):
            hidden = self.masker(features)
            if may_overwrite(self):
                rows = max(group_rows(hidden.device) // len(hidden), 1)
                pieces = zip(features.split(rows, dim=1), hidden.split(rows, dim=1), strict=True)
                parts = torch.cat([self._parts(*piece) for piece in pieces], dim=1)
            else:
                parts = self._parts(features, hidden)
        waveforms = overlap_add(parts, self.config.encoder_stride)
        sources = F.pad(waveforms, (0, input_values.shape[-1] - waveforms.shape[-1])).unsqueeze(2)
        loss = None if labels is None else LOSSES[self.config.loss](sources, labels, input_values)
        return AudioSeparationOutput(loss=loss, sources=sources)

    def _parts(self, features: Tensor, hidden: Tensor) -> Tensor:
        """What each frame adds to every source."""
        return self.decoder(features.unsqueeze(2) * self.masker.masks(hidden))


__all__ = ["SepFormerForAudioSeparation", "SepFormerPreTrainedModel"]
