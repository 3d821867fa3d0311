# SPDX-License-Identifier: Apache-2.0
"""Trains any model with a fixed number of outputs to take speakers apart, or one with one output to take noise away.

Mixtures are made on the fly; see `hubsep.training.trainer`. Every interval the model separates the same mixtures of
speakers held out of training, under noises held out where one speaks; see `hubsep.training.validation`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from statistics import mean
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel

from ...data.noisy import NoisySpeech, noisy_mixtures
from ...data.pairs import separate
from ...data.recordings import Clip, held_out, load_clips, split_clips
from ...data.speech import SpeechMixture, SpeechMixtureDataset, SpeechSettings, speech_mixtures
from ...errors import DataError
from ...metrics.separation import match_outputs, si_snr
from ...pipelines.separation.levels import rescale
from ...pipelines.separation.scores import ACTIVE_SCORE, Scores
from .. import trainer
from ..bounds import check_length, settings_of
from ..recipe import load_recipe
from ..trainer import TrainingRecipe
from ..validation import CurveCallback, Judge
from .filterbanks import start_from_fourier


@dataclass
class SpeechRecipe(TrainingRecipe):
    """Settings of a training run; `mixing` has fields of `SpeechSettings`.

    Attributes:
        fourier_filterbank: whether a new Conv-TasNet's filterbanks start from the Fourier basis.
        noise_folders: of other sounds than speech, under the data folder.
        left_out: speakers whose recordings are of several people, who cannot be told apart.
        validation_mixtures: of held-out speakers.
        validation_seconds: length of each.
    """

    model_type: str = "conv_tasnet"
    fourier_filterbank: bool = False
    noise_folders: list[str] = field(default_factory=list)
    left_out: list[str] = field(default_factory=list)
    validation_mixtures: int = 40
    validation_seconds: float = 4.0


@torch.no_grad()
def validate(model: Any, mixtures: Sequence[SpeechMixture | NoisySpeech]) -> dict[str, float]:
    """Mean SI-SNR improvement in dB over all mixtures, those of one gender, and those of different ones.

    Also what a model of several speakers does with the first speaker of each mixture alone: `lone`, the SI-SNR of the
    better output, and `lone_counted`, the share in which one output is taken for a speaker; and `all_counted`, the
    share of the mixtures in which every output is.
    """
    rows: list[tuple[bool | None, float]] = []
    lone: list[tuple[float, float, float]] = []
    for item in mixtures:
        mixture, labels = item.mixture.to(model.device), item.sources.to(model.device)
        output = separate(model, mixture[None])
        sources = output[0][:, 0]
        gain = si_snr(sources[match_outputs(sources, labels)], labels) - si_snr(mixture.expand_as(labels), labels)
        rows.append((item.same_gender if isinstance(item, SpeechMixture) else None, gain.mean().item()))
        if len(labels) > 1:
            alone = separate(model, labels[:1])
            kept = si_snr(alone[0][:, 0], labels[:1].expand(len(sources), -1)).max().item()
            counts = counted(model.config, labels[0], alone), counted(model.config, mixture, output)
            lone.append((kept, counts[0] == 1, counts[1] == len(labels)))
    result = {"si_snri": mean(gain for _, gain in rows)}
    for name, kind in (("same_gender", True), ("mixed_gender", False)):
        gains = [gain for same, gain in rows if same is kind]
        if gains:
            result[name] = mean(gains)
    for number, name in enumerate(("lone", "lone_counted", "all_counted") if lone else ()):
        result[name] = mean(row[number] for row in lone)
    return {name: round(value, 3) for name, value in result.items()}


def counted(config: Any, mixture: Tensor, output: tuple[Tensor, Tensor | None]) -> int:
    """How many outputs a pipeline takes for speakers, of what `separate` made of a mixture, (samples,)."""
    sources, logits = output[0][:, 0], output[1]
    sources = rescale(mixture, sources) if config.free_scale else sources
    scores = Scores(len(sources), config.sampling_rate, residual=False, unordered=True)
    scores.add(mixture[None].cpu().numpy(), sources[:, None].cpu().numpy(), logits)
    return sum(score > ACTIVE_SCORE for score in scores.values())


def build_model(recipe: SpeechRecipe) -> PreTrainedModel:
    """A new model of the recipe, or `initial_model` with the recipe's changes.

    Raises:
        DataError: if there is no such system, or it is queried with text.
    """
    model = trainer.build_model(recipe, trainer.fixed_systems(), "speakers")
    if recipe.fourier_filterbank and not recipe.initial_model:
        start_from_fourier(model)
    return model


def mixing_settings(recipe: SpeechRecipe, config: Any) -> SpeechSettings:
    """How the mixtures of a run are made.

    Raises:
        DataError: if the recipe does not suit the model, or asks for noise and names no folder of it.
    """
    mixit, sources = getattr(config, "loss", "") == "mixit", config.num_sources
    facts: dict[str, Any] = {
        "num_sources": sources,
        "num_outputs": 0 if mixit else sources,
        "mixit": mixit,
        "sampling_rate": config.sampling_rate,
    }
    settings = settings_of(SpeechSettings, recipe.mixing, "mixing", **facts)
    if settings.noise_probability > 0 and not recipe.noise_folders:
        raise DataError(
            f"mixing setting noise_probability is {settings.noise_probability:g}, and there is no noise; name folders "
            "of it in noise_folders, or leave noise_probability out of mixing"
        )
    check_length("mixing setting seconds", settings.seconds, config)
    check_length("recipe setting validation_seconds", recipe.validation_seconds, config)
    return settings


def load_speakers(recipe: SpeechRecipe, data: Path, sampling_rate: int) -> tuple[list[Clip], ...]:
    """Training clips, validation clips of other speakers, and noises of the two parts.

    Raises:
        DataError: if there are too few speakers to hold one out.
    """
    speech = load_clips([data / n for n in recipe.folders], sampling_rate, commercial_only=recipe.commercial_only)
    speech = [clip for clip in speech if clip.group not in recipe.left_out]
    training, validation = held_out(speech, data, recipe.validation_fraction, commercial_only=recipe.commercial_only)
    folders = [data / name for name in recipe.noise_folders]
    noises = load_clips(folders, sampling_rate, commercial_only=recipe.commercial_only)
    return training, validation, *split_clips(noises)


def main(config: Path | None, data: Path, output: Path, **overrides: Any) -> dict[str, float]:
    """Trains, going on from the newest checkpoint under `output`, and saves the model in `output/model`.

    Args:
        config: a YAML file of `SpeechRecipe` settings.
        data: the folder that the recipe's folders are relative to.
        output: checkpoints, curve, `best` (the best point of the curve) and `model` (the last one).

    Returns:
        The last point of the validation curve.
    """
    recipe = load_recipe(SpeechRecipe, config, **overrides)
    torch.manual_seed(recipe.seed)
    model = build_model(recipe)
    rate = model.config.sampling_rate
    settings = mixing_settings(recipe, model.config)
    training, heldout, noises, others = load_speakers(recipe, data, rate)
    dataset = SpeechMixtureDataset(training, settings, recipe.steps * recipe.batch_size, recipe.seed, noises)
    options: dict[str, Any] = {"count": recipe.validation_mixtures, "seconds": recipe.validation_seconds}
    fixed: Sequence[SpeechMixture | NoisySpeech]
    if settings.num_sources == 1:
        fixed = noisy_mixtures(heldout, others, rate, **options)
    else:
        options["level_range_db"] = settings.level_range_db
        fixed = speech_mixtures(heldout, rate, num_sources=settings.num_sources, **options)
    title = "SI-SNR improvement, dB (speakers never heard)"
    watch = CurveCallback(model, Judge(partial(validate, mixtures=fixed), "si_snri", title), recipe, output)
    return trainer.run_training(model, recipe, dataset, watch, output, data=data)


__all__ = ["SpeechRecipe", "build_model", "main", "validate"]
