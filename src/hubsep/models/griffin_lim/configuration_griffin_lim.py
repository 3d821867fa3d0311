# SPDX-License-Identifier: Apache-2.0
"""Configuration of the vocoder that learns nothing; the fields a vocoder of AudioLDM 2 is asked for have its names."""

from __future__ import annotations

import math

from transformers import PreTrainedConfig

from ...errors import CheckpointError
from ...hub.bounds import bounded, bounded_list
from ...hub.config import HubsepConfigMixin


class GriffinLimVocoderConfig(HubsepConfigMixin, PreTrainedConfig):
    """Configuration of `GriffinLimVocoder`.

    Args:
        model_in_dim: mel bins.
        sampling_rate: of the waveform, in Hz.
        upsample_rates: their product is the samples of a frame.
        inversion_steps: updates of the magnitudes that explain the mel spectrogram.
        phase_steps: iterations that make phases agree with magnitudes.
        momentum: of these iterations, 0 for none.
        normalize_before: as in vocoders that learnt from normalised spectrograms; false here.
    """

    model_type = "griffin_lim_vocoder"

    model_in_dim: int = 64
    sampling_rate: int = 16_000
    upsample_rates: list[int] | tuple[int, ...] = (160,)
    inversion_steps: int = 60
    phase_steps: int = 32
    momentum: float = 0.99
    normalize_before: bool = False

    @property
    def hop_length(self) -> int:
        """Samples of a frame."""
        return math.prod(int(rate) for rate in self.upsample_rates)

    def check_fields(self) -> None:
        """Checks every field before anything is built from it.

        Raises:
            CheckpointError: naming the field, its value and the limits.
        """
        bounded("model_in_dim", self.model_in_dim, 1, 1_024)
        bounded("sampling_rate", self.sampling_rate, 1_000, 768_000)
        bounded_list("upsample_rates", self.upsample_rates, 1, 4_096, max_items=8)
        bounded("product of upsample_rates", self.hop_length, 2, 4_096)
        bounded("inversion_steps", self.inversion_steps, 1, 1_000)
        bounded("phase_steps", self.phase_steps, 1, 1_000)
        bounded("momentum", self.momentum, 0, 0.999, kind=float)
        if self.normalize_before is not False:
            raise CheckpointError("normalize_before must be false: this vocoder reads spectrograms as they are.")


__all__ = ["GriffinLimVocoderConfig"]
