# SPDX-License-Identifier: Apache-2.0
"""AudioSlots' encoder: a residual convolutional backbone on the spectrogram, and a Transformer over its tokens.

The paper says that the encoder is a Transformer; the backbone before it is ours, after the authors' other slot models:
basic residual blocks with group norm, whose result depends on nothing else in the batch. Maps are channels last in
memory and the convolutions dense, which is what a CPU trains fastest in bfloat16.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ...layers import dtype_of
from .configuration_audioslots import AudioSlotsConfig


class ResidualBlock(nn.Module):
    """Two 3x3 convolutions with group norm and a shortcut, (batch, channels, time, frequency)."""

    def __init__(self, in_channels: int, out_channels: int, stride: tuple[int, int], groups: int):
        super().__init__()
        self.conv1 = nn.Conv2d(in_channels, out_channels, 3, stride, padding=1, bias=False)
        self.norm1 = nn.GroupNorm(groups, out_channels)
        self.conv2 = nn.Conv2d(out_channels, out_channels, 3, padding=1, bias=False)
        self.norm2 = nn.GroupNorm(groups, out_channels)
        same = in_channels == out_channels and max(stride) == 1
        self.shortcut = nn.Identity() if same else nn.Conv2d(in_channels, out_channels, 1, stride)

    def forward(self, x: Tensor) -> Tensor:
        hidden = F.relu(self.norm1(self.conv1(x)))
        return F.relu(self.norm2(self.conv2(hidden)) + self.shortcut(x))


class Attention(nn.Module):
    """Multi-head attention of `queries` (batch, n, size) to `tokens` (batch, m, size)."""

    def __init__(self, size: int, num_heads: int):
        super().__init__()
        self.num_heads = num_heads
        self.query = nn.Linear(size, size)
        self.key_value = nn.Linear(size, 2 * size)
        self.output = nn.Linear(size, size)

    def forward(self, queries: Tensor, tokens: Tensor) -> Tensor:
        query = self.query(queries).unflatten(-1, (self.num_heads, -1)).transpose(1, 2)
        key, value = self.key_value(tokens).unflatten(-1, (2, self.num_heads, -1)).permute(2, 0, 3, 1, 4)
        attended = F.scaled_dot_product_attention(query, key, value)
        return self.output(attended.transpose(1, 2).flatten(2))


class FeedForward(nn.Module):
    """Two linear layers with a GELU between them."""

    def __init__(self, size: int, intermediate_size: int):
        super().__init__()
        self.linear1 = nn.Linear(size, intermediate_size)
        self.linear2 = nn.Linear(intermediate_size, size)

    def forward(self, x: Tensor) -> Tensor:
        return self.linear2(F.gelu(self.linear1(x)))


class TokenLayer(nn.Module):
    """A pre-norm Transformer layer over tokens (batch, tokens, hidden_size)."""

    def __init__(self, config: AudioSlotsConfig):
        super().__init__()
        self.attention_norm = nn.LayerNorm(config.hidden_size)
        self.attention = Attention(config.hidden_size, config.num_heads)
        self.feed_forward_norm = nn.LayerNorm(config.hidden_size)
        self.feed_forward = FeedForward(config.hidden_size, config.intermediate_size)

    def forward(self, tokens: Tensor) -> Tensor:
        normed = self.attention_norm(tokens)
        tokens = tokens + self.attention(normed, normed)
        return tokens + self.feed_forward(self.feed_forward_norm(tokens))


class AudioSlotsEncoder(nn.Module):
    """Compressed magnitudes of chunks -> tokens with learned positions, and the maps they were made from."""

    def __init__(self, config: AudioSlotsConfig):
        super().__init__()
        kernel, stride = tuple(config.root_kernel), tuple(config.root_stride)
        padding = (kernel[0] // 2, kernel[1] // 2)
        self.root = nn.Conv2d(1, config.root_channels, kernel, stride, padding, bias=False)  # type: ignore[arg-type]
        self.root_norm = nn.GroupNorm(config.norm_groups, config.root_channels)
        self.stages = nn.ModuleList()
        channels = config.root_channels
        for depth, width, (time, frequency) in zip(
            config.backbone_depths, config.backbone_channels, config.backbone_strides, strict=True
        ):
            blocks = [ResidualBlock(channels, width, (time, frequency), config.norm_groups)]
            blocks += [ResidualBlock(width, width, (1, 1), config.norm_groups) for _ in range(depth - 1)]
            self.stages.append(nn.Sequential(*blocks))
            channels = width
        rows, columns = config.grids[-1]
        self.projection = nn.Linear(channels, config.hidden_size)
        self.row_positions = nn.Parameter(torch.empty(rows, config.hidden_size))
        self.column_positions = nn.Parameter(torch.empty(columns, config.hidden_size))
        self.layers = nn.ModuleList(TokenLayer(config) for _ in range(config.encoder_layers))
        self.norm = nn.LayerNorm(config.hidden_size)

    def forward(self, features: Tensor) -> tuple[Tensor, list[Tensor]]:
        """Encodes chunks.

        Args:
            features: (chunks, chunk_frames, bins without Nyquist), float32.

        Returns:
            Tokens (chunks, tokens, hidden_size), and the maps after the root and each stage,
            (chunks, channels, time, frequency).
        """
        x = features.unsqueeze(1).to(dtype_of(self.root)).contiguous(memory_format=torch.channels_last)
        x = F.relu(self.root_norm(self.root(x)))
        maps = [x]
        for stage in self.stages:
            x = stage(x)
            maps.append(x)
        tokens = self.projection(x.permute(0, 2, 3, 1))
        tokens = (tokens + self.row_positions[:, None] + self.column_positions).flatten(1, 2)
        for layer in self.layers:
            tokens = layer(tokens)
        return self.norm(tokens), maps


__all__ = ["Attention", "AudioSlotsEncoder", "FeedForward", "ResidualBlock"]
