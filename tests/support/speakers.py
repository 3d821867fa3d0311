# SPDX-License-Identifier: Apache-2.0
"""A made-up corpus of speakers that keeps the dataset contract: a hum of one's own, spoken in syllables."""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np
import soundfile as sf


def speakers(
    folder: Path, *, count: int = 16, clips: int = 2, seconds: float = 1.0, sampling_rate: int = 8_000
) -> Path:
    """Men and women in turn, `clips` recordings each; the first speaker may not be used commercially."""
    folder.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(0)
    time = np.arange(int(seconds * sampling_rate)) / sampling_rate
    rows = []
    for speaker in range(count):
        pitch = (110 if speaker % 2 == 0 else 210) * (1 + 0.02 * speaker)
        for clip in range(clips):
            hum = sum(np.sin(2 * np.pi * pitch * k * time + rng.uniform(0, 6)) / k for k in (1, 2, 3, 5, 8))
            syllables = np.clip(np.sin(2 * np.pi * (2 + rng.uniform(0, 2)) * time + rng.uniform(0, 6)) + 0.4, 0, 1)
            path = f"{speaker}_{clip}.wav"
            sf.write(folder / path, 0.2 * hum * syllables, sampling_rate)
            rows.append(
                {"path": path, "label": "speech", "corpus": "made up", "commercial": str(speaker != 0), "age": "30",
                 "speaker": f"speaker-{speaker}", "gender": "mf"[speaker % 2]}
            )  # fmt: skip
    with (folder / "metadata.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    return folder


__all__ = ["speakers"]
