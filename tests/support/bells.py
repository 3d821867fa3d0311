# SPDX-License-Identifier: Apache-2.0
"""What fine-tunes are tested on: a made-up sound no model knows, a tiny model, and settings that take seconds."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

import numpy as np
import soundfile as sf
from tiny_audiosep import tiny_audiosep


RATE = 8_000
BRIEF: dict[str, Any] = {
    "mixing": {"seconds": 0.4}, "batch_size": 4, "warmup_steps": 1, "bf16": False, "validation_mixtures": 4,
    "validation_seconds": 0.5, "final_mixtures": 4,
}  # fmt: skip


def bells(folder: Path, *, count: int = 8, **columns: str) -> Path:
    """Recordings of bells at different pitches, each from a source of its own; further columns are alike."""
    folder.mkdir(parents=True, exist_ok=True)
    time = np.arange(RATE) / RATE
    rows = []
    for number in range(count):
        pitch = 1_500 + 60 * number
        tone = sum(np.sin(2 * np.pi * pitch * k * time) / k for k in (1.0, 1.5, 2.0)) * np.exp(-2 * (time % 0.5))
        sf.write(folder / f"{number}.wav", 0.2 * tone, RATE)
        rows.append({"path": f"{number}.wav", "label": "bell", "source_id": f"bell-{number}", **columns})
    write_table(folder, rows)
    return folder


def write_table(folder: Path, rows: list[dict[str, Any]]) -> None:
    """Writes `metadata.csv`."""
    with (folder / "metadata.csv").open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)


def save_listener(folder: Path) -> Path:
    """A tiny AudioSep that hears a query through classes, none of them bells, with a card."""
    model, processor = tiny_audiosep(
        query_hidden_size=8, query_classes=["dog barking", "rain", "anything else"], film_gain=True,
        normalize_input=True, input_features="compressed", loss="sdr",
    )  # fmt: skip
    model.save_pretrained(folder)
    processor.save_pretrained(folder)
    (folder / "README.md").write_text("---\nlicense: cc-by-4.0\n---\n# tiny\n", encoding="utf-8")
    return folder


__all__ = ["BRIEF", "RATE", "bells", "save_listener", "write_table"]
