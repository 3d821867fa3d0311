# SPDX-License-Identifier: Apache-2.0
"""What recipes for models of waveforms share: their settings, `transformers.Trainer`, and how a run begins and ends.

Decisions: mixtures are made on the fly and the dataset itself is the shuffle; a step depends on the seed and its
number alone, so a run goes on exactly where it was killed, and a later one may go on with more steps.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import Dataset
from transformers import PreTrainedModel, Trainer, TrainingArguments

from ..errors import DataError
from ..registry import SYSTEMS, TASK, locate
from ..shipped import SHIPPED
from .memory import kept_memory
from .origin import check_origin, settings_kept, tables_fingerprint
from .validation import CurveCallback, last_checkpoint


Collator = Callable[[list[Any]], dict[str, Tensor]]


@dataclass
class TrainingRecipe:
    """Settings of a training run: the model's configuration, the mixtures, the optimiser.

    Attributes:
        model_type: which system, by its name in the registry.
        model: fields of its configuration.
        initial_model: a folder, or the name of a shipped model, whose weights the run starts from; its configuration
            then counts, `model` changes it.
        mixing: fields of the settings mixtures are made with.
        folders: of recordings, under the data folder.
        commercial_only: whether the weights may be used commercially, and only such recordings be used.
        validation_fraction: of the recordings of each class, held out by speaker or artist.
        schedule: "cosine", "constant_with_warmup" or another name of transformers'.
        minutes: the run stops with a checkpoint after this long, 0 for never; `steps` still shapes the schedule.
        average_decay: of the running mean of the weights that is judged and saved; 0 for the weights themselves.
        compile_target: the submodules torch.compile gets, with spaces between them, "" for the whole model; the parts
            of a list are compiled one by one, which takes less time to begin.
    """

    model_type: str = ""
    model: dict[str, Any] = field(default_factory=dict)
    initial_model: str = ""
    mixing: dict[str, Any] = field(default_factory=dict)
    folders: list[str] = field(default_factory=lambda: ["."])
    commercial_only: bool = True
    validation_fraction: float = 0.15
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


def fixed_systems() -> list[str]:
    """Systems for separation whose outputs are not asked for with text."""
    rows = [row for row in SYSTEMS.values() if row.task == TASK and row.model]
    return sorted(row.model_type for row in rows if row.config and not locate(row.config).is_text_queried)


def shipped_or_folder(name: str) -> str:
    """The folder of a shipped model, or what was named."""
    return str(SHIPPED.get(name, name))


def build_model(recipe: TrainingRecipe, accepted: Collection[str], purpose: str) -> PreTrainedModel:
    """A new model of the recipe, or `initial_model` with the recipe's changes.

    Args:
        recipe: names the model.
        accepted: systems that can be trained.
        purpose: on what, for the error.

    Parts that the recipe's changes add start anew.

    Raises:
        DataError: if `model_type` is none of the accepted systems, or `initial_model` does not fit.
    """
    if recipe.model_type not in accepted:
        raise DataError(f"model_type {recipe.model_type!r} cannot be trained on {purpose}; use {', '.join(accepted)}")
    system = SYSTEMS[recipe.model_type]
    assert system.model is not None
    assert system.config is not None
    model_class, config_class = locate(system.model), locate(system.config)
    if not recipe.initial_model:
        return model_class(config_class(**recipe.model))
    start = shipped_or_folder(recipe.initial_model)
    earlier = model_class.from_pretrained(start, dtype=torch.float32)
    if not recipe.model:
        return earlier
    model = model_class(config_class.from_pretrained(start, **recipe.model))
    try:
        new, lost = model.load_state_dict(earlier.state_dict(), strict=False)
    except RuntimeError as error:
        raise DataError(f"{recipe.initial_model} does not fit the recipe's model: {error}") from error
    if lost:
        raise DataError(f"the recipe's model has no place for {lost[0]} of {recipe.initial_model}")
    if new:
        print(f"not in {recipe.initial_model}, so they start anew: {', '.join(new)}")
    return model


def training_arguments(recipe: TrainingRecipe, output: Path) -> TrainingArguments:
    """The recipe in transformers' words.

    Raises:
        DataError: if there is no step; a recipe whose last part needs none does not ask.
    """
    if recipe.steps < 1:
        raise DataError(f"steps must be at least 1, got {recipe.steps}")
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


def run_training(
    model: PreTrainedModel,
    recipe: TrainingRecipe,
    dataset: Dataset[dict[str, Tensor]],
    watch: CurveCallback,
    output: Path,
    collator: Collator = collate,
    *,
    data: Path,
) -> dict[str, float]:
    """Trains, going on from the newest checkpoint under `output`, and saves the model in `output/model`.

    Args:
        model: that learns.
        recipe: the settings.
        dataset: training items.
        watch: judges the model.
        output: of the run.
        collator: makes batches.
        data: that the folders of the recipe are relative to.

    Returns:
        The last point of the validation curve.

    Raises:
        DataError: if `output` holds a run that began with other settings or other tables of recordings.
    """
    output.mkdir(parents=True, exist_ok=True)
    origin = {"tables": tables_fingerprint(recipe, data), "settings": settings_kept(recipe)}
    check_origin(output, origin, {"tables": "another metadata.csv in the folders of --data"})
    trainer = InOrderTrainer(
        model, training_arguments(recipe, output), train_dataset=dataset, data_collator=collator, callbacks=[watch]
    )
    if recipe.compile:
        for name in recipe.compile_target.split() or [""]:
            part = model.get_submodule(name)
            for module in part if isinstance(part, nn.ModuleList) else [part]:
                module.compile(dynamic=False)
    with kept_memory():
        trainer.train(resume_from_checkpoint=last_checkpoint(output))
    watch.save(model, output / "model")
    return watch.curve[-1]


__all__ = [
    "Collator", "InOrderTrainer", "TrainingRecipe", "build_model", "collate", "fixed_systems", "run_training",
    "shipped_or_folder", "training_arguments",
]  # fmt: skip
