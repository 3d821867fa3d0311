# SPDX-License-Identifier: Apache-2.0
"""The examples of `examples/generate` with a tiny random model: they run, and keep and write what they say."""

from __future__ import annotations

import importlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile as sf
from tiny_audioldm2 import SAMPLES, tiny_audio_mae, tiny_components

from hubsep import AudioLDM2Pipeline


EXAMPLES = Path(__file__).parents[2] / "examples" / "generate"
NAMES = ["common", "continuation", "inpainting", "interpolation", "long_sound", "variation"]
RATE = 16_000


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("models") / "audioldm2"
    AudioLDM2Pipeline(**tiny_components(), audio_mae=tiny_audio_mae()).save_pretrained(place)
    return place


@pytest.fixture(autouse=True)
def modules(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """The examples as modules, which are gone afterwards."""
    import sys

    monkeypatch.syspath_prepend(str(EXAMPLES))
    yield
    for name in NAMES:
        sys.modules.pop(name, None)


def run(name: str, folder: Path, output: Path, *arguments: Any) -> np.ndarray:
    """What an example writes; the picture has to be there too."""
    words = ["--model", folder, "--output", output, "--steps", 2, *arguments]
    importlib.import_module(name).main([str(word) for word in words])
    assert output.with_suffix(".png").stat().st_size > 5_000
    assert sf.info(output).samplerate == RATE
    waveform: np.ndarray = sf.read(output, dtype="float32")[0]
    assert np.isfinite(waveform).all()
    return waveform


@pytest.fixture
def sound(tmp_path: Path) -> tuple[Path, np.ndarray]:
    """A stereo recording, and its first channel."""
    tone = 0.3 * np.sin(2 * np.pi * 440 / RATE * np.arange(2_400)).astype(np.float32)
    sf.write(tmp_path / "tone.wav", np.stack([tone, -tone], axis=1), RATE, subtype="FLOAT")
    return tmp_path / "tone.wav", tone


def test_every_example_is_tested() -> None:
    assert sorted(path.stem for path in EXAMPLES.glob("*.py")) == NAMES


@pytest.mark.slow
def test_continuation(folder: Path, tmp_path: Path, sound: tuple[Path, np.ndarray]) -> None:
    made = run("continuation", folder, tmp_path / "out.wav", "--recording", sound[0], "--seconds", 0.1)
    assert made.shape == (2_400 + 1_600,)
    assert np.abs(made[:2_000] - sound[1][:2_000]).max() < 1e-6
    assert np.abs(made[2_400:]).max() > 1e-3


def test_inpainting(folder: Path, tmp_path: Path, sound: tuple[Path, np.ndarray]) -> None:
    part = ("--start", 0.05, "--stop", 0.1)
    made = run("inpainting", folder, tmp_path / "out.wav", "--recording", sound[0], *part)
    changed = np.abs(made - sound[1]) > 1e-6
    assert made.shape == (2_400,)
    assert changed[900:1_500].mean() > 0.9
    assert not changed[:800].any()
    assert not changed[1_600:].any()


def test_interpolation(folder: Path, tmp_path: Path) -> None:
    made = run("interpolation", folder, tmp_path / "out.wav", "--weights", 0, 0.5, 1).reshape(3, SAMPLES)
    for first, second in ((0, 1), (1, 2)):
        assert np.abs(made[first] - made[second]).max() > 1e-3


def test_variation(folder: Path, tmp_path: Path, sound: tuple[Path, np.ndarray]) -> None:
    made = run("variation", folder, tmp_path / "out.wav", "--recording", sound[0], "--strengths", 0.3, 1.0)
    assert made.shape == (2 * SAMPLES,)
    assert np.abs(made[:SAMPLES] - made[SAMPLES:]).max() > 1e-3


@pytest.mark.slow
def test_long_sound(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    made = run("long_sound", folder, tmp_path / "new" / "out.wav", "--seconds", 0.25)
    assert made.shape == (4_000,)
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) > 3  # it came in pieces
    assert lines[-2].endswith("out.wav  0.25 s")
