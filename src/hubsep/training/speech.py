# SPDX-License-Identifier: Apache-2.0
"""Trains any model with a fixed number of outputs to take speakers apart, with `transformers.Trainer`.

Mixtures are made on the fly; a step depends on the seed and its number alone, so a run goes on exactly where it was
killed, and a later one may go on with more steps. Every interval the model separates the same mixtures of speakers
held out of training; the curve is written next to the checkpoints as numbers and as a picture, and the weights of its
best point to `best`. Validation runs without the compiler: each new shape would cost it a minute.
"""

from __future__ import annotations

import json
import time
from dataclasses import dataclass, field
from pathlib import Path
from statistics import mean
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel, Trainer, TrainerCallback, TrainingArguments
from transformers.trainer_utils import get_last_checkpoint

from ..data.recordings import Clip, load_clips, split_clips
from ..data.speech import SpeechMixture, SpeechMixtureDataset, SpeechSettings, speech_mixtures
from ..errors import DataError
from ..metrics import match_outputs, si_snr
from ..registry import SYSTEMS, locate
from .averaging import AveragedWeights
from .curves import plot_curve
from .filterbanks import start_from_fourier
from .recipe import load_recipe


@dataclass
class SpeechRecipe:
    """Settings of a training run: the model's configuration, the mixtures, the optimiser.

    Attributes:
        model_type: which system, by its name in the registry.
        model: fields of its configuration.
        initial_model: a folder whose weights the run starts from; its configuration then counts, `model` changes it.
        fourier_filterbank: whether a new Conv-TasNet's filterbanks start from the Fourier basis.
        mixing: fields of `SpeechSettings`.
        folders: of speech, under the data folder.
        noise_folders: of other sounds, under `noise_data` or else the data folder.
        schedule: "cosine", "constant_with_warmup" or another name of transformers'.
        minutes: the run stops with a checkpoint after this long, 0 for never; `steps` still shapes the schedule.
        average_decay: of the running mean of the weights that is judged and saved; 0 for the weights themselves.
        compile_target: the submodule torch.compile gets, "" for the whole model.
    """

    model_type: str = "conv_tasnet"
    model: dict[str, Any] = field(default_factory=dict)
    initial_model: str = ""
    fourier_filterbank: bool = False
    mixing: dict[str, Any] = field(default_factory=dict)
    folders: list[str] = field(default_factory=lambda: ["."])
    noise_folders: list[str] = field(default_factory=list)
    commercial_only: bool = True
    validation_fraction: float = 0.15
    validation_mixtures: int = 40
    validation_seconds: float = 4.0
    steps: int = 10_000
    minutes: float = 0.0
    batch_size: int = 8
    learning_rate: float = 1e-3
    schedule: str = "cosine"
    warmup_steps: int = 200
    weight_decay: float = 0.01
    average_decay: float = 0.0
    eval_every: int = 500
    save_every: int = 250
    workers: int = 0
    seed: int = 0
    bf16: bool = True
    compile: bool = False
    compile_target: str = ""


class InOrderTrainer(Trainer):
    """A Trainer that takes the items in order: the dataset itself is the shuffle, so a run can resume exactly."""

    def _get_train_sampler(self, *args: Any, **kwargs: Any) -> torch.utils.data.Sampler[int]:
        return torch.utils.data.SequentialSampler(self.train_dataset)


@torch.no_grad()
def validate(model: Any, mixtures: list[SpeechMixture]) -> dict[str, float]:
    """Mean SI-SNR improvement in dB over all mixtures, those of one gender, and those of different ones."""
    rows: list[tuple[bool | None, float]] = []
    for item in mixtures:
        mixture, labels = item.mixture.to(model.device), item.sources.to(model.device)
        sources = model(mixture[None, None]).sources[0, :, 0].float()
        gain = si_snr(sources[match_outputs(sources, labels)], labels) - si_snr(mixture.expand_as(labels), labels)
        rows.append((item.same_gender, gain.mean().item()))
    result = {"si_snri": mean(gain for _, gain in rows)}
    for name, kind in (("same_gender", True), ("mixed_gender", False)):
        gains = [gain for same, gain in rows if same is kind]
        if gains:
            result[name] = mean(gains)
    return {name: round(value, 3) for name, value in result.items()}


