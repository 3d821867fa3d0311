# SPDX-License-Identifier: Apache-2.0
"""What a folder of AudioLDM 2 says of itself to transformers, in a `config.json` beside its `model_index.json`.

The sizes of its components are in the components' own files. This one lets `AutoConfig` and with it
`transformers.pipeline("text-to-audio", model=folder)` recognise the folder, and says the rate of what it makes;
nothing else is read from it. diffusers does not look at it.
"""

from __future__ import annotations

from pathlib import Path

from transformers import PreTrainedConfig

from ...hub.bounds import bounded
from ...hub.config import HubsepConfigMixin
from ...hub.json_files import read_json


class AudioLDM2Config(HubsepConfigMixin, PreTrainedConfig):
    """Configuration of `AudioLDM2ForTextToWaveform` (AudioLDM 2, 2308.05734).

    Args:
        sampling_rate: of what is made, in Hz.
    """

    model_type = "audioldm2"

    sampling_rate: int = 16_000

    def check_fields(self) -> None:
        """Checks the field.

        Raises:
            CheckpointError: naming it, its value and the limits.
        """
        bounded("sampling_rate", self.sampling_rate, 1_000, 768_000)


def write_config(folder: Path) -> None:
    """Writes the file into a folder of components, with the rate of its vocoder."""
    vocoder = read_json(folder / "vocoder" / "config.json")
    AudioLDM2Config(sampling_rate=vocoder["sampling_rate"]).save_pretrained(folder)


__all__ = ["AudioLDM2Config", "write_config"]
