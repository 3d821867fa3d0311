# SPDX-License-Identifier: Apache-2.0
"""Configuration of the classifier of sounds; what is done to a waveform is part of it, so a folder says it all."""

from __future__ import annotations

from transformers import PreTrainedConfig

from ...errors import CheckpointError
from ...hub.bounds import bounded, bounded_list
from ...hub.config import HubsepConfigMixin


class SoundClassifierConfig(HubsepConfigMixin, PreTrainedConfig):
    """Configuration of `SoundClassifier`.

    Args:
        class_names: one for each output.
        sampling_rate: of waveforms, in Hz.
        hop_length: samples of a frame.
        num_frames: of an excerpt.
        num_mels: mel bins.
        range_nepers: how far below the loudest place of an excerpt anything is still told from silence.
        channels: of the convolutions, one after the other; all but the first are followed by halving.
        embedding_size: numbers of an embedding.
        dropout: in training, before the last layer.
    """

    model_type = "sound_classifier"

    class_names: list[str] | tuple[str, ...] = ("sound", "anything else")
    sampling_rate: int = 16_000
    hop_length: int = 512
    num_frames: int = 160
    num_mels: int = 64
    range_nepers: float = 8.0
    channels: list[int] | tuple[int, ...] = (24, 48, 96, 160)
    embedding_size: int = 96
    dropout: float = 0.3

    @property
    def samples(self) -> int:
        """Of an excerpt."""
        return self.num_frames * self.hop_length

    @property
    def bands(self) -> int:
        """What halving leaves of the mel bins."""
        left = -(-self.num_mels // 2)
        return left >> (len(self.channels) - 1)

    def check_fields(self) -> None:
        """Checks every field before a module is built from it.

        Raises:
            CheckpointError: naming the field, its value and the limits.
        """
        names = self.class_names
        if not isinstance(names, list | tuple) or not all(isinstance(name, str) for name in names):
            raise CheckpointError("class_names must be a list of names.")
        if not 2 <= len(names) == len(set(names)) <= 4_096:
            raise CheckpointError(f"class_names must be 2 to 4096 different names, got {len(names)}.")
        bounded("sampling_rate", self.sampling_rate, 1_000, 768_000)
        bounded("hop_length", self.hop_length, 1, 8_192)
        bounded_list("channels", self.channels, 1, 4_096, max_items=8)
        bounded("num_frames", self.num_frames, 2 ** len(self.channels), 2**15)
        bounded("num_mels", self.num_mels, 2 ** len(self.channels), 1_024)
        maps = self.num_frames * self.num_mels * self.channels[0]
        bounded("product of num_frames, num_mels and the first of channels", maps, 1, 2**28)
        bounded("range_nepers", self.range_nepers, 0.1, 30.0, kind=float)
        bounded("embedding_size", self.embedding_size, 1, 16_384)
        bounded("dropout", self.dropout, 0.0, 0.95, kind=float)


__all__ = ["SoundClassifierConfig"]