class SpeechCallback(TrainerCallback):
    """Validates at every interval, keeps the curve, the mean weights and the best model, and watches the clock."""

    def __init__(self, model: PreTrainedModel, mixtures: list[SpeechMixture], recipe: SpeechRecipe, output: Path):
        self.mixtures, self.recipe, self.output = mixtures, recipe, output
        self.average = AveragedWeights(model, recipe.average_decay)
        self.curve_file = output / "curve.json"
        self.curve = json.loads(self.curve_file.read_text()) if self.curve_file.exists() else []
        self.start = time.monotonic()

    def on_train_begin(self, args: Any, state: Any, control: Any, model: Any = None, **kwargs: Any) -> None:
        self.curve = [point for point in self.curve if point["step"] <= state.global_step]
        self.before = self.curve[-1]["minutes"] if self.curve else 0.0
        self.average = AveragedWeights(model, self.recipe.average_decay)  # on the device the Trainer chose
        if state.global_step:
            self.average.load(self.output / f"checkpoint-{state.global_step}", state.global_step)
        self.start = time.monotonic()

    def on_step_end(self, args: Any, state: Any, control: Any, model: Any = None, **kwargs: Any) -> None:
        self.average.update()
        minutes = (time.monotonic() - self.start) / 60
        last = state.global_step == state.max_steps
        if self.recipe.minutes and minutes > self.recipe.minutes:
            last = control.should_save = control.should_training_stop = True
        if state.global_step % self.recipe.eval_every == 0 or last:
            self._validate(state, model, minutes)

    def on_save(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.average.save(self.output / f"checkpoint-{state.global_step}")

    def _validate(self, state: Any, model: Any, minutes: float) -> None:
        best = max((point["si_snri"] for point in self.curve if point["step"] < state.global_step), default=-1e9)
        model.eval()
        device = model.device.type
        with torch.autocast(device, dtype=torch.bfloat16, enabled=self.recipe.bf16), self.average.applied():
            with torch.compiler.set_stance("force_eager"):
                result = validate(model, self.mixtures)
            if result["si_snri"] > best:
                model.save_pretrained(self.output / "best")
        model.train()
        losses = [log["loss"] for log in state.log_history if "loss" in log][-10:]
        point = {"step": state.global_step, **result, "train_loss": sum(losses) / max(len(losses), 1)}
        point["minutes"] = round(self.before + minutes, 2)
        self.curve = [p for p in self.curve if p["step"] < state.global_step] + [point]
        self.curve_file.write_text(json.dumps(self.curve, indent=1))
        title = "SI-SNR improvement, dB (speakers never heard)"
        plot_curve(self.curve, self.output / "curve.png", measure="si_snri", title=title)
        print(json.dumps(point), flush=True)


def build_model(recipe: SpeechRecipe) -> PreTrainedModel:
    """A new model of the recipe, or `initial_model` with the recipe's changes.

    Raises:
        DataError: if there is no such system, or it is queried with text.
    """
    fixed = sorted(name for name, row in SYSTEMS.items() if row.model and not locate(row.config).is_text_queried)
    if recipe.model_type not in fixed:
        raise DataError(f"model_type {recipe.model_type!r} cannot be trained on speakers; use {', '.join(fixed)}")
    system = SYSTEMS[recipe.model_type]
    assert system.model is not None
    model_class, config_class = locate(system.model), locate(system.config)
    if not recipe.initial_model:
        model = model_class(config_class(**recipe.model))
        if recipe.fourier_filterbank:
            start_from_fourier(model)
        return model
    config = config_class.from_pretrained(recipe.initial_model, **recipe.model)
    return model_class.from_pretrained(recipe.initial_model, config=config, dtype=torch.float32)


def load_speakers(recipe: SpeechRecipe, data: Path, sampling_rate: int) -> tuple[list[Clip], list[Clip], list[Clip]]:
    """Training clips, validation clips of other speakers, and noises of the training part."""
    speech = load_clips([data / n for n in recipe.folders], sampling_rate, commercial_only=recipe.commercial_only)
    training, validation = split_clips(speech, recipe.validation_fraction)
    if not training or not validation:
        raise DataError(
            f"{data} has recordings of {len({clip.group for clip in speech})} speakers that may be used; six of a "
            f"label are needed to hold one out (commercial_only is {recipe.commercial_only})"
        )
    folders = [data / name for name in recipe.noise_folders]
    noises = load_clips(folders, sampling_rate, commercial_only=recipe.commercial_only)
    return training, validation, split_clips(noises)[0]


def training_arguments(recipe: SpeechRecipe, output: Path) -> TrainingArguments:
    """The recipe in transformers' words."""
    return TrainingArguments(
        str(output), max_steps=recipe.steps, per_device_train_batch_size=recipe.batch_size, bf16=recipe.bf16,
        learning_rate=recipe.learning_rate, lr_scheduler_type=recipe.schedule, warmup_steps=recipe.warmup_steps,
        weight_decay=recipe.weight_decay, max_grad_norm=5.0, optim="adamw_torch_fused",
        logging_steps=max(1, min(50, recipe.eval_every // 2)),
        save_steps=recipe.save_every, save_total_limit=2, remove_unused_columns=False, report_to=[], seed=recipe.seed,
        dataloader_drop_last=True, dataloader_num_workers=recipe.workers, label_names=["labels"],
        use_cpu=not torch.cuda.is_available(),
    )  # fmt: skip


def collate(items: list[dict[str, Tensor]]) -> dict[str, Tensor]:
    """Stacks items into a batch."""
    return {name: torch.stack([item[name] for item in items]) for name in items[0]}


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
    rate, sources = model.config.sampling_rate, model.config.num_sources
    training, heldout, noises = load_speakers(recipe, data, rate)
    mixit = getattr(model.config, "loss", "") == "mixit"
    mixing = {"num_sources": sources, "num_outputs": 0 if mixit else sources, "mixit": mixit, **recipe.mixing}
    settings = SpeechSettings(rate, **mixing)
    dataset = SpeechMixtureDataset(training, settings, recipe.steps * recipe.batch_size, recipe.seed, noises)
    fixed = speech_mixtures(
        heldout, rate, count=recipe.validation_mixtures, num_sources=settings.num_sources,
        seconds=recipe.validation_seconds, level_range_db=settings.level_range_db,
    )  # fmt: skip
    output.mkdir(parents=True, exist_ok=True)
    watch = SpeechCallback(model, fixed, recipe, output)
    trainer = InOrderTrainer(
        model, training_arguments(recipe, output), train_dataset=dataset, data_collator=collate, callbacks=[watch]
    )
    if recipe.compile:
        (getattr(model, recipe.compile_target) if recipe.compile_target else model).compile(dynamic=False)
    trainer.train(resume_from_checkpoint=get_last_checkpoint(str(output)))
    with watch.average.applied():
        model.save_pretrained(output / "model")
    return watch.curve[-1]


__all__ = ["SpeechRecipe", "build_model", "main", "validate"]
