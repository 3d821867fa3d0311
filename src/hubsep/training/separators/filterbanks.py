# SPDX-License-Identifier: Apache-2.0
"""Starts a learnt filterbank from the Fourier basis, for training runs too short to find one.

A filterbank of cosines and sines, each with both signs and rectified, loses nothing, and the first thing a masker sees
is where in time and frequency there is energy. Encoder and decoder stay parameters and are learnt on from there.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ...errors import DataError


def fourier_filters(kernel_size: int, num_filters: int) -> Tensor:
    """Cosines and sines under the root of a Hann window, with both signs, (num_filters, kernel_size).

    With half a kernel between frames, rectified outputs times the same filters add up to the input again.

    Raises:
        DataError: if `num_filters` is not twice the kernel size, or the kernel is odd.
    """
    if kernel_size % 2 or num_filters != 2 * kernel_size:
        raise DataError(
            f"a Fourier filterbank needs an even kernel_size and num_filters twice as large, got {kernel_size} and "
            f"{num_filters}"
        )
    time = torch.arange(kernel_size, dtype=torch.float64)
    window = torch.sin((time + 0.5) * torch.pi / kernel_size)  # its square and that half a kernel later add up to one
    bins = torch.arange(kernel_size // 2 + 1, dtype=torch.float64)
    angles = 2 * torch.pi * bins[:, None] * time / kernel_size
    scale = torch.full((len(bins), 1), (2 / kernel_size) ** 0.5, dtype=torch.float64)
    scale[[0, -1]] = kernel_size**-0.5
    waves = torch.cat([scale * torch.cos(angles), (scale * torch.sin(angles))[1:-1]]) * window
    return torch.cat([waves, -waves]).float()


@torch.no_grad()
def start_from_fourier(model: Any) -> None:
    """Sets encoder and decoder of a Conv-TasNet to the Fourier basis, in place.

    Raises:
        DataError: if the model has no such filterbanks, their sizes do not suit, frames do not overlap by half, or the
            encoder is not rectified.
    """
    config = model.config
    if config.model_type != "conv_tasnet":
        raise DataError("only a conv_tasnet starts from a Fourier filterbank; leave out fourier_filterbank")
    if config.encoder_activation != "relu" or 2 * config.stride != config.kernel_size:
        raise DataError(
            "a Fourier filterbank needs encoder_activation relu and a stride of half the kernel, got "
            f"{config.encoder_activation} and {config.stride} of {config.kernel_size}"
        )
    filters = fourier_filters(config.kernel_size, config.num_filters)
    model.encoder.weight.copy_(filters)
    model.decoder.weight.copy_(filters.T)


__all__ = ["fourier_filters", "start_from_fourier"]
