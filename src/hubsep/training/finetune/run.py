# SPDX-License-Identifier: Apache-2.0
"""Fine-tunes any model that separates on a folder of recordings: `hubsep train MODEL --data FOLDER [--lora]`.

The contract of the folder is that of `hubsep.data.contract`. Decisions: every system has defaults of its own, which a
YAML file or `--set` changes. What is handed out is the best point of the validation curve, with the figures of the
model before and after on the same held-out mixtures. A sound the model has no class for is given one, and its words
are taught before the separator learns the sound.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch

from ...auto import AutoModelForAudioSeparation, load_processor
from ...batch.fingerprint import model_fingerprint
from ...errors import DataError
from ...hub.models import resolve_folder
from ...shipped import SHIPPED
from ..memory import kept_memory
from ..origin import check_origin, recordings_fingerprint, settings_kept
from ..recipe import load_recipe
from ..separators.audiosep import TextCollator
from ..separators.new_classes import sounds_without_class, teach_new_classes
from ..trainer import collate
from ..validation import last_checkpoint, read_measures, write_whole
from .adapters import TRAINED, checkpoint_blocks, load_trained, prepare_full, prepare_lora
from .card import base_card, check_publishable, check_result, write_result
from .material import kind_of, load_material
from .recipe import FineTuneRecipe, Run, fill_recipe
from .trainer import (
    FineTuneCallback,
    FineTuneTrainer,
    fine_tune_arguments,
    rank,
    synchronise,
    world_size,
)


BEFORE = "before.json"  # what was measured of the base


def load_base(name: str) -> tuple[Any, Any, Path]:
    """Model in float32, its processor if it has one, and its folder."""
    folder = resolve_folder(SHIPPED.get(name, name))
    model = AutoModelForAudioSeparation.from_pretrained(folder, dtype=torch.float32).eval()
    return model, load_processor(model, folder), folder


def base_name(name: str) -> str:
    """What cards call a base: a shipped name, a repository, or the last part of a folder's path."""
    is_folder = name not in SHIPPED and Path(name).is_dir()
    return Path(name).resolve().name if is_folder else name


def check_same(run: Run) -> None:
    """Refuses to go on with another model, other recordings or other settings than the run began with.

    Raises:
        DataError: naming what is not the same.
    """
    rows, others = run.material.rows, run.material.background_rows
    origin = {
        "model": model_fingerprint(run.base[1], most_hashed=None),
        "data": recordings_fingerprint(rows[: len(rows) - len(others)]),
        "background": recordings_fingerprint(others) if others else "",
        "settings": settings_kept(run.recipe),
    }
    whose = {
        "model": f"another model than {run.base[0]} is now",
        "data": "other recordings of --data, or these in another place",
        "background": "another --background",
    }
    check_origin(run.output, origin, whose, stale=[BEFORE])


def prepare(run: Run) -> None:
    """Measures the base, teaches words, and decides what learns; all of it depends on the seed alone."""
    recipe, measured = run.recipe, run.output / BEFORE
    device = "cuda" if torch.cuda.is_available() else "cpu"
    if measured.is_file():
        run.before = read_measures(measured)
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

    A run goes on with what it began with: another model, other recordings and other settings are refused, but for
    those that say how long it lasts and how often it is looked at.

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
        DataError: if the data does not keep the contract, a setting is wrong, or `output` holds a run that began with
            something else.
        CheckpointError: if the model is broken, incomplete or hostile.
    """
    load_recipe(FineTuneRecipe, config, **overrides)  # what is wrong with it is said before a model is loaded
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
    if rank() == 0:
        check_same(run)
    prepare(run)
    watch = learn(run)
    after = material.detail(run.model.eval())
    if watch.curve and rank() == 0:
        write_result(run, watch.curve, after, told)
    synchronise()
    return {"before": run.before, "after": after, "result": str(run.result)}


__all__ = ["main"]
