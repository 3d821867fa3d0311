# SPDX-License-Identifier: Apache-2.0
"""The decoders of AudioMAE's pre-training: attention within windows that shift (2207.06405, section 3.3), or global.

A window layer attends by the cosine of queries and keys over a learnt temperature, with biases that a small network
makes from the distances within a window on a logarithmic scale (Swin Transformer V2, 2111.09883); its norms come after
attention and feed-forward network. Every other layer moves the windows by half their length in time, not in
frequency; patches that lie together only because the spectrogram's end meets its start there do not see each other.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers.modeling_layers import GradientCheckpointingLayer

from .configuration_audiomae import AudioMAEConfig
from .layers_audiomae import AudioMAELayer, position_table


SMALLEST_TEMPERATURE = 0.01
NEVER = -100.0  # added to what is attended to across the spectrogram's ends, as in the published code


def window_offsets(window: int) -> Tensor:
    """Signed logarithms of the distances between all places of a window, (window^4, 2), time first."""
    places = torch.cartesian_prod(torch.arange(window), torch.arange(window)).float()
    offsets = (places[:, None] - places[None]).flatten(0, 1)
    return offsets.sign() * offsets.abs().log1p()


def shift_mask(steps: int, window: int, shift: int) -> Tensor:
    """What is added to attention in windows moved by `shift` time steps, (windows in time, window^2, window^2).

    Only the last windows in time hold both the end and the start of a spectrogram.
    """
    wrapped = torch.arange(steps).unflatten(0, (-1, window)) >= steps - shift
    side = wrapped.repeat_interleave(window, dim=1)  # of every place: frequency is the fast axis of a window
    return NEVER * (side[:, :, None] != side[:, None, :]).float()


class WindowAttention(nn.Module):
    """Cosine attention within windows, with biases from the distances between places."""

    def __init__(self, config: AudioMAEConfig):
        super().__init__()
        size, hidden = config.decoder_hidden_size, config.decoder_bias_hidden_size
        self.num_heads, self.window = config.decoder_num_attention_heads, config.decoder_window_size
        self.bias_dropout = config.decoder_bias_dropout
        self.qkv = nn.Linear(size, 3 * size)
        self.output = nn.Linear(size, size)
        self.bias1 = nn.Linear(2, hidden)
        self.bias2 = nn.Linear(hidden, self.num_heads)
        self.temperature = nn.Parameter(torch.ones(self.num_heads))

    def forward(self, x: Tensor, mask: Tensor | None) -> Tensor:
        """x: (batch, windows, window^2, size); mask: (windows, 1, window^2, window^2), added before the softmax."""
        query, key, value = self.qkv(x).unflatten(3, (3, self.num_heads, -1)).permute(3, 0, 1, 4, 2, 5).unbind(0)
        temperature = self.temperature.clamp_min(SMALLEST_TEMPERATURE)[:, None, None]
        query, key = F.normalize(query, dim=-1) / temperature, F.normalize(key, dim=-1)
        added = self.biases() if mask is None else self.biases() + mask.to(x.dtype)
        mixed = F.scaled_dot_product_attention(
            query, key, value, attn_mask=added.expand(*query.shape[:4], -1), scale=1.0
        )
        return self.output(mixed.transpose(2, 3).flatten(3))

    def biases(self) -> Tensor:
        """(heads, window^2, window^2)."""
        offsets = window_offsets(self.window).to(self.bias1.weight)
        hidden = F.dropout(F.relu(self.bias1(offsets)), self.bias_dropout, self.training)
        made = F.dropout(self.bias2(hidden), self.bias_dropout, self.training)
        return made.T.unflatten(1, (self.window**2, -1))


class WindowLayer(GradientCheckpointingLayer):
    """A transformer layer on windows of patches, with its norms after attention and feed-forward network."""

    def __init__(self, config: AudioMAEConfig, shifted: bool):
        super().__init__()
        size = config.decoder_hidden_size
        self.window = config.decoder_window_size
        self.shift = self.window // 2 if shifted else 0
        self.attention = WindowAttention(config)
        self.attention_norm = nn.LayerNorm(size, eps=config.layer_norm_eps)
        self.linear1 = nn.Linear(size, config.decoder_intermediate_size)
        self.linear2 = nn.Linear(config.decoder_intermediate_size, size)
        self.ffn_norm = nn.LayerNorm(size, eps=config.layer_norm_eps)

    def forward(self, x: Tensor, grid: tuple[int, int]) -> Tensor:
        """x: (batch, patches, size), in `grid` patches of time and of frequency."""
        x = x + self.attention_norm(self._attend(x.unflatten(1, grid)).flatten(1, 2))
        return x + self.ffn_norm(self.linear2(F.gelu(self.linear1(x))))

    def _attend(self, x: Tensor) -> Tensor:
        """x: (batch, time, frequency, size)."""
        (_, steps, bands, _), window = x.shape, self.window
        # with a single window in time, nothing is gained by moving it
        shift = self.shift if steps > window else 0
        rows = x.roll(-shift, dims=1).unflatten(2, (-1, window)).unflatten(1, (-1, window))
        windows = rows.transpose(2, 3).flatten(3, 4).flatten(1, 2)
        mask = None
        if shift:
            mask = shift_mask(steps, window, shift).repeat_interleave(bands // window, dim=0)[:, None].to(x.device)
        mixed = self.attention(windows, mask).unflatten(2, (window, window)).unflatten(1, (-1, bands // window))
        return mixed.transpose(2, 3).flatten(3, 4).flatten(1, 2).roll(shift, dims=1)


class AudioMAEDecoder(nn.Module):
    """From what the encoder made of the patches it saw to the contents of all patches."""

    positions: Tensor

    def __init__(self, config: AudioMAEConfig):
        super().__init__()
        size = config.decoder_hidden_size
        self.grid, self.is_global = config.grid, config.decoder_type == "global"
        self.embedding = nn.Linear(config.hidden_size, size)
        self.mask_token = nn.Parameter(torch.zeros(1, 1, size))
        self.register_buffer("positions", position_table(config.grid, size))
        self.layers = nn.ModuleList(self._layer(config, index) for index in range(config.decoder_num_layers))
        self.norm = nn.LayerNorm(size, eps=config.layer_norm_eps)
        self.head = nn.Linear(size, config.patch_size**2)

    @staticmethod
    def _layer(config: AudioMAEConfig, index: int) -> nn.Module:
        if config.decoder_type == "shifted_window":
            return WindowLayer(config, shifted=index % 2 == 1)
        size, heads = config.decoder_hidden_size, config.decoder_num_attention_heads
        return AudioMAELayer(config, size, heads, config.decoder_intermediate_size)

    def forward(self, hidden: Tensor, ids_restore: Tensor) -> Tensor:
        """Predicts the contents of every patch.

        Args:
            hidden: the encoder's output, (batch, 1 + seen patches, hidden_size).
            ids_restore: of every patch, which of the seen and then the hidden ones it is, (batch, patches).

        Returns:
            (batch, patches, patch_size^2).
        """
        seen = self.embedding(hidden)
        batch, patches = ids_restore.shape
        tokens = self.mask_token.to(seen.dtype).expand(batch, patches + 1 - seen.shape[1], -1)
        every = torch.cat([seen[:, 1:], tokens], dim=1)
        every = every.gather(1, ids_restore[..., None].expand(-1, -1, seen.shape[2]))
        positions = self.positions[:, : patches + 1].to(seen.dtype)
        x = every + positions[:, 1:]
        if self.is_global:
            x = torch.cat([seen[:, :1] + positions[:, :1], x], dim=1)
        for layer in self.layers:
            x = layer(x) if self.is_global else layer(x, (patches // self.grid[1], self.grid[1]))
        x = self.head(self.norm(x))
        return x[:, 1:] if self.is_global else x


__all__ = ["AudioMAEDecoder", "WindowAttention", "WindowLayer", "shift_mask", "window_offsets"]
