# SPDX-License-Identifier: Apache-2.0
"""Configuration of Conv-TasNet: one graph, and a field for each thing in which published weights differ.

What the families of published weights do not differ in, after all, has no field: the last residual convolution that
one of them stores is never used, and whether masks are activated before or after they are told apart by source only
matters for softmax, which one of them has.
"""

from __future__ import annotations

from transformers import PreTrainedConfig

from ...errors import CheckpointError
from ...hub.bounds import bounded, one_of, true_or_false
from ...hub.config import FREE_SCALE_LOSSES, HubsepConfigMixin


ENCODER_ACTIVATIONS = ("linear", "relu", "sigmoid", "tanh")
MASK_ACTIVATIONS = ("relu", "sigmoid", "softmax", "tanh", "linear")
NORMS = ("gln", "cln", "cgln")
LOSSES = ("pit_si_snr", "pit_snr", "pit_snr_silence", "si_sdr", "sdr", "l1")


class ConvTasNetConfig(HubsepConfigMixin, PreTrainedConfig):
    """Configuration of `ConvTasNetForAudioSeparation` (Conv-TasNet, 1809.07454); the defaults are the paper's best.

    Args:
        num_sources: how many speakers; 1 for a model that takes speech out of noise.
        sampling_rate: in Hz.
        num_filters: filters of the encoder and of the decoder, the paper's N.
        kernel_size: length of a filter in samples, L.
        stride: samples between frames.
        encoder_activation: what the encoder's output goes through: "linear", "relu", "sigmoid" or "tanh".
        pad_edges: whether `stride` zeros go before and after the waveform and the end is filled to a whole frame, so
            that every sample is seen by as many frames; without, what is left after the last whole frame is zero.
        bottleneck_channels: of the residual stream, B.
        hidden_channels: inside a block, H.
        skip_channels: of the sum that the masks are made from, Sc; 0 for masks from the residual stream.
        conv_kernel_size: of the dilated convolutions, P.
        num_blocks: blocks of a repeat, X; their dilations are 1, 2, 4, ...
        num_repeats: R.
        norm: "gln" over channels and all frames, "cln" over the channels of each frame, "cgln" over channels and the
            frames so far.
        causal: whether the dilated convolutions look back only. With "cln" or "cgln" the model can then be streamed.
        mask_activation: "relu", "sigmoid", "softmax" (over the sources), "tanh" or "linear".
        loss: "pit_si_snr", or another name of `hubsep.losses.LOSSES`.
        reference_level_db: RMS level, in dB of full scale, that a pipeline brings a whole recording to before it is
            separated; the sources come back at the recording's own level. None, as published weights need, leaves
            recordings as they are. `forward` never changes a level.
        segment_samples: length in which long recordings are worked through.
        overlap_samples: how much neighbouring segments share.
    """

    model_type = "conv_tasnet"

    num_sources: int = 2
    sampling_rate: int = 8_000
    num_filters: int = 512
    kernel_size: int = 16
    stride: int = 8
    encoder_activation: str = "linear"
    pad_edges: bool = False
    bottleneck_channels: int = 128
    hidden_channels: int = 512
    skip_channels: int = 128
    conv_kernel_size: int = 3
    num_blocks: int = 8
    num_repeats: int = 3
    norm: str = "gln"
    causal: bool = False
    mask_activation: str = "relu"
    loss: str = "pit_si_snr"
    reference_level_db: float | None = None
    segment_samples: int = 80_000
    overlap_samples: int = 16_000

    is_text_queried = False
    num_channels = 1
    known_sounds = ()

    @property
    def free_scale(self) -> bool:
        """Whether the level of the sources means nothing, as a scale-invariant loss leaves it."""
        return self.loss in FREE_SCALE_LOSSES

    @property
    def source_names(self) -> tuple[str, ...]:
        """What the sources are called."""
        if self.num_sources == 1:
            return ("speech",)
        return tuple(f"speaker {number}" for number in range(1, self.num_sources + 1))

    @property
    def unordered_sources(self) -> bool:
        """Whether any speaker may come out at any place."""
        return self.num_sources > 1

    @property
    def minimum_samples(self) -> int:
        """Shortest waveform that gives a frame."""
        return max(1, self.kernel_size - 2 * self.stride) if self.pad_edges else self.kernel_size

    @property
    def can_stream(self) -> bool:
        """Whether no frame needs a later one."""
        return self.causal and self.norm != "gln"

    def segment_numbers(self) -> int:
        """About how many numbers `forward` holds at a time over one segment."""
        frames = self.segment_samples // self.stride + 2
        width = 3 * self.hidden_channels + 2 * self.bottleneck_channels + self.skip_channels
        return frames * (width + self.num_filters * (self.num_sources + 1))

    def check_fields(self) -> None:
        """Checks every field before a module is built from it.

        Raises:
            CheckpointError: naming the field, its value and the limits.
        """
        bounded("num_sources", self.num_sources, 1, 64)
        bounded("num_filters", self.num_filters, 1, 65_536)
        bounded("kernel_size", self.kernel_size, 1, 65_536)
        bounded("stride", self.stride, 1, self.kernel_size)
        bounded("bottleneck_channels", self.bottleneck_channels, 1, 65_536)
        bounded("hidden_channels", self.hidden_channels, 1, 65_536)
        bounded("skip_channels", self.skip_channels, 0, 65_536)
        bounded("conv_kernel_size", self.conv_kernel_size, 1, 1_024)
        bounded("num_blocks", self.num_blocks, 1, 24)
        bounded("num_repeats", self.num_repeats, 1, 64)
        one_of("encoder_activation", self.encoder_activation, ENCODER_ACTIVATIONS)
        one_of("norm", self.norm, NORMS)
        one_of("mask_activation", self.mask_activation, MASK_ACTIVATIONS)
        one_of("loss", self.loss, LOSSES)
        for name in ("pad_edges", "causal"):
            true_or_false(name, getattr(self, name))
        if not self.causal and self.conv_kernel_size % 2 == 0:
            raise CheckpointError(
                f"conv_kernel_size is {self.conv_kernel_size}; without causal it must be odd, to have a middle."
            )
        self.check_segments()

    def estimated_parameters(self) -> int:
        """How many parameters the model will have, but for norms, biases and slopes."""
        pointwise = 2 * self.bottleneck_channels + self.skip_channels
        blocks = self.num_blocks * self.num_repeats * self.hidden_channels * (pointwise + self.conv_kernel_size)
        masks = (self.skip_channels or self.bottleneck_channels) * self.num_sources
        filters = 2 * self.kernel_size + self.bottleneck_channels + masks
        return blocks + self.num_filters * filters


__all__ = ["ConvTasNetConfig"]
