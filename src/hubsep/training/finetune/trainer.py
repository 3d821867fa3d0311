# SPDX-License-Identifier: Apache-2.0
"""The Trainer of fine-tunes: checkpoints that hold only what changed, norms that stay, an end when nothing improves.

Decisions: a checkpoint counts once its last file is there, so a run that is killed goes on from the newest whole one
and loses at most one interval. Every process of several validates, so that all of them stop at the same step; one of
them writes.
"""

from __future__ import annotations

import importlib.util
import math
import os
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from transformers import TrainingArguments

from ...errors import DataError
from ...hub.bounds import shown
from ..trainer import InOrderTrainer, training_arguments
from ..validation import CurveCallback
from .adapters import TRAINED, keep_statistics, load_trained, save_trained


# what transformers reports to, with the modules one of which it needs: a name from a recipe is never looked up itself,
# because Python imports the first part of a dotted name in order to look for the rest
REPORTERS: dict[str, tuple[str, ...]] = {
    "clearml": ("clearml",),
    "codecarbon": ("codecarbon",),
    "comet_ml": ("comet_ml",),
    "dvclive": ("dvclive",),
    "mlflow": ("mlflow",),
    "neptune": ("neptune",),
    "swanlab": ("swanlab",),
    "tensorboard": ("tensorboard", "tensorboardX"),
    "trackio": ("trackio",),
    "wandb": ("wandb",),
}


class FineTuneTrainer(InOrderTrainer):
    """A Trainer for models most of which is frozen."""

    def compute_loss(self, model: nn.Module, *args: Any, **kwargs: Any) -> Any:
        keep_statistics(model)  # the Trainer has just put all of it into training mode
        return super().compute_loss(model, *args, **kwargs)

    def _save(self, output_dir: str | None = None, state_dict: dict[str, Tensor] | None = None) -> None:
        save_trained(self.model, Path(output_dir or self.args.output_dir))

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: nn.Module | None = None) -> None:
        load_trained(self.model if model is None else model, Path(resume_from_checkpoint))


class FineTuneCallback(CurveCallback):
    """Keeps the best of what changed, and ends a run that has not improved for some intervals."""

    log: Any = None  # the Trainer's, once there is one

    def keep_best(self, model: Any) -> None:
        part, folder = self.output / ".best", self.output / "best"
        save_trained(model, part)
        folder.mkdir(exist_ok=True)
        (part / TRAINED).replace(folder / TRAINED)  # the old or the new one, whenever the process is killed

    def on_step_end(self, args: Any, state: Any, control: Any, model: Any = None, **kwargs: Any) -> None:
        before = len(self.curve) and self.curve[-1]["step"]
        super().on_step_end(args, state, control, model=model, **kwargs)
        if self.curve and self.curve[-1]["step"] != before and self.log is not None:
            measures = {name: value for name, value in self.curve[-1].items() if name not in ("step", "train_loss")}
            self.log({f"eval_{name}": value for name, value in measures.items()})
        if self.is_exhausted():
            control.should_training_stop = control.should_save = True

    def is_exhausted(self) -> bool:
        """Whether the last `patience` points of the curve brought nothing better."""
        values = [point[self.judge.measure] for point in self.curve]
        patience = self.recipe.patience
        return bool(patience and values and len(values) - 1 - values.index(max(values)) >= patience)


def check_reports(names: list[str]) -> None:
    """Refuses what the run cannot report to, before anything is measured.

    Raises:
        DataError: if it is none of `REPORTERS`, or not installed.
    """
    for name in names:
        if not isinstance(name, str) or name not in REPORTERS:
            raise DataError(f"--report-to {shown(name)} is not known; use one of {', '.join(REPORTERS)}")
        if not any(importlib.util.find_spec(module) for module in REPORTERS[name]):
            package = REPORTERS[name][0]
            raise DataError(f"--report-to {name} needs {package}, which is not installed; pip install {package}")


def fine_tune_arguments(recipe: Any, output: Path) -> TrainingArguments:
    """The recipe in transformers' words, for one process or several."""
    arguments = training_arguments(recipe, output)
    arguments.report_to = list(recipe.report_to)
    arguments.max_grad_norm = recipe.max_grad_norm
    arguments.project, arguments.run_name = "hubsep", output.name  # a run that goes on is the same one in trackio
    # the loss since it was last told is in no checkpoint: it is told at every one, so that the curve stays the same
    arguments.logging_steps = math.gcd(int(arguments.logging_steps), recipe.save_every)
    return arguments


def world_size() -> int:
    """How many processes `accelerate launch` or `torchrun` started."""
    return int(os.environ.get("WORLD_SIZE", "1"))


def rank() -> int:
    """The number of this process."""
    return int(os.environ.get("RANK", "0"))


def synchronise() -> None:
    """Waits for the other processes, if there are any."""
    if torch.distributed.is_available() and torch.distributed.is_initialized():
        torch.distributed.barrier()


__all__ = [
    "REPORTERS", "FineTuneCallback", "FineTuneTrainer", "check_reports", "fine_tune_arguments", "rank", "synchronise",
    "world_size",
]  # fmt: skip
