# SPDX-License-Identifier: Apache-2.0
"""What encoder and decoders of AudioMAE share: the fixed table of positions, and the transformer layer.

The table keeps a property of the published weights: it counts the patches as if frequency were the slow axis, while
the patches come with time as the slow one. Every patch still has a place of its own, nothing but the place is odd; a
table that counted right would not fit the published weights. A patch has the same place however long the spectrogram.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers.modeling_layers import GradientCheckpointingLayer
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from ...layers import eager_attention
from .configuration_audiomae import AudioMAEConfig


def position_table(grid: tuple[int, int], size: int) -> Tensor:
    """Sines and cosines of two axes, after a row of zeros for the class token.

    Args:
        grid: patches in time and in frequency.
        size: of an entry, a multiple of 4.

    Returns:
        (1, 1 + patches, size), float32.
    """
    length, height = grid
    frequencies = 1 / 10_000 ** (torch.arange(size // 4, dtype=torch.float64) / (size // 4))
    places = torch.arange(length * height)
    axes = [(places % length).double(), (places // length).double()]
    halves = [f(axis[:, None] * frequencies) for axis in axes for f in (torch.sin, torch.cos)]
    return F.pad(torch.cat(halves, dim=1), (0, 0, 1, 0)).float().unsqueeze(0)


class AudioMAEAttention(nn.Module):
    """Multi-head self-attention over all patches; queries, keys and values come from one matrix product."""

    is_causal = False

    def __init__(self, config: AudioMAEConfig, size: int, num_heads: int):
        super().__init__()
        self.config = config
        self.num_heads = num_heads
        self.scaling = (size // num_heads) ** -0.5
        self.qkv = nn.Linear(size, 3 * size)
        self.output = nn.Linear(size, size)

    def forward(self, x: Tensor) -> Tensor:
        """x: (batch, length, size)."""
        query, key, value = self.qkv(x).unflatten(2, (3, self.num_heads, -1)).permute(2, 0, 3, 1, 4).unbind(0)
        attend = ALL_ATTENTION_FUNCTIONS.get_interface(self.config._attn_implementation, eager_attention)
        mixed, _ = attend(self, query, key, value, None, scaling=self.scaling, dropout=0.0, is_causal=False)
        return self.output(mixed.flatten(2))


class AudioMAELayer(GradientCheckpointingLayer):
    """A transformer layer with its norms before attention and feed-forward network."""

    def __init__(self, config: AudioMAEConfig, size: int, num_heads: int, intermediate_size: int):
        super().__init__()
        self.attention_norm = nn.LayerNorm(size, eps=config.layer_norm_eps)
        self.attention = AudioMAEAttention(config, size, num_heads)
        self.ffn_norm = nn.LayerNorm(size, eps=config.layer_norm_eps)
        self.linear1 = nn.Linear(size, intermediate_size)
        self.linear2 = nn.Linear(intermediate_size, size)

    def forward(self, x: Tensor) -> Tensor:
        """x: (batch, length, size)."""
        x = x + self.attention(self.attention_norm(x))
        return x + self.linear2(F.gelu(self.linear1(self.ffn_norm(x))))


__all__ = ["AudioMAEAttention", "AudioMAELayer", "position_table"]
