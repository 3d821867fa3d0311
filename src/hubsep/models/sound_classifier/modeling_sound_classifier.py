# SPDX-License-Identifier: Apache-2.0
"""A small convolutional network that names a sound: the independent ear that judges what a generator makes.

Decisions:

- It shares no weight with any part of a generator, and no features beyond a mel spectrogram.
- A spectrogram is measured from its loudest place down to a floor, so that neither the level of a recording nor what a
  codec or a vocoder leaves far below the sound can tell it anything.
- The embedding is what the last layer reads: a Frechet distance in it is between things the classifier tells apart.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers import initialization as init
from transformers.utils import ModelOutput, can_return_tuple

from ...errors import AudioError
from ...hub.models import HubsepModelMixin
from ...mel import MelSettings, mel_spectrogram
from ...modeling import check_keywords
from .configuration_sound_classifier import SoundClassifierConfig


@dataclass
class SoundClassifierOutput(ModelOutput):
    """What the classifier says.

    Attributes:
        loss: cross entropy against the labels, where there are any.
        logits: (batch, classes), float32.
        embeddings: (batch, embedding_size), float32.
    """

    loss: Tensor | None = None
    logits: Tensor | None = None
    embeddings: Tensor | None = None


def spectrogram(waveform: Tensor, config: SoundClassifierConfig) -> Tensor:
    """Natural logarithm of mel magnitudes, (batch, samples) -> (batch, frames, num_mels), float32."""
    return mel_spectrogram(waveform, MelSettings.of(config, hops=2, lowest=0.0))


def measured_from_the_top(mel: Tensor, range_nepers: float | Tensor, scale: float) -> Tensor:
    """Log magnitudes relative to the loudest place of each excerpt, none lower than the range: in [-1, 1].

    Args:
        mel: (..., frames, num_mels).
        range_nepers: below which nothing is told from silence.
        scale: the range that becomes 2.
    """
    relative = mel - mel.amax(dim=(-2, -1), keepdim=True)
    return torch.maximum(relative, -torch.as_tensor(range_nepers, dtype=mel.dtype)) * (2 / scale) + 1


class ClassifierBlock(nn.Module):
    """3 x 3 convolution, batch norm, rectifier; `stride` 2 halves both directions at once."""

    def __init__(self, in_channels: int, out_channels: int, stride: int = 1):
        super().__init__()
        self.conv = nn.Conv2d(in_channels, out_channels, 3, stride, padding=1, bias=False)
        self.norm = nn.BatchNorm2d(out_channels)

    def forward(self, hidden: Tensor) -> Tensor:
        """(batch, channels, frames, bins)."""
        return F.relu(self.norm(self.conv(hidden)))


class SoundClassifier(HubsepModelMixin, PreTrainedModel):
    """Names a sound.

    A strided convolution, then pairs of convolution and halving, mean and maximum over time in each of the bands that
    are left (steady noises differ in where they lie, and in little else), an embedding, and a linear layer.
    """

    config_class = SoundClassifierConfig
    base_model_prefix = "classifier"
    main_input_name = "input_features"

    def __init__(self, config: SoundClassifierConfig):
        super().__init__(config)
        sizes = list(config.channels)
        self.stem = ClassifierBlock(1, sizes[0], stride=2)
        self.blocks = nn.ModuleList(ClassifierBlock(a, b) for a, b in pairwise(sizes))
        self.last = ClassifierBlock(sizes[-1], sizes[-1])
        self.embed = nn.Linear(2 * sizes[-1] * config.bands, config.embedding_size)
        self.dropout = nn.Dropout(config.dropout)
        self.classify = nn.Linear(config.embedding_size, len(config.class_names))
        self.post_init()

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        """He's normal before rectifiers; norms do nothing at first."""
        if isinstance(module, nn.Conv2d | nn.Linear):
            init.kaiming_normal_(module.weight, nonlinearity="relu")
            if module.bias is not None:
                init.zeros_(module.bias)
        elif isinstance(module, nn.BatchNorm2d):
            init.ones_(module.weight)
            init.zeros_(module.bias)
            init.zeros_(module.running_mean)
            init.ones_(module.running_var)
            init.zeros_(module.num_batches_tracked)

    @can_return_tuple
    def forward(self, input_features: Tensor, labels: Tensor | None = None, **kwargs: object) -> SoundClassifierOutput:
        """Names excerpts.

        Args:
            input_features: what `measured_from_the_top` gives, (batch, frames, num_mels).
            labels: numbers of the classes (batch,), or the part of each (batch, classes).
        """
        check_keywords(self, kwargs)
        hidden = self.stem(input_features[:, None].contiguous(memory_format=torch.channels_last))
        for block in self.blocks:
            hidden = F.avg_pool2d(block(hidden), 2)
        bands = self.last(hidden).float()
        pooled = torch.cat([bands.mean(dim=2), bands.amax(dim=2)], dim=1).flatten(1)
        embeddings = F.relu(self.embed(pooled))
        logits = self.classify(self.dropout(embeddings)).float()
        loss = None if labels is None else F.cross_entropy(logits, labels, label_smoothing=0.05)
        return SoundClassifierOutput(loss=loss, logits=logits, embeddings=embeddings.float())

    @torch.no_grad()
    def hear(self, waveforms: Tensor) -> SoundClassifierOutput:
        """Names recordings at the model's rate, (batch, samples), of any length and level.

        Raises:
            AudioError: if they have another shape, or hold NaN or infinities.
        """
        if waveforms.ndim != 2 or not waveforms.isfinite().all():
            raise AudioError(f"waveforms must be (batch, samples) and finite, got {tuple(waveforms.shape)}")
        mel = spectrogram(waveforms.to(self.device), self.config)
        return self(measured_from_the_top(mel, self.config.range_nepers, self.config.range_nepers))


__all__ = [
    "SoundClassifier", "SoundClassifierOutput", "measured_from_the_top", "spectrogram",
]  # fmt: skip
