# SPDX-License-Identifier: Apache-2.0
"""Trains AudioSep on mixtures made on the fly, with `transformers.Trainer`.

The query encoder (a text tower made by `hubsep train text-tower`) is frozen; the separator learns from scratch or goes
on from a checkpoint of an earlier run. Every interval the model separates the same held-out 0 dB mixtures; the curve
is written next to the checkpoints as numbers and as a picture.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import Dataset
from transformers import (
    AutoProcessor,
    ClapConfig,
    ClapFeatureExtractor,
    ClapTextModelWithProjection,
)

from ...data.mixing import ClipSampler, MixingSettings, MixtureDataset
from ...data.pairs import evaluate_pairs, pair_mixtures
from ...data.prompts import group_of
from ...data.recordings import Clip, held_out, load_clips
from ...data.scenes import SceneDataset, SceneSettings, SoundSampler
from ...errors import DataError
from ...hub.loading import load_checked_tokenizer
from ...models.audiosep.configuration_audiosep import AudioSepConfig
from ...models.audiosep.modeling_audiosep import AudioSepForAudioSeparation
from ...models.audiosep.processing_audiosep import AudioSepProcessor
from ..bounds import check_length, settings_of
from ..recipe import load_recipe
from ..trainer import Collator, TrainingRecipe, collate, run_training
from ..validation import CurveCallback, Judge
from .query_classes import class_names, class_phrases, embed, teach_classes
from .scenes import validate_scenes


@dataclass
class AudioSepRecipe(TrainingRecipe):
    """Settings of a training run: the model's configuration, the mixtures, the optimiser.

    `initial_model` is an AudioSep folder whose separator the run starts from, and whose audio tower if the settings of
    it are the same. Its text tower is taken too where `text_tower` names no other; an audio tower taught against
    another is lost. `teach_classes` gives the query network the classes of the catalogue and teaches it their words
    first. With `scenes`, settings of `SceneSettings`, the separator learns from scenes that are asked about by class;
    the words are then taught by `hubsep train words`, and `sound_weights` say which sounds are drawn more often.
    """

    model_type: str = "audiosep"
    text_tower: str = ""
    audio_tower: dict[str, Any] = field(default_factory=dict)
    audio_features: dict[str, Any] = field(default_factory=dict)
    corpus_weights: dict[str, float] = field(default_factory=dict)
    scenes: dict[str, Any] = field(default_factory=dict)
    sound_weights: dict[str, float] = field(default_factory=dict)
    validation_mixtures: int = 4
    batch_size: int = 12
    learning_rate: float = 2e-3
    eval_every: int = 1_000
    compile_target: str = "unet"
    teach_classes: bool = False


class TextCollator:
    """Stacks waveforms and tokenises the queries of a batch."""

    def __init__(self, processor: AudioSepProcessor):
        self.processor = processor

    def __call__(self, items: list[dict[str, Any]]) -> dict[str, Tensor]:
        tokens = self.processor(text=[text for item in items for text in item["text"]], return_tensors="pt")
        batch = {name: torch.stack([item[name] for item in items]) for name in ("input_values", "labels")}
        names = ("input_ids", "attention_mask")
        return {**batch, **{name: tokens[name].unflatten(0, (len(items), -1)) for name in names}}


def build_model(recipe: AudioSepRecipe) -> tuple[AudioSepForAudioSeparation, AudioSepProcessor]:
    """A new separator around the frozen text tower, and its processor; its query classes are taught already."""
    if not recipe.text_tower:
        return build_from_model(recipe)
    tower = ClapTextModelWithProjection.from_pretrained(recipe.text_tower, dtype=torch.float32)
    text_config = tower.config.to_dict()
    text_config.pop("_name_or_path", None)  # a folder of the machine that trains
    query_config = ClapConfig(
        text_config=text_config,
        audio_config=recipe.audio_tower,
        projection_dim=tower.config.projection_dim,
        projection_hidden_act=tower.config.projection_hidden_act,
    )
    fields = {**recipe.model, "query_classes": class_names() if recipe.teach_classes else ()}
    model = AudioSepForAudioSeparation(AudioSepConfig(query_config=query_config.to_dict(), **fields))
    model.query_encoder.text_model.load_state_dict(tower.text_model.state_dict())
    model.query_encoder.text_projection.load_state_dict(tower.text_projection.state_dict())
    extractor = ClapFeatureExtractor(
        frequency_min=50, truncation="rand_trunc", padding="repeatpad", **recipe.audio_features
    )
    processor = AudioSepProcessor(extractor, load_checked_tokenizer(Path(recipe.text_tower)))
    if recipe.initial_model:
        start = AudioSepForAudioSeparation.from_pretrained(recipe.initial_model, dtype=torch.float32)
        for name in ("input_norm", "stem", "unet"):
            getattr(model, name).load_state_dict(getattr(start, name).state_dict())
        start_queries(model, start, processor)
        if start.query_encoder.config.audio_config.to_dict() == model.query_encoder.config.audio_config.to_dict():
            for name in ("audio_model", "audio_projection"):
                getattr(model.query_encoder, name).load_state_dict(getattr(start.query_encoder, name).state_dict())
    if recipe.teach_classes:
        print(f"held-out phrases understood: {teach_classes(model, processor, seed=recipe.seed):.1%}", flush=True)
    return model, processor


def build_from_model(recipe: AudioSepRecipe) -> tuple[AudioSepForAudioSeparation, AudioSepProcessor]:
    """The separator and both towers of `initial_model`, with the recipe's changes, and its processor.

    Raises:
        DataError: if there is none.
    """
    if not recipe.initial_model:
        raise DataError("a recipe needs text_tower, or an initial_model that has one")
    start = AudioSepForAudioSeparation.from_pretrained(recipe.initial_model, dtype=torch.float32)
    processor = AutoProcessor.from_pretrained(recipe.initial_model)
    classes = class_names() if recipe.teach_classes or recipe.scenes else list(start.config.query_classes)
    config = AudioSepConfig.from_pretrained(recipe.initial_model, **{**recipe.model, "query_classes": classes})
    model = AudioSepForAudioSeparation(config)
    for name in ("input_norm", "stem", "unet", "query_encoder"):
        getattr(model, name).load_state_dict(getattr(start, name).state_dict())
    start_queries(model, start, processor)
    if recipe.teach_classes:
        print(f"held-out phrases understood: {teach_classes(model, processor, seed=recipe.seed):.1%}", flush=True)
    return model, processor


@torch.no_grad()
def start_queries(
    model: AudioSepForAudioSeparation, start: AudioSepForAudioSeparation, processor: AudioSepProcessor
) -> None:
    """Takes the query network over from `start`.

    New classes have the mean effect their phrases had there, half and half with that of their group if it is known.
    """
    earlier, names = list(start.config.query_classes), list(model.config.query_classes)
    if names == earlier:
        model.query_network.load_state_dict(start.query_network.state_dict())
        return
    rows = [(phrase, number) for phrase, number in class_phrases(names) if names[number] not in earlier]
    network: Any = model.query_network
    before: Any = start.query_network
    effects = before(embed(model, processor, [phrase for phrase, _ in rows])) if rows else torch.empty(0)
    for number, name in enumerate(names):
        if name in earlier:
            network.values.weight[:, number] = before.values.weight[:, earlier.index(name)]
            continue
        effect = effects[[index for index, (_, of) in enumerate(rows) if of == number]].mean(dim=0)
        group = f"any {group_of(name)}"
        if group in earlier:
            effect = (effect + before.values.weight[:, earlier.index(group)]) / 2
        network.values.weight[:, number] = effect


def load_data(recipe: AudioSepRecipe, data: Path, sampling_rate: int) -> tuple[list[Clip], list[Clip]]:
    """Training and validation clips of the recipe's folders under `data`.

    Raises:
        DataError: if there are too few to hold one out.
    """
    folders = [data / name for name in recipe.folders]
    clips = load_clips(folders, sampling_rate, commercial_only=recipe.commercial_only)
    return held_out(clips, data, recipe.validation_fraction, commercial_only=recipe.commercial_only)


def main(config: Path | None, data: Path, output: Path, **overrides: Any) -> dict[str, float]:
    """Trains, resuming from the newest checkpoint under `output`, and saves model and processor in `output/model`.

    Args:
        config: a YAML file of `AudioSepRecipe` settings.
        data: the folder that `folders` of the recipe are relative to.
        output: checkpoints, curve and the finished model.

    Returns:
        The last point of the validation curve.
    """
    recipe = load_recipe(AudioSepRecipe, config, **overrides)
    torch.manual_seed(recipe.seed)
    model, processor = build_model(recipe)
    settings = mixing_settings(recipe, model.config)
    training, validation = load_data(recipe, data, model.config.sampling_rate)
    model.config.known_sounds = sorted({label for clip in training + validation for label in clip.labels})
    if recipe.scenes:
        model.config.known_sounds = [name for name in model.config.known_sounds if name in model.config.query_classes]
    watch = CurveCallback(model, judge(recipe, model, processor, validation), recipe, output)
    model.to(memory_format=torch.channels_last)
    dataset, collator = material(recipe, settings, model, processor, training)
    point = run_training(model, recipe, dataset, watch, output, collator, data=data)
    processor.save_pretrained(output / "model")
    return point


def mixing_settings(recipe: AudioSepRecipe, config: Any) -> MixingSettings | SceneSettings:
    """How the mixtures, or the scenes, of a run are made.

    Raises:
        DataError: if the recipe does not suit the model.
    """
    rate = config.sampling_rate
    settings: MixingSettings | SceneSettings
    if recipe.scenes:
        settings = settings_of(SceneSettings, recipe.scenes, "scenes", sampling_rate=rate)
    else:
        settings = settings_of(MixingSettings, recipe.mixing, "mixing", sampling_rate=rate)
    check_length(f"{'scenes' if recipe.scenes else 'mixing'} setting seconds", settings.seconds, config)
    return settings


def material(
    recipe: AudioSepRecipe, settings: MixingSettings | SceneSettings, model: AudioSepForAudioSeparation,
    processor: AudioSepProcessor, clips: list[Clip],
) -> tuple[Dataset[Any], Collator]:  # fmt: skip
    """The items of a run, and what makes a batch of them."""
    length = recipe.steps * recipe.batch_size
    if isinstance(settings, MixingSettings):
        return MixtureDataset(ClipSampler(clips, recipe.corpus_weights), settings, length, recipe.seed), TextCollator(
            processor
        )
    sampler = SoundSampler(clips, model.config.query_classes, recipe.sound_weights)
    return SceneDataset(sampler, settings, model.config.query_classes, length, recipe.seed), collate


def judge(recipe: AudioSepRecipe, model: Any, processor: AudioSepProcessor, clips: list[Clip]) -> Judge:
    """Held-out 0 dB mixtures, asked for by label; those of scenes by class, and for taught sounds in vain."""
    usable = [clip for clip in clips if clip.labels[-1] in model.config.known_sounds]
    pairs = pair_mixtures(
        usable, model.config.sampling_rate, per_class=recipe.validation_mixtures, seconds=4.0, seed=1
    )

    def by_words(model: Any) -> dict[str, float]:
        result = evaluate_pairs(model, processor, pairs)
        return {name: result[name] for name in ("sdri", "absent_level")}

    validate = partial(validate_scenes, pairs=pairs) if recipe.scenes else by_words
    return Judge(validate, "sdri", "SDR improvement, dB (held-out 0 dB mixtures)")


__all__ = ["AudioSepRecipe", "main"]
