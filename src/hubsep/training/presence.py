# SPDX-License-Identifier: Apache-2.0
"""Sets where the score of a trained AudioSep says that a sound is there: a half, where it errs as often either way.

Training teaches the presence head on queries of which one in a few is absent, and rewards it for the separation that
follows; what comes out misses next to nothing and hears much that is not there. Its bias is moved until, on mixtures
of recordings that training knew, as many sounds that are there are scored below a half as others above: nothing else
of the model changes, and no held-out recording is used.
"""

from __future__ import annotations

import random
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from tqdm.auto import tqdm
from transformers import AutoProcessor

from ..auto import AutoModelForAudioSeparation
from ..data.prompts import absent_labels
from ..data.recordings import load_clips, split_clips
from ..errors import DataError
from ..evaluation import Pair, pair_mixtures, separate
from ..hub import atomic_folder
from .recipe import load_recipe


@dataclass
class PresenceRecipe:
    """Settings of a calibration.

    Attributes:
        model: folder of the trained AudioSep.
        folders: of recordings, relative to the data folder.
        commercial_only: whether only recordings are used that allow it.
        validation_fraction: of the recordings that were held out of training, which are not used here either.
        per_class: mixtures of each class.
        absent_queries: for each mixture.
        seed: decides mixtures and queries.
    """

    model: str = ""
    folders: list[str] = field(default_factory=lambda: ["."])
    commercial_only: bool = True
    validation_fraction: float = 0.15
    per_class: int = 6
    absent_queries: int = 3
    seed: int = 0


@torch.no_grad()
def logits_of(model: Any, processor: Any, pairs: list[Pair], queries: int, seed: int) -> tuple[Tensor, Tensor]:
    """Presence logits of the sound that is asked for and is there, (pairs,), and of some that are not."""
    rng, there, absent = random.Random(seed), [], []
    for pair in tqdm(pairs, desc="mixtures"):
        others = rng.sample(absent_labels(set(pair.present)), queries)
        presence = separate(model, processor, pair.mixture, [pair.label, *others])[1]
        if presence is None:
            raise DataError("this model has no presence head: there is no score to calibrate")
        found = torch.logit(presence.double().clamp(1e-12, 1 - 1e-12))
        there.append(found[:1])
        absent.append(found[1:])
    return torch.cat(there), torch.cat(absent)


def balanced(there: Tensor, absent: Tensor) -> float:
    """The logit below which as large a share of `there` lies as of `absent` lies above it."""
    levels = torch.cat([there, absent]).sort().values
    middles = (levels[1:] + levels[:-1]) / 2
    missed = (there[None] < middles[:, None]).double().mean(dim=1)
    alarms = (absent[None] >= middles[:, None]).double().mean(dim=1)
    return float(middles[(missed - alarms).abs().argmin()])


def shares(there: Tensor, absent: Tensor, level: float) -> dict[str, float]:
    """How often a sound that is there is below a level, and one that is not above."""
    return {
        "missed": round(float((there < level).double().mean()), 4),
        "false_alarms": round(float((absent >= level).double().mean()), 4),
    }


def main(config: Path | None, data: Path, output: Path, **overrides: Any) -> dict[str, float]:
    """Writes a model that differs from the trained one in the bias of its presence head.

    Args:
        config: a YAML file of `PresenceRecipe` settings.
        data: the folder that the recipe's folders are relative to.
        output: folder of the model.

    Returns:
        `missed` and `false_alarms` on the mixtures, before and after, and by how much the logit was `lowered`.

    Raises:
        DataError: if there is no presence head, or nothing to calibrate it with.
    """
    recipe = load_recipe(PresenceRecipe, config, **overrides)
    if not recipe.model:
        raise DataError("say with --set model=FOLDER which model is to be calibrated")
    model: Any = AutoModelForAudioSeparation.from_pretrained(recipe.model, dtype=torch.float32).eval()
    processor = AutoProcessor.from_pretrained(recipe.model)
    rate = model.config.sampling_rate
    clips = load_clips([data / name for name in recipe.folders], rate, commercial_only=recipe.commercial_only)
    known = split_clips(clips, recipe.validation_fraction)[0]
    pairs = pair_mixtures(known, rate, per_class=recipe.per_class, seed=recipe.seed) if known else []
    if not pairs:
        raise DataError(f"{data} has no recordings that training may have known; {len(clips)} may be used at all")
    there, absent = logits_of(model, processor, pairs, recipe.absent_queries, recipe.seed)
    level = balanced(there, absent)
    with torch.no_grad():
        model.unet.presence.bias -= level
    with atomic_folder(output) as folder:
        model.save_pretrained(folder)
        processor.save_pretrained(folder)
    before, after = shares(there, absent, 0.0), shares(there, absent, level)
    return {**{f"{name}_before": value for name, value in before.items()}, **after, "lowered": round(level, 3)}


__all__ = ["PresenceRecipe", "balanced", "main", "shares"]
