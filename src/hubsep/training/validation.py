# SPDX-License-Identifier: Apache-2.0
"""Judges a model at every interval of its training, keeps the curve, the mean weights and the best model.

The curve is written next to the checkpoints as numbers and as a picture, and the weights of its best point to `best`.
Validation runs without the compiler: each new shape would cost it a minute.

Also here: a running mean of the weights of a training run: what a long run at a constant rate settles to without
decaying it.

The mean is kept with every checkpoint, so that a resumed run has the mean an uninterrupted one would have had.
"""

from __future__ import annotations

import json
import re
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

from ..errors import CheckpointError, DataError
from ..hub.json_files import MAX_TOKENIZER_BYTES, read_json, read_json_value
from ..hub.manifest import write_whole
from ..plotting.curves import plot_curve


COMPLETE = "complete.json"  # in a checkpoint: the names and sizes of its files
STATE = "trainer_state.json"  # the Trainer's own
CHECKPOINT = re.compile(r"checkpoint-([0-9]{1,12})")
START_ANEW = "no run wrote it; delete it, or choose another --output"


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
        self.curve = read_curve(self.curve_file, judge.measure) if self.curve_file.exists() else []
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


def mark_complete(checkpoint: Path) -> None:
    """Says that everything of a checkpoint is there; the last thing written into it."""
    names = [path for path in checkpoint.iterdir() if path.name != COMPLETE and not path.name.startswith(".")]
    sizes = {path.name: path.stat().st_size for path in names}
    write_whole(checkpoint / COMPLETE, json.dumps(sizes))


def read_curve(path: Path, measure: str) -> list[dict[str, Any]]:
    """The points of a run that goes on.

    Args:
        path: of `curve.json`.
        measure: that the best point is chosen by.

    Raises:
        DataError: if no run wrote them.
    """
    points = _resumed(path)
    if not isinstance(points, list) or not all(_is_point(point, measure) for point in points):
        raise DataError(f"{path} has no points with step, minutes and {measure}: {START_ANEW}")
    return points


def read_measures(path: Path) -> dict[str, float]:
    """What was measured before a run that goes on.

    Raises:
        DataError: if no run wrote it.
    """
    measures = _resumed(path)
    if not isinstance(measures, dict) or not all(isinstance(value, int | float | None) for value in measures.values()):
        raise DataError(f"{path} holds no measures: {START_ANEW}")
    return measures


def read_object(path: Path) -> dict[str, Any]:
    """What a run that goes on wrote down by name.

    Raises:
        DataError: if no run wrote it.
    """
    value = _resumed(path)
    if not isinstance(value, dict):
        raise DataError(f"{path} holds no names and values: {START_ANEW}")
    return value


def _resumed(path: Path) -> Any:
    try:
        return read_json_value(path, MAX_TOKENIZER_BYTES, name=str(path))
    except CheckpointError as error:
        raise DataError(f"{error} {START_ANEW}") from error


def _is_point(point: Any, measure: str) -> bool:
    if not isinstance(point, dict) or not {"step", "minutes", measure} <= set(point):
        return False
    return isinstance(point["step"], int) and all(
        isinstance(point[name], int | float) for name in ("minutes", measure)
    )


def last_checkpoint(output: Path) -> str | None:
    """The newest checkpoint that is whole, or None.

    A process may be killed while it writes one. Runs of earlier versions left no mark: the Trainer's own state is then
    taken for one, since it is written after the weights. What is called otherwise is no checkpoint.
    """
    steps = {path: CHECKPOINT.fullmatch(path.name) for path in output.glob("checkpoint-*")}
    checkpoints = sorted((path for path in steps if steps[path]), key=lambda path: int(steps[path][1]), reverse=True)  # type: ignore[index]
    marked = [path for path in checkpoints if (path / COMPLETE).is_file()]
    for path in marked:
        if _is_whole(path):
            return str(path)
    unmarked = [path for path in checkpoints if not marked and _has_state(path)]
    return str(unmarked[0]) if unmarked else None


def _is_whole(checkpoint: Path) -> bool:
    """Whether all files are there that its mark lists, and the Trainer's state among them can be read."""
    try:
        sizes = read_json(checkpoint / COMPLETE)
    except CheckpointError:
        return False
    files = {name: checkpoint / name for name in sizes if Path(name).name == name and "\0" not in name}
    there = [path.is_file() and path.stat().st_size == sizes[name] for name, path in files.items()]
    return len(files) == len(sizes) and all(there) and (STATE not in sizes or _has_state(checkpoint))


def _has_state(checkpoint: Path) -> bool:
    try:
        state = read_json(checkpoint / STATE, MAX_TOKENIZER_BYTES)
    except (CheckpointError, FileNotFoundError):
        return False
    return isinstance(state.get("global_step"), int)


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
    "read_curve",
    "read_measures",
    "read_object",
    "write_whole",
]
