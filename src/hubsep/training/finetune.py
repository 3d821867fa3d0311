# SPDX-License-Identifier: Apache-2.0
"""Fine-tunes any model that separates on a folder of recordings: `hubsep train MODEL --data FOLDER [--lora]`.

The contract of the folder is that of `hubsep.data.contract`. Decisions: every system has defaults of its own, which a
YAML file or `--set` changes. What is handed out is the best point of the validation curve, with the figures of the
model before and after on the same held-out mixtures. A sound the model has no class for is given one, and its words
are taught before the separator learns the sound.
"""

from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from ..auto import AutoModelForAudioSeparation, load_processor
from ..errors import DataError
from ..hub import resolve_folder
from ..registry import SHIPPED
from .adapters import TRAINED, checkpoint_blocks, load_trained, prepare_full, prepare_lora
from .audiosep import TextCollator
from .finetune_card import base_card, check_publishable, check_result, write_result
from .finetune_data import Material, kind_of, load_material
from .finetune_trainer import (
    FineTuneCallback,
    FineTuneTrainer,
    check_reports,
    fine_tune_arguments,
    rank,
    synchronise,
    world_size,
)
from .memory import kept_memory
from .new_classes import sounds_without_class, teach_new_classes
from .recipe import load_recipe
from .trainer import TrainingRecipe, collate
from .validation import last_checkpoint, write_whole


# what differs between systems: learning rates of all weights and of adapters, length and number of training items
DEFAULTS: dict[str, dict[str, Any]] = {
    "audiosep": {"rates": (2e-4, 3e-3), "seconds": 3.0, "batch_size": 8},
    "conv_tasnet": {"rates": (1e-4, 1e-3), "seconds": 3.0, "batch_size": 4},
    "sepformer": {"rates": (3e-5, 3e-4), "seconds": 3.0, "batch_size": 1},
    "audioslots": {"rates": (1e-4, 5e-4), "seconds": 3.0, "batch_size": 4},
    "spleeter": {"rates": (1e-4, 1e-3), "seconds": 6.0, "batch_size": 2},
    "meta_tasnet": {"rates": (1e-4, 1e-3), "seconds": 3.0, "batch_size": 2},
}


# settings of runs that start anew, which the model and the data decide here
UNUSED = ("model_type", "model", "initial_model", "folders", "commercial_only", "compile", "compile_target")


@dataclass
class FineTuneRecipe(TrainingRecipe):
    """Settings of a fine-tune; `mixing` has the fields of what mixes the model's kind of data.

    Attributes:
        lora: whether to train low-rank adapters instead of all weights.
        rank: of the adapters.
        alpha: their scale is this over the rank.
        learning_rate: 0 for the system's own.
        batch_size: of each process, 0 for the system's own.
        patience: intervals without improvement after which the run ends, 0 for never.
        max_grad_norm: longest gradient.
        gradient_checkpointing: less memory, more time.
        report_to: what transformers reports to, such as trackio.
        non_commercial: whether recordings that are not for commercial use may be learnt from.
        validation_mixtures: that every point of the curve is measured on.
        validation_seconds: length of each.
        final_mixtures: of each sound, that the model is measured on before and after.
    """

    lora: bool = False
    rank: int = 16
    alpha: float = 16.0
    steps: int = 1_000
    learning_rate: float = 0.0
    batch_size: int = 0
    warmup_steps: int = 20
    weight_decay: float = 0.0
    validation_fraction: float = 0.2
    eval_every: int = 100
    save_every: int = 50
    patience: int = 5
    max_grad_norm: float = 5.0
    gradient_checkpointing: bool = False
    report_to: list[str] = field(default_factory=list)
    non_commercial: bool = False
    validation_mixtures: int = 16
    validation_seconds: float = 4.0
    final_mixtures: int = 24


@dataclass
class Run:
    """A fine-tune under way.

    Attributes:
        base: what the model is called, and its folder.
        model: that learns.
        processor: of a text-queried model.
        recipe: with the system's defaults filled in.
        material: the data.
        output: folder of checkpoints, curve and result.
        new_classes: of the query network.
        probe: of the base's layers, for adapters.
        before: what was measured of the base.
    """

    base: tuple[str, Path]
    model: Any
    processor: Any
    recipe: FineTuneRecipe
    material: Material
    output: Path
    new_classes: list[str] = field(default_factory=list)
    probe: dict[str, float] = field(default_factory=dict)
    before: dict[str, float] = field(default_factory=dict)

    @property
    def result(self) -> Path:
        """Where the fine-tuned model or the adapter goes."""
        return self.output / ("adapter" if self.recipe.lora else "model")


def fill_recipe(model_type: str, config: Path | None, overrides: dict[str, Any]) -> FineTuneRecipe:
    """The recipe of a system: its defaults, then the file, then the overrides.

    Raises:
        DataError: if the system does not separate, a setting is unknown or impossible, or what the run reports to is
            not installed.
    """
    if model_type not in DEFAULTS:
        raise DataError(f"{model_type} models are not fine-tuned here; use one of {', '.join(DEFAULTS)}")
    recipe = load_recipe(FineTuneRecipe, config, **overrides)
    changed = [name for name in UNUSED if getattr(recipe, name) != getattr(FineTuneRecipe(), name)]
    if changed:
        raise DataError(f"{changed[0]} is a setting of runs that train a model anew; leave it out of a fine-tune")
    check_reports(recipe.report_to)
    own = DEFAULTS[model_type]
    changes: dict[str, Any] = {
        "model_type": model_type,
        "learning_rate": recipe.learning_rate or own["rates"][recipe.lora],
        "batch_size": recipe.batch_size or own["batch_size"],
        "mixing": {"seconds": own["seconds"], **recipe.mixing},
    }
    if recipe.minutes and world_size() > 1:
        raise DataError("minutes is for one process; several would not stop at the same step: set steps")
    if min(recipe.steps, recipe.eval_every, recipe.save_every, recipe.rank) < 1:
        raise DataError("steps, eval_every, save_every and rank must be at least 1")
    return dataclasses.replace(recipe, **changes)


