# SPDX-License-Identifier: Apache-2.0
"""Configuration of AudioMAE: the defaults are the published model.

One configuration serves the encoder alone and the encoder with its pre-training decoder; the decoder's fields say
nothing about a folder that holds an encoder only. What is done to the waveform before the patches is in the feature
extractor's own file.
"""

from __future__ import annotations

import math

from transformers import PreTrainedConfig

from ...errors import CheckpointError, QueryError
from ...hub.bounds import bounded, one_of, true_or_false
from ...hub.config import HubsepConfigMixin


DECODERS = ("shifted_window", "global")
MASKINGS = ("random", "time_frequency")
MAX_CALL_NUMBERS = 2**28
LOA_POOLS = (8, 4, 2, 1)


class AudioMAEConfig(HubsepConfigMixin, PreTrainedConfig):
    """Configuration of `AudioMAEModel` and `AudioMAEForPreTraining` (Masked Autoencoders that Listen, 2207.06405).

    Args:
        sampling_rate: of the waveforms the spectrograms are made of, in Hz.
        num_frames: the most frames a spectrogram may have, a multiple of `patch_size`.
        num_mel_bins: mel bins of a spectrogram, a multiple of `patch_size`.
        patch_size: frames and bins of a patch.
        hidden_size: of the encoder, a multiple of 4 and of the heads.
        num_hidden_layers: of the encoder.
        num_attention_heads: of the encoder.
        intermediate_size: of the encoder's feed-forward networks.
        num_averaged_layers: the output is the mean of the normalised outputs of this many last layers.
        layer_norm_eps: added to the variance in every norm.
        decoder_type: "shifted_window" (attention within windows, as the published weights), or "global".
        decoder_hidden_size: of the decoder, a multiple of 4 and of its heads.
        decoder_num_layers: of the decoder; 16 of windows and 8 of global attention were published.
        decoder_num_attention_heads: of the decoder.
        decoder_intermediate_size: of the decoder's feed-forward networks.
        decoder_window_size: patches of a window in time and in frequency, of the shifted-window decoder.
        decoder_bias_hidden_size: of the small network that makes biases of attention from the places in a window.
        decoder_bias_dropout: part of that network's outputs which is dropped in training.
        masking: what is hidden in training: patches at "random", or whole stretches of "time_frequency".
        mask_ratio: part of the patches that is hidden with "random".
        mask_time_ratio: part of the time steps that is hidden with "time_frequency".
        mask_frequency_ratio: part of the bands that is hidden with "time_frequency".
        normalize_targets: whether the decoder's target is each patch with its own mean and variance taken out.
        initializer_range: deviation that the class token and the mask token start with.
    """

    model_type = "audiomae"

    sampling_rate: int = 16_000
    num_frames: int = 1_024
    num_mel_bins: int = 128
    patch_size: int = 16
    hidden_size: int = 768
    num_hidden_layers: int = 12
    num_attention_heads: int = 12
    intermediate_size: int = 3_072
    num_averaged_layers: int = 3
    layer_norm_eps: float = 1e-6
    decoder_type: str = "shifted_window"
    decoder_hidden_size: int = 512
    decoder_num_layers: int = 16
    decoder_num_attention_heads: int = 16
    decoder_intermediate_size: int = 2_048
    decoder_window_size: int = 4
    decoder_bias_hidden_size: int = 384
    decoder_bias_dropout: float = 0.1
    masking: str = "random"
    mask_ratio: float = 0.8
    mask_time_ratio: float = 0.6
    mask_frequency_ratio: float = 0.5
    normalize_targets: bool = True
    initializer_range: float = 0.02

    @property
    def grid(self) -> tuple[int, int]:
        """Patches of the longest spectrogram in time and in frequency."""
        return self.num_frames // self.patch_size, self.num_mel_bins // self.patch_size

    def loa_pool(self, tokens: int | None = None) -> tuple[int, int]:
        """Patches in time and in frequency that become one token of the language of audio.

        Args:
            tokens: how many are wanted; None for the original's 8 x 8 of sounds and music, as far as there are so
                many. For speech the original pools 1 x 1.

        Raises:
            QueryError: if no square of 8, 4, 2 or 1 patches makes so many tokens.
        """
        steps, bands = self.grid
        for size in LOA_POOLS:
            pool = (min(size, steps), min(size, bands))
            if tokens is None or (steps // pool[0]) * (bands // pool[1]) == tokens:
                return pool
        raise QueryError(f"{steps} x {bands} patches cannot be pooled to {tokens} tokens of LOA")

    def check_fields(self) -> None:
        """Checks every field before a module is built from it.

        Raises:
            CheckpointError: naming the field, its value and the limits.
        """
        bounded("sampling_rate", self.sampling_rate, 1_000, 768_000)
        bounded("patch_size", self.patch_size, 1, 256)
        bounded("num_frames", self.num_frames, self.patch_size, 2**15)
        bounded("num_mel_bins", self.num_mel_bins, self.patch_size, 1_024)
        self._divides("num_frames", "patch_size")
        self._divides("num_mel_bins", "patch_size")
        bounded("num_hidden_layers", self.num_hidden_layers, 1, 256)
        bounded("num_averaged_layers", self.num_averaged_layers, 1, self.num_hidden_layers)
        bounded("decoder_num_layers", self.decoder_num_layers, 1, 256)
        for prefix in ("", "decoder_"):
            bounded(f"{prefix}hidden_size", getattr(self, f"{prefix}hidden_size"), 4, 16_384)
            bounded(f"{prefix}num_attention_heads", getattr(self, f"{prefix}num_attention_heads"), 1, 256)
            bounded(f"{prefix}intermediate_size", getattr(self, f"{prefix}intermediate_size"), 1, 65_536)
            self._divides(f"{prefix}hidden_size", f"{prefix}num_attention_heads")
            if getattr(self, f"{prefix}hidden_size") % 4:
                raise CheckpointError(
                    f"{prefix}hidden_size is {getattr(self, f'{prefix}hidden_size')}; it must be a multiple of 4."
                )
        bounded("layer_norm_eps", self.layer_norm_eps, 1e-12, 1.0, kind=float)
        bounded("initializer_range", self.initializer_range, 0, 10, kind=float)
        true_or_false("normalize_targets", self.normalize_targets)
        self._check_decoder()
        self._check_memory()

    def _check_memory(self) -> None:
        """Whether what a call holds stays within bounds, and not only each number by itself."""
        patches, window = math.prod(self.grid), self.decoder_window_size
        heads, layers = max(self.num_attention_heads, self.decoder_num_attention_heads), ("", "decoder_")
        widths = [
            4 * getattr(self, f"{name}hidden_size") + getattr(self, f"{name}intermediate_size") for name in layers
        ]
        bias = 4 * window**2 * self.decoder_bias_hidden_size
        for name, numbers in {
            "patches of a spectrogram, times the width of a layer": patches * max(widths),
            "pairs of patches, times num_attention_heads": patches**2 * heads,
            "pairs of places in decoder_window_size, times heads": window**4 * self.decoder_num_attention_heads,
            "places of decoder_window_size, times decoder_bias_hidden_size": bias,
        }.items():
            bounded(name, numbers, 1, MAX_CALL_NUMBERS)

    def _check_decoder(self) -> None:
        one_of("decoder_type", self.decoder_type, DECODERS)
        one_of("masking", self.masking, MASKINGS)
        bounded("decoder_window_size", self.decoder_window_size, 1, 64)
        bounded("decoder_bias_hidden_size", self.decoder_bias_hidden_size, 1, 16_384)
        bounded("decoder_bias_dropout", self.decoder_bias_dropout, 0, 0.95, kind=float)
        for name in ("mask_ratio", "mask_time_ratio", "mask_frequency_ratio"):
            bounded(name, getattr(self, name), 0, 0.999, kind=float)
        if self.decoder_type == "shifted_window" and any(side % self.decoder_window_size for side in self.grid):
            raise CheckpointError(
                f"decoder_window_size is {self.decoder_window_size}; it must divide the {self.grid[0]} x "
                f"{self.grid[1]} patches of a spectrogram, or decoder_type be 'global'."
            )

    def _divides(self, whole: str, part: str) -> None:
        if getattr(self, whole) % getattr(self, part):
            raise CheckpointError(f"{whole} is {getattr(self, whole)}; it must divide by {getattr(self, part)}.")

    def estimated_parameters(self) -> int:
        """How many parameters the encoder will have, but for norms, biases and tokens."""
        layer = self.hidden_size * (4 * self.hidden_size + 2 * self.intermediate_size)
        return self.hidden_size * self.patch_size**2 + self.num_hidden_layers * layer


__all__ = ["DECODERS", "MASKINGS", "AudioMAEConfig"]
