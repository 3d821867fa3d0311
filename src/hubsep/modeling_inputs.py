# SPDX-License-Identifier: Apache-2.0
"""What a separation model takes: one check of its waveform for every system, made before anything is computed."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from .errors import AudioError


BY_CHANNEL = "put further channels on the batch axis"


def check_waveform(config: Any, input_values: Tensor, lower: str = "a frame needs", advice: str = BY_CHANNEL) -> None:
    """Checks a waveform against the `num_channels` and the `minimum_samples` of a configuration.

    Args:
        config: of the model.
        input_values: what should be (batch, num_channels, samples).
        lower: what sets the lower limit of samples, as the error says it.
        advice: what to do with a recording of another number of channels, as the error says it.

    Raises:
        AudioError: if the waveform has another rank or channel count, or is too short.
    """
    shape, channels = tuple(input_values.shape), config.num_channels
    if len(shape) != 3 or shape[1] != channels:
        raise AudioError(f"input_values must be (batch, {channels}, samples), got {shape}; {advice}")
    if shape[-1] < config.minimum_samples:
        raise AudioError(f"input_values has {shape[-1]} samples; {lower} at least {config.minimum_samples}")


__all__ = ["check_waveform"]
