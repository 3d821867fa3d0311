# SPDX-License-Identifier: Apache-2.0
"""A picture of an evaluation: a bar for each class, stem or condition, with its confidence interval.

One metric is drawn, the first that published tables state; all others stand in the JSON beside it. The figure over
everything is a line, so that a class can be seen to be above or below it.

Also here: pictures of generated sounds: each beside a real one that no training heard, and what they were taken for.

Decisions: neither of a pair is chosen, both are the first of their class; every panel is in dB below its own loudest
point, because the level of a recording says nothing of the sound. matplotlib is imported when a picture is drawn.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from textwrap import shorten
from typing import Any

import numpy as np
from torch import Tensor

from ..cards.results import COLUMNS, HEADLINE
from ..errors import DataError
from ..texts import printable
from .spectrograms import FLOOR_DB, LOWEST_HZ, picture_of, save_figure


PAIRS_A_ROW = 3
TICKS = (100, 300, 1_000, 3_000, 10_000)


def plot_pairs(pairs: Mapping[str, tuple[Tensor, Tensor]], sampling_rate: int, path: Path) -> Path:
    """Draws spectrograms, a generated sound and right of it a recording.

    Args:
        pairs: waveforms (samples,), generated and real, by class.
        sampling_rate: of all of them, in Hz.
        path: where the picture goes; its suffix is the format (png, pdf, svg).

    Returns:
        `path`.
    """
    from matplotlib.figure import Figure

    count = -(-len(pairs) // PAIRS_A_ROW)
    figure = Figure(figsize=(4.4 * PAIRS_A_ROW, 0.6 + 1.45 * count), layout="constrained")
    axes = figure.subplots(count, 2 * PAIRS_A_ROW, sharex=True, sharey=True, squeeze=False)
    kinds = ("made", "real")
    panels = [(label, kind, x) for label, pair in pairs.items() for kind, x in zip(kinds, pair, strict=True)]
    for axis, (label, kind, waveform) in zip(axes.flat, panels, strict=False):
        _draw(axis, waveform, sampling_rate)
        name = shorten(printable(label), 22, placeholder="...")
        axis.set_title(f"{name}, {kind}", fontsize=8, loc="left", parse_math=False)
    for axis in axes.flat[len(panels) :]:
        axis.set_visible(False)
    figure.supxlabel("time in seconds", fontsize=9)
    figure.supylabel("frequency in Hz", fontsize=9)
    return save_figure(figure, path)


def _draw(axis: Any, waveform: Tensor, sampling_rate: int) -> None:
    picture = picture_of(waveform.numpy()[None], sampling_rate)
    loudest = max(float(picture.power.max()), 1e-12)
    decibels = 10 * np.log10(np.maximum(picture.power / loudest, 10 ** (FLOOR_DB / 10)))
    extent = (0, len(waveform) / sampling_rate, 0, 1)
    axis.imshow(decibels, origin="lower", aspect="auto", extent=extent, cmap="magma", vmin=FLOOR_DB, vmax=0)
    nyquist = sampling_rate / 2
    ticks = [hertz for hertz in TICKS if hertz < nyquist]
    span = np.log(nyquist / LOWEST_HZ)
    axis.set_yticks([float(np.log(hertz / LOWEST_HZ) / span) for hertz in ticks])
    axis.set_yticklabels([f"{hertz // 1000}k" if hertz >= 1000 else str(hertz) for hertz in ticks], fontsize=7)
    axis.tick_params(labelsize=7)


def plot_confusion(confusion: Mapping[str, Mapping[str, int]], path: Path) -> Path:
    """Draws which class the sounds of each class were taken for.

    Args:
        confusion: how often, by the class asked for and the class named.
        path: where the picture goes; its suffix is the format (png, pdf, svg).

    Returns:
        `path`.
    """
    from matplotlib.figure import Figure

    labels = list(confusion)
    named = [*labels, *sorted({name for row in confusion.values() for name in row} - set(labels))]
    parts = np.array([[row.get(name, 0) / max(1, sum(row.values())) for name in named] for row in confusion.values()])
    figure = Figure(figsize=(2.2 + 0.3 * len(named), 2 + 0.28 * len(labels)), layout="constrained")
    axis = figure.subplots()
    axis.imshow(parts, cmap="magma", vmin=0, vmax=1, aspect="auto")
    for row, column in np.argwhere(parts > 0):
        count = confusion[labels[row]][named[column]]
        colour = "black" if parts[row, column] > 0.6 else "white"
        axis.text(column, row, str(count), ha="center", va="center", fontsize=7, color=colour)
    axis.set_xticks(range(len(named)), named, rotation=90, fontsize=8, parse_math=False)
    axis.set_yticks(range(len(labels)), labels, fontsize=8, parse_math=False)
    axis.set_xlabel("taken for")
    axis.set_ylabel("asked for")
    return save_figure(figure, path)


def plot_scores(result: Mapping[str, Any], path: str | Path, *, title: str = "") -> Path:
    """Draws the classes of a result as bars.

    Args:
        result: of `hubsep evaluate`.
        path: where the picture goes; its suffix is the format (png, pdf, svg).
        title: above everything.

    Returns:
        `path`.

    Raises:
        DataError: if the result holds no figure of a metric.
    """
    from matplotlib.figure import Figure

    path, classes = Path(path), dict(result.get("classes") or {"all": result})
    metric = next((m for m in HEADLINE if any(row.get(m) is not None for row in classes.values())), None)
    if metric is None:
        raise DataError("there is nothing to draw: no class of the result has a figure")
    figure = Figure(figsize=(8, 1.2 + 0.28 * len(classes)), layout="constrained")
    axis = figure.subplots()
    drawn = {label: row for label, row in classes.items() if row.get(metric) is not None}
    values = [row[metric] for row in drawn.values()]
    axis.barh(range(len(drawn)), values, color="#4c72b0", xerr=_whiskers(drawn, metric), capsize=2)
    axis.set_yticks(
        range(len(drawn)), [shorten(printable(label), 50, placeholder=" ...") for label in drawn], parse_math=False
    )
    axis.invert_yaxis()
    axis.axvline(0, color="black", linewidth=0.8)
    if result.get(metric) is not None:
        axis.axvline(result[metric], color="#dd8452", linestyle="--", label=f"all: {result[metric]}")
        axis.legend(loc="lower right", fontsize=8)
    axis.set_xlabel(f"{COLUMNS[metric]}, bars of 95 % confidence")
    axis.grid(axis="x", alpha=0.3)
    figure.suptitle(shorten(printable(title), 110, placeholder=" ..."), fontsize=9, parse_math=False)
    return save_figure(figure, path)


def _whiskers(rows: Mapping[str, Any], metric: str) -> list[list[float]]:
    """How far each interval reaches below and above its bar; nothing where there is none."""
    bounds = [(row[metric], row.get(f"{metric}_ci") or (row[metric], row[metric])) for row in rows.values()]
    below = [max(0.0, value - low) for value, (low, _) in bounds]
    return [below, [max(0.0, high - value) for value, (_, high) in bounds]]


__all__ = ["plot_confusion", "plot_pairs", "plot_scores"]
