# SPDX-License-Identifier: Apache-2.0
"""Measures a text-queried separator on mixtures that somebody else made: AudioSep's benchmarks, as a table.

A CSV names a `mixture`, its `target` and the `caption` to ask for; a column `label` groups rows into classes. By the
rules of these benchmarks (2308.05037) recordings are mono at 32 kHz, which is the model's rate here: others are mixed
down and resampled. Each is separated whole, in one forward pass. SDR improvement is against the mixture; the tables of
the paper state SI-SDR itself under that name, so both it and its improvement are given. AudioSet's figure is the mean
of the classes' medians, MUSIC's the mean of their means, all others are means over the rows.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import mean, median
from typing import Any

import torch
from torch import Tensor
from tqdm.auto import tqdm

from ..audio.reader import SPLIT_IT, read_audio, resample
from ..data import tables
from ..data.pairs import answer
from ..errors import DataError
from ..metrics.separation import interval, is_silent, sdr_improvement, si_sdr
from ..pipelines import pipeline
from .report import Request, check_some_heard, format_silent, place_in_set


COLUMNS = ("mixture", "target", "caption")
NAMES = ("sdri", "si_sdr", "si_sdri")


@dataclass(frozen=True)
class Row:
    """A mixture, what is in it, the words that ask for it, and what class it counts for."""

    mixture: Path
    target: Path
    caption: str
    label: str


def read_table(table: Path, root: Path | None = None) -> list[Row]:
    """The rows of a benchmark.

    Args:
        table: a CSV with a header.
        root: what its paths start from; by default the folder of the table.

    Raises:
        DataError: if a column, a caption or a recording is missing.
    """
    if not table.is_file():
        raise DataError(f"{table} is a folder; --data of --dataset csv is the .csv with {', '.join(COLUMNS)}")
    entries = tables.read_table(table)
    missing = [name for name in COLUMNS if name not in entries[0]]
    if missing:
        raise DataError(f"{table} must have the columns {', '.join(COLUMNS)}; it lacks {', '.join(missing)}")
    rows = []
    for entry in entries:
        mixture, target = ((root or table.parent) / entry[name] for name in ("mixture", "target"))
        for path in (mixture, target):
            if not tables.is_file(path):
                raise DataError(f"{table}, line {entry.line}: there is no recording {path}")
        if not entry["caption"].strip():
            raise DataError(f"{table}, line {entry.line}: the caption is empty")
        rows.append(Row(mixture, target, entry["caption"].strip(), (entry.get("label") or "").strip()))
    return rows


def read_mono(path: Path, sampling_rate: int) -> Tensor:
    """A recording at one rate, its channels averaged, (samples,)."""
    recording = read_audio(path, way_out=SPLIT_IT)
    waveform = recording.waveform.mean(axis=0, keepdims=True)
    return torch.from_numpy(resample(waveform, recording.sampling_rate, sampling_rate)[0])


@torch.no_grad()
def evaluate_rows(
    model: Any, processor: Any, rows: Sequence[Row], *, on_progress: Callable[[], Any] | None = None
) -> dict[str, Any]:
    """Separates every mixture by its caption.

    Args:
        model: a text-queried model in evaluation mode.
        processor: its processor.
        rows: from `read_table`.
        on_progress: called after each row.

    Returns:
        `mixtures`; means `sdri`, `si_sdr`, `si_sdri` in dB with their intervals `..._ci`; `classes`, the same by
        label; and where there are labels `sdri_class_mean`, `sdri_class_median` and so on, means over the classes of
        their means and medians. Rows whose target is silent are in none of these; their targets are `silent`.

    Raises:
        DataError: if a target is not as long as its mixture, or all targets are silent.
    """
    scores: list[dict[str, Any]] = []
    silent: list[str] = []
    for row in rows:
        mixture, target = (read_mono(path, model.config.sampling_rate) for path in (row.mixture, row.target))
        if mixture.shape != target.shape:
            raise DataError(
                f"{row.mixture} has {len(mixture)} samples and its target {row.target} {len(target)}; they must be of "
                "one length"
            )
        if is_silent(target):
            silent.append(place_in_set(row.target))
        else:
            estimate = answer(model, processor, mixture, [row.caption])[0][0]
            absolute = si_sdr(estimate, target)
            values = (sdr_improvement(estimate, target, mixture), absolute, absolute - si_sdr(mixture, target))
            figures = {name: value.item() for name, value in zip(NAMES, values, strict=True)}
            scores.append({"label": row.label, **figures})
        if on_progress is not None:
            on_progress()
    check_some_heard(len(scores), silent)
    labels = sorted({score["label"] for score in scores} - {""})
    groups = {label: [score for score in scores if score["label"] == label] for label in labels}
    result: dict[str, Any] = {
        **summarise(scores),
        "classes": {label: summarise(group) for label, group in groups.items()},
        **({"silent": silent} if silent else {}),
    }
    for name in NAMES if groups else ():
        for word, function in (("mean", mean), ("median", median)):
            each = [function(score[name] for score in group) for group in groups.values()]
            result[f"{name}_class_{word}"] = round(mean(each), 2)
    return result


def summarise(scores: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Means over rows and their intervals, and how many rows there were."""
    means = {name: round(mean(score[name] for score in scores), 2) for name in NAMES}
    return {"mixtures": len(scores), **means, **{f"{n}_ci": interval([score[n] for score in scores]) for n in NAMES}}


