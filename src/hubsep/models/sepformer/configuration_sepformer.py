# SPDX-License-Identifier: Apache-2.0
"""Configuration of SepFormer. The defaults are the published model's for two speakers at 8 kHz.

All published models share this size, those at 16 kHz too; only `num_sources` and `sampling_rate` differ.
"""

from __future__ import annotations

from transformers import PreTrainedConfig

from ...errors import CheckpointError
from ...hub.bounds import bounded, one_of
from ...hub.config import FREE_SCALE_LOSSES, HubsepConfigMixin


class SepFormerConfig(HubsepConfigMixin, PreTrainedConfig):
    """Configuration of `SepFormerForAudioSeparation` (SepFormer, 2010.13154).

    Args:
        sampling_rate: in Hz.
        num_sources: speakers to separate; 1 is enhancement, speech from noise.
        encoder_kernel_size: length of an encoder filter in samples.
        encoder_stride: samples between frames; divides the kernel size.
        encoder_channels: filters of the encoder and the decoder.
        hidden_size: width of the transformer layers; even, and divisible by the heads.
        num_blocks: dual-path blocks, each an intra and an inter stack.
        num_intra_layers: transformer layers within a chunk, in each block.
        num_inter_layers: transformer layers across chunks, in each block.
        num_attention_heads: of every layer.
        intermediate_size: of every layer's feed-forward network.
        chunk_size: frames of a chunk, even; neighbouring chunks share half of it.
        layer_norm_eps: of the layers' norms.
        global_norm_eps: of the norms over all frames and channels of a recording.
        segment_samples: length in which long recordings are worked through.
        overlap_samples: how much neighbouring segments share.
        loss: "pit_si_snr" as published, or any other name in `hubsep.losses`.
    """

    model_type = "sepformer"

    sampling_rate: int = 8_000
    num_sources: int = 2
    encoder_kernel_size: int = 16
    encoder_stride: int = 8
    encoder_channels: int = 256
    hidden_size: int = 256
    num_blocks: int = 2
    num_intra_layers: int = 8
    num_inter_layers: int = 8
    num_attention_heads: int = 8
    intermediate_size: int = 1_024
    chunk_size: int = 250
    layer_norm_eps: float = 1e-6
    global_norm_eps: float = 1e-8
    segment_samples: int = 128_000
    overlap_samples: int = 32_000
    loss: str = "pit_si_snr"

    num_channels = 1
    is_text_queried = False
    known_sounds = ()

    @property
    def free_scale(self) -> bool:
        """Whether the level of the sources means nothing, as a scale-invariant loss leaves it."""
        return self.loss in FREE_SCALE_LOSSES

    @property
    def minimum_samples(self) -> int:
        """Shortest waveform that fills a frame."""
        return self.encoder_kernel_size

    @property
    def unordered_sources(self) -> bool:
        """Whether any output may be any speaker."""
        return self.num_sources > 1

    @property
    def source_names(self) -> tuple[str, ...]:
        """Labels of the outputs."""
        if self.num_sources == 1:
            return ("speech",)
        return tuple(f"speaker {number}" for number in range(1, self.num_sources + 1))

    def estimated_parameters(self) -> int:
        """How many parameters the model will have."""
        width, channels, inner = self.hidden_size, self.encoder_channels, self.intermediate_size
        layer = 4 * width * (width + 1) + 2 * width * inner + inner + width + 4 * width
        stacks = (self.num_intra_layers + self.num_inter_layers) * layer + 2 * 2 * width + 2 * 2 * width
        ends = 2 * channels * self.encoder_kernel_size + 2 * channels + 2 * channels * width
        return self.num_blocks * stacks + ends + (self.num_sources + 2) * width * (width + 1) + 1

    def segment_numbers(self) -> int:
        """About how many numbers `forward` holds at a time over one segment."""
        frames = self.segment_samples // self.encoder_stride + 2 * self.chunk_size
        longest = max(self.chunk_size, 2 * frames // self.chunk_size)  # of what attends to each other
        width = 4 * self.hidden_size + self.intermediate_size + self.num_attention_heads * longest
        return 2 * frames * width + frames * self.encoder_channels * (self.num_sources + 1)

    def check_fields(self) -> None:
        """Checks every field before a module is built from it.

        Raises:
            CheckpointError: naming the field, its value and the limits.
        """
        bounded("num_sources", self.num_sources, 1, 64)
        bounded("encoder_kernel_size", self.encoder_kernel_size, 2, 8_192)
        bounded("encoder_stride", self.encoder_stride, 1, self.encoder_kernel_size)
        bounded("encoder_channels", self.encoder_channels, 1, 8_192)
        bounded("hidden_size", self.hidden_size, 2, 8_192)
        bounded("num_blocks", self.num_blocks, 1, 64)
        bounded("num_intra_layers", self.num_intra_layers, 1, 128)
        bounded("num_inter_layers", self.num_inter_layers, 1, 128)
        bounded("num_attention_heads", self.num_attention_heads, 1, self.hidden_size)
        bounded("intermediate_size", self.intermediate_size, 1, 65_536)
        bounded("chunk_size", self.chunk_size, 2, 65_536)
        bounded("layer_norm_eps", self.layer_norm_eps, 1e-12, 1.0, kind=float)
        bounded("global_norm_eps", self.global_norm_eps, 1e-12, 1.0, kind=float)
        self.check_segments()
        one_of("loss", self.loss, ("pit_si_snr", "pit_snr", "pit_snr_silence", "si_sdr", "sdr", "l1"))
        self._check_divisors()

    def _check_divisors(self) -> None:
        multiples: list[tuple[str, int, str, int]] = [
            ("encoder_kernel_size", self.encoder_kernel_size, "encoder_stride", self.encoder_stride),
            ("hidden_size", self.hidden_size, "num_attention_heads", self.num_attention_heads),
            ("hidden_size", self.hidden_size, "sine and cosine", 2),
            ("chunk_size", self.chunk_size, "the chunks that share a frame", 2),
        ]
        for name, value, by, divisor in multiples:
            if value % divisor:
                raise CheckpointError(f"{name} is {value}; it must divide by {divisor} ({by}).")


__all__ = ["SepFormerConfig"]
