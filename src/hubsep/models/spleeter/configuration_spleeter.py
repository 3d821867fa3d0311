# SPDX-License-Identifier: Apache-2.0
"""Configuration of Spleeter: the defaults are the published model of two stems.

The hop is no field: the published inverse transform is only right for a quarter of the window. Nor is the length the
published chunks have in samples: it follows from `segment_frames`.
"""

from __future__ import annotations

from typing import Any

from transformers import PreTrainedConfig

from ...chunking import Segments
from ...errors import CheckpointError
from ...hub.bounds import bounded, bounded_list, one_of, shown, true_or_false
from ...hub.config import HubsepConfigMixin


NEGATIVE_SLOPE = 0.2  # of "leaky_relu"
ACTIVATIONS = ("leaky_relu", "relu", "elu")
MASK_ACTIVATIONS = ("sigmoid", "softmax")
MASK_EXTENSIONS = ("zeros", "average", "stem")
LOSSES = ("l1_magnitude", "l1", "sdr", "si_sdr")
DEPTH = 6  # convolutions down, and up again; each halves frames and bins
STRIDE = 2**DEPTH
MAX_STEMS, MAX_STEM_CHARACTERS = 64, 64


class SpleeterConfig(HubsepConfigMixin, PreTrainedConfig):
    """Configuration of `SpleeterForAudioSeparation` (Spleeter, 10.21105/joss.02154).

    Args:
        stems: what the sources are called, in their order.
        sampling_rate: in Hz.
        n_fft: window and transform length in samples, a power of two; frames are a quarter of it apart.
        segment_frames: frames the network sees at once, a multiple of 64.
        num_bins: bins the network sees, from 0 Hz on, a multiple of 64.
        conv_channels: of the six convolutions down.
        encoder_activation: on the way down, "leaky_relu" (slope 0.2), "relu" or "elu".
        decoder_activation: on the way up.
        mask_activation: what makes an estimate of the mixture's magnitude: "sigmoid" for each stem, or "softmax" over
            the stems.
        separation_exponent: power of the estimates that the ratio masks are made from.
        mask_extension: what the stems get above `num_bins`: nothing for "zeros"; their mean mask of a frame for
            "average"; with "stem" all of it goes to `extension_stem`, so that the stems add up to the mixture.
        extension_stem: one of `stems`, with the extension "stem" only.
        wiener_filter: whether a multichannel Wiener filter takes the place of the ratio masks. Exponent and extension
            then have no effect, but for the extension "stem".
        freeze_norm: whether norms use their stored statistics, and nothing is dropped, in training too, as when the
            published weights were trained.
        decoder_dropout: part of the channels that the first three layers on the way up drop in training, without
            `freeze_norm`.
        loss: "l1_magnitude" on the estimates of the network, or another name of `hubsep.losses.LOSSES` on waveforms.
        reference_level_db: RMS level, in dB of full scale, that a pipeline brings a whole recording to before it is
            separated; the sources come back at the recording's own level. None, as published weights need, leaves
            recordings as they are. `forward` never changes a level.
        segment_samples: length in which long recordings are worked through; the default fills one segment of frames.
        overlap_samples: how much neighbouring segments share. With 0, the published and the default, pieces of a
            recording add up to exactly what the whole of it gives, however it is cut. With more, segments are
            cross-faded and their edges, of which a network knows least, left out.
    """

    model_type = "spleeter"

    stems: list[str] | tuple[str, ...] = ("vocals", "accompaniment")
    sampling_rate: int = 44_100
    n_fft: int = 4_096
    segment_frames: int = 512
    num_bins: int = 1_024
    conv_channels: list[int] | tuple[int, ...] = (16, 32, 64, 128, 256, 512)
    encoder_activation: str = "leaky_relu"
    decoder_activation: str = "relu"
    mask_activation: str = "sigmoid"
    separation_exponent: float = 2.0
    mask_extension: str = "zeros"
    extension_stem: str | None = None
    wiener_filter: bool = False
    freeze_norm: bool = True
    decoder_dropout: float = 0.5
    loss: str = "l1_magnitude"
    reference_level_db: float | None = None
    segment_samples: int = 520_192
    overlap_samples: int = 0

    is_text_queried = False
    num_channels = 2
    minimum_samples = 1
    known_sounds = ()
    unordered_sources = False
    free_scale = False
    call_options = ("num_bins", "separation_exponent", "mask_extension", "extension_stem", "wiener_filter")

    @property
    def source_names(self) -> tuple[str, ...]:
        """What the sources are called."""
        return tuple(self.stems)

    @property
    def num_sources(self) -> int:
        """How many stems there are."""
        return len(self.stems)

    @property
    def hop_length(self) -> int:
        """Samples between frames."""
        return self.n_fft // 4

    def exact_segments(self, samples: int) -> Segments:
        """Pieces whose results add up to those of the whole recording, for `forward` with `piece=`.

        They are whole segments of the network, as many as `samples` hold, but one at least. Neighbours share the
        samples under the last frames of one that reach into the other.
        """
        length = self.segment_frames * self.hop_length
        shared = self.n_fft - self.hop_length
        return Segments(max(1, samples // length) * length + shared, shared, additive=True, lead=self.n_fft)

    @staticmethod
    def complete_options(options: dict[str, Any]) -> dict[str, Any]:
        """Options of a call, with `mask_extension` and `extension_stem` following each other."""
        if options.get("mask_extension", "stem") != "stem":
            return {"extension_stem": None, **options}
        if options.get("extension_stem") is not None:
            return {"mask_extension": "stem", **options}
        return options

    def segment_numbers(self) -> int:
        """About how many numbers `forward` holds at a time over one segment."""
        frames = -(-self.segment_samples // (self.segment_frames * self.hop_length)) * self.segment_frames
        maps = sum(3 * channels / 4**level for level, channels in enumerate(self.conv_channels, 1))
        return frames * int(self.num_bins * (maps + 4 * self.num_sources) + 2 * self.n_fft * (self.num_sources + 1))

    def check_fields(self) -> None:
        """Checks every field before a module is built from it.

        Raises:
            CheckpointError: naming the field, its value and the limits.
        """
        self._check_stems()
        bounded("n_fft", self.n_fft, 2 * STRIDE, 2**16)
        if self.n_fft & (self.n_fft - 1):
            raise CheckpointError(f"n_fft is {self.n_fft}; it must be a power of two.")
        bounded("segment_frames", self.segment_frames, STRIDE, 2**14)
        bounded("num_bins", self.num_bins, STRIDE, self.n_fft // 2)
        for name in ("segment_frames", "num_bins"):
            if getattr(self, name) % STRIDE:
                raise CheckpointError(f"{name} is {getattr(self, name)}; it must be a multiple of {STRIDE}.")
        bounded_list("conv_channels", self.conv_channels, 1, 16_384)
        if len(self.conv_channels) != DEPTH:
            raise CheckpointError(f"conv_channels has {len(self.conv_channels)} entries; there are {DEPTH} layers.")
        one_of("encoder_activation", self.encoder_activation, ACTIVATIONS)
        one_of("decoder_activation", self.decoder_activation, ACTIVATIONS)
        one_of("mask_activation", self.mask_activation, MASK_ACTIVATIONS)
        one_of("mask_extension", self.mask_extension, MASK_EXTENSIONS)
        one_of("loss", self.loss, LOSSES)
        bounded("separation_exponent", self.separation_exponent, 0.1, 8, kind=float)
        bounded("decoder_dropout", self.decoder_dropout, 0, 0.95, kind=float)
        for name in ("wiener_filter", "freeze_norm"):
            true_or_false(name, getattr(self, name))
        self.check_segments()

    def _check_stems(self) -> None:
        if not isinstance(self.stems, list | tuple) or not 2 <= len(self.stems) <= MAX_STEMS:
            raise CheckpointError(f"stems is {shown(self.stems)}; it must be a list of 2 to {MAX_STEMS} names.")
        for stem in self.stems:
            if not isinstance(stem, str) or not 0 < len(stem) <= MAX_STEM_CHARACTERS or not stem.isprintable():
                raise CheckpointError(f"stems has {shown(stem)}, which is not accepted as the name of a stem.")
        if len(set(self.stems)) < len(self.stems):
            raise CheckpointError(f"stems is {shown(self.stems)}; each name may be there once.")
        if self.mask_extension == "stem":
            if self.extension_stem not in self.stems:
                raise CheckpointError(
                    f"extension_stem is {shown(self.extension_stem)}; with mask_extension 'stem' it must be one of "
                    f"{', '.join(self.stems)}."
                )
        elif self.extension_stem is not None:
            raise CheckpointError(
                f"extension_stem is {shown(self.extension_stem)}, which only mask_extension 'stem' uses; leave it out."
            )

    def decoder_channels(self) -> list[tuple[int, int]]:
        """Channels that each layer on the way up reads and makes."""
        outputs = [*reversed(self.conv_channels[:-1]), 1]
        inputs = [self.conv_channels[-1], *(2 * channels for channels in outputs[:-1])]
        return list(zip(inputs, outputs, strict=True))

    def estimated_parameters(self) -> int:
        """How many parameters the model will have, but for norms and biases."""
        pairs = [*zip([2, *self.conv_channels[:-1]], self.conv_channels, strict=True), *self.decoder_channels()]
        return self.num_sources * sum(25 * inputs * outputs for inputs, outputs in pairs)


__all__ = ["ACTIVATIONS", "DEPTH", "MASK_ACTIVATIONS", "MASK_EXTENSIONS", "NEGATIVE_SLOPE", "SpleeterConfig"]
