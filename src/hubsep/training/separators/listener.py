# SPDX-License-Identifier: Apache-2.0
"""Trains the listener of an AudioSep, which says what of all it was taught is in a recording, on mixtures of sounds.

The separator stays as it is. Every frame of every mixture says of every class whether it is heard there; classes that
a sound may hold as well say nothing. Held-out mixtures then tell how much its word counts beside that of the
separator, and how logits become probabilities.
"""

from __future__ import annotations

import random
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import AutoProcessor

from ...data.pairs import Pair, pair_mixtures
from ...data.pools import PoolDataset
from ...data.prompts import taught_absent
from ...data.recordings import held_out, load_clips
from ...data.scenes import SceneSettings, SoundSampler
from ...errors import DataError
from ...models.audiosep.configuration_audiosep import AudioSepConfig
from ...models.audiosep.listener_audiosep import HOP, POOLING
from ...models.audiosep.modeling_audiosep import AudioSepForAudioSeparation, frames_heard, smooth_maximum
from ..bounds import check_length, settings_of
from ..recipe import load_recipe
from ..trainer import TrainingRecipe, run_training, shipped_or_folder
from ..validation import CurveCallback, Judge


@dataclass
class ListenerRecipe(TrainingRecipe):
    """Settings of a run; `initial_model` is the AudioSep that gets the listener, `model` changes its configuration.

    `batch_size` counts pools, each of which is `mixtures` mixtures of `pool` sounds. `listener_from` is a model whose
    listener the run starts from, for the classes that both have; with 0 `steps` it is taken over and calibrated.
    """

    model_type: str = "audiosep"
    listener_from: str = ""
    scenes: dict[str, Any] = field(default_factory=dict)
    sound_weights: dict[str, float] = field(default_factory=dict)
    pool: int = 13
    mixtures: int = 24
    validation_mixtures: int = 4
    calibration_mixtures: int = 8
    missed: float = 0.04


class ListenerTask(nn.Module):
    """The listener of a model, with what it learns from; the model itself is no part of what is trained or resumed."""

    def __init__(self, model: AudioSepForAudioSeparation):
        super().__init__()
        assert model.listener is not None  # the recipe has listener_channels
        self.listener = model.listener
        self.whole = [model]  # in a list, so that it is no submodule
        self.config = model.config

    @property
    def device(self) -> torch.device:
        """Where the listener is."""
        return self.listener.classify.weight.device

    def forward(self, sources: Tensor, gains: Tensor, there: Tensor, unclear: Tensor) -> dict[str, Tensor]:
        """The loss of pools (pools, ...) as `PoolDataset` makes them."""
        with torch.autocast(sources.device.type, enabled=False):  # in bfloat16 it would be a recording with 8 bits
            mixtures = (gains @ sources).flatten(0, 1)
        logits = self.listener(mixtures)
        frames = logits.shape[1]
        heard, counts = frames_heard(sources.unsqueeze(2), HOP * POOLING ** len(self.listener.blocks), frames)
        inside = (gains > 0).float()

        def spread(marks: Tensor, by_frame: Tensor) -> Tensor:
            """Of a pool's sounds to (mixtures, frames, classes): how many of those in it are so marked."""
            return torch.einsum("bmp,bpt,bpc->bmtc", inside, by_frame, marks).flatten(0, 1)

        wanted = (spread(there, heard) > 0).float()
        doubtful = spread(there, 1 - counts) + spread(unclear, torch.ones_like(heard))
        weight = ((wanted > 0) | (doubtful == 0)).float()
        costs = F.binary_cross_entropy_with_logits(logits, wanted, reduction="none") * weight
        loss = costs.sum(dim=-1).mean()
        whole = (torch.einsum("bmp,bpc->bmc", inside, there) > 0).float().flatten(0, 1)
        clear = torch.einsum("bmp,bpc->bmc", inside, unclear).flatten(0, 1) == 0
        clip = F.binary_cross_entropy_with_logits(smooth_maximum(logits.transpose(1, 2)), whole, reduction="none")
        return {"loss": loss + (clip * ((whole > 0) | clear)).sum(dim=-1).mean()}

    def save_pretrained(self, folder: Path) -> None:
        """Saves the model with its listener."""
        self.whole[0].save_pretrained(folder)


def joined(items: list[dict[str, Tensor]]) -> dict[str, Tensor]:
    """Stacks pools into a batch."""
    return {name: torch.stack([item[name] for item in items]) for name in items[0]}