def load_base(name: str) -> tuple[Any, Any, Path]:
    """Model in float32, its processor if it has one, and its folder."""
    folder = resolve_folder(SHIPPED.get(name, name))
    model = AutoModelForAudioSeparation.from_pretrained(folder, dtype=torch.float32).eval()
    return model, load_processor(model, folder), folder


def base_name(name: str) -> str:
    """What cards call a base: a shipped name, a repository, or the last part of a folder's path."""
    is_folder = name not in SHIPPED and Path(name).is_dir()
    return Path(name).resolve().name if is_folder else name


def prepare(run: Run) -> None:
    """Measures the base, teaches words, and decides what learns; all of it depends on the seed alone."""
    recipe, measured = run.recipe, run.output / "before.json"
    device = "cuda" if torch.cuda.is_available() else "cpu"
    if measured.is_file():
        run.before = json.loads(measured.read_text(encoding="utf-8"))
    else:
        run.before = run.material.detail(run.model.to(device))
        run.model.cpu()
        write_whole(measured, json.dumps(run.before, indent=1))
        print(json.dumps({"before": run.before}), flush=True)
    torch.manual_seed(recipe.seed)
    if kind_of(run.model.config) == "sounds":
        run.new_classes = sounds_without_class(run.model, run.material.labels)
        if run.new_classes:
            share = teach_new_classes(run.model, run.processor, run.new_classes, seed=recipe.seed)
            print(f"words for {', '.join(run.new_classes)}: {share:.0%} understood", flush=True)
    if recipe.lora:
        run.probe = prepare_lora(run.model, recipe.rank, recipe.alpha, len(run.new_classes))
    else:
        prepare_full(run.model)
    if recipe.gradient_checkpointing and not checkpoint_blocks(run.model):
        raise DataError(f"{recipe.model_type} names no blocks to compute again; leave out --gradient-checkpointing")


def learn(run: Run) -> FineTuneCallback:
    """Trains, going on from the newest whole checkpoint, and gives the model the weights of its best point."""
    recipe, output = run.recipe, run.output
    watch = FineTuneCallback(run.model, run.material.judge, recipe, output)
    arguments = fine_tune_arguments(recipe, output)
    trainer = FineTuneTrainer(
        run.model, arguments, train_dataset=run.material.dataset(recipe.steps * recipe.batch_size * world_size()),
        data_collator=TextCollator(run.processor) if run.processor is not None else collate, callbacks=[watch],
    )  # fmt: skip
    watch.log = trainer.log
    start = last_checkpoint(output)
    ended = start is not None and watch.curve and watch.curve[-1]["step"] <= int(start.rpartition("-")[2])
    if not (ended and watch.is_exhausted()):
        with kept_memory():
            trainer.train(resume_from_checkpoint=start)
    synchronise()
    if not (output / "best" / TRAINED).is_file():
        raise DataError(f"no validation gave a number; lower learning_rate, which is {recipe.learning_rate:g}")
    load_trained(run.model, output / "best")
    vars(run.model).pop(
        "forward", None
    )  # the Trainer's, in bfloat16; what comes now is measured as before, in float32
    return watch


def main(model: str, data: Any, output: Path, *, background: Path | None = None, config: Path | None = None,
         told: dict[str, Any] | None = None, **overrides: Any) -> dict[str, Any]:  # fmt: skip
    """Fine-tunes a model, going on from the newest checkpoint under `output`.

    Args:
        model: a shipped name, a folder or a Hub repository.
        data: a folder with `metadata.csv`, or a `datasets` dataset; `hubsep.data.contract` says of what.
        output: checkpoints, curve, `best`, and the result: `adapter` or `model`.
        background: a folder of other sounds, or of noises for models of speech.
        config: a YAML file of `FineTuneRecipe` settings.
        told: for the card: `name`, `licence`, `command`, and `repository` if the result is to be pushed there.
        **overrides: `FineTuneRecipe` settings, which win over the file.

    Returns:
        `before` and `after`, on the same held-out mixtures, and `result`, the folder.

    Raises:
        DataError: if the data does not keep the contract, or a setting is wrong.
        CheckpointError: if the model is broken, incomplete or hostile.
    """
    base, processor, folder = load_base(model)
    recipe = fill_recipe(base.config.model_type, config, overrides)
    told = told or {}
    material = load_material(base, processor, recipe, data, background)
    card = base_card(folder, base_name(model), base.config.model_type)
    if told.get("repository"):
        check_publishable(card, material.rows, told.get("licence"), material.commercial)
    check_result(card, told.get("licence"), material.commercial)
    output.mkdir(parents=True, exist_ok=True)
    run = Run((base_name(model), folder), base, processor, recipe, material, output)
    prepare(run)
    watch = learn(run)
    after = material.detail(run.model.eval())
    if watch.curve and rank() == 0:
        write_result(run, watch.curve, after, told)
    synchronise()
    return {"before": run.before, "after": after, "result": str(run.result)}


__all__ = ["DEFAULTS", "FineTuneRecipe", "Run", "fill_recipe", "main"]
