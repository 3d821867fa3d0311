# SPDX-License-Identifier: Apache-2.0
"""Training losses on waveforms, with a rule for targets that are silent.

A ratio has no meaning against silence, so an item whose target is all zeros (the query asks for what is not there) is
charged the level of what came out, relative to the mixture.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from .losses_permutation import SILENCE_LIMIT_DB, mixit_loss, pit_si_snr, pit_snr, pit_snr_silence


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

__all__ = ["LOSSES", "l1_loss", "sdr_loss", "si_sdr_loss"]
