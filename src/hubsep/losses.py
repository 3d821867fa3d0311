# SPDX-License-Identifier: Apache-2.0
"""Training losses on waveforms, with a rule for targets that are silent.

A ratio has no meaning against silence, so an item whose target is all zeros (the query asks for what is not there) is
charged the level of what came out, relative to the mixture.

Also here: losses for outputs in no particular order: permutation-invariant training and mixture-invariant training.

Decisions: the best assignment is searched without gradient on all pairs, then the loss is computed on the chosen ones
alone. Up to `EXHAUSTIVE_SOURCES` sources every permutation is tried and the first best one wins; above, scipy's
assignment solver finds the same in polynomial time. SI-SNR is the published recipes' (means removed, 1e-8 added to
both divisions and inside the logarithm) and says nothing about a silent target: against one it is a constant. Where
speakers pause, train with `pit_snr`, which charges silent targets the level of the output and fixes levels as well.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from itertools import permutations, product

import torch
from torch import Tensor

from .errors import DataError


EPSILON = 1e-8
EXHAUSTIVE_SOURCES = 4
MIXIT_SOURCES = 16
SILENCE_LIMIT_DB = 15.0
COUNTED_LIMIT_DB = 40.0


def _si_snr(sources: Tensor, labels: Tensor) -> Tensor:
    """SI-SNR in dB over channels and samples, (..., channels, samples) -> (...)."""
    sources, labels = sources.float(), labels.float()
    sources = sources - sources.mean(dim=-1, keepdim=True)
    labels = labels - labels.mean(dim=-1, keepdim=True)
    dot = (sources * labels).sum(dim=(-2, -1), keepdim=True)
    target = dot * labels / (labels.square().sum(dim=(-2, -1), keepdim=True) + EPSILON)
    noise = (sources - target).square().sum(dim=(-2, -1))
    return 10 * torch.log10(target.square().sum(dim=(-2, -1)) / (noise + EPSILON) + EPSILON)


def _snr_loss(sources: Tensor, labels: Tensor, mixture: Tensor, limit_db: float, silence_limit_db: float) -> Tensor:
    """Negative SNR in dB, flat at a limit; against silence the output's level over the mixture's, with its own."""
    noise = (sources.float() - labels.float()).square().sum(dim=(-2, -1))
    target = labels.float().square().sum(dim=(-2, -1))
    whole = mixture.float().square().sum(dim=(-2, -1)) + EPSILON
    present = target > 0
    ratio = noise / torch.where(present, target, whole).clamp_min(EPSILON)
    limit = noise.new_tensor([10 ** (-silence_limit_db / 10), 10 ** (-limit_db / 10)])
    return 10 * torch.log10(ratio + limit[present.long()])


def _check(sources: Tensor, labels: Tensor) -> None:
    if sources.shape != labels.shape or sources.ndim != 4:
        raise DataError(
            f"sources and labels must both be (batch, num_sources, channels, samples), got {tuple(sources.shape)} and "
            f"{tuple(labels.shape)}"
        )


def pairwise_si_snr(sources: Tensor, labels: Tensor) -> Tensor:
    """Scale-invariant signal-to-noise ratio of every estimate against every target (Luo and Mesgarani, 2018).

    Args:
        sources: estimates, (batch, num_sources, channels, samples).
        labels: targets of the same shape.

    Returns:
        In dB, (batch, estimates, targets).

    Raises:
        DataError: if the shapes differ.
    """
    _check(sources, labels)
    return torch.stack([_si_snr(sources, label.unsqueeze(1)) for label in labels.unbind(1)], dim=2)


def assign(scores: Tensor) -> Tensor:
    """The estimate that each target gets so that the sum of scores is largest.

    Args:
        scores: (batch, estimates, targets), higher is better.

    Returns:
        Indices of estimates, (batch, targets).
    """
    count = scores.shape[-1]
    if count > EXHAUSTIVE_SOURCES:
        try:
            from scipy.optimize import linear_sum_assignment
        except ImportError as error:
            raise DataError(f"{count} sources are matched with scipy; pip install 'hubsep[eval]'") from error
        matrices = scores.detach().double().cpu().numpy()
        best = [linear_sum_assignment(matrix.T, maximize=True)[1] for matrix in matrices]
        return torch.stack([torch.from_numpy(row) for row in best]).to(scores.device)
    orders = torch.tensor(list(permutations(range(count))), device=scores.device)
    totals = scores.detach()[:, orders, torch.arange(count, device=scores.device)].sum(dim=-1)
    return orders[totals.argmax(dim=1)]


def reorder(sources: Tensor, order: Tensor) -> Tensor:
    """`sources` (batch, num_sources, channels, samples) with the outputs that `order` (batch, num_sources) names."""
    return sources.gather(1, order[..., None, None].expand(-1, -1, *sources.shape[2:]))


@torch.no_grad()
def permutation(sources: Tensor, labels: Tensor) -> Tensor:
    """Which output is which target: `sources[b, permutation[b, k]]` is the estimate of `labels[b, k]`.

    Args:
        sources: estimates, (batch, num_sources, channels, samples).
        labels: targets of the same shape.

    Returns:
        Indices, (batch, num_sources), of the best mean SI-SNR.
    """
    return assign(pairwise_si_snr(sources, labels))


def _mean_above(losses: Tensor, threshold_db: float | None) -> Tensor:
    """Mean over the items whose loss is above the threshold; 0 with zero gradients when there is none."""
    if threshold_db is None:
        return losses.mean()
    kept = (losses > threshold_db).to(losses.dtype)
    return (losses * kept).sum() / kept.sum().clamp_min(1)


def pit_si_snr(
    sources: Tensor, labels: Tensor, mixture: Tensor | None = None, *, threshold_db: float | None = None
) -> Tensor:
    """Negative SI-SNR under the best permutation of each item (Yu et al., 2017; Kolbaek et al., 2017).

    Args:
        sources: estimates, (batch, num_sources, channels, samples).
        labels: targets of the same shape.
        mixture: not used; every loss takes one.
        threshold_db: items whose loss is not above this are left out of the mean, -30 in the SepFormer recipes.

    Returns:
        Mean over sources, then over the batch, in dB.
    """
    order = permutation(sources, labels)
    return _mean_above(-_si_snr(reorder(sources, order), labels).mean(dim=1), threshold_db)


def pit_snr(
    sources: Tensor,
    labels: Tensor,
    mixture: Tensor,
    *,
    limit_db: float = 30.0,
    silence_limit_db: float = SILENCE_LIMIT_DB,
    threshold_db: float | None = None,
) -> Tensor:
    """Negative signal-to-noise ratio under the best permutation: keeps levels and knows silent targets.

    Args:
        sources: estimates, (batch, num_sources, channels, samples).
        labels: targets of the same shape; all zeros where a speaker says nothing.
        mixture: (batch, channels, samples).
        limit_db: no reward beyond this ratio, so that easy items do not drown hard ones (Wisdom et al., 2020, eq. 3).
        silence_limit_db: no reward for an output further below the mixture than this, where the target is silent.
        threshold_db: items whose loss is not above this are left out of the mean.

    Returns:
        Mean over sources, then over the batch, in dB.
    """
    _check(sources, labels)
    whole, limits = mixture.unsqueeze(1), (limit_db, silence_limit_db)
    with torch.no_grad():
        pairs = [_snr_loss(sources, label.unsqueeze(1), whole, *limits) for label in labels.unbind(1)]
        order = assign(-torch.stack(pairs, dim=2))
    losses = _snr_loss(reorder(sources, order), labels, whole, *limits)
    return _mean_above(losses.mean(dim=1), threshold_db)


def pit_snr_silence(sources: Tensor, labels: Tensor, mixture: Tensor) -> Tensor:
    """`pit_snr` that goes on rewarding silence down to `COUNTED_LIMIT_DB`: for models whose outputs are counted.

    An output counts as a speaker down to 25 dB below the mixture (`pipelines.scores`), so 15 dB leave a lone speaker
    counted as two.
    """
    return pit_snr(sources, labels, mixture, silence_limit_db=COUNTED_LIMIT_DB)


@torch.no_grad()
def mixit_assignment(sources: Tensor, mixtures: Tensor, limit_db: float = 30.0) -> Tensor:
    """Which outputs make up the first of two mixtures, as ones: (batch, num_sources); the others make up the second.

    Tried are all 2^num_sources sums, from inner products in double precision rather than on waveforms.
    """
    count = sources.shape[1]
    signals = torch.cat([mixtures, sources], dim=1).flatten(2).double()
    products = signals @ signals.mT
    choices = torch.tensor(list(product((1.0, 0.0), repeat=count)), dtype=torch.float64, device=sources.device)
    totals = torch.zeros((), dtype=torch.float64, device=sources.device)
    for index, chosen in enumerate((choices, 1 - choices)):
        power = products[:, index, index].clamp_min(EPSILON).unsqueeze(1)
        shared = products[:, index, 2:] @ chosen.T
        sum_energy = ((chosen @ products[:, 2:, 2:]) * chosen).sum(dim=-1)
        noise = (products[:, index, index].unsqueeze(1) - 2 * shared + sum_energy).clamp_min(0)
        totals = totals + torch.log10(noise / power + 10 ** (-limit_db / 10))
    return choices[totals.argmin(dim=1)].to(sources.dtype)


def mixit_loss(sources: Tensor, mixtures: Tensor, mixture: Tensor | None = None, *, limit_db: float = 30.0) -> Tensor:
    """Mixture-invariant training (Wisdom et al., 2020, 2006.12701): learns from mixtures whose sources nobody knows.

    The model separates the sum of two mixtures; its outputs are dealt to the two so that their sums fit best.

    Args:
        sources: what the model made of the sum of both, (batch, num_sources, channels, samples).
        mixtures: the two, (batch, 2, channels, samples), in the place of the labels.
        mixture: not used; every loss takes one.
        limit_db: no reward beyond this ratio.

    Returns:
        Negative SNR, mean over both mixtures and the batch, in dB.

    Raises:
        DataError: if there are not two mixtures, or more than `MIXIT_SOURCES` outputs.
    """
    if mixtures.ndim != 4 or mixtures.shape[1] != 2 or mixtures.shape[2:] != sources.shape[2:]:
        raise DataError(f"mixtures must be (batch, 2, channels, samples) like {tuple(sources.shape)}, got "
                        f"{tuple(mixtures.shape)}")  # fmt: skip
    if sources.shape[1] > MIXIT_SOURCES:
        raise DataError(
            f"mixture-invariant training tries 2^{sources.shape[1]} assignments; use at most {MIXIT_SOURCES} outputs"
        )
    sources = sources.float()
    first = mixit_assignment(sources, mixtures, limit_db)[..., None, None]
    sums = torch.stack([(sources * first).sum(dim=1), (sources * (1 - first)).sum(dim=1)], dim=1)
    noise = (mixtures.float() - sums).square().sum(dim=(-2, -1))
    power = mixtures.float().square().sum(dim=(-2, -1)).clamp_min(EPSILON)
    return 10 * torch.log10(noise / power + math.pow(10, -limit_db / 10)).mean()


def energy(waveform: Tensor) -> Tensor:
    """Sum of squares over channels and samples, (batch, num_sources, channels, samples) -> (batch, num_sources)."""
    return waveform.float().square().sum(dim=(-2, -1))


def sdr_loss(sources: Tensor, labels: Tensor, mixture: Tensor, *, limit_db: float = 30.0) -> Tensor:
    """Negative signal-to-distortion ratio in dB, flattening out at `limit_db`; silent targets: output over mixture.

    A silent target is worth at most `SILENCE_LIMIT_DB`: with 30 dB for silence, the easiest thing to make, a model of
    4 M parameters answered a third of the classes with silence after 1,000 steps.

    Args:
        sources: estimates, (batch, num_sources, channels, samples).
        labels: targets of the same shape; all zeros where the source is absent.
        mixture: (batch, channels, samples).
        limit_db: no reward beyond this ratio, so that easy items do not drown hard ones (Wisdom et al., 2020, eq. 3).

    Returns:
        Mean over the batch and sources, in dB.
    """
    target, whole = energy(labels), energy(mixture.unsqueeze(1)) + 1e-8
    present = target > 0
    noise = energy(labels - sources)
    present_loss = 10 * torch.log10(noise / target.clamp_min(1e-8) + 10 ** (-limit_db / 10))
    absent_loss = 10 * torch.log10(noise / whole + 10 ** (-SILENCE_LIMIT_DB / 10))
    return torch.where(present, present_loss, absent_loss).mean()


def si_sdr_loss(sources: Tensor, labels: Tensor, mixture: Tensor, *, limit_db: float = 30.0) -> Tensor:
    """`sdr_loss` against the target scaled to fit best: blind to the output level (Le Roux et al., 2019)."""
    scale = (sources.float() * labels.float()).sum(dim=(-2, -1)) / energy(labels).clamp_min(1e-8)
    return sdr_loss(sources, labels * scale[..., None, None], mixture, limit_db=limit_db)


def l1_loss(sources: Tensor, labels: Tensor, mixture: Tensor) -> Tensor:
    """Mean absolute error on the waveform (AudioSep, 2308.05037, section 3.3)."""
    return (sources.float() - labels.float()).abs().mean()


LOSSES: dict[str, Callable[..., Tensor]] = {
    "l1": l1_loss,
    "sdr": sdr_loss,
    "si_sdr": si_sdr_loss,
    "pit_si_snr": pit_si_snr,
    "pit_snr": pit_snr,
    "pit_snr_silence": pit_snr_silence,
    "mixit": mixit_loss,
}


__all__ = [
    "LOSSES",
    "assign",
    "l1_loss",
    "mixit_assignment",
    "mixit_loss",
    "pairwise_si_snr",
    "permutation",
    "pit_si_snr",
    "pit_snr",
    "pit_snr_silence",
    "reorder",
    "sdr_loss",
    "si_sdr_loss",
]