def evidence(task: ListenerTask, pairs: list[Pair], seed: int = 11) -> dict[str, list[float]]:
    """Logits for what is there, for a taught sound of another family, and for one of a family that is there."""
    rng, classes = random.Random(seed), list(task.config.query_classes)
    logits: dict[str, list[float]] = {"there": [], "stranger": [], "relative": []}
    taught = set(task.config.known_sounds)
    for pair in pairs:
        strangers, relatives = ([name for name in names if name in taught] for names in taught_absent(pair.recordings))
        queries = {"there": [pair.label], "stranger": strangers, "relative": relatives}
        scores = smooth_maximum(task.listener(pair.mixture[None].to(task.device))[0].T).tolist()
        for kind, names in queries.items():
            if names:
                logits[kind].append(scores[classes.index(rng.choice(names))])
    return logits


@torch.no_grad()
def validate(task: ListenerTask, pairs: list[Pair]) -> dict[str, float]:
    """`order`: how often the logit of what is there is above that of a related sound that is not (chance: 0.5).

    And with the threshold that misses 4 % of what is there, the shares of `stranger` and `relative` above it.
    """
    logits = {kind: np.array(values) for kind, values in evidence(task, pairs).items()}
    threshold = np.quantile(logits["there"], 0.04)
    order = (logits["there"][:, None] > logits["relative"][None]).mean()
    result = {"order": float(order), "easy_order": float((logits["there"][:, None] > logits["stranger"][None]).mean())}
    result.update({kind: float((logits[kind] > threshold).mean()) for kind in ("stranger", "relative")})
    return {name: round(value, 4) for name, value in result.items()}


@torch.no_grad()
def calibrate(
    model: AudioSepForAudioSeparation, pairs: list[Pair], missed: float, *, ridge: float = 1e-3, steps: int = 50
) -> None:
    """Finds the `presence_mix` of a model in place.

    A logistic regression (Platt scaling of several scores) by Newton's method, on what is there, what is not, and what
    is not but of a family that is there; the first counts as much as the others together. The offset is then moved
    until the share `missed` of what is there has a probability below a half: a sound that is missed is turned down,
    which costs more than one that was not there.

    Args:
        model: with a listener.
        pairs: held-out mixtures.
        missed: share of what is there that may be.
        ridge: what large shares cost.
        steps: of Newton's method.
    """
    rng, classes = random.Random(13), list(model.config.query_classes)
    taught, gate = set(model.config.known_sounds), model.config.presence_gate
    rows: dict[str, list[list[float]]] = {"there": [], "stranger": [], "relative": []}
    model.config.presence_gate = False
    for pair in pairs:
        strangers, relatives = ([name for name in names if name in taught] for names in taught_absent(pair.recordings))
        queries = {"there": pair.label, "stranger": rng.choice(strangers)}
        queries |= {"relative": rng.choice(relatives)} if relatives else {}
        weights = torch.eye(len(classes))[[classes.index(name) for name in queries.values()]]
        parts = []
        for mix in ((1.0, 0.0, 0.0, 0.0), (0.0, 1.0, 0.0, 0.0), (0.0, 0.0, 1.0, 0.0)):
            model.config.presence_mix = mix
            parts.append(model(pair.mixture[None, None].to(model.device), class_weights=weights).presence_logits[0])
        for kind, values in zip(queries, torch.stack(parts, dim=1).tolist(), strict=True):
            rows[kind].append([*values, 1.0])
    model.config.presence_gate = gate
    counted = {kind: share / max(len(rows[kind]), 1) for kind, share in zip(rows, (0.5, 0.25, 0.25), strict=True)}
    design = torch.tensor([row for some in rows.values() for row in some], dtype=torch.float64)
    truth = torch.tensor([float(kind == "there") for kind in rows for _ in rows[kind]], dtype=torch.float64)
    weight = torch.tensor([counted[kind] for kind in rows for _ in rows[kind]], dtype=torch.float64)
    penalty = ridge * torch.diag(torch.tensor([1.0, 1.0, 1.0, 0.0], dtype=torch.float64))
    mixed = torch.zeros(4, dtype=torch.float64)
    for _ in range(steps):
        chance = torch.sigmoid(design @ mixed)
        hessian = design.T @ (design * (weight * chance * (1 - chance)).unsqueeze(1)) + penalty
        hessian += 1e-9 * torch.eye(4, dtype=torch.float64)
        mixed = mixed - torch.linalg.solve(hessian, design.T @ (weight * (chance - truth)) + penalty @ mixed)
    mixed[3] -= torch.quantile(design[: len(rows["there"])] @ mixed, missed)
    model.config.presence_mix = [round(value, 4) for value in mixed.tolist()]