def format_table(result: dict[str, Any]) -> str:
    """The result as a text table, a line a class and one for all, and the means over classes."""
    width = max([20, *(len(label) + 2 for label in result["classes"])])
    lines = [f"{'class':<{width}}" + "".join(f"{name:>12}" for name in ("mixtures", *NAMES)) + f"{'sdri, 95 %':>20}"]
    for label, row in [*result["classes"].items(), ("all", result)]:
        bounds = "-" if row["sdri_ci"] is None else "{} to {}".format(*row["sdri_ci"])
        lines.append(
            f"{label:<{width}}" + "".join(f"{row[name]:>12}" for name in ("mixtures", *NAMES)) + f"{bounds:>20}"
        )
    for word in ("mean", "median"):
        if f"sdri_class_{word}" in result:
            values = ", ".join(f"{name} {result[f'{name}_class_{word}']}" for name in NAMES)
            lines.append(f"mean of the classes' {word}s: {values}")
    lines += format_silent(result.get("silent", []))
    return "\n".join(lines)


def run(request: Request) -> dict[str, Any]:
    """Evaluates a text-queried model on the rows of a table and prints it.

    Raises:
        DataError: if the model takes no queries, or the table does not keep the layout.
    """
    rows = read_table(request.data, request.root)
    rows = rows[: request.limit or len(rows)]
    separator = pipeline(model=request.source)
    if not separator.model.config.is_text_queried:
        raise DataError(f"--dataset csv asks in words, and {request.model} takes none; see hubsep list")
    with tqdm(total=len(rows), desc="mixtures") as bar:
        result = evaluate_rows(separator.model, separator.processor, rows, on_progress=bar.update)
    print(format_table(result))
    over = [
        f"the mean of the classes' {word}s is {result[f'sdri_class_{word}']} dB of SDR improvement and "
        f"{result[f'si_sdr_class_{word}']} dB of SI-SDR"
        for word in ("mean", "median")
        if f"sdri_class_{word}" in result
    ]
    result["measured_on"] = (
        f"On {result['mixtures']} mixtures of {request.data.name}, mono at {separator.model.config.sampling_rate} Hz, "
        "each separated whole by its caption: SDR improvement, SI-SDR and its improvement, as AudioSep's evaluation "
        "has them" + "".join(f"; {text}" for text in over) + "."
    )
    return result


__all__ = ["Row", "evaluate_rows", "format_table", "read_table", "run"]
