# SPDX-License-Identifier: Apache-2.0
"""Meta-TasNet (2002.07016) in plain torch, to measure beside: one operation a layer, as the paper draws it.

The instruments' maps lie beside each other as channels, (batch, 4 * channels, frames), and every layer is one grouped
convolution or norm whose weights are generated from the embeddings on every call. Tensors have the names and layouts
of the published checkpoint, which `save` writes.
"""

from __future__ import annotations

import argparse
from math import prod
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn


INSTRUMENTS, GROUPS, EPSILON = 4, 8, 1e-8
SIZES: dict[str, dict[str, Any]] = {
    "published": {"filters": 440, "width": 160, "mels": 256, "layers": 6, "stacks": 3},
    "tiny": {"filters": 32, "width": 16, "mels": 8, "layers": 2, "stacks": 1},
}
LENGTH, EMBEDDING, GENERATOR, TAPS = 20, 8, 5, 3


class GeneratedConv(nn.Module):
    def __init__(self, inputs: int, outputs: int, taps: int = 1, dilation: int = 1, depthwise: bool = False):
        super().__init__()
        self.shape = (INSTRUMENTS * outputs, 1 if depthwise else inputs, taps)
        self.groups, self.dilation = INSTRUMENTS * (inputs if depthwise else 1), dilation
        self.bottleneck = nn.Linear(EMBEDDING, GENERATOR)
        self.kernel = nn.Linear(GENERATOR, prod(self.shape) // INSTRUMENTS)

    def forward(self, x: Tensor, embedding: Tensor) -> Tensor:
        kernel = self.kernel(self.bottleneck(embedding)).view(self.shape)
        padding = (self.shape[2] - 1) // 2 * self.dilation
        return F.conv1d(x, kernel, padding=padding, dilation=self.dilation, groups=self.groups)


class GeneratedNorm(nn.Module):
    def __init__(self, channels: int):
        super().__init__()
        self.bottleneck = nn.Linear(EMBEDDING, GENERATOR)
        self.affine = nn.Linear(GENERATOR, 2 * channels)
        nn.init.constant_(self.affine.bias[:channels], 1.0)

    def forward(self, x: Tensor, embedding: Tensor) -> Tensor:
        scale, shift = self.affine(self.bottleneck(embedding)).chunk(2, dim=1)
        return F.group_norm(x, INSTRUMENTS * GROUPS, scale.flatten(), shift.flatten(), EPSILON)


class Block(nn.Module):
    def __init__(self, width: int, dilation: int):
        super().__init__()
        self.conv1d, self.prelu_1, self.norm_1 = GeneratedConv(width, width), nn.PReLU(), GeneratedNorm(width)
        self.dconv1d = GeneratedConv(width, width, TAPS, dilation, depthwise=True)
        self.prelu_2, self.norm_2 = nn.PReLU(), GeneratedNorm(width)
        self.res_out, self.skip_out = GeneratedConv(width, width), GeneratedConv(width, width)

    def forward(self, x: Tensor, embedding: Tensor) -> tuple[Tensor, Tensor]:
        y = self.norm_1(self.prelu_1(self.conv1d(x, embedding)), embedding)
        y = self.norm_2(self.prelu_2(self.dconv1d(y, embedding)), embedding)
        return x + self.res_out(y, embedding), self.skip_out(y, embedding)


class Masker(nn.Module):
    def __init__(self, inputs: int, filters: int, width: int, layers: int, stacks: int):
        super().__init__()
        self.prelu_1, self.norm_1, self.in_conv = nn.PReLU(), GeneratedNorm(inputs), GeneratedConv(inputs, width)
        self.prelu_2, self.norm_2 = nn.PReLU(), GeneratedNorm(width)
        self.tcn = nn.ModuleList(Block(width, 2**layer) for _ in range(stacks) for layer in range(layers))
        self.prelu_3, self.norm_3, self.mask_output = nn.PReLU(), GeneratedNorm(width), GeneratedConv(width, filters)
        self.prelu_4, self.norm_4 = nn.PReLU(), GeneratedNorm(filters)

    def forward(self, latents: Tensor, hidden: Tensor | None, embedding: Tensor) -> Tensor:
        """Latents (batch, filters, frames) and those of the stage before to (batch, 4, filters, frames)."""
        copies = latents.unsqueeze(1).expand(-1, INSTRUMENTS, -1, -1)
        x = copies if hidden is None else torch.cat([copies, hidden], dim=2)
        x = self.in_conv(self.norm_1(self.prelu_1(x.flatten(1, 2)), embedding), embedding)
        x = self.norm_2(self.prelu_2(x), embedding)
        total: Tensor | int = 0
        for block in self.tcn:
            x, skip = block(x, embedding)
            total = total + skip
        y = self.mask_output(self.norm_3(self.prelu_3(total), embedding), embedding)
        y = self.norm_4(self.prelu_4(y), embedding)
        return y.unflatten(1, (INSTRUMENTS, -1)).softmax(dim=1) * copies


class Spectrogram(nn.Module):
    def __init__(self, scale: int, mels: int):
        super().__init__()
        self.n_fft, bins = 1_024 * scale, 512 * scale + 1
        fixed = {
            "window": torch.hann_window(self.n_fft),
            "mean": torch.zeros(1, bins, 1),
            "std": torch.ones(1, bins, 1),
        }
        for name, value in fixed.items():
            self.register_buffer(name, value)
        self.affine_bias, self.affine_scale = (
            nn.Parameter(torch.zeros(1, bins, 1)),
            nn.Parameter(torch.ones(1, bins, 1)),
        )
        self.mel_transform = nn.Conv1d(bins, mels, 1)

    def forward(self, waveform: Tensor, frames: int) -> Tensor:
        window: Any = self.window
        spectrum = torch.stft(waveform[:, 0], self.n_fft, self.n_fft // 4, window=window, return_complex=True)
        power = (spectrum.real**2 + spectrum.imag**2 + EPSILON).log10()
        normal = (power - self.mean) / self.std * self.affine_scale + self.affine_bias
        return F.interpolate(self.mel_transform(normal), size=frames, mode="linear", align_corners=True)


class Encoder(nn.Module):
    def __init__(self, scale: int, filters: int, mels: int):
        super().__init__()
        stride, lengths = LENGTH * scale, [LENGTH * scale * 2**index for index in range(3)]
        self.spectrogram = Spectrogram(scale, mels)
        self.filters = nn.ModuleList(
            nn.Conv1d(1, filters // 4, length, stride, (length - stride) // 2, bias=False) for length in lengths
        )
        inputs = 3 * (filters // 4) + mels
        self.bottleneck = nn.Sequential(
            nn.Conv1d(inputs, filters, 1, bias=False), nn.ReLU(), nn.Conv1d(filters, filters, 1, bias=False)
        )

    def forward(self, waveform: Tensor) -> Tensor:
        encoded = torch.stack([conv(waveform) for conv in self.filters], dim=2).flatten(1, 2).relu()
        return self.bottleneck(torch.cat([encoded, self.spectrogram(waveform, encoded.shape[-1])], dim=1))


class Decoder(nn.Module):
    def __init__(self, scale: int, filters: int):
        super().__init__()
        stride, self.widths = LENGTH * scale, [filters // 2 ** (index + 1) for index in range(3)]
        self.bottleneck = nn.Sequential(nn.ConvTranspose1d(filters, sum(self.widths), 1, bias=False), nn.ReLU())
        lengths = [stride * 2**index for index in range(3)]
        self.filters = nn.ModuleList(
            nn.ConvTranspose1d(width, 1, length, stride, (length - stride) // 2, bias=False)
            for width, length in zip(self.widths, lengths, strict=True)
        )

    def forward(self, latents: Tensor) -> Tensor:
        parts = self.bottleneck(latents).split(self.widths, dim=1)
        first, second, third = (conv(part) for conv, part in zip(self.filters, parts, strict=True))
        return first + second + third


class Stage(nn.Module):
    def __init__(self, index: int, filters: int, width: int, mels: int, layers: int, stacks: int):
        super().__init__()
        scale = 2**index
        filters *= scale
        self.instrument_embedding = nn.Embedding(INSTRUMENTS, EMBEDDING)
        self.encoder, self.decoder = Encoder(scale, filters, mels), Decoder(scale, filters)
        self.mask = Masker(filters + (filters // 2 if index else 0), filters, width, layers, stacks)

    def forward(self, waveform: Tensor, hidden: Tensor | None) -> tuple[Tensor, Tensor]:
        masked = self.mask(self.encoder(waveform), hidden, self.instrument_embedding.weight)
        return masked, self.decoder(masked.flatten(0, 1)).unflatten(0, masked.shape[:2])


class MetaTasNet(nn.Module):
    """Waveforms at 8, 16 and 32 kHz, (batch, 1, samples) each, to (batch, 4, 1, samples) each."""

    def __init__(self, **sizes: int):
        super().__init__()
        self.sizes = sizes
        self.stages = nn.ModuleList(Stage(index, **sizes) for index in range(3))

    def forward(self, waveforms: list[Tensor]) -> list[Tensor]:
        hidden, outputs = None, []
        for stage, waveform in zip(self.stages, waveforms, strict=True):
            hidden, sources = stage(waveform, hidden)
            outputs.append(sources)
        return outputs


def save(network: MetaTasNet, path: Path) -> None:
    """Writes a network as its authors publish theirs."""
    sizes = network.sizes
    arguments = {
        "stages_num": 3, "sampling_rate": 8_000, "N": sizes["filters"], "L": LENGTH, "W": LENGTH, "B": sizes["width"],
        "H": sizes["width"], "kernel": TAPS, "layers": sizes["layers"], "stack": sizes["stacks"], "E_1": EMBEDDING,
        "E_2": GENERATOR, "num_mels": sizes["mels"], "residual_bias": False,
    }  # fmt: skip
    torch.save({"state_dict": network.state_dict(), "args": argparse.Namespace(**arguments)}, path)


__all__ = ["SIZES", "MetaTasNet", "save"]
