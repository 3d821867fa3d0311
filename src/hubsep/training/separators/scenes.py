# SPDX-License-Identifier: Apache-2.0
"""How an AudioSep is judged while it learns from scenes: by class, before it is taught any words."""

from __future__ import annotations

import random
from statistics import mean, median
from typing import Any, cast

import torch
from torch import Tensor

from ...data.pairs import Pair, separate
from ...data.prompts import taught_absent
from ...metrics.separation import level_change, sdr_improvement
from ...pipelines.separation.scores import ACTIVE_SCORE


@torch.no_grad()
def validate_scenes(model: Any, pairs: list[Pair]) -> dict[str, float]:
    """Asks every pair for its target, and in vain for a taught sound of another family and for one of a family there.

    Returns:
        `sdri`, the mean SDR improvement in dB; `missed`, `stranger` and `relative`, the shares of wrong scores of the
        three; `stranger_level` and `relative_level`, the medians of the level of what came out in vain, in dB
        against the mixture.
    """
    rng, classes = random.Random(11), list(model.config.query_classes)
    taught = set(model.config.known_sounds)
    gains: list[float] = []
    scores: dict[str, list[float]] = {"missed": [], "stranger": [], "relative": []}
    levels: dict[str, list[float]] = {"stranger": [], "relative": []}
    for pair in pairs:
        strangers, family = ([name for name in names if name in taught] for names in taught_absent(pair.recordings))
        queries = {"missed": pair.label, "stranger": rng.choice(strangers)}
        if family:
            queries["relative"] = rng.choice(family)
        weights = torch.zeros(len(queries), len(classes))
        for row, name in enumerate(queries.values()):
            weights[row, classes.index(name)] = 1
        mixture = pair.mixture.to(model.device)
        sources, logits = separate(model, mixture[None], class_weights=weights.to(model.device))
        sources, there = sources[:, 0], cast(Tensor, logits).float().sigmoid().tolist()
        gains.append(sdr_improvement(sources[0], pair.target.to(model.device), mixture).item())
        for row, kind in enumerate(queries):
            scores[kind].append(there[row] < ACTIVE_SCORE if kind == "missed" else there[row] >= ACTIVE_SCORE)
            if kind != "missed":
                levels[kind].append(level_change(sources[row], mixture).item())
    result = {"sdri": mean(gains), **{kind: mean(shares) for kind, shares in scores.items() if shares}}
    result.update({f"{kind}_level": median(values) for kind, values in levels.items() if values})
    return {name: round(value, 3) for name, value in result.items()}


__all__ = ["validate_scenes"]
