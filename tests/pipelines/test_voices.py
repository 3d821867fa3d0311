# SPDX-License-Identifier: Apache-2.0
"""A speaker is a voice: other sounds that come out as speakers do not count, unless that is asked for."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tiny_shuffler import shuffler

from hubsep.audio import read_audio, resample
from hubsep.pipelines.separation.scores import Scores
from hubsep.pipelines.separation.voices import STRETCH_S, Loudest, VoiceDetector, voice_detector


EXAMPLES = Path(__file__).resolve().parents[2] / "examples"
RATE = 16_000


def example(name: str) -> np.ndarray:
    """The first channel of four seconds of an example, as loud as the others, (1, samples)."""
    recording = read_audio(EXAMPLES / name)
    sound = resample(recording.waveform[:1], recording.sampling_rate, RATE)[:, : 4 * RATE]
    sound = 0.1 * sound / np.sqrt(np.mean(sound**2))
    return sound.astype(np.float32)


@pytest.fixture(scope="module")
def detector() -> VoiceDetector:
    found = voice_detector(shuffler().model.config)
    assert found is not None
    return found


def test_a_voice_is_told_from_other_sounds(detector: VoiceDetector):
    sounds = np.stack([example("talk.wav")[0], example("street.wav")[0], example("song.flac")[0], np.zeros(4 * RATE)])
    talk, street, _, silence = detector(sounds.astype(np.float32), RATE)
    assert talk > 0.9
    assert street < 0.1, "a dog in the rain"
    assert silence == 0
    quiet = detector(sounds[:2].astype(np.float32) / np.float32(100), RATE)
    assert np.abs(quiet - [talk, street]).max() < 0.05, "level says nothing"


def test_only_voices_count_as_speakers(detector: VoiceDetector):
    sources = np.stack([example("talk.wav"), example("street.wav")])

    def counted(voices: VoiceDetector | None) -> list[bool]:
        scores = Scores(2, RATE, residual=False, unordered=True, voices=voices)
        for start in range(0, 4 * RATE, 7_000):
            part = sources[..., start : start + 7_000]
            scores.add(part.sum(axis=0), part, None)
        return [score > 0.5 for score in scores.values()]

    assert counted(None) == [True, True]
    assert counted(detector) == [True, False]


def test_every_sound_counts_where_that_is_asked_for():
    separate: Any = shuffler()
    recording = {"array": example("street.wav"), "sampling_rate": RATE}
    assert any(source["score"] > 0.5 for source in separate(recording))
    assert not any(source["score"] > 0.5 for source in separate(recording, check_voices=True))


def test_only_speakers_are_asked_for_a_voice():
    config: Any = type("Config", (), {"source_names": ("vocals", "drums")})()
    assert voice_detector(config) is None


def test_the_loudest_stretch_does_not_hang_on_blocks():
    rng = np.random.default_rng(0)
    sources = 0.01 * rng.standard_normal((2, 2, 11 * RATE)).astype(np.float32)
    sources[0, 1, 5 * RATE : 7 * RATE] *= 10
    sources[1, 0, 9 * RATE :] *= 10  # in what does not fill a stretch
    found = []
    for block in (3_000, RATE, 20 * RATE):
        loudest = Loudest(2, RATE)
        for start in range(0, 11 * RATE, block):
            loudest.add(sources[..., start : start + block])
        loudest.waveforms()  # asked for before the end or twice, it says the same
        found.append(loudest.waveforms())
    stretch = round(STRETCH_S * RATE)
    assert all(np.array_equal(each, found[0]) for each in found)
    assert np.array_equal(found[0][0], sources[0, 1, stretch : 2 * stretch]), "of the louder channel"
    assert np.array_equal(found[0][1, : 3 * RATE], sources[1, 0, 2 * stretch :])
    assert not found[0][1, 3 * RATE :].any()
