# SPDX-License-Identifier: Apache-2.0
"""Trains the vocoder, transformers' `SpeechT5HifiGan`, on mel spectrograms of recordings (2010.05646).

The loss compares spectrograms of several resolutions (1910.11480) and mel spectrograms; an adversarial part may be
added, from a small network that looks at spectrograms of two resolutions, with the hinge loss. One optimiser serves
both sides: the generator's loss is computed with the discriminator's weights held fixed, the discriminator's on a
recording that no gradient leaves, so that the sum of both has the right gradient for each, and a run is one run of
`transformers.Trainer`. Spectrograms are float32 whatever the precision of the networks.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ...data.generation import Sound
from ...mel import MelSettings, mel_spectrogram
from .encoded import FeatureDataset
from .stages import GenerationRecipe, Item, Objective, load_parts, load_sounds, read_recipe, train_stage


RESOLUTIONS = ((512, 128), (1_024, 256), (2_048, 512))  # window and hop in samples
JUDGED = ((512, 128), (1_024, 256))
FLOOR = 1e-5


@dataclass
class VocoderRecipe(GenerationRecipe):
    """Settings of the vocoder's training; `model` has fields of `SpeechT5HifiGanConfig`.

    Attributes:
        mel_weight: of the error of mel spectrograms.
        adversarial_weight: of the adversarial part, 0 for none.
        discriminator_channels: of the network that tells recordings from what is made.
    """

    model_type: str = "vocoder"
    seconds: float = 0.64
    views: int = 0
    mel_weight: float = 2.0
    adversarial_weight: float = 0.0
    discriminator_channels: int = 16


def magnitudes(waveform: Tensor, n_fft: int, hop_length: int) -> Tensor:
    """(batch, samples) -> (batch, bins, frames), at least 1e-5."""
    window = torch.hann_window(n_fft, device=waveform.device)
    spectrum = torch.stft(waveform, n_fft, hop_length, window=window, return_complex=True, pad_mode="reflect")
    # the root of the squares has no gradient at zero
    return (spectrum.real.square() + spectrum.imag.square()).clamp(min=FLOOR**2).sqrt()


def spectral_loss(made: Tensor, wanted: Tensor) -> Tensor:
    """Error of magnitudes relative to those wanted, and of their logarithms, over three resolutions."""
    total = made.new_zeros(())
    for n_fft, hop in RESOLUTIONS:
        estimate, target = magnitudes(made, n_fft, hop), magnitudes(wanted, n_fft, hop)
        total = total + torch.linalg.norm(target - estimate) / torch.linalg.norm(target).clamp(min=1e-3)
        total = total + F.l1_loss(estimate.log(), target.log())
    return total / len(RESOLUTIONS)


class SpectrogramDiscriminator(nn.Module):
    """Tells recordings from what is made by their log magnitudes at one resolution: above 0 is a recording."""

    def __init__(self, n_fft: int, hop_length: int, channels: int):
        super().__init__()
        self.n_fft, self.hop_length = n_fft, hop_length
        widths = [1, channels, channels, channels]
        self.layers = nn.ModuleList(
            nn.Conv2d(before, after, (9, 3), stride=(4, 1), padding=(4, 1)) for before, after in pairwise(widths)
        )
        self.last = nn.Conv2d(channels, 1, 3, padding=1)

    def forward(self, waveform: Tensor) -> Tensor:
        """(batch, samples) -> (batch, 1, places, frames)."""
        with torch.autocast(waveform.device.type, enabled=False):
            hidden = magnitudes(waveform.float(), self.n_fft, self.hop_length).log()[:, None] / 5
        for layer in self.layers:
            hidden = F.leaky_relu(layer(hidden), 0.2)
        judged: Tensor = self.last(hidden)
        return judged.float()


class VocoderObjective(Objective):
    """The loss of a vocoder on `mel` (batch, frames, num_mels) and the `waveform` (batch, samples) it is of."""

    def __init__(self, vocoder: Any, mel: MelSettings, recipe: VocoderRecipe):
        super().__init__({"vocoder": vocoder})
        self.mel, self.mel_weight, self.adversarial_weight = mel, recipe.mel_weight, recipe.adversarial_weight
        judges = JUDGED if recipe.adversarial_weight else ()
        self.judges = nn.ModuleList(SpectrogramDiscriminator(*size, recipe.discriminator_channels) for size in judges)

    def forward(self, mel: Tensor, waveform: Tensor) -> dict[str, Tensor]:
        """`loss`; of it `spectral` and `mel`; outside training without the adversarial part."""
        output = self.trained["vocoder"](mel).float()
        with torch.autocast(output.device.type, enabled=False):
            spectral = spectral_loss(output, waveform)
            # from the waveforms both, as the mel spectrogram in the batch may be in half precision
            heard = F.l1_loss(mel_spectrogram(output, self.mel), mel_spectrogram(waveform, self.mel))
        loss = spectral + self.mel_weight * heard
        if self.training and self.adversarial_weight:
            loss = loss + self.adversarial_weight * self._adversarial(output, waveform)
        return {"loss": loss, "spectral": spectral, "mel": heard}

    def _adversarial(self, output: Tensor, waveform: Tensor) -> Tensor:
        total = output.new_zeros(())
        for judge in self.judges:
            fixed = {name: parameter.detach() for name, parameter in judge.named_parameters()}
            total = total - torch.func.functional_call(judge, fixed, (output,)).mean()
            total = total + F.relu(1 - judge(waveform)).mean() + F.relu(1 + judge(output.detach())).mean()
        return total / len(self.judges)


def build_vocoder(recipe: VocoderRecipe, output: Path) -> Any:
    """A new vocoder of the recipe, or the one it names in `components`.

    Weights start with what keeps the level of a layer's input: with the class's own, of a deviation of 0.01, the first
    output is nothing but a bias.
    """
    from transformers import SpeechT5HifiGan, SpeechT5HifiGanConfig

    if "vocoder" in recipe.components:
        return load_parts(recipe, output, ("vocoder",))["vocoder"]
    fields = {"model_in_dim": recipe.num_mels, "sampling_rate": recipe.sampling_rate, "normalize_before": False}
    vocoder = SpeechT5HifiGan(SpeechT5HifiGanConfig(**{**fields, **recipe.model}))
    for module in vocoder.modules():
        if isinstance(module, nn.Conv1d | nn.ConvTranspose1d):
            heard = module.weight.shape[1] * module.kernel_size[0]
            if isinstance(module, nn.ConvTranspose1d):
                heard = module.weight.shape[0] * module.kernel_size[0] // module.stride[0]
            nn.init.normal_(module.weight, std=0.5 / heard**0.5)
    return vocoder


def main(config: Path | None, data: Path, output: Path, **overrides: Any) -> dict[str, float]:
    """Trains, going on from the newest checkpoint under `output`, and saves the vocoder in `output/model`.

    Args:
        config: a YAML file of `VocoderRecipe` settings.
        data: the folder that the recipe's folders are relative to.
        output: checkpoints, curve, `best` and `model`.

    Returns:
        The last point of the validation curve.
    """
    recipe: VocoderRecipe = read_recipe(VocoderRecipe, config, overrides)
    vocoder = build_vocoder(recipe, output)
    sounds, heldout = load_sounds(recipe, data)

    def features(sound: Sound) -> Item:
        waveform = sounds.waveform(sound)
        return {"mel": mel_spectrogram(waveform[None], MelSettings.of(vocoder.config))[0], "waveform": waveform}

    objective = VocoderObjective(vocoder, MelSettings.of(vocoder.config), recipe)
    fixed = [features(sound) for sound in heldout]
    title = "error of spectrograms, dB below 1 (held out)"
    return train_stage(recipe, objective, FeatureDataset(sounds, features), fixed, title, output, data=data)


__all__ = ["SpectrogramDiscriminator", "VocoderObjective", "VocoderRecipe", "build_vocoder", "main", "spectral_loss"]
