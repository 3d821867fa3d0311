# SPDX-License-Identifier: Apache-2.0
"""A picture of an evaluation: a bar for each class, stem or condition, with its confidence interval.

One metric is drawn, the first that published tables state; all others stand in the JSON beside it. The figure over
everything is a line, so that a class can be seen to be above or below it.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from textwrap import shorten
from typing import Any

from .cards_results import COLUMNS, HEADLINE
from .errors import DataError
from .plotting import save_figure
from .texts import printable


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


__all__ = ["plot_scores"]
