# SPDX-License-Identifier: Apache-2.0
"""SDR, ISR, SIR and SAR by BSS Eval version 4: cases worked out by hand, limits, and museval where it is installed."""

from __future__ import annotations

import importlib.util
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from hubsep.errors import DataError
from hubsep.metrics.bss_eval import METRICS, BSSEval, bss_eval, correlations


SECOND = 8_000
TAPS = 32


def noise(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def songs(num_sources: int = 2, channels: int = 2, samples: int = 4 * SECOND, seed: int = 0) -> Tensor:
    white = noise(num_sources, channels, samples + 4, seed=seed)
    return 0.1 * torch.nn.functional.avg_pool1d(white, 5, 1)


def scores(references: Tensor, estimates: Tensor, **options: Any) -> dict[str, Tensor]:
    return bss_eval(references, estimates, **{"window": SECOND, "taps": TAPS, **options})


def test_a_perfect_estimate_has_no_error():
    references = songs()
    result = scores(references, references)
    assert torch.isposinf(result["sdr"]).all()
    assert all(result[name].min() > 200 for name in ("isr", "sir", "sar"))
    assert all(result[name].shape == (2, 4) for name in METRICS)


def test_a_change_of_level_is_spatial_distortion_alone():
    references = songs()
    result = scores(references, 0.5 * references)
    expected = torch.full((2, 4), 20 * math.log10(2), dtype=torch.float64)  # half is missing
    torch.testing.assert_close(result["sdr"], expected, atol=1e-9, rtol=0)
    torch.testing.assert_close(result["isr"], expected, atol=1e-9, rtol=0)
    assert result["sir"].min() > 200
    assert result["sar"].min() > 200


def test_what_a_filter_makes_of_the_source_is_spatial_distortion_alone():
    """Left is heard on the right, later: within the taps nothing but ISR and SDR shows it."""
    references = songs()
    delayed = torch.nn.functional.pad(references.flip(1), (5, 0))[..., : references.shape[-1]]
    result = scores(references, references + 0.1 * delayed)
    expected = torch.full((2, 4), 20.0, dtype=torch.float64)
    torch.testing.assert_close(result["isr"], expected, atol=0.6, rtol=0)
    torch.testing.assert_close(result["sdr"], expected, atol=0.6, rtol=0)
    assert result["sir"].min() > 35  # echoes that cross from one second to the next
    assert result["sar"].min() > 35
    beyond = scores(references, references + 0.1 * references.roll(2 * TAPS, dims=-1))
    assert beyond["sar"].max() < 21


def test_another_source_is_interference_of_its_level():
    """At a tenth of the level, SIR is 20 dB; the filters of 32 taps reach into its frequencies a little."""
    references = songs(samples=4 * SECOND)
    result = scores(references, references + 0.1 * references.flip(0))
    expected = torch.full((2, 4), 20.0, dtype=torch.float64)
    torch.testing.assert_close(result["sir"], expected, atol=0.6, rtol=0)
    torch.testing.assert_close(result["sdr"], expected, atol=0.6, rtol=0)
    assert result["isr"].min() > 30
    assert result["sar"].min() > 200


def test_what_comes_from_no_source_is_an_artefact_of_its_level():
    references = songs()
    wrong = noise(*references.shape, seed=9) * references.std() * 0.1
    result = scores(references, references + wrong)
    for name in ("sar", "sdr"):
        torch.testing.assert_close(result[name], torch.full((2, 4), 20.0, dtype=torch.float64), atol=0.6, rtol=0)
    assert result["sir"].min() > 30


def test_a_second_in_which_anything_is_silent_says_nothing():
    references = songs()
    references[1, :, SECOND : 2 * SECOND] = 0
    estimates = references + 0.1 * songs(seed=3)
    estimates[0, :, 3 * SECOND :] = 0
    measure = BSSEval(references, window=SECOND, hop=SECOND, taps=TAPS)
    result = measure(estimates)
    for name in METRICS:
        assert result[name].isnan().tolist() == [[False, True, False, True]] * 2
    torch.testing.assert_close(measure.sdr(estimates), result["sdr"], equal_nan=True, atol=0, rtol=0)
    silent = torch.stack([references[0], torch.zeros_like(references[0])])
    assert scores(silent, estimates)["sdr"].isnan().all()


def test_frames():
    """Whole frames alone; what is shorter than one is one."""
    references = songs(samples=2 * SECOND + 500)
    estimates = references + 0.1 * songs(samples=2 * SECOND + 500, seed=3)
    assert scores(references, estimates)["sdr"].shape == (2, 2)
    assert scores(references, estimates, hop=SECOND // 2)["sdr"].shape == (2, 3)
    short = scores(references[..., :900], estimates[..., :900])
    expected = 10 * torch.log10(
        references[..., :900].square().sum(dim=(1, 2)) / (estimates - references)[..., :900].square().sum(dim=(1, 2))
    )
    torch.testing.assert_close(short["sdr"], expected[:, None], atol=1e-9, rtol=0)


def test_correlations_do_not_depend_on_blocks():
    first, second = noise(2, 40_000), noise(3, 40_000, seed=1)
    lags = correlations(first, second, 8)
    for lag in range(-7, 8):
        moved = torch.nn.functional.pad(second, (max(-lag, 0), max(lag, 0)))[:, max(lag, 0) :][:, :40_000]
        torch.testing.assert_close(lags[..., lag + 7], first @ moved.T, atol=1e-8, rtol=0)


def test_an_empty_band_leaves_no_filter_open():
    """As lossy decoders leave it. Rounding to 16 bits fills it with noise; left open, ISR was some 60 dB lower."""
    spectra = torch.fft.rfft(noise(4, 2, 4 * SECOND))
    spectra[..., spectra.shape[-1] // 2 :] = 0
    references, artefacts = (torch.fft.irfft(spectra, n=4 * SECOND) * 0.14).split(2)
    estimates = references + 0.1 * references.flip(0) + 0.1 * artefacts + 1e-5 * noise(2, 2, 4 * SECOND, seed=2)
    free, rounded = scores(references, estimates), scores((references * 32_768).round() / 32_768, estimates)
    for name in METRICS:
        torch.testing.assert_close(free[name], rounded[name], atol=2.0, rtol=0)


def test_channels_that_are_alike_are_one():
    """A mono stem in stereo, and a source that is another one at half the level."""
    mono = songs(channels=1)
    wrong = 0.1 * songs(channels=1, seed=4)
    expected = scores(mono, mono + wrong)
    result = scores(mono.expand(2, 2, -1), (mono + wrong).expand(2, 2, -1))
    twins = scores(torch.stack([mono[0], 0.5 * mono[0]]), torch.stack([mono[0], 0.4 * mono[0]]) + wrong)
    for name in METRICS:
        torch.testing.assert_close(result[name], expected[name], atol=1e-9, rtol=0)
        assert twins[name].isfinite().all()
    torch.testing.assert_close(twins["isr"][1], torch.full((4,), 14.0, dtype=torch.float64), atol=0.5, rtol=0)


def test_wrong_shapes_and_sizes_are_refused():
    references = songs()
    with pytest.raises(DataError, match=r"shape of the sources, \(2, 2, 32000\), got \(2, 32000\)"):
        scores(references, references[:, 0])
    with pytest.raises(DataError, match="and not empty, got"):
        scores(references[0], references[0])
    with pytest.raises(DataError, match="at least 1, got 8000, 8000 and 0"):
        scores(references, references, taps=0)
    with pytest.raises(DataError, match="NaN, infinity"):
        scores(references / 0, references)


def museval_metrics() -> Any:
    """The metrics of museval without the rest of it, which needs musdb, stempeg and the programs of ffmpeg."""
    spec = importlib.util.find_spec("museval")
    if spec is None or not spec.submodule_search_locations:
        pytest.skip("museval is not installed; pip install --no-deps museval")
    path = Path(spec.submodule_search_locations[0]) / "metrics.py"
    loader = importlib.util.spec_from_file_location("museval_metrics", path)
    assert loader is not None
    assert loader.loader is not None
    module = importlib.util.module_from_spec(loader)
    loader.loader.exec_module(module)
    return module


@pytest.mark.parametrize("shape", [(2, 1, 20_000), (3, 2, 12_345), (2, 2, 3_000)])
@pytest.mark.parametrize("hop", [4_000, 3_000])
def test_scores_are_those_of_museval(shape: tuple[int, int, int], hop: int):
    """In float64: 1e-13 dB are usual, and 5e-6 dB on recordings of music in 16 bits."""
    museval = museval_metrics()
    references = songs(*shape)
    references[0, :, 8_000:12_200] = 0
    estimates = references + 0.2 * references.roll(1, 0) + 0.05 * references.roll(3, -1) + 0.2 * songs(*shape, seed=5)
    ours = bss_eval(references, estimates, window=4_000, hop=hop, taps=64)
    theirs = museval.bss_eval(
        references.transpose(1, 2).numpy(), estimates.transpose(1, 2).numpy(), window=4_000, hop=hop,
        compute_permutation=False, filters_len=64, framewise_filters=False, bsseval_sources_version=False,
    )  # fmt: skip
    for name, expected in zip(METRICS, theirs, strict=False):
        torch.testing.assert_close(ours[name], torch.from_numpy(expected), atol=1e-9, rtol=0, equal_nan=True)
