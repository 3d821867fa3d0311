# SPDX-License-Identifier: Apache-2.0
"""A model that names its level gives the same sources of a recording however loud it is, at the recording's level."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tiny_conv_tasnet import tiny_conv_tasnet

from hubsep.audio import write_audio
from hubsep.errors import CheckpointError
from hubsep.pipelines import AudioSeparationPipeline


RATE = 8_000
NOISE = np.random.default_rng(0).normal(0, 0.1, (2, 12_000)).astype(np.float32)
OPTIONS: Any = {"segment_s": 0.5, "overlap_s": 0.1, "sampling_rate": RATE}


def separator(level_db: float | None) -> AudioSeparationPipeline:
    network, _ = tiny_conv_tasnet(num_sources=1, reference_level_db=level_db)
    return AudioSeparationPipeline(model=network)


def apart(first: np.ndarray, second: np.ndarray) -> float:
    return float(np.abs(first - second).max() / np.abs(first).max())


def test_sources_do_not_depend_on_the_level(tmp_path: Path) -> None:
    separate = separator(-16.0)
    loud = separate(NOISE, **OPTIONS)[0]["audio"]
    for level in (0.1, 0.01):
        soft = separate(NOISE * np.float32(level), **OPTIONS)[0]["audio"]
        assert apart(loud, soft / np.float32(level)) < 2e-5  # float32, through a network
    path = write_audio(tmp_path / "a.wav", NOISE * np.float32(0.01), RATE)
    options: Any = {**OPTIONS, "sampling_rate": None}
    streamed = np.concatenate([block[0]["audio"] for block in separate.stream(path, **options)], axis=1)
    np.testing.assert_array_equal(streamed, soft)


def test_published_weights_take_recordings_as_they_are() -> None:
    """Without the field, sources do depend on the level."""
    separate = separator(None)
    loud = separate(NOISE, **OPTIONS)[0]["audio"]
    soft = separate(NOISE * np.float32(0.01), **OPTIONS)[0]["audio"]
    assert apart(loud, soft * 100) > 1e-3
    assert separate.model.config.reference_level_db is None


def test_several_recordings_each_have_their_own_level() -> None:
    separate = separator(-16.0)
    both = separate([NOISE, NOISE * np.float32(0.01)], batch_size=3, **OPTIONS)
    assert apart(both[0][0]["audio"], both[1][0]["audio"] * 100) < 2e-5


def test_silence_stays_silence() -> None:
    assert not separator(-16.0)(NOISE * 0, **OPTIONS)[0]["audio"].any()


@pytest.mark.parametrize("level", [3.0, -200.0, "loud"])
def test_levels_that_are_none(level: object) -> None:
    with pytest.raises(CheckpointError, match="reference_level_db"):
        separator(level)  # type: ignore[arg-type]
