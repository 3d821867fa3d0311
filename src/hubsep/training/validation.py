# SPDX-License-Identifier: Apache-2.0
"""Judges a model at every interval of its training, keeps the curve, the mean weights and the best model.

The curve is written next to the checkpoints as numbers and as a picture, and the weights of its best point to `best`.
Validation runs without the compiler: each new shape would cost it a minute.

A running mean of the weights of a training run: what a long run at a constant rate settles to without decaying it.

The mean is kept with every checkpoint, so that a resumed run has the mean an uninterrupted one would have had.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from transformers import PreTrainedModel, TrainerCallback

from ..plotting.curves import plot_curve


COMPLETE = "complete.json"  # in a checkpoint: the names and sizes of its files


@dataclass(frozen=True)
class Judge:
    """How a model is judged.

    Attributes:
        validate: gives the measures of a model in dB by name.
        measure: which of them decides which point is the best.
        title: of the picture.
        inference: fields of the configuration that have another value where nothing is learnt, and in saved models.
    """

    validate: Callable[[Any], dict[str, float]]
    measure: str
    title: str
    inference: dict[str, Any] = field(default_factory=dict)


class CurveCallback(TrainerCallback):
    """Validates at every interval, keeps the curve, the mean weights and the best model, and watches the clock."""

    def __init__(self, model: PreTrainedModel, judge: Judge, recipe: Any, output: Path):
        self.judge, self.recipe, self.output = judge, recipe, output
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
        folder = self.output / f"checkpoint-{state.global_step}"
        if state.is_world_process_zero:
            self.average.save(folder)
            mark_complete(folder)

    def save(self, model: PreTrainedModel, folder: Path) -> None:
        """Saves the model as it is judged: with its mean weights, and the configuration of inference."""
        with self.average.applied(), configured(model, self.judge.inference):
            model.save_pretrained(folder)

    def keep_best(self, model: Any) -> None:
        """Saves the model as the best so far."""
        model.save_pretrained(self.output / "best")

    def _validate(self, state: Any, model: Any, minutes: float) -> None:
        measure = self.judge.measure
        best = max((point[measure] for point in self.curve if point["step"] < state.global_step), default=-1e9)
        model.eval()
        device = model.device.type
        with (
            torch.autocast(device, dtype=torch.bfloat16, enabled=self.recipe.bf16),
            self.average.applied(),
            torch.compiler.set_stance("force_eager"),
            configured(model, self.judge.inference),
        ):
            result = self.judge.validate(model)
            if result[measure] > best and state.is_world_process_zero:
                self.keep_best(model)
        model.train()
        losses = [log["loss"] for log in state.log_history if "loss" in log][-10:]
        point = {"step": state.global_step, **result, "train_loss": sum(losses) / max(len(losses), 1)}
        point["minutes"] = round(self.before + minutes, 2)
        self.curve = [p for p in self.curve if p["step"] < state.global_step] + [point]
        if not state.is_world_process_zero:
            return
        write_whole(self.curve_file, json.dumps(self.curve, indent=1))
        plot_curve(self.curve, self.output / "curve.png", measure=measure, title=self.judge.title)
        print(json.dumps(point), flush=True)


def write_whole(path: Path, text: str) -> None:
    """Writes a file that is the old or the new one whenever the process is killed."""
    part = path.with_name(f".{path.name}.part")
    part.write_text(text, encoding="utf-8")
    os.replace(part, path)


def mark_complete(checkpoint: Path) -> None:
    """Says that everything of a checkpoint is there; the last thing written into it."""
    names = [path for path in checkpoint.iterdir() if path.name != COMPLETE and not path.name.startswith(".")]
    sizes = {path.name: path.stat().st_size for path in names}
    write_whole(checkpoint / COMPLETE, json.dumps(sizes))


def last_checkpoint(output: Path) -> str | None:
    """The newest checkpoint that is whole, or None.

    A process may be killed while it writes one. Runs of earlier versions left no mark: the Trainer's own state is then
    taken for one, since it is written after the weights.
    """
    found = sorted(output.glob("checkpoint-*"), key=lambda path: int(path.name.rpartition("-")[2]), reverse=True)
    marked = [path for path in found if (path / COMPLETE).is_file()]
    for path in marked:
        sizes = json.loads((path / COMPLETE).read_text(encoding="utf-8"))
        if all((path / name).is_file() and (path / name).stat().st_size == size for name, size in sizes.items()):
            return str(path)
    unmarked = [path for path in found if not marked and (path / "trainer_state.json").is_file()]
    return str(unmarked[0]) if unmarked else None


@contextmanager
def configured(model: Any, fields: dict[str, Any]) -> Iterator[None]:
    """Within this the model's configuration has other values for some fields that shape no weight."""
    before = {name: getattr(model.config, name) for name in fields}
    for name, value in fields.items():
        setattr(model.config, name, value)
    try:
        yield
    finally:
        for name, value in before.items():
            setattr(model.config, name, value)


FILE = "averaged.safetensors"


class AveragedWeights:
    """Exponential mean of a model's parameters; with `decay` 0 it is the parameters and costs nothing."""

    def __init__(self, model: nn.Module, decay: float):
        self.decay, self.steps = decay, 0
        self.parameters = {name: p for name, p in model.named_parameters() if p.requires_grad} if decay else {}
        self.means = {name: p.detach().clone() for name, p in self.parameters.items()}

    @torch.no_grad()
    def update(self) -> None:
        """Takes in the parameters of one more step; the first steps count more, so that the start is forgotten."""
        if not self.decay:
            return
        self.steps += 1
        decay = min(self.decay, self.steps / (self.steps + 10))
        torch._foreach_lerp_(list(self.means.values()), list(self.parameters.values()), 1 - decay)

    @contextmanager
    def applied(self) -> Iterator[None]:
        """Within this the model has the mean weights."""
        self._swap()
        try:
            yield
        finally:
            self._swap()

    @torch.no_grad()
    def _swap(self) -> None:
        for name, parameter in self.parameters.items():
            kept = parameter.detach().clone()
            parameter.copy_(self.means[name])
            self.means[name].copy_(kept)

    def save(self, folder: Path) -> None:
        """Writes the mean next to a checkpoint."""
        if self.decay:
            state: dict[str, Tensor] = {name: mean.contiguous() for name, mean in self.means.items()}
            save_file(state, folder / FILE, metadata={"steps": str(self.steps)})

    def load(self, folder: Path, steps: int) -> None:
        """Reads what `save` wrote after `steps`; a checkpoint without it starts from its own weights."""
        if not self.decay:
            return
        self.steps = steps
        state = load_file(folder / FILE) if (folder / FILE).is_file() else self.parameters
        for name, mean in self.means.items():
            mean.copy_(state[name].detach())


__all__ = [
    "AveragedWeights",
    "CurveCallback",
    "Judge",
    "configured",
    "last_checkpoint",
    "mark_complete",
    "write_whole",
]
