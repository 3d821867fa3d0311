# SPDX-License-Identifier: Apache-2.0
"""A made-up corpus of tones and noises that keeps the dataset contract, for tests of data, training and evaluation."""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np
import soundfile as sf


def corpus(folder: Path, *, clips: int = 8, seconds: float = 1.0, sampling_rate: int = 8_000) -> Path:
    """Dogs (tone bursts), rain (noise), and a man and a woman (buzzes); returns the folder."""
    folder.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(0)
    time = np.arange(int(seconds * sampling_rate)) / sampling_rate
    rows = []
    for i in range(clips):
        tone = np.sin(2 * np.pi * (300 + 20 * i) * time)
        sounds = {
            "dog barking": tone * (np.sin(2 * np.pi * 4 * time) > 0),
            "rain": rng.standard_normal(len(time)) * 0.5,
            "speech": np.sign(np.sin(2 * np.pi * (100 + 10 * i) * time)) * 0.5,
        }
        for label, waveform in sounds.items():
            path = f"{label.replace(' ', '_')}_{i}.wav"
            sf.write(folder / path, 0.3 * waveform, sampling_rate)
            person = {"gender": "mf"[i % 2], "age": "30", "speaker": f"speaker-{i}"} if label == "speech" else {}
            rows.append({"path": path, "label": label, "corpus": "made up", "commercial": str(i != 0), **person})
            rows[-1].setdefault("source_id", "" if person else f"{label}-{i}")
    with (folder / "metadata.csv").open("w", newline="") as file:
        fields = ["path", "label", "corpus", "commercial", "gender", "age", "speaker", "source_id"]
        writer = csv.DictWriter(file, fields)
        writer.writeheader()
        writer.writerows(rows)
    return folder
