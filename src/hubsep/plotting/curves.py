# SPDX-License-Identifier: Apache-2.0
"""The picture of a training run: validation improvement and training loss against steps."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from .spectrograms import save_figure


def plot_curve(
    points: list[dict[str, Any]],
    path: Path,
    *,
    measure: str = "sdri",
    title: str = "SDR improvement, dB (held-out 0 dB mixtures)",
) -> None:
    """Draws `measure` and `train_loss` of the points against `step` into a PNG file."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7, 4), layout="constrained")
    left = figure.subplots()
    right = left.twinx()
    steps = [point["step"] for point in points]
    left.plot(steps, [point[measure] for point in points], "o-", color="tab:blue")
    right.plot(steps, [point["train_loss"] for point in points], "-", color="tab:orange")
    left.set_xlabel("steps")
    left.set_ylabel(title, color="tab:blue")
    right.set_ylabel("training loss", color="tab:orange")
    left.grid(alpha=0.3)
    save_figure(figure, path, dpi=120)


__all__ = ["plot_curve"]
