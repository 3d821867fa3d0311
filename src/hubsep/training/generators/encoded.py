# SPDX-License-Identifier: Apache-2.0
"""Items of the stages of AudioLDM 2's training: what frozen components make of an excerpt, computed once.

Latents and language of audio are computed when an excerpt is met first, one excerpt at a time, so that they depend on
nothing else, and kept in memory: a few views of each recording, see `hubsep.data.generation`. The autoencoder's
posterior is sampled once for each of them.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch.utils.data import Dataset

from ...data.generation import Sound, SoundDataset
from ...errors import DataError
from ...mel import mel_spectrogram
from ...models.audiomae.feature_extraction_audiomae import AudioMAEFeatureExtractor
from .stages import GenerationRecipe, Item


class FeatureDataset(Dataset[Item]):
    """Items of a stage: what a function makes of each sound."""

    def __init__(self, sounds: SoundDataset, features: Callable[[Sound], Item]):
        self.sounds, self.features = sounds, features

    def __len__(self) -> int:
        return len(self.sounds)

    def __getitem__(self, index: int) -> Item:
        return self.features(self.sounds.sound(index))


class Encoder:
    """Latents and language of audio of sounds, computed once for each; the posterior is sampled for each view.

    Args:
        sounds: makes waveforms.
        recipe: says which mel spectrogram.
        vae: frozen, or None where no latents are wanted.
        audio_mae: frozen.
    """

    def __init__(self, sounds: SoundDataset, recipe: GenerationRecipe, vae: Any, audio_mae: Any):
        self.sounds, self.mel, self.vae, self.audio_mae = sounds, recipe.mel, vae, audio_mae
        config = audio_mae.config
        if config.sampling_rate != recipe.sampling_rate:
            raise DataError(
                f"audio_mae hears {config.sampling_rate} Hz, the recipe has {recipe.sampling_rate} Hz: train one of "
                "this rate"
            )
        self.extractor = AudioMAEFeatureExtractor.of(config)
        self.bf16 = recipe.bf16
        self.device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        for model in (vae, audio_mae):
            if model is not None:
                model.to(self.device)
        self.known: dict[str, Item] = {}

    @torch.no_grad()
    def __call__(self, sound: Sound) -> Item:
        if sound.seed in self.known:
            return dict(self.known[sound.seed])
        waveform = self.sounds.waveform(sound)
        features = self.extractor(waveform, self.sounds.settings.sampling_rate, truncation=True)["input_features"]
        with torch.autocast(self.device.type, dtype=torch.bfloat16, enabled=self.bf16):
            pool = self.audio_mae.config.loa_pool()
            item = {"loa": self.audio_mae.loa(features.to(self.device), *pool)[0].float().cpu()}
            if self.vae is not None:
                mel = mel_spectrogram(waveform[None], self.mel)[:, None].to(self.device)
                posterior = self.vae.encode(mel).latent_dist
                noise = torch.randn(posterior.mean[0].shape, generator=torch.Generator().manual_seed(0))
                latents = posterior.mean[0].float().cpu() + posterior.std[0].float().cpu() * noise
                item["latents"] = latents * self.vae.config.scaling_factor
        self.known[sound.seed] = item
        return dict(item)


__all__ = ["Encoder", "FeatureDataset"]
