# SPDX-License-Identifier: Apache-2.0
"""What a fine-tune is told, and what is filled in where it is told nothing."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ...errors import DataError
from ..recipe import load_recipe
from ..trainer import TrainingRecipe
from .material import Material
from .trainer import (
    check_reports,
    world_size,
)


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
    defaults = DEFAULTS[model_type]
    changes: dict[str, Any] = {
        "model_type": model_type,
        "learning_rate": recipe.learning_rate or defaults["rates"][recipe.lora],
        "batch_size": recipe.batch_size or defaults["batch_size"],
        "mixing": {"seconds": defaults["seconds"], **recipe.mixing},
    }
    if recipe.minutes and world_size() > 1:
        raise DataError("minutes is for one process; several would not stop at the same step: set steps")
    return dataclasses.replace(recipe, **changes)


__all__ = ["DEFAULTS", "UNUSED", "FineTuneRecipe", "Run", "fill_recipe"]
