# SPDX-License-Identifier: Apache-2.0
"""Metrics of separation, each as its paper's own code defines it (no mean removal, the same floors)."""

from __future__ import annotations

import torch
from torch import Tensor


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


def level_change(estimate: Tensor, mixture: Tensor) -> Tensor:
    """Level of the estimate relative to the mixture, in dB, over the last axis."""
    return 10 * torch.log10(estimate.square().mean(-1).clamp_min(1e-12) / mixture.square().mean(-1).clamp_min(1e-12))


__all__ = ["level_change", "sdr", "sdr_improvement", "si_sdr"]
