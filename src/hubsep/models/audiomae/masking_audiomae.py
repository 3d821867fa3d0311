# SPDX-License-Identifier: Apache-2.0
"""Which patches AudioMAE's pre-training hides, and what it has to say about them.

Masking is drawn for each recording of a batch. "random" hides patches; "time_frequency" hides whole time steps and
whole bands. The noise that decides can be given, so that a draw can be repeated anywhere: small noise is kept.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from ...errors import DataError


EPSILON = 1e-6  # added to the variance of a target patch


class Masking(NamedTuple):
    """What is hidden: `kept` (batch, kept patches), `ids_restore` and `mask` (batch, patches), 1 where hidden."""

    kept: Tensor
    ids_restore: Tensor
    mask: Tensor


def random_masking(noise: Tensor, ratio: float) -> Masking:
    """Hides a part of the patches.

    Args:
        noise: (batch, patches); the patches with the smallest are kept, in that order.
        ratio: part of the patches that is hidden.
    """
    return _masking(noise.argsort(dim=1, stable=True), _num_kept(noise.shape[1], ratio))


def time_frequency_masking(noise: Tensor, bands: int, time_ratio: float, frequency_ratio: float) -> Masking:
    """Hides whole time steps and whole bands; patches are kept in their order.

    Args:
        noise: (batch, time steps + bands); the steps, and the bands, with the smallest are kept.
        bands: how many bands there are.
        time_ratio: part of the time steps that is hidden.
        frequency_ratio: part of the bands that is hidden.
    """
    steps = noise.shape[1] - bands
    time_kept, frequency_kept = _num_kept(steps, time_ratio), _num_kept(bands, frequency_ratio)
    hidden_steps = _ranks(noise[:, :steps]) >= time_kept
    hidden_bands = _ranks(noise[:, steps:]) >= frequency_kept
    hidden = (hidden_steps[:, :, None] | hidden_bands[:, None, :]).flatten(1)
    return _masking(hidden.long().argsort(dim=1, stable=True), time_kept * frequency_kept)


def _num_kept(number: int, ratio: float) -> int:
    """What is left of `number`, rounded down; 40 * (1 - 0.8) is 7.999 to a computer and 8 here."""
    return int(number * (1 - ratio) + 1e-6)


def _ranks(noise: Tensor) -> Tensor:
    return noise.argsort(dim=1, stable=True).argsort(dim=1)


def _masking(order: Tensor, num_kept: int) -> Masking:
    """From the patches in the order of being kept."""
    if num_kept < 1:
        raise DataError(f"the masking keeps none of {order.shape[1]} patches; hide less, or give longer spectrograms")
    ids_restore = order.argsort(dim=1)
    return Masking(order[:, :num_kept], ids_restore, (ids_restore >= num_kept).float())


def patchify(spectrogram: Tensor, patch_size: int) -> Tensor:
    """Patches with time as the slow axis: (batch, 1, frames, bins) -> (batch, patches, patch_size^2)."""
    patches = spectrogram[:, 0].unflatten(2, (-1, patch_size)).unflatten(1, (-1, patch_size))
    return patches.transpose(2, 3).flatten(3).flatten(1, 2)


def unpatchify(patches: Tensor, bands: int, patch_size: int) -> Tensor:
    """Inverse of `patchify`, of a spectrogram with `bands` patches in frequency."""
    blocks = patches.unflatten(2, (patch_size, patch_size)).unflatten(1, (-1, bands))
    return blocks.transpose(2, 3).flatten(3).flatten(1, 2).unsqueeze(1)


def reconstruction_loss(logits: Tensor, target: Tensor, mask: Tensor, normalize: bool) -> Tensor:
    """Mean squared error over the hidden patches, in float32.

    Args:
        logits: predicted patches, (batch, patches, patch_size^2).
        target: true patches of the same shape.
        mask: (batch, patches), 1 where hidden.
        normalize: whether each target patch has its own mean and (unbiased) variance taken out.
    """
    target = target.float()
    if normalize:
        variance, mean = torch.var_mean(target, dim=-1, keepdim=True)
        target = (target - mean) * (variance + EPSILON).rsqrt()
    error = (logits.float() - target).square().mean(dim=-1)
    return (error * mask).sum() / mask.sum().clamp_min(1)


__all__ = ["Masking", "patchify", "random_masking", "reconstruction_loss", "time_frequency_masking", "unpatchify"]
