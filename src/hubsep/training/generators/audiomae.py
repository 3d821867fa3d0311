# SPDX-License-Identifier: Apache-2.0
"""Pre-trains an AudioMAE on recordings without labels: it fills in hidden patches of spectrograms (2207.06405).

An item is an excerpt of one recording at a level drawn at random, with the noise that decides what of it is hidden; it
depends on the seed and its number alone, see `hubsep.training.trainer`. Every interval the model fills in the same
patches of recordings held out of training, of other speakers and other sources. How good a description the encoder
makes is another question than how well patches are filled in: where labels are known, measure that as well.
"""

from __future__ import annotations

import math
import random
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ...data.mixing import ClipSampler, SeededDataset, excerpt, rms
from ...data.recordings import Clip, held_out, load_clips
from ...errors import DataError
from ...models.audiomae.configuration_audiomae import AudioMAEConfig
from ...models.audiomae.feature_extraction_audiomae import AudioMAEFeatureExtractor
from ...models.audiomae.modeling_audiomae import AudioMAEForPreTraining
from ..recipe import load_recipe
from ..trainer import TrainingRecipe, run_training
from ..validation import CurveCallback, Judge


@dataclass
class AudioMAERecipe(TrainingRecipe):
    """Settings of a pre-training run; `mixing` is not used, as recordings are heard one by one.

    Attributes:
        corpus_weights: how often a corpus is heard, by its name; 1 for those not named.
        loudness_db: of an excerpt, root mean square against full scale.
        validation_clips: held-out recordings that the curve is measured on.
        validation_batch: of these, that are looked at together.
    """

    model_type: str = "audiomae"
    corpus_weights: dict[str, float] = field(default_factory=dict)
    loudness_db: tuple[float, float] = (-40.0, -15.0)
    validation_clips: int = 128
    validation_batch: int = 16


class SpectrogramDataset(SeededDataset[dict[str, Tensor]]):
    """`length` items: `input_features` (1, num_frames, num_mel_bins), and the `noise` that hides patches of it."""

    def __init__(
        self,
        sampler: ClipSampler,
        config: AudioMAEConfig,
        length: int,
        *,
        loudness_db: tuple[float, float] = (-40.0, -15.0),
        seed: int = 0,
    ):
        super().__init__(length, seed)
        self.sampler, self.config, self.loudness_db = sampler, config, loudness_db
        self.extractor = AudioMAEFeatureExtractor.of(config)
        self.samples = self.extractor.minimum_samples + (config.num_frames - 1) * config.sampling_rate // 100

    def make(self, rng: random.Random) -> dict[str, Tensor]:
        """Draws a recording, and the item that it becomes."""
        return self.item(self.sampler.draw(rng), rng)

    def item(self, clip: Clip, rng: random.Random) -> dict[str, Tensor]:
        """The item that a clip becomes; a clip shorter than an excerpt has silence around it."""
        waveform = excerpt(clip, self.samples, rng)
        gain = 10 ** (rng.uniform(*self.loudness_db) / 20) / rms(waveform)
        gain = min(gain, 0.95 / max(float(abs(waveform).max()), 1e-6))
        scaled = torch.from_numpy(waveform) * gain
        features = self.extractor(scaled, self.config.sampling_rate)["input_features"][0]
        steps, bands = self.config.grid
        places = steps * bands if self.config.masking == "random" else steps + bands
        generator = torch.Generator().manual_seed(rng.getrandbits(63))
        return {"input_features": features, "noise": torch.rand(places, generator=generator)}


def validation_items(dataset: SpectrogramDataset, clips: list[Clip]) -> list[dict[str, Tensor]]:
    """An item of each clip, the same ones whatever the seed of the dataset."""
    return [dataset.item(clip, random.Random(f"validation/{number}")) for number, clip in enumerate(clips)]


@torch.no_grad()
def validate(model: Any, items: list[dict[str, Tensor]], batch_size: int = 16) -> dict[str, float]:
    """`loss` on the same hidden patches each time, and `explained_db`, how far it is below 1 in dB.

    Where targets are normalised, a loss of 1 is what every patch's own mean would give.
    """
    total = 0.0
    for start in range(0, len(items), batch_size):
        batch = items[start : start + batch_size]
        features, noise = (torch.stack([item[n] for item in batch]) for n in ("input_features", "noise"))
        loss = model(features.to(model.device), noise=noise.to(model.device)).loss
        total += loss.item() * len(batch)
    loss = total / len(items)
    return {"explained_db": round(-10 * math.log10(max(loss, 1e-12)), 4), "loss": round(loss, 5)}


def build_model(recipe: AudioMAERecipe) -> AudioMAEForPreTraining:
    """A new model of the recipe, or `initial_model` with the recipe's changes.

    Raises:
        DataError: if the recipe names another system.
    """
    if recipe.model_type != "audiomae":
        raise DataError(f"model_type {recipe.model_type!r} cannot be pre-trained on spectrograms; use audiomae")
    if not recipe.initial_model:
        return AudioMAEForPreTraining(AudioMAEConfig(**recipe.model))
    config = AudioMAEConfig.from_pretrained(recipe.initial_model, **recipe.model)
    return AudioMAEForPreTraining.from_pretrained(recipe.initial_model, config=config, dtype=torch.float32)


def load_recordings(recipe: AudioMAERecipe, data: Path, sampling_rate: int) -> tuple[list[Clip], list[Clip]]:
    """Training clips, and clips of other sources and speakers for validation.

    Raises:
        DataError: if nothing is left for either.
    """
    folders = [data / name for name in recipe.folders]
    clips = load_clips(folders, sampling_rate, commercial_only=recipe.commercial_only)
    clips = [clip for clip in clips if len(clip.samples)]
    training, heldout = held_out(clips, data, recipe.validation_fraction, commercial_only=recipe.commercial_only)
    chosen = random.Random(0).sample(heldout, min(recipe.validation_clips, len(heldout)))
    return training, chosen


def main(config: Path | None, data: Path, output: Path, **overrides: Any) -> dict[str, float]:
    """Pre-trains, going on from the newest checkpoint under `output`, and saves the model in `output/model`.

    Args:
        config: a YAML file of `AudioMAERecipe` settings.
        data: the folder that the recipe's folders are relative to.
        output: checkpoints, curve, `best` (the best point of the curve) and `model` (the last one), each with its
            feature extractor and the decoder: `AutoModel` loads the encoder alone.

    Returns:
        The last point of the validation curve.
    """
    recipe = load_recipe(AudioMAERecipe, config, **overrides)
    torch.manual_seed(recipe.seed)
    model = build_model(recipe)
    training, heldout = load_recordings(recipe, data, model.config.sampling_rate)
    loudness = (recipe.loudness_db[0], recipe.loudness_db[1])
    dataset = SpectrogramDataset(
        ClipSampler(training, recipe.corpus_weights), model.config, recipe.steps * recipe.batch_size,
        loudness_db=loudness, seed=recipe.seed,
    )  # fmt: skip
    fixed = validation_items(dataset, heldout)
    title = "loss below 1, dB (recordings held out)"
    judge = Judge(partial(validate, items=fixed, batch_size=recipe.validation_batch), "explained_db", title)
    result = run_training(model, recipe, dataset, CurveCallback(model, judge, recipe, output), output, data=data)
    for name in ("model", "best"):
        if (output / name).is_dir():
            AudioMAEFeatureExtractor.of(model.config).save_pretrained(output / name)
    return result


__all__ = ["AudioMAERecipe", "SpectrogramDataset", "build_model", "main", "validate"]
