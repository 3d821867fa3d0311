# SPDX-License-Identifier: Apache-2.0
"""Trains AudioSep on mixtures made on the fly, with `transformers.Trainer`.

The query encoder (a text tower made by `hubsep train text-tower`) is frozen; the separator learns from scratch or goes
on from a checkpoint of an earlier run. Every interval the model separates the same held-out 0 dB mixtures; the curve
is written next to the checkpoints as numbers and as a picture.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import (
    ClapConfig,
    ClapFeatureExtractor,
    ClapTextModelWithProjection,
    TrainerCallback,
    TrainingArguments,
)
from transformers.trainer_utils import get_last_checkpoint

from ..data.mixing import ClipSampler, MixingSettings, MixtureDataset
from ..data.recordings import Clip, load_clips, split_clips
from ..errors import DataError
from ..evaluation import evaluate_pairs, pair_mixtures
from ..hub_loading import load_checked_tokenizer
from ..models.audiosep.configuration_audiosep import AudioSepConfig
from ..models.audiosep.modeling_audiosep import AudioSepForAudioSeparation
from ..models.audiosep.processing_audiosep import AudioSepProcessor
from .curves import plot_curve
from .query_classes import class_names, class_phrases, embed, teach_classes
from .recipe import load_recipe
from .trainer import InOrderTrainer


@dataclass
class AudioSepRecipe:
    """Settings of a training run: the model's configuration, the mixtures, the optimiser.

    `initial_model` is an AudioSep folder whose separator the run starts from, and whose audio tower if the settings of
    it are the same; the text tower is always that of `text_tower`, and an audio tower taught against another is lost.
    `teach_classes` gives the query network the classes of the catalogue and teaches it their words first.
    """

    text_tower: str = ""
    initial_model: str = ""
    model: dict[str, Any] = field(default_factory=dict)
    audio_tower: dict[str, Any] = field(default_factory=dict)
    audio_features: dict[str, Any] = field(default_factory=dict)
    mixing: dict[str, Any] = field(default_factory=dict)
    folders: list[str] = field(default_factory=lambda: ["."])
    corpus_weights: dict[str, float] = field(default_factory=dict)
    commercial_only: bool = True
    validation_fraction: float = 0.15
    steps: int = 10_000
    batch_size: int = 12
    learning_rate: float = 2e-3
    schedule: str = "cosine"
    warmup_steps: int = 200
    weight_decay: float = 0.01
    eval_every: int = 1_000
    save_every: int = 250
    seed: int = 0
    bf16: bool = True
    compile: bool = False
    teach_classes: bool = False


class ValidationCallback(TrainerCallback):
    """Separates held-out mixtures at every interval and keeps the curve in `curve.json` and `curve.png`."""

    def __init__(self, processor: AudioSepProcessor, clips: list[Clip], sampling_rate: int, every: int, output: Path):
        self.processor, self.every, self.output = processor, every, output
        self.pairs = pair_mixtures(clips, sampling_rate, per_class=4, seconds=4.0, seed=1)
        self.curve_file = output / "curve.json"
        self.curve = json.loads(self.curve_file.read_text()) if self.curve_file.exists() else []

    def on_step_end(self, args: Any, state: Any, control: Any, model: Any = None, **kwargs: Any) -> None:
        if state.global_step % self.every and state.global_step != state.max_steps:
            return
        model.eval()
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=args.bf16 and model.device.type == "cpu"):
            result = evaluate_pairs(model, self.processor, self.pairs)
        model.train()
        train_loss = [log["loss"] for log in state.log_history if "loss" in log][-10:]
        point = {"step": state.global_step, "sdri": result["sdri"], "absent_level": result["absent_level"]}
        point["train_loss"] = sum(train_loss) / max(len(train_loss), 1)
        self.curve = [p for p in self.curve if p["step"] < state.global_step] + [point]
        self.curve_file.write_text(json.dumps(self.curve, indent=1))
        plot_curve(self.curve, self.output / "curve.png")
        print(json.dumps(point), flush=True)


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


def start_queries(
    model: AudioSepForAudioSeparation, start: AudioSepForAudioSeparation, processor: AudioSepProcessor
) -> None:
    """Takes the query network over from `start`; new classes have the mean effect their phrases had there."""
    if list(model.config.query_classes) == list(start.config.query_classes):
        model.query_network.load_state_dict(start.query_network.state_dict())
        return
    rows = class_phrases(list(model.config.query_classes))
    network: Any = model.query_network
    with torch.no_grad():
        effects = start.query_network(embed(model, processor, [phrase for phrase, _ in rows]))
        for number in range(len(model.config.query_classes)):
            chosen = [index for index, (_, of) in enumerate(rows) if of == number]
            network.values.weight[:, number] = effects[chosen].mean(dim=0)


def load_data(recipe: AudioSepRecipe, data: Path, sampling_rate: int) -> tuple[list[Clip], list[Clip]]:
    """Training and validation clips of the recipe's folders under `data`."""
    folders = [data / name for name in recipe.folders]
    clips = load_clips(folders, sampling_rate, commercial_only=recipe.commercial_only)
    if not clips:
        raise DataError(f"no recording under {data} may be used; commercial_only is {recipe.commercial_only}")
    return split_clips(clips, recipe.validation_fraction)


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
    training, validation = load_data(recipe, data, model.config.sampling_rate)
    model.config.known_sounds = sorted({label for clip in training + validation for label in clip.labels})
    settings = MixingSettings(model.config.sampling_rate, **recipe.mixing)
    sampler = ClipSampler(training, recipe.corpus_weights)
    dataset = MixtureDataset(sampler, settings, recipe.steps * recipe.batch_size, recipe.seed)
    output.mkdir(parents=True, exist_ok=True)
    arguments = TrainingArguments(
        str(output), max_steps=recipe.steps, per_device_train_batch_size=recipe.batch_size, bf16=recipe.bf16,
        learning_rate=recipe.learning_rate, lr_scheduler_type=recipe.schedule, warmup_steps=recipe.warmup_steps,
        weight_decay=recipe.weight_decay, max_grad_norm=5.0, optim="adamw_torch", logging_steps=50, seed=recipe.seed,
        save_steps=recipe.save_every, save_total_limit=2, remove_unused_columns=False, report_to=[],
        dataloader_drop_last=True, use_cpu=not torch.cuda.is_available(),
    )  # fmt: skip
    validate = ValidationCallback(processor, validation, model.config.sampling_rate, recipe.eval_every, output)
    trainer = InOrderTrainer(
        model, arguments, train_dataset=dataset, data_collator=TextCollator(processor), callbacks=[validate]
    )
    model.to(memory_format=torch.channels_last)
    if recipe.compile:
        model.unet.compile()
    trainer.train(resume_from_checkpoint=get_last_checkpoint(str(output)))
    model.save_pretrained(output / "model")
    processor.save_pretrained(output / "model")
    return validate.curve[-1]


__all__ = ["AudioSepRecipe", "main"]
