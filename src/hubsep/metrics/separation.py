# SPDX-License-Identifier: Apache-2.0
"""Metrics of separation, each as its paper's own code defines it (the same mean removal or none, the same floors).

Metrics of speech take one recording at a time and find the order of the outputs themselves. They need no extra:
torchmetrics has the same ones, and the tests hold ours against it.


"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from ..errors import DataError
from ..losses import pairwise_si_snr, permutation


CONFIDENCE = 0.95
RESAMPLES = 9_999


def interval(
    values: Sequence[float], statistic: Literal["mean", "median"] = "mean", *, seed: int = 0, decimals: int = 2
) -> list[float] | None:
    """The bootstrap interval that holds the mean or median of what was sampled with 95 % confidence.

    Args:
        values: one figure a mixture or song.
        statistic: what the table states of them.
        seed: of the resampling.
        decimals: that the bounds are rounded to.

    Returns:
        The lower and the upper bound; None of fewer than two values, which say nothing about others, and
        where one is not finite.

    Raises:
        DataError: if scipy is not installed.
    """
    if len(values) < 2 or not np.isfinite(values).all():
        return None
    bootstrap = needs_scipy()
    sample = np.asarray(values, dtype=np.float64)
    function = np.mean if statistic == "mean" else np.median
    bounds = bootstrap(
        (sample,), function, n_resamples=RESAMPLES, batch=1_000, confidence_level=CONFIDENCE, method="percentile",
        rng=np.random.default_rng(seed),
    ).confidence_interval  # fmt: skip
    return [round(float(bounds.low), decimals), round(float(bounds.high), decimals)]


def needs_scipy() -> Any:
    """`scipy.stats.bootstrap`; asked for before hours of separating rather than after.

    Raises:
        DataError: if scipy is not installed.
    """
    try:
        from scipy.stats import bootstrap
    except ImportError as error:
        raise DataError("confidence intervals need scipy; pip install 'hubsep[eval]'") from error
    return bootstrap


def sdr(estimate: Tensor, reference: Tensor) -> Tensor:
    """Signal-to-distortion ratio in dB over the last axis, both powers floored at 1e-10 (AudioSep's evaluator)."""
    signal = reference.square().mean(-1).clamp_min(1e-10)
    noise = (estimate - reference).square().mean(-1).clamp_min(1e-10)
    return 10 * torch.log10(signal / noise)


def si_sdr(estimate: Tensor, reference: Tensor) -> Tensor:
    """Scale-invariant SDR in dB over the last axis (Le Roux et al., 2019), as AudioSep's evaluator computes it."""
    eps = torch.finfo(estimate.dtype).eps
    scale = ((reference * estimate).sum(-1, keepdim=True) + eps) / (reference.square().sum(-1, keepdim=True) + eps)
    target = scale * reference
    noise = (estimate - target).square().sum(-1)
    return 10 * torch.log10((target.square().sum(-1) + eps) / (noise + eps))


def sdr_improvement(estimate: Tensor, reference: Tensor, mixture: Tensor) -> Tensor:
    """How much closer the estimate is to the reference than the mixture was, in dB."""
    return sdr(estimate, reference) - sdr(mixture, reference)


def is_silent(references: Tensor) -> Tensor:
    """Whether references hold nothing but zeros over the last axis, (..., samples) -> (...).

    No ratio says how near an estimate is to such: those of SI-SDR and SNR are of the floors of the computation.
    """
    return ~references.any(dim=-1)


def level_change(estimate: Tensor, mixture: Tensor) -> Tensor:
    """Level of the estimate relative to the mixture, in dB, over the last axis."""
    return 10 * torch.log10(estimate.square().mean(-1).clamp_min(1e-12) / mixture.square().mean(-1).clamp_min(1e-12))


def si_snr(estimate: Tensor, reference: Tensor) -> Tensor:
    """SI-SDR in dB with means removed, over the last axis, (..., samples) -> (...)."""
    estimates, references = (x.reshape(-1, 1, 1, x.shape[-1]) for x in (estimate, reference))
    return pairwise_si_snr(estimates, references).reshape(estimate.shape[:-1])


def filtered_sdr(estimate: Tensor, reference: Tensor, *, taps: int = 512) -> Tensor:
    """SDR in dB of BSS Eval (Vincent et al., 2006): whatever a filter of `taps` makes of the reference is forgiven.

    Args:
        estimate: (..., samples).
        reference: of the same shape.
        taps: length of the filter; 512 in all publications.

    Returns:
        (...), in double precision; the filter solves a Toeplitz system of correlations.
    """
    try:
        from scipy.linalg import solve_toeplitz
    except ImportError as error:
        raise DataError("SDR by BSS Eval needs scipy; pip install 'hubsep[eval]'") from error
    length = estimate.shape[-1] + taps
    estimate, reference = (F.normalize(x.detach().double().cpu(), dim=-1) for x in (estimate, reference))
    spectrum, other = torch.fft.rfft(reference, n=length), torch.fft.rfft(estimate, n=length)
    autocorrelation = torch.fft.irfft(spectrum.abs().square(), n=length)[..., :taps]
    autocorrelation[..., 0] *= 1 + 1e-12  # a pure tone has no unique filter
    cross = torch.fft.irfft(spectrum.conj() * other, n=length)[..., :taps]
    rows = []
    for correlation, shared in zip(autocorrelation.reshape(-1, taps), cross.reshape(-1, taps), strict=True):
        filter_ = solve_toeplitz(correlation.numpy(), shared.numpy()) if correlation[0] > 0 else shared.numpy()
        explained = (shared @ torch.as_tensor(filter_)).clamp(1e-10, 1 - 1e-10)
        rows.append(10 * torch.log10(explained / (1 - explained)))
    return torch.stack(rows).reshape(estimate.shape[:-1])


def match_outputs(sources: Tensor, references: Tensor) -> Tensor:
    """Which output is which reference, by SI-SNR; outputs beyond the references are left over.

    Args:
        sources: outputs in any order, (outputs, samples).
        references: (num_sources, samples), at most as many.

    Returns:
        The output of each reference, (num_sources,).
    """
    spare = sources.shape[0] - references.shape[0]
    padded = F.pad(references, (0, 0, 0, spare))  # silence is as far from every output
    return permutation(sources[None, :, None], padded[None, :, None])[0, : references.shape[0]]


def separation_scores(sources: Tensor, references: Tensor, mixture: Tensor) -> dict[str, Tensor]:
    """Improvements of one separated recording over its mixture, in the best order of the outputs.

    Args:
        sources: outputs in any order, (outputs, samples).
        references: the true sources, (num_sources, samples), at most as many.
        mixture: (samples,).

    Returns:
        `si_snri`, `si_snr` and `sdri` (BSS Eval) in dB, each (num_sources,); `order`, the output of each.
    """
    order = match_outputs(sources, references)
    sources, mixtures = sources[order], mixture.expand_as(references)
    after = si_snr(sources, references)
    return {
        "si_snri": after - si_snr(mixtures, references),
        "si_snr": after,
        "sdri": filtered_sdr(sources, references) - filtered_sdr(mixtures, references),
        "order": order,
    }


__all__ = [
    "CONFIDENCE",
    "RESAMPLES",
    "filtered_sdr",
    "interval",
    "is_silent",
    "level_change",
    "match_outputs",
    "needs_scipy",
    "sdr",
    "sdr_improvement",
    "separation_scores",
    "si_sdr",
    "si_snr",
]
