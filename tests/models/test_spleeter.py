# SPDX-License-Identifier: Apache-2.0
"""Spleeter: what every model promises, its transform, masks, Wiener filter, norms and fast path."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from promises_model import ModelPromises, noise
from rounding import TINY_MODEL, assert_same, rounding
from tiny_spleeter import tiny_spleeter
from torch import Tensor

from hubsep import AudioSeparationPipeline, SpleeterConfig, SpleeterForAudioSeparation
from hubsep.errors import CheckpointError
from hubsep.models.spleeter import modeling_spleeter as inference_spleeter
from hubsep.models.spleeter.modeling_spleeter import istft, ratio_masks, stft
from hubsep.models.spleeter.wiener_spleeter import BLOCK_FRAMES, WienerFilter


FIVE: dict[str, Any] = {
    "stems": ["vocals", "piano", "drums", "bass", "other"],
    "mask_activation": "softmax",
    "encoder_activation": "elu",
    "decoder_activation": "elu",
}
FULL_BAND: dict[str, Any] = {"mask_extension": "stem", "extension_stem": "accompaniment"}


def five_stems() -> Any:
    return tiny_spleeter(**FIVE, mask_extension="average", loss="sdr")


def wiener() -> Any:
    return tiny_spleeter(wiener_filter=True, freeze_norm=False, decoder_dropout=0.0)


class TestTwoStems(ModelPromises):
    build = staticmethod(tiny_spleeter)


class TestFiveStems(ModelPromises):
    build = staticmethod(five_stems)


class TestWienerFilter(ModelPromises):
    build = staticmethod(wiener)


@pytest.mark.parametrize("samples", [1, 127, 128, 4_001])
def test_the_transform_gives_every_sample_back(samples: int):
    waveform = noise(2, 2, samples)
    spectrogram = stft(waveform, 512)
    assert spectrogram.shape == (2, 2, -(-(samples + 512) // 128), 257)
    assert spectrogram[..., 0, :].abs().max() == 0
    assert_same(istft(spectrogram, 512, samples), waveform, terms=9, layers=2)  # nine stages of a transform of 512


@torch.no_grad()
def test_segments_share_nothing_and_their_grouping_changes_nothing():
    model, _ = tiny_spleeter()
    magnitude = stft(noise(1, 2, 20_000), 512)[..., :128].abs()
    whole = model.estimate(magnitude)
    parts = [model.estimate(part) for part in magnitude.split(64, dim=2)]
    assert len(parts) == 3
    assert torch.equal(torch.cat(parts, dim=3), whole)
    with torch.enable_grad():  # all segments at once
        assert_same(model.estimate(magnitude), whole, **TINY_MODEL)


@torch.no_grad()
@pytest.mark.parametrize("activation", ["leaky_relu", "relu", "elu"])
def test_the_fast_path_gives_the_same(activation: str):
    model, _ = tiny_spleeter(encoder_activation=activation, decoder_activation=activation)
    mixture = noise(1, 2, 12_345)
    fast = model(mixture).sources
    with torch.enable_grad():
        slow = model(mixture).sources
    assert_same(fast, slow, **TINY_MODEL)
    assert fast.abs().max() > 0.05


@torch.no_grad()
def test_the_fast_path_stands_back():
    unet = tiny_spleeter()[0].unets[0]
    assert inference_spleeter.can_fuse(unet)  # type: ignore[arg-type]
    with torch.enable_grad():
        assert not inference_spleeter.can_fuse(unet)  # type: ignore[arg-type]
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert not inference_spleeter.can_fuse(unet)  # type: ignore[arg-type]
    assert not inference_spleeter.can_fuse(unet.train())  # type: ignore[arg-type]


@torch.no_grad()
def test_autocast_changes_rounding_only():
    model, _ = tiny_spleeter()
    mixture = noise(1, 2, 8_000)
    reference = model(mixture).sources
    with torch.autocast("cpu", dtype=torch.bfloat16):
        sources = model(mixture).sources
    assert sources.dtype == torch.float32
    assert (sources - reference).norm() < 0.05 * reference.norm()


@torch.no_grad()
@pytest.mark.parametrize("fields", [{}, {"wiener_filter": True}], ids=str)
def test_the_full_band_adds_up_to_the_mixture(fields: dict[str, Any]):
    mixture = noise(2, 2, 9_000)
    banded = tiny_spleeter(**fields)[0](mixture).sources
    assert (banded.sum(dim=1) - mixture).abs().max() > 0.05, "there is nothing above the band; this test shows little"
    sources = tiny_spleeter(**fields, **FULL_BAND)[0](mixture).sources
    # a Wiener filter keeps a little back where it is not sure
    tolerance = 2e-3 if fields else rounding(mixture.abs().max().item(), **TINY_MODEL)
    torch.testing.assert_close(sources.sum(dim=1), mixture, atol=tolerance, rtol=0)
    assert torch.equal(sources[:, 0], banded[:, 0])


def test_masks_by_hand():
    estimates = torch.tensor([[3.0, 0.0], [1.0, 0.0]])[None, :, None, None]  # two stems, two bins
    squared = ratio_masks(estimates, 2, 4, "zeros", None)[0, :, 0, 0]
    torch.testing.assert_close(squared, torch.tensor([[0.9, 0.5, 0, 0], [0.1, 0.5, 0, 0]]))
    plain = ratio_masks(estimates, 1, 4, "average", None)[0, :, 0, 0]
    torch.testing.assert_close(plain, torch.tensor([[0.75, 0.5, 0.625, 0.625], [0.25, 0.5, 0.375, 0.375]]))
    given = ratio_masks(estimates, 2, 4, "stem", 1)[0, :, 0, 0]
    torch.testing.assert_close(given, torch.tensor([[0.9, 0.5, 0, 0], [0.1, 0.5, 1, 1]]))


def filter_by_hand(v: np.ndarray, x: np.ndarray) -> np.ndarray:
    """The filter as a loop over frames and bins: v (stems, 2, frames, bins), x (2, frames, bins)."""
    eps = np.finfo(np.float32).eps
    y = v / (v.sum(axis=0) + eps) * x
    scale = max(1.0, np.abs(x).max() / 10)
    x, y = x / scale, y / scale
    power, result = (np.abs(y) ** 2).mean(axis=1), np.zeros_like(y)
    for bin in range(x.shape[-1]):
        spatial = [
            sum(np.outer(s[:, t, bin], s[:, t, bin].conj()) for t in range(x.shape[1])) / (eps + p[:, bin].sum())
            for s, p in zip(y, power, strict=True)
        ]
        for t in range(x.shape[1]):
            whole = sum(p[t, bin] * r for p, r in zip(power, spatial, strict=True)) + np.sqrt(eps) * np.eye(2)
            for j, r in enumerate(spatial):
                result[j, :, t, bin] = power[j, t, bin] * r @ np.linalg.inv(whole) @ x[:, t, bin]
    return result * scale


@pytest.mark.parametrize("loudness", [1.0, 100.0])
def test_the_wiener_filter_by_hand(loudness: float):
    x = loudness * torch.randn(2, 40, 3, dtype=torch.complex64, generator=torch.Generator().manual_seed(0))
    v = noise(3, 2, 40, 3, seed=1).abs() * loudness
    found = run_filter([(v[None], x[None])])[0]
    expected = filter_by_hand(v.double().numpy(), x.to(torch.complex128).numpy())
    tolerance = rounding(x.abs().max().item(), terms=40, layers=4)  # frames; powers, covariances, inverse, product
    torch.testing.assert_close(found, torch.from_numpy(expected).to(torch.complex64), atol=tolerance, rtol=0)


def run_filter(pieces: list[tuple[Tensor, Tensor]]) -> Tensor:
    wiener = WienerFilter()
    for v, x in pieces:
        wiener.add(v, x, x.abs().amax(dim=(1, 2, 3)))
    return torch.cat([wiener.filter(v, x) for v, x in pieces], dim=3)


def test_the_wiener_filter_runs_in_pieces():
    frames = 2 * BLOCK_FRAMES + 10
    x = 9 * torch.randn(2, 2, frames, 5, dtype=torch.complex64, generator=torch.Generator().manual_seed(0))
    x[1, 1] = x[1, 0]  # the second is mono
    v = noise(2, 3, 2, frames, 5, seed=1).abs()
    whole = run_filter([(v, x)])
    pieces = run_filter(list(zip(v.split(100, dim=3), x.split(100, dim=2), strict=True)))
    assert whole.isfinite().all()
    tolerance = rounding(whole.abs().max().item(), terms=frames, layers=4)
    torch.testing.assert_close(pieces, whole, atol=tolerance, rtol=0)


def test_norms_keep_still_unless_they_are_let_go():
    mixture = noise(2, 2, 4_000)
    for frozen in (True, False):
        model, _ = tiny_spleeter(freeze_norm=frozen)
        before = {name: buffer.clone() for name, buffer in model.named_buffers()}
        expected = model(mixture).sources
        again = [model.train()(mixture).sources for _ in range(2)]
        assert torch.equal(again[0], expected) is frozen
        assert torch.equal(again[0], again[1]) is frozen  # dropout
        changed = [not torch.equal(buffer, before[name]) for name, buffer in model.named_buffers()]
        assert len(changed) == 2 * 2 * 11
        assert not any(changed) if frozen else all(changed)


@torch.no_grad()
def test_the_pipeline_names_the_stems():
    model, _ = tiny_spleeter(**FULL_BAND)
    separate = AudioSeparationPipeline(model=model, device="cpu")
    for channels in (1, 2):
        mixture = noise(channels, 20_000).numpy()
        stems = separate(mixture, sampling_rate=44_100)
        assert [stem["label"] for stem in stems] == ["vocals", "accompaniment"]
        assert np.abs(sum(stem["audio"] for stem in stems) - mixture).max() < 2e-6


def test_what_the_pipeline_asks_a_configuration():
    config = SpleeterConfig()
    assert config.source_names == ("vocals", "accompaniment")
    assert (config.unordered_sources, config.free_scale, config.is_text_queried) == (False, False, False)
    assert (config.num_sources, config.num_channels, config.hop_length) == (2, 2, 1_024)
    frames = -(-(config.segment_samples + config.n_fft) // config.hop_length)
    assert frames == config.segment_frames
    assert (config.segment_samples - config.overlap_samples) % config.hop_length == 0


@pytest.mark.parametrize(
    ("fields", "says"),
    [
        ({"stems": ["vocals"]}, "stems is"),
        ({"stems": "vocals"}, "stems"),
        ({"stems": ["vocals", "vocals"]}, "each name may be there once"),
        ({"stems": ["vocals", "a\nb"]}, "not accepted as the name of a stem"),
        ({"n_fft": 4_000}, "must be a power of two"),
        ({"num_bins": 2_112}, "num_bins is 2112"),
        ({"num_bins": 1_000}, "num_bins is 1000; it must be a multiple of 64"),
        ({"segment_frames": 10**6}, "segment_frames is 1000000"),
        ({"conv_channels": [16, 32]}, "there are 6 layers"),
        ({"conv_channels": [16, 32, 64, 128, 256, 10**9]}, r"conv_channels\[5\] is 1000000000"),
        ({"encoder_activation": "ELU"}, "encoder_activation is 'ELU'"),
        ({"mask_activation": "relu"}, "mask_activation is 'relu'"),
        ({"mask_extension": "ones"}, "mask_extension is 'ones'"),
        ({"mask_extension": "stem"}, "extension_stem is None"),
        ({"mask_extension": "stem", "extension_stem": "bass"}, "must be one of vocals, accompaniment"),
        ({"extension_stem": "vocals"}, "only mask_extension 'stem' uses"),
        ({"separation_exponent": float("nan")}, "separation_exponent is nan"),
        ({"wiener_filter": 1}, "wiener_filter must be true or false"),
        ({"loss": "mse"}, "loss is 'mse'"),
        ({"overlap_samples": 520_192}, "overlap_samples is 520192"),
    ],
)
def test_absurd_configurations_are_refused(fields: dict[str, Any], says: str):
    with pytest.raises(CheckpointError, match=says):
        SpleeterConfig(**fields)


def test_the_published_size_and_its_estimate():
    config = SpleeterConfig(stems=["vocals", "drums", "bass", "other"])
    with torch.device("meta"):
        model = SpleeterForAudioSeparation(config)
    assert model.num_parameters() == 4 * (9_823_749 - 2 * 512)  # as published, less the norm that changes nothing
    assert config.estimated_parameters() == pytest.approx(model.num_parameters(), rel=0.01)
