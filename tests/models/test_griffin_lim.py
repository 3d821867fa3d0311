# SPDX-License-Identifier: Apache-2.0
"""The vocoder that learns nothing: it gives back the spectrogram, the pitch, and a waveform without seams."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny_audioldm2 import tiny_components
from torch import Tensor

from hubsep import AudioLDM2Pipeline, CheckpointError, GriffinLimVocoder, GriffinLimVocoderConfig
from hubsep.errors import AudioError
from hubsep.mel import MelSettings, mel_spectrogram


RATE = 16_000


def melody(seconds: float) -> Tensor:
    """Notes of four partials with a little noise, (samples,)."""
    time = torch.arange(round(seconds * RATE)) / RATE
    pitch = torch.where(time % 0.5 < 0.25, 330.0, 440.0)
    phase = 2 * math.pi * (pitch / RATE).cumsum(0)
    tones = sum(torch.sin(n * phase) / n for n in range(1, 5))
    noise = torch.randn(len(time), generator=torch.Generator().manual_seed(0))
    return 0.2 * tones + 0.002 * noise


@pytest.fixture(scope="module")
def vocoder() -> Any:
    return GriffinLimVocoder(GriffinLimVocoderConfig()).eval()


def mel_of(waveform: Tensor) -> Tensor:
    return mel_spectrogram(waveform[None], MelSettings.of(GriffinLimVocoderConfig()))


def test_the_spectrogram_and_the_pitch_come_back(vocoder: Any) -> None:
    sound = melody(1.0)
    mel = mel_of(sound)
    made = vocoder(mel)
    assert made.shape == (1, 16_000)
    assert made.dtype == torch.float32
    assert (mel_of(made[0]) - mel).abs().mean() < 0.25  # 0.20 is usual; the mean level alone is 1.5 away
    # the magnitudes themselves explain the spectrogram better than any phases let a waveform do
    again = (vocoder.magnitudes(mel) @ vocoder.filterbank).clamp(min=1e-5).log()
    assert (again - mel).abs().mean() < 0.07
    for start, pitch in ((1_000, 330.0), (5_000, 440.0)):
        spectrum = torch.fft.rfft(made[0, start : start + 2_000] * torch.hann_window(2_000)).abs()
        assert abs(float(spectrum[20:80].argmax() + 20) * RATE / 2_000 - pitch) <= 8
    assert torch.equal(vocoder(mel), made)
    assert torch.equal(vocoder(mel[0]), made[0])


def test_frames_stand_where_they_were(vocoder: Any) -> None:
    click = torch.zeros(RATE)
    click[8_000:8_080] = 0.5
    made = vocoder(mel_of(click))[0]
    middle = torch.searchsorted(made.square().cumsum(0), made.square().sum() / 2)
    assert abs(int(middle) - 8_040) < 40


def test_a_waveform_goes_on_where_it_was_left(vocoder: Any) -> None:
    mel = mel_of(melody(2.0))
    first = vocoder(mel[:, :120])
    known = first[:, 68 * 160 : 100 * 160]
    second = vocoder(mel[:, 68:], known=known)
    # where both know the same, they are the same: the start of a piece has nothing to its left
    kept = slice(8 * 160, 28 * 160)
    error = (second[:, : known.shape[1]] - known)[:, kept].square().mean() / known[:, kept].square().mean()
    assert error < 1e-4
    joined = torch.cat([first[:, : 100 * 160], second[:, 32 * 160 :]], dim=1)[0]
    steps = joined.diff().abs()
    assert steps[100 * 160 - 2 : 100 * 160 + 2].max() <= steps.max() * 0.9
    assert (mel_of(joined)[0, 95:105] - mel[0, 95:105]).abs().mean() < 0.35


def test_half_precision_is_of_the_weight_alone(vocoder: Any) -> None:
    mel = mel_of(melody(0.5))
    rough = GriffinLimVocoder(GriffinLimVocoderConfig()).to(torch.bfloat16)(mel)
    assert rough.dtype == torch.float32
    assert (mel_of(rough[0]) - mel).abs().mean() < 0.26


def test_no_spectrogram_is_too_loud(vocoder: Any) -> None:
    mel = mel_of(melody(0.5))
    assert vocoder(mel + 20).abs().max() <= 1
    full = mel_of(torch.sin(2 * math.pi * 440 / RATE * torch.arange(RATE // 2)))
    explained = (vocoder.magnitudes(full) @ vocoder.filterbank).log()
    assert (explained - full)[0, 5:-5, 9].abs().max() < 0.01  # its loudest bin is let through


def test_what_it_refuses(vocoder: Any) -> None:
    with pytest.raises(AudioError, match=r"must be \(batch, frames, 64\)"):
        vocoder(torch.zeros(1, 10, 63))
    for field, value in (("momentum", 1.0), ("phase_steps", 0), ("upsample_rates", [1]), ("normalize_before", True)):
        with pytest.raises(CheckpointError, match=field):
            GriffinLimVocoderConfig(**{field: value})


@pytest.mark.slow
def test_a_pipeline_takes_it(tmp_path: Path) -> None:
    parts: dict[str, Any] = tiny_components()
    trained = parts["vocoder"].config
    config = GriffinLimVocoderConfig(
        model_in_dim=trained.model_in_dim, sampling_rate=trained.sampling_rate,
        upsample_rates=list(trained.upsample_rates), phase_steps=4,
    )  # fmt: skip
    pipe = AudioLDM2Pipeline(**{**parts, "vocoder": GriffinLimVocoder(config)})
    pipe.save_pretrained(tmp_path / "folder")
    assert '"hubsep",\n    "GriffinLimVocoder"' in (tmp_path / "folder" / "model_index.json").read_text()
    again = AudioLDM2Pipeline.from_pretrained(tmp_path / "folder")
    again.set_progress_bar_config(disable=True)
    seconds = 2.5 * again.native_seconds

    def options() -> dict[str, Any]:
        return {"seconds": seconds, "num_inference_steps": 2, "generator": torch.Generator().manual_seed(0)}

    whole = torch.as_tensor(again("rain", **options()).audios[0])
    blocks = [torch.as_tensor(block) for block in again.stream("rain", **options())]
    assert len(blocks) > 1
    assert torch.cat([block.flatten() for block in blocks]).shape == whole.shape
    assert torch.isfinite(whole).all()
    lazy = AudioLDM2Pipeline.from_pretrained(tmp_path / "folder", on_demand=True)
    lazy.set_progress_bar_config(disable=True)
    assert torch.allclose(torch.as_tensor(lazy("rain", **options()).audios[0]), whole, atol=1e-4)
