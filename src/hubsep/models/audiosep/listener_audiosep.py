# SPDX-License-Identifier: Apache-2.0
"""A listener beside the separator: which of all the sounds it was taught are in a recording, and when.

A separator that is told what to take has no reason to doubt that it is there: of two violins and no cello it gave one
for a cello, with a high score. The listener is told nothing. It hears the recording once, whatever is asked for, and
weighs all sounds against each other; it is small, and learns from many more mixtures in the same time.

Decisions: a spectrogram is measured from its loudest place down, so level says nothing; evidence is given in frames of
a third of a second, each of which also sees the mean over the whole excerpt, since steady sounds need a longer look.
"""

from __future__ import annotations

import math
from functools import lru_cache
from itertools import pairwise
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers.audio_utils import mel_filter_bank

from ...layers import dtype_of, stft


if TYPE_CHECKING:
    from .configuration_audiosep import AudioSepConfig

N_FFT, HOP, MELS = 1_024, 640, 64
LOWEST_HZ = 40.0
RANGE_NEPERS = 9.0  # below the loudest place of an excerpt; what is softer is taken for silence
POOLING = 2  # of both directions, after every block


@lru_cache(maxsize=4)
def filters(sampling_rate: int) -> Tensor:
    """Mel filters (N_FFT // 2 + 1, MELS)."""
    bank = mel_filter_bank(N_FFT // 2 + 1, MELS, LOWEST_HZ, sampling_rate / 2, sampling_rate, None, "htk")
    return torch.from_numpy(bank).float()


def listener_features(waveform: Tensor, sampling_rate: int) -> Tensor:
    """Log mel magnitudes (batch, 1, frames, MELS) in [-1, 1], from the loudest place of each excerpt down.

    Args:
        waveform: (batch, samples).
        sampling_rate: in Hz.
    """
    short = N_FFT // 2 + 1 - waveform.shape[-1]
    spectrum = stft(F.pad(waveform, (0, max(short, 0))), N_FFT, HOP).abs()
    mel = (spectrum @ filters(sampling_rate).to(spectrum.device)).clamp_min(1e-7).log()
    relative = mel - mel.amax(dim=(-2, -1), keepdim=True)
    return (relative.clamp_min(-RANGE_NEPERS) * (2 / RANGE_NEPERS) + 1).unsqueeze(1)


def smooth_maximum(evidence: Tensor) -> Tensor:
    """Presence logits of recordings, (...), from the evidence in their frames, (..., frames).

    A smooth maximum over time: one bark in ten seconds is a dog.
    """
    return (torch.logsumexp(2 * evidence, dim=-1) - math.log(evidence.shape[-1])) / 2


class ListenerBlock(nn.Module):
    """Two 3x3 convolutions with batch norms and rectifiers, then averages of 2x2."""

    def __init__(self, in_channels: int, out_channels: int):
        super().__init__()
        self.conv1 = nn.Conv2d(in_channels, out_channels, 3, padding=1, bias=False)
        self.norm1 = nn.BatchNorm2d(out_channels)
        self.conv2 = nn.Conv2d(out_channels, out_channels, 3, padding=1, bias=False)
        self.norm2 = nn.BatchNorm2d(out_channels)

    def forward(self, x: Tensor) -> Tensor:
        """(batch, channels, frames, bins)."""
        x = F.relu(self.norm1(self.conv1(x)))
        return F.avg_pool2d(F.relu(self.norm2(self.conv2(x))), POOLING)


class Listener(nn.Module):
    """Evidence for every query class, frame by frame."""

    def __init__(self, config: AudioSepConfig):
        super().__init__()
        sizes = [1, *config.listener_channels]
        self.sampling_rate = config.sampling_rate
        self.blocks = nn.ModuleList(ListenerBlock(a, b) for a, b in pairwise(sizes))
        bands = MELS // POOLING ** len(self.blocks)
        self.join = nn.Linear(2 * sizes[-1] * bands, config.listener_size)
        self.dropout = nn.Dropout(config.listener_dropout)
        self.classify = nn.Linear(config.listener_size, config.listener_classes or len(config.query_classes))

    def forward(self, waveform: Tensor) -> Tensor:
        """Logits (batch, frames, classes), float32, that each class is heard in each frame; (batch, samples) in."""
        with torch.no_grad(), torch.autocast(waveform.device.type, enabled=False):
            features = listener_features(waveform.float(), self.sampling_rate)
        x = features.to(dtype_of(self.join)).contiguous(memory_format=torch.channels_last)
        frame = POOLING ** len(self.blocks)
        x = F.pad(x, (0, 0, 0, -x.shape[2] % frame), value=-1.0)
        for block in self.blocks:
            x = block(x)
        x = x.transpose(1, 2).flatten(2)  # (batch, frames, channels * bands)
        x = torch.cat([x, x.mean(dim=1, keepdim=True).expand_as(x)], dim=-1)
        logits: Tensor = self.classify(self.dropout(F.relu(self.join(x)))).float()
        return logits


__all__ = ["HOP", "POOLING", "Listener", "listener_features", "smooth_maximum"]
