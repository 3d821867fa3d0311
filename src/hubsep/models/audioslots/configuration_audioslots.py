# SPDX-License-Identifier: Apache-2.0
"""Configuration of AudioSlots (2305.05591).

The authors published neither code nor weights. From the paper stem the chain (waveform cut into chunks, spectrogram,
permutation-equivariant Transformer, unordered source embeddings, spatial broadcast decoder, matching loss); every
number, and every choice the paper's abstract and first figure leave open, is ours. What goes beyond the paper is off
by default.
"""

from __future__ import annotations

import math
from typing import Any

from transformers import PreTrainedConfig

from ...errors import CheckpointError
from ...hub.bounds import bounded, bounded_list, one_of, shown, true_or_false
from ...hub.config import HubsepConfigMixin


MAX_TOKENS = 8_192  # of a chunk, which attend to each other


class AudioSlotsConfig(HubsepConfigMixin, PreTrainedConfig):
    """Configuration of `AudioSlotsForAudioSeparation`.

    Args:
        sampling_rate: in Hz.
        num_sources: how many slots, and so sources, there are unless `forward` is asked for another number. Slots that
            find no source give silence.
        n_fft: Fourier window in samples.
        hop_length: samples between frames.
        chunk_samples: length of the chunks that the network sees; longer input is cut with half a chunk of overlap.
        compression: power of the magnitudes that the network sees and makes.
        root_channels: channels of the first convolution.
        root_kernel: (time, frequency) size of the first convolution.
        root_stride: (time, frequency) stride of the first convolution.
        backbone_depths: residual blocks of each stage; the default is ResNet-34.
        backbone_channels: channels of each stage.
        backbone_strides: (time, frequency) stride of each stage's first block.
        norm_groups: groups of the group norms; every number of channels must divide by it.
        hidden_size: width of tokens and slots.
        num_heads: of every attention.
        intermediate_size: width inside the feed-forward networks.
        encoder_layers: Transformer layers over the tokens.
        slot_layers: Transformer decoder layers, or iterations of slot attention.
        slot_encoder: "transformer" (self-attention of slots, cross-attention to tokens) or "slot_attention"
            (2006.15055: tokens are shared out among slots, recurrent update).
        slot_init: "learned", a query vector a slot, or "gaussian": all slots are drawn from one learned distribution,
            so that they are exchangeable and their number can change.
        slot_seed: of the draw outside training, where the same input must give the same output.
        position_frequencies: sines and cosines a spectrogram axis in the broadcast decoder's position code.
        decoder_hidden_size: width of the broadcast decoder.
        decoder_layers: hidden layers of the broadcast decoder.
        decoder_patch: (frames, bins) that the decoder makes at each position; (1, 1) is the plain broadcast decoder,
            larger patches are ours and cost less by their area.
        reconstruct: "mask", the share of each slot's power in the mixture (sources add up to the mixture), or
            "magnitude", the generated magnitude itself; both with the mixture's phase.
        sequential: ours; a chunk's slots start from the previous chunk's, so that a source stays in its slot. Trained
            with one matching for all chunks of an item.
        refinement: ours; a second decoder corrects each slot's magnitudes from the backbone's maps at full detail.
        loss: "matching", or "mixit" (2006.12701), where labels are mixtures that add up to the input.
        waveform_weight: ours; weight of `sdr_loss` of the waveforms, in the order that was matched.
        presence_threshold_db: level against the whole mixture from which a source counts as there.
        segment_samples: length in which long recordings are worked through.
        overlap_samples: how much neighbouring segments share.
    """

    model_type = "audioslots"

    sampling_rate: int = 16_000
    num_sources: int = 2
    n_fft: int = 512
    hop_length: int = 125
    chunk_samples: int = 8_000
    compression: float = 0.3
    root_channels: int = 64
    root_kernel: list[int] | tuple[int, ...] = (7, 7)
    root_stride: list[int] | tuple[int, ...] = (2, 2)
    backbone_depths: list[int] | tuple[int, ...] = (3, 4, 6, 3)
    backbone_channels: list[int] | tuple[int, ...] = (64, 128, 256, 512)
    backbone_strides: list[Any] | tuple[Any, ...] = ((1, 1), (2, 2), (2, 2), (1, 1))
    norm_groups: int = 32
    hidden_size: int = 512
    num_heads: int = 8
    intermediate_size: int = 1_024
    encoder_layers: int = 4
    slot_layers: int = 4
    slot_encoder: str = "transformer"
    slot_init: str = "gaussian"
    slot_seed: int = 0
    position_frequencies: int = 16
    decoder_hidden_size: int = 256
    decoder_layers: int = 4
    decoder_patch: list[int] | tuple[int, ...] = (1, 1)
    reconstruct: str = "mask"
    sequential: bool = False
    refinement: bool = False
    loss: str = "matching"
    waveform_weight: float = 0.0
    presence_threshold_db: float = -25.0
    segment_samples: int = 160_000
    overlap_samples: int = 32_000

    num_channels = 1
    is_text_queried = False
    known_sounds = ()
    free_scale = False

    @property
    def unordered_sources(self) -> bool:
        """Whether any output may hold any source."""
        return self.num_sources > 1

    @property
    def source_names(self) -> tuple[str, ...]:
        """What the pipeline calls the outputs."""
        if self.num_sources == 1:
            return ("speech",)
        return tuple(f"speaker {number}" for number in range(1, self.num_sources + 1))

    @property
    def num_bins(self) -> int:
        """Frequency bins of the spectrogram, Nyquist included."""
        return self.n_fft // 2 + 1

    @property
    def half_frames(self) -> int:
        """Frames from the start of a chunk to its middle, and from one chunk to the next."""
        return self.chunk_samples // (2 * self.hop_length)

    @property
    def chunk_frames(self) -> int:
        """Frames of a chunk, that of its last sample included."""
        return 2 * self.half_frames + 1

    @property
    def grids(self) -> list[tuple[int, int]]:
        """(time, frequency) sizes of the maps after the first convolution and each stage."""
        size = (self.chunk_frames, self.num_bins - 1)
        grids = []
        for stride in (self.root_stride, *self.backbone_strides):
            size = (-(-size[0] // stride[0]), -(-size[1] // stride[1]))
            grids.append(size)
        return grids

    @property
    def minimum_samples(self) -> int:
        """Shortest waveform the reflected edges of the Fourier transform allow."""
        return self.n_fft // 2 + 1

    def segment_numbers(self) -> int:
        """About how many numbers `forward` holds at a time over one segment."""
        chunks = self.segment_samples // (self.half_frames * self.hop_length) + 1
        channels = (self.root_channels, *self.backbone_channels)
        maps = sum(3 * math.prod(grid) * size for grid, size in zip(self.grids, channels, strict=True))
        tokens = math.prod(self.grids[-1])
        encoder = tokens * (6 * self.hidden_size + self.intermediate_size + self.num_heads * tokens)
        decoder = self.decoder_hidden_size // math.prod(self.decoder_patch) + 4
        return chunks * (maps + encoder + self.num_sources * self.chunk_frames * self.num_bins * decoder)

    def check_fields(self) -> None:
        """Checks every field before a module is built from it.

        Raises:
            CheckpointError: naming the field, its value and the limits.
        """
        bounded("num_sources", self.num_sources, 1, 32)
        bounded("n_fft", self.n_fft, 16, 65_536)
        bounded("hop_length", self.hop_length, 1, self.n_fft // 2)
        bounded("chunk_samples", self.chunk_samples, 2 * self.hop_length, 2**22)
        bounded("compression", self.compression, 0.05, 1.0, kind=float)
        bounded("hidden_size", self.hidden_size, 8, 4_096)
        bounded("num_heads", self.num_heads, 1, 64)
        bounded("intermediate_size", self.intermediate_size, 1, 16_384)
        bounded("encoder_layers", self.encoder_layers, 0, 48)
        bounded("slot_layers", self.slot_layers, 1, 48)
        bounded("slot_seed", self.slot_seed, 0, 2**32 - 1)
        bounded("position_frequencies", self.position_frequencies, 1, 256)
        bounded("decoder_hidden_size", self.decoder_hidden_size, 1, 4_096)
        bounded("decoder_layers", self.decoder_layers, 1, 16)
        bounded("waveform_weight", self.waveform_weight, 0.0, 1e3, kind=float)
        bounded("presence_threshold_db", self.presence_threshold_db, -120.0, 0.0, kind=float)
        one_of("slot_encoder", self.slot_encoder, ("transformer", "slot_attention"))
        one_of("slot_init", self.slot_init, ("learned", "gaussian"))
        one_of("reconstruct", self.reconstruct, ("mask", "magnitude"))
        one_of("loss", self.loss, ("matching", "mixit"))
        for name in ("sequential", "refinement"):
            true_or_false(name, getattr(self, name))
        if self.hidden_size % self.num_heads:
            raise CheckpointError(f"hidden_size is {self.hidden_size}; it must divide by num_heads {self.num_heads}.")
        self._check_backbone()
        self.check_segments()

    def _check_backbone(self) -> None:
        bounded("norm_groups", self.norm_groups, 1, 1_024)
        bounded("root_channels", self.root_channels, 1, 2_048)
        bounded_list("backbone_depths", self.backbone_depths, 1, 48, max_items=8)
        bounded_list("backbone_channels", self.backbone_channels, 1, 2_048, max_items=8)
        _pair("root_kernel", self.root_kernel, 15)
        _pair("root_stride", self.root_stride, 16)
        _pair("decoder_patch", self.decoder_patch, 64)
        if any(size % 2 == 0 for size in self.root_kernel):
            raise CheckpointError(f"root_kernel must be odd in both axes, got {shown(self.root_kernel)}.")
        if not isinstance(self.backbone_strides, list | tuple):
            raise CheckpointError(f"backbone_strides must be a list, not {shown(self.backbone_strides)}.")
        if not len(self.backbone_depths) == len(self.backbone_channels) == len(self.backbone_strides):
            raise CheckpointError(
                f"backbone_depths, backbone_channels and backbone_strides have {len(self.backbone_depths)}, "
                f"{len(self.backbone_channels)} and {len(self.backbone_strides)} entries; give one of each a stage."
            )
        for stride in self.backbone_strides:
            _pair("backbone_strides", stride, 8)
        for channels in (self.root_channels, *self.backbone_channels):
            if channels % self.norm_groups:
                raise CheckpointError(f"{channels} channels do not divide by norm_groups {self.norm_groups}.")
        tokens = math.prod(self.grids[-1])
        if tokens > MAX_TOKENS:
            raise CheckpointError(
                f"a chunk has {tokens} tokens, more than {MAX_TOKENS}; raise strides or cut chunk_samples."
            )


def _pair(name: str, value: Any, high: int) -> None:
    """Checks a (time, frequency) pair of numbers from 1 to `high`."""
    bounded_list(name, value, 1, high, max_items=2)
    if len(value) != 2:
        raise CheckpointError(f"{name} must hold (time, frequency) pairs, got {shown(value)}.")


__all__ = ["AudioSlotsConfig"]
