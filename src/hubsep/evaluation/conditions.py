# SPDX-License-Identifier: Apache-2.0
"""What a text-queried separator makes of the mixtures of `evaluation.trials`, through a pipeline as anyone uses it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from statistics import mean, median
from typing import Any

import torch

from ..metrics.separation import interval, level_change, sdr_improvement, si_sdr
from ..pipelines.separation.scores import ACTIVE_SCORE
from .trials import CONDITIONS, Trial, Trials


def judge(separator: Any, trial: Trial, sampling_rate: int) -> dict[str, Any]:
    """Separates one mixture: improvements and `missed` of what is there, level and `false_alarms` of what is not.

    Of an event also `leak`: the level of the output, against the mixture, where the event is not.
    """
    queries = [query for query in (trial.query, trial.in_vain) if query is not None]
    entries = separator({"array": trial.mixture.numpy()[None], "sampling_rate": sampling_rate}, queries=queries)
    row: dict[str, Any] = {}
    if trial.query is not None and trial.target is not None:
        estimate, score = torch.from_numpy(entries[0]["audio"][0]), entries[0]["score"]
        part = slice(None) if trial.event is None else slice(*trial.event)
        truth, mixture = trial.target[part], trial.mixture[part]
        row["sdri"] = sdr_improvement(estimate[part], truth, mixture).item()
        row["si_sdri"] = (si_sdr(estimate[part], truth) - si_sdr(mixture, truth)).item()
        row["missed"] = score < ACTIVE_SCORE
        if trial.event is not None:
            rest = torch.ones(len(trial.mixture), dtype=torch.bool)
            rest[part] = False
            row["leak"] = level_change(estimate[rest], trial.mixture[rest]).item()
    if trial.in_vain is not None:
        row["false_alarms"] = entries[-1]["score"] >= ACTIVE_SCORE
        row["absent_level"] = level_change(torch.from_numpy(entries[-1]["audio"][0]), trial.mixture).item()
    return row


def summarise(rows: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Means of improvements and of shares, medians of levels, and the interval of the mean improvement."""
    summary: dict[str, Any] = {"mixtures": len(rows)}
    for name, statistic, digits in (
        ("sdri", mean, 2), ("si_sdri", mean, 2), ("missed", mean, 4), ("false_alarms", mean, 4),
        ("absent_level", median, 2), ("leak", median, 2),
    ):  # fmt: skip
        values = [row[name] for row in rows if name in row]
        if values:
            summary[name] = round(float(statistic(values)), digits)
    gains = [row["sdri"] for row in rows if "sdri" in row]
    if gains:
        summary["sdri_ci"] = interval(gains)
    return summary


def evaluate_conditions(
    separator: Any, trials: Trials, *, on_progress: Callable[[], Any] | None = None
) -> dict[str, dict[str, Any]]:
    """Every condition's figures, by its name.

    Args:
        separator: a pipeline of a text-queried model.
        trials: of held-out recordings.
        on_progress: called after each mixture.

    Returns:
        For each condition `mixtures`; means of `sdri` and `si_sdri` in dB with the interval `sdri_ci`; as shares, how
        often the score of a sound that is there was below a half, `missed`, and that of one that is not above,
        `false_alarms`; as medians in dB against the mixture, what came out for the latter, `absent_level`, and what
        came out for an event where it is not, `leak`.
    """
    result = {}
    for name in CONDITIONS:
        rows = []
        for trial in trials.of(name):
            rows.append(judge(separator, trial, trials.material.sampling_rate))
            if on_progress is not None:
                on_progress()
        if rows:
            result[name] = summarise(rows)
    return result


def format_table(conditions: dict[str, dict[str, Any]]) -> str:
    """The conditions as a text table, a line each."""
    columns = ("mixtures", "sdri", "si_sdri", "missed", "false_alarms", "absent_level", "leak")
    lines = [f"{'condition':<44}" + "".join(f"{name:>14}" for name in columns)]
    for label, row in conditions.items():
        lines.append(f"{label:<44}" + "".join(f"{row.get(name, ''):>14}" for name in columns))
    return "\n".join(lines)


__all__ = ["evaluate_conditions", "format_table", "judge", "summarise"]
