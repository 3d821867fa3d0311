# SPDX-License-Identifier: Apache-2.0
"""AudioMAE's feature extractor: the original's spectrograms, and errors for what would have to be changed silently."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from rounding import log_spectrum_rounding
from safetensors.torch import load_file
from torch import Tensor

from hubsep.audio import resample
from hubsep.errors import AudioError
from hubsep.models.audiomae.feature_extraction_audiomae import AudioMAEFeatureExtractor


GOLDEN = Path(__file__).parents[1] / "golden" / "audiomae" / "fbank.safetensors"
RATE, SILENCE = 16_000, 0.46703
MEAN, SCALE = -4.2677393, 2 * 4.5689974


def waveform(samples: int, seed: int = 0) -> Tensor:
    return 0.1 * torch.randn(samples, generator=torch.Generator().manual_seed(seed))


def assert_features(found: Tensor, expected: Tensor) -> None:
    """(frames, bins): Kaldi's logarithms, of 2**9 samples after a pre-emphasis that keeps 0.03 of a constant."""
    limit = log_spectrum_rounding(expected * SCALE + MEAN, terms=9, power=True, kept=0.03) / SCALE
    assert ((found - expected).abs() <= limit).all()


def test_spectrograms_are_the_originals():
    golden = load_file(GOLDEN)
    features = AudioMAEFeatureExtractor()(golden["waveform"], RATE)["input_features"]
    assert features.shape == (1, 1, 1_024, 128)
    assert_features(features[0, 0, :64], golden["first_frames"])
    assert_features(features[0, 0, 190:202], golden["last_frames"])
    torch.testing.assert_close(features[0, 0, 198:], torch.full((826, 128), SILENCE), atol=5e-6, rtol=0)


@pytest.mark.needs_shared
def test_a_resampled_recording_is_the_originals(shared: Path):
    from torchaudio.functional import resample as theirs

    golden = load_file(shared / "golden" / "audioldm2" / "fbank" / "io.safetensors")
    extractor = AudioMAEFeatureExtractor()
    features = extractor(theirs(golden["waveform_24k"], 24_000, RATE), RATE)["input_features"]
    assert_features(features[0, 0], golden["fbank_from_24k"])
    with_ours = extractor(resample(golden["waveform_24k"].numpy(), 24_000, RATE), RATE)["input_features"]
    # the two low-passes differ near 8 kHz, by 0.0026 on average
    assert (with_ours[0, 0, :95] - golden["fbank_from_24k"][:95]).abs().mean() < 0.01


def test_an_offset_is_taken_out_and_a_level_is_not():
    extractor, sound = AudioMAEFeatureExtractor(num_frames=96), waveform(8_000)
    features = extractor(sound, RATE)["input_features"]
    torch.testing.assert_close(extractor(sound + 0.3, RATE)["input_features"], features, atol=1e-3, rtol=0)
    louder = extractor(2 * sound, RATE)["input_features"] - features
    frames = extractor.frames_of(8_000)
    assert frames == 48
    # twice the amplitude is 4 times the power, over twice the deviation
    assert louder[:, :, :frames].median().item() == pytest.approx(np.log(4) / SCALE, abs=1e-4)
    assert not louder[:, :, frames:].any()


def test_a_batch_is_its_recordings():
    extractor = AudioMAEFeatureExtractor(num_frames=64, num_mel_bins=32)
    sounds = [waveform(4_000), waveform(9_000, seed=1).numpy(), waveform(400)[None].double()]
    batch = extractor(sounds, RATE)["input_features"]
    assert batch.shape == (3, 1, 64, 32)
    assert batch.dtype == torch.float32
    for one, whole in zip(sounds, batch, strict=True):
        assert torch.equal(extractor(one, RATE)["input_features"][0], whole)
    assert np.array_equal(extractor(sounds, RATE, return_tensors="np")["input_features"], batch.numpy())
    assert torch.equal(extractor(waveform(4_000).tolist(), RATE)["input_features"][0], batch[0])


def test_other_lengths_when_asked_for():
    extractor, sound = AudioMAEFeatureExtractor(num_frames=64), waveform(24_000)
    whole = extractor(sound, RATE, num_frames=160)["input_features"]
    assert torch.equal(extractor(sound, RATE, truncation=True)["input_features"], whole[:, :, :64])
    with pytest.raises(AudioError, match=r"has 148 frames, 1\.50 s; there is place for 64"):
        extractor(sound, RATE)
    assert extractor.frames_of(len(sound)) == 148


@pytest.mark.parametrize(
    ("audio", "says"),
    [
        (torch.zeros(2, 8_000), r"must be \(samples,\) or \(1, samples\), got \(2, 8000\); average the channels"),
        (np.zeros((1, 1, 8_000), np.float32), r"got \(1, 1, 8000\)"),
        (torch.zeros(8_000, dtype=torch.int16), r"is torch\.int16; pass floats"),
        (torch.zeros(399), "has 399 samples; a frame needs 400"),
        (torch.zeros(0), "has 0 samples"),
        (torch.full((8_000,), torch.nan), "NaN or infinities"),
        ([], "empty list"),
    ],
)
def test_waveforms_it_would_have_to_change_are_refused(audio: Any, says: str):
    with pytest.raises(AudioError, match=says):
        AudioMAEFeatureExtractor()(audio, RATE)


@pytest.mark.parametrize("rate", [None, 44_100])
def test_another_rate_is_refused(rate: int | None):
    with pytest.raises(AudioError, match=f"sampling_rate is {rate}; AudioMAE needs 16000 Hz"):
        AudioMAEFeatureExtractor()(waveform(8_000), rate)
    with pytest.raises(AudioError, match="return_tensors is 'tf'"):
        AudioMAEFeatureExtractor()(waveform(8_000), RATE, return_tensors="tf")


def test_its_settings_come_back(tmp_path: Path):
    extractor = AudioMAEFeatureExtractor(num_frames=512, mean=-3.0, std=2.5)
    extractor.save_pretrained(tmp_path)
    again = AudioMAEFeatureExtractor.from_pretrained(tmp_path)
    assert again.to_dict() == extractor.to_dict()
    assert torch.equal(*(e(waveform(8_000), RATE)["input_features"] for e in (extractor, again)))
