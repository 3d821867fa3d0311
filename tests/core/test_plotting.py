# SPDX-License-Identifier: Apache-2.0
"""The picture of a separation: what it shows, and that it does not grow with the recording."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from hubsep.plotting import Picture, picture_of, plot_separation
from hubsep.plotting.spectrograms import MAX_COLUMNS, ROWS


RATE = 8_000


def tone(hertz: float, seconds: float, level: float = 0.5) -> np.ndarray:
    time = np.arange(int(seconds * RATE)) / RATE
    return (level * np.sin(2 * np.pi * hertz * time)).astype(np.float32)[None]


def test_a_tone_is_where_it_belongs_and_as_loud_as_it_is() -> None:
    picture = picture_of(np.concatenate([tone(1_000, 2), np.zeros((1, 2 * RATE), np.float32)], axis=1), RATE)
    loudest, column = np.unravel_index(picture.power.argmax(), picture.power.shape)
    frequencies = np.geomspace(40, RATE / 2, ROWS)
    assert frequencies[loudest] == pytest.approx(1_000, rel=0.02)  # a bin is 16 Hz wide
    half = picture.power.shape[1] // 2
    assert column < half
    assert picture.power[:, half + 2 :].max() < 1e-12 * picture.power.max()
    assert picture.level == pytest.approx(20 * np.log10(0.5 / 2), abs=0.01)  # a sine's RMS, half of the time


def test_the_size_of_the_blocks_does_not_matter() -> None:
    noise = np.random.default_rng(0).standard_normal((2, 50_000)).astype(np.float32)
    whole, pieces = Picture(RATE), Picture(RATE)
    whole.push(noise)
    for start in range(0, 50_000, 777):
        pieces.push(noise[:, start : start + 777])
    whole.finish()
    pieces.finish()
    assert np.array_equal(whole.power, pieces.power)
    assert pieces.level == pytest.approx(whole.level, abs=1e-9)


@pytest.mark.slow
def test_an_hour_needs_no_more_columns_than_minutes() -> None:
    picture = Picture(RATE)
    minute = np.concatenate([tone(500, 59), tone(3_000, 1)], axis=1)
    for _ in range(60):
        picture.push(minute)
    picture.finish()
    assert picture.samples == 3_600 * RATE
    assert MAX_COLUMNS <= picture.power.shape[1] < 2 * MAX_COLUMNS
    assert picture.level == pytest.approx(20 * np.log10(0.5 / np.sqrt(2)), abs=0.01)


@pytest.mark.parametrize("samples", [1, 100, 4_000])
def test_short_recordings_are_drawn(samples: int, tmp_path: Path) -> None:
    mixture = tone(440, 1)[:, :samples]
    source = {"label": "a tone " * 40, "audio": mixture, "sampling_rate": RATE, "score": 1.0}
    path = plot_separation(mixture, [source], tmp_path / "picture.png")
    assert path.read_bytes().startswith(b"\x89PNG")
    assert [file.name for file in tmp_path.iterdir()] == ["picture.png"]
