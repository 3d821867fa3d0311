# SPDX-License-Identifier: Apache-2.0
"""From a slot to its source's spectrogram: the spatial broadcast decoder, and a refinement that knows the mixture.

The paper: a spatial broadcast decoder, shared by all slots, makes each spectrogram from its embedding alone. Here a
slot is laid on every position together with the position's code, and a pointwise network turns both into a magnitude.
The first layer is applied to the parts, slot, time and frequency, and their sums are broadcast: the same numbers
without a map of the inputs. Ours: with a `decoder_patch` a position stands for a rectangle of frames and bins.

Ours as well, the refinement: one vector holds no fine structure of harmonics, so the broadcast magnitudes are smooth.
A path of upsampling leads from the tokens through the backbone's maps back to the resolution of the first one; it is
run once a chunk, whatever the number of slots. Each slot generates the weights of the last 1x1 convolution, which
gives the correction of its log magnitudes, a rectangle of bins a position. These weights start at zero, so training
starts from the broadcast decoder.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ...layers import dtype_of
from .configuration_audioslots import AudioSlotsConfig
from .layers_audioslots import ResidualBlock


STRIP_ELEMENTS = 2**24  # of a hidden map, when nothing is learnt: 64 MB, whatever the length of the recording


def position_code(positions: int, frequencies: int, like: Tensor) -> Tensor:
    """Sines and cosines of a line from -1 to 1, (positions, 2 * frequencies), half periods 1 to `frequencies`."""
    line = torch.linspace(-1.0, 1.0, positions, device=like.device)
    angles = math.pi * line[:, None] * torch.arange(1, frequencies + 1, device=like.device)
    return torch.cat([angles.sin(), angles.cos()], dim=1)


class BroadcastDecoder(nn.Module):
    """Slots (n, hidden_size) -> maps (n, chunk_frames, bins), before the softplus that makes them magnitudes."""

    def __init__(self, config: AudioSlotsConfig):
        super().__init__()
        self.shape = (config.chunk_frames, config.num_bins)
        self.patch = (config.decoder_patch[0], config.decoder_patch[1])
        self.frequencies, width = config.position_frequencies, config.decoder_hidden_size
        self.slot = nn.Linear(config.hidden_size, width)
        self.time = nn.Linear(2 * self.frequencies, width, bias=False)
        self.frequency = nn.Linear(2 * self.frequencies, width, bias=False)
        self.layers = nn.ModuleList(nn.Linear(width, width) for _ in range(config.decoder_layers - 1))
        self.head = nn.Linear(width, self.patch[0] * self.patch[1])

    def forward(self, slots: Tensor) -> Tensor:
        rows, columns = (-(-size // step) for size, step in zip(self.shape, self.patch, strict=True))
        time = self.time(position_code(rows, self.frequencies, slots).to(dtype_of(self.time)))
        frequency = self.frequency(position_code(columns, self.frequencies, slots).to(dtype_of(self.frequency)))
        grid, slots = time[:, None] + frequency, self.slot(slots)
        if torch.is_grad_enabled():
            return self._decode(slots, grid)
        strip = max(STRIP_ELEMENTS // grid.numel(), 1)
        return torch.cat([self._decode(part, grid) for part in slots.split(strip)])

    def _decode(self, slots: Tensor, grid: Tensor) -> Tensor:
        hidden = F.relu(slots[:, None, None] + grid)
        for layer in self.layers:
            hidden = F.relu(layer(hidden))
        return unfold_patches(self.head(hidden).float(), self.patch)[:, : self.shape[0], : self.shape[1]]


class Correction(nn.Linear):
    """A linear layer that starts at zero. Its own class, because transformers initialises by module, and passes over
    modules without parameters of their own."""


class UpBlock(nn.Module):
    """A coarser map is brought to the size and channels of a finer one and added to it, before a residual block."""

    def __init__(self, coarse: int, fine: int, groups: int):
        super().__init__()
        self.project = nn.Linear(coarse, fine)
        self.block = ResidualBlock(fine, fine, (1, 1), groups)

    def forward(self, coarse: Tensor, fine: Tensor) -> Tensor:
        projected = self.project(coarse.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)
        if projected.shape[2:] != fine.shape[2:]:
            projected = F.interpolate(projected, size=fine.shape[2:], mode="nearest")
        return self.block(fine + projected)


class RefinementDecoder(nn.Module):
    """Corrections of log magnitudes (chunks, num_sources, chunk_frames, bins - 1) from slots, tokens and maps."""

    def __init__(self, config: AudioSlotsConfig):
        super().__init__()
        self.frames, self.grid = config.chunk_frames, config.grids[-1]
        self.patch = (config.root_stride[0], config.root_stride[1])
        fine = [config.root_channels, *config.backbone_channels][::-1]
        coarse = [config.hidden_size, *fine]
        self.blocks = nn.ModuleList(
            UpBlock(below, above, config.norm_groups) for below, above in zip(coarse, fine, strict=False)
        )
        self.area = self.patch[0] * self.patch[1]
        self.kernel = Correction(config.hidden_size, config.root_channels * self.area)
        self.bias = Correction(config.hidden_size, self.area)
        self.bins = config.num_bins - 1

    def forward(self, slots: Tensor, tokens: Tensor, maps: list[Tensor]) -> Tensor:
        x = tokens.unflatten(1, self.grid).permute(0, 3, 1, 2)
        for block, fine in zip(self.blocks, maps[::-1], strict=True):
            x = block(x, fine)
        num_sources, (rows, columns) = slots.shape[1], x.shape[2:]
        # A mean over channels rather than a sum: a first step of Adam then moves the result as far as elsewhere.
        kernel = self.kernel(slots).unflatten(-1, (self.area, -1)).flatten(1, 2) / x.shape[1]
        logits = x.permute(0, 2, 3, 1).flatten(1, 2) @ kernel.transpose(1, 2)
        logits = logits + self.bias(slots).flatten(1).unsqueeze(1)
        logits = logits.float().unflatten(1, (rows, columns)).unflatten(3, (num_sources, -1))
        logits = unfold_patches(logits.permute(0, 3, 1, 2, 4).flatten(0, 1), self.patch)
        return logits.unflatten(0, (-1, num_sources))[:, :, : self.frames, : self.bins]


def unfold_patches(x: Tensor, patch: tuple[int, int]) -> Tensor:
    """Lays the channels of each position out as a rectangle: (n, rows, columns, area) -> (n, frames, bins)."""
    return x.unflatten(3, patch).transpose(2, 3).flatten(3, 4).flatten(1, 2)


__all__ = ["BroadcastDecoder", "Correction", "RefinementDecoder", "position_code", "unfold_patches"]