def build(recipe: ListenerRecipe) -> AudioSepForAudioSeparation:
    """The recipe's model with a listener, a new one if it had none.

    Raises:
        DataError: if the recipe names no model, or no channels for its listener.
    """
    if not recipe.initial_model:
        raise DataError("a listener needs initial_model, the AudioSep it is for")
    start = shipped_or_folder(recipe.initial_model)
    earlier = AudioSepForAudioSeparation.from_pretrained(start, dtype=torch.float32)
    model = AudioSepForAudioSeparation(AudioSepConfig.from_pretrained(start, **recipe.model))
    if model.listener is None:
        raise DataError("the recipe's model has no listener; set listener_channels under model")
    model.load_state_dict(earlier.state_dict(), strict=False)
    if recipe.listener_from:
        other = shipped_or_folder(recipe.listener_from)
        take_over(model, AudioSepForAudioSeparation.from_pretrained(other, dtype=torch.float32))
    return model


@torch.no_grad()
def take_over(model: AudioSepForAudioSeparation, other: AudioSepForAudioSeparation) -> None:
    """Gives a model the listener of another, for the classes that both have.

    Raises:
        DataError: if the other has none, one of other sizes, or does not know a class of the model.
    """
    heard, names = list(other.config.query_classes), list(model.config.query_classes)
    unknown = sorted(set(names) - set(heard))
    if model.listener is None or other.listener is None or unknown:
        raise DataError(f"listener_from has no listener for {unknown[0] if unknown else 'anything'}")
    state, rows = other.listener.state_dict(), [heard.index(name) for name in names]
    for name in ("classify.weight", "classify.bias"):
        state[name] = state[name][rows]
    try:
        model.listener.load_state_dict(state)
    except RuntimeError as error:
        raise DataError(f"listener_from has a listener of other sizes: {error}") from error


def main(config: Path | None, data: Path, output: Path, **overrides: Any) -> dict[str, float]:
    """Trains, resuming from the newest checkpoint under `output`, calibrates, and saves the model in `output/model`.

    Args:
        config: a YAML file of `ListenerRecipe` settings.
        data: the folder that `folders` of the recipe are relative to.
        output: checkpoints, curve and the finished model.

    Returns:
        The last point of the validation curve, with the shares of the model's `presence_mix`.
    """
    recipe = load_recipe(ListenerRecipe, config, **overrides)
    torch.manual_seed(recipe.seed)
    model = build(recipe)
    rate, classes = model.config.sampling_rate, list(model.config.query_classes)
    settings = settings_of(SceneSettings, recipe.scenes, "scenes", sampling_rate=rate)
    check_length("scenes setting seconds", settings.seconds, model.config)
    folders = [data / name for name in recipe.folders]
    clips = load_clips(folders, rate, commercial_only=recipe.commercial_only)
    training, heldout = held_out(clips, data, recipe.validation_fraction, commercial_only=recipe.commercial_only)
    dataset = PoolDataset(
        SoundSampler(training, classes, recipe.sound_weights), settings, classes, recipe.steps * recipe.batch_size,
        pool=recipe.pool, mixtures=recipe.mixtures, seed=recipe.seed,
    )  # fmt: skip
    taught = [clip for clip in heldout if clip.labels[-1] in model.config.known_sounds]
    pairs = pair_mixtures(taught, rate, per_class=recipe.validation_mixtures, seconds=5.0, seed=1)
    task = ListenerTask(model)
    judge = Judge(partial(validate, pairs=pairs), "order", "heard before a related sound that is not there, share")
    point: dict[str, float] = {}
    if recipe.steps:
        point = run_training(
            task, recipe, dataset, CurveCallback(task, judge, recipe, output), output, joined, data=data
        )
        # with its mean weights
        take_over(model, AudioSepForAudioSeparation.from_pretrained(output / "model", dtype=torch.float32))
    task.eval()
    fresh = pair_mixtures(taught, rate, per_class=recipe.calibration_mixtures, seconds=5.0, seed=2)
    model.eval()
    calibrate(model, fresh, recipe.missed)
    model.config.presence_gate = True
    model.save_pretrained(output / "model")
    AutoProcessor.from_pretrained(shipped_or_folder(recipe.initial_model)).save_pretrained(output / "model")
    return {**point, **dict(zip(("listener", "head", "level", "offset"), model.config.presence_mix, strict=True))}


__all__ = ["ListenerRecipe", "ListenerTask", "calibrate", "main", "validate"]
