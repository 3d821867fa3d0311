# SPDX-License-Identifier: Apache-2.0
"""Trains a model of named sources to take songs apart, with `transformers.Trainer`.

Songs are mixed anew on the fly; see `hubsep.data.music` and `hubsep.training.trainer`. Every interval the model
separates songs of artists and singers held out of training, whole and as they are, and each stem is judged by its
plain SDR over that of the mixture, where it is heard. Recordings that may not be used commercially are refused unless
the recipe says that its weights will not be either.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from statistics import mean
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel

from ...data.music import MusicMixtureDataset, MusicSettings, song_mixtures
from ...data.pairs import separate
from ...data.stems import Song, choose_songs, load_songs, split_songs
from ...errors import DataError
from ...layers import stft
from ...metrics.separation import level_change, sdr_improvement
from ...models.meta_tasnet.layers_meta_tasnet import EPSILON
from ...registry import SYSTEMS, locate
from .. import trainer
from ..bounds import check_length, settings_of
from ..recipe import load_recipe
from ..trainer import TrainingRecipe
from ..validation import CurveCallback, Judge


AUDIBLE_DB = -30.0  # of a stem against its song; what is quieter is not judged


@dataclass
class MusicRecipe(TrainingRecipe):
    """Settings of a training run; `mixing` has fields of `MusicSettings`.

    Attributes:
        corpora: of the folders, that are used; all if none is named.
        validation_songs: of each corpus, held out; 0 for all.
        inference: fields of the model's configuration that have another value in validation and in saved models,
            such as longer segments than those it learns from.
        channels_last: memory layout of convolutions' weights.
        spectrogram_items: items that the mean and deviation of a new Meta-TasNet's spectra are computed from.
    """

    model_type: str = "spleeter"
    corpora: list[str] = field(default_factory=list)
    validation_songs: int = 16
    inference: dict[str, Any] = field(default_factory=dict)
    channels_last: bool = False
    spectrogram_items: int = 0


@torch.no_grad()
def validate(model: Any, songs: Sequence[tuple[str, Tensor]]) -> dict[str, float]:
    """Mean SDR improvement in dB: `sdri` of all stems, then of each stem, and of each corpus if there are several.

    A stem counts in the songs where it is heard, and counts as much as any other in `sdri` and in a corpus.
    """
    names = model.config.source_names
    gains: dict[str, dict[str, list[float]]] = {"": defaultdict(list)}
    for corpus, labels in songs:
        labels = labels.to(model.device)
        mixture = labels.sum(dim=0)
        rows = sdr_improvement(separate(model, mixture)[0].flatten(1), labels.flatten(1), mixture.flatten())
        heard = level_change(labels.flatten(1), mixture.flatten()) > AUDIBLE_DB
        for name, gain, counts in zip(names, rows.tolist(), heard.tolist(), strict=True):
            if counts:
                gains[""][name].append(gain)
                gains.setdefault(corpus, defaultdict(list))[name].append(gain)
    means = {corpus: {name: mean(row) for name, row in rows.items()} for corpus, rows in gains.items()}
    result = {"sdri": mean(means[""].values()), **{f"sdri_{name}": means[""][name] for name in means[""]}}
    if len(means) > 2:
        result.update({f"{corpus}: {n}": gain for corpus, row in means.items() if corpus for n, gain in row.items()})
    return {name: round(value, 3) for name, value in result.items()}


def build_model(recipe: MusicRecipe) -> PreTrainedModel:
    """A new model of the recipe, or `initial_model` with the recipe's changes.

    Raises:
        DataError: if there is no such system, or its sources have no names.
    """
    rows = {name: locate(config) for name in trainer.fixed_systems() if (config := SYSTEMS[name].config)}
    named = [name for name, config in rows.items() if config.unordered_sources is False]
    model = trainer.build_model(recipe, named, "songs")
    return model.to(memory_format=torch.channels_last) if recipe.channels_last else model


def load_data(recipe: MusicRecipe, data: Path, sampling_rate: int) -> tuple[list[Song], list[Song]]:
    """Training songs, and songs of other artists and singers for validation."""
    folders = [data / name for name in recipe.folders]
    songs = load_songs(folders, sampling_rate, corpora=recipe.corpora, commercial_only=recipe.commercial_only)
    training, validation = split_songs(songs, recipe.validation_fraction)
    if not training or not validation:
        raise DataError(
            f"{data} has songs of {len({song.group for song in songs})} artists; six of a corpus are needed to hold "
            "one out"
        )
    return training, choose_songs(validation, recipe.validation_songs or len(validation))


@torch.no_grad()
def start_spectrograms(model: Any, dataset: MusicMixtureDataset, items: int) -> None:
    """Gives every stage of a Meta-TasNet the mean and the deviation of each bin's logarithmic power (2002.07016).

    Args:
        model: whose stages are changed.
        dataset: the first of whose mixtures are looked at.
        items: how many.
    """
    sums: list[Tensor] = [torch.zeros(()) for _ in model.stages]
    for index in range(items):
        waveforms = model.prepare(dataset[index]["input_values"])
        for number, (stage, waveform) in enumerate(zip(model.stages, waveforms, strict=True)):
            bank = stage.encoder.spectrogram
            power = stft(waveform, bank.n_fft, bank.hop_length).abs().square().add(EPSILON).log10().double()
            sums[number] = sums[number] + torch.stack([power, power.square()]).mean(dim=(1, 2))
    for stage, total in zip(model.stages, sums, strict=True):
        average, square = total / items
        stage.encoder.spectrogram.mean.copy_(average)
        stage.encoder.spectrogram.std.copy_((square - average.square()).clamp_min(1e-4).sqrt())


def main(config: Path | None, data: Path, output: Path, **overrides: Any) -> dict[str, float]:
    """Trains, going on from the newest checkpoint under `output`, and saves the model in `output/model`.

    Args:
        config: a YAML file of `MusicRecipe` settings.
        data: the folder that the recipe's folders are relative to.
        output: checkpoints, curve, `best` (the best point of the curve) and `model` (the last one).

    Returns:
        The last point of the validation curve.
    """
    recipe = load_recipe(MusicRecipe, config, **overrides)
    torch.manual_seed(recipe.seed)
    model = build_model(recipe)
    names, channels = model.config.source_names, model.config.num_channels
    facts: dict[str, Any] = {"sampling_rate": model.config.sampling_rate, "stems": names, "channels": channels}
    settings = settings_of(MusicSettings, recipe.mixing, "mixing", **facts)
    check_length("mixing setting seconds", settings.seconds, model.config)
    training, heldout = load_data(recipe, data, model.config.sampling_rate)
    dataset = MusicMixtureDataset(training, settings, recipe.steps * recipe.batch_size, recipe.seed)
    if recipe.spectrogram_items and not recipe.initial_model:
        start_spectrograms(model, dataset, min(recipe.spectrogram_items, len(dataset)))
    fixed = song_mixtures(heldout, names, 2)
    title = "SDR improvement, dB (songs of artists never heard)"
    judge = Judge(partial(validate, songs=fixed), "sdri", title, recipe.inference)
    return trainer.run_training(model, recipe, dataset, CurveCallback(model, judge, recipe, output), output, data=data)


__all__ = ["MusicRecipe", "build_model", "main", "validate"]
