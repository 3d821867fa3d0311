# SPDX-License-Identifier: Apache-2.0
"""Made-up songs that keep the contract of `hubsep.data.stems`, for tests of data and training.

The songs of one corpus are folders of four stereo stems, those of the other recordings with a stem in each channel.
"""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np
import soundfile as sf


BAND, KARAOKE = "band", "karaoke"  # the corpora
STEMS = ("drums", "bass", "other", "vocals")


def songs(folder: Path, *, artists: int = 7, seconds: float = 0.6, sampling_rate: int = 8_000) -> Path:
    """Two songs of each artist, of which the first artist's may be used commercially; returns the folder."""
    folder.mkdir(parents=True, exist_ok=True)
    rows = [
        _song(folder, artist, number, seconds, sampling_rate) for artist in range(artists) for number in range(2)
    ] + [_karaoke(folder, singer, seconds, sampling_rate // 2) for singer in range(artists)]
    with (folder / "metadata.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, rows[0].keys())
        writer.writeheader()
        writer.writerows(rows)
    return folder


def _song(folder: Path, artist: int, number: int, seconds: float, sampling_rate: int) -> dict[str, str]:
    rng = np.random.default_rng(10 * artist + number)
    time = np.arange(int(seconds * sampling_rate)) / sampling_rate
    pitch = 300 + 30 * artist
    stems = {
        "drums": rng.standard_normal(len(time)) * np.exp(-(time % 0.2) * 30),
        "bass": np.sin(2 * np.pi * (60 + 5 * artist) * time),
        "other": np.sign(np.sin(2 * np.pi * (pitch - 100) * time)),
        "vocals": np.sin(2 * np.pi * 3 * pitch * time + 3 * np.sin(2 * np.pi * 6 * time)),
    }
    path = folder / f"{artist} - song {number}"
    path.mkdir()
    for place, (name, waveform) in enumerate(stems.items()):
        suffix = "flac" if name == "bass" else "wav"
        stereo = 0.2 * np.stack([waveform, waveform * (place + 1) / 5], axis=1)
        sf.write(path / f"{name}.{suffix}", stereo, sampling_rate)
    return _row(path.name, BAND, " ".join(STEMS), f"artist {artist}", artist == 0)


def _karaoke(folder: Path, singer: int, seconds: float, sampling_rate: int) -> dict[str, str]:
    time = np.arange(int(seconds * sampling_rate)) / sampling_rate
    piano, voice = (0.2 * np.sin(2 * np.pi * (pitch + 10 * singer) * time) for pitch in (150, 900))
    sf.write(folder / f"karaoke {singer}.wav", np.stack([piano, voice], axis=1), sampling_rate)
    return _row(f"karaoke {singer}.wav", KARAOKE, "ch0=accompaniment ch1=vocals", f"singer {singer}", False)


def _row(path: str, corpus: str, stems: str, group: str, commercial: bool) -> dict[str, str]:
    told = {"path": path, "corpus": corpus, "stems": stems, "group": group}
    return {**told, "licence": "CC0" if commercial else "for research", "commercial": str(commercial)}


__all__ = ["BAND", "KARAOKE", "STEMS", "songs"]
