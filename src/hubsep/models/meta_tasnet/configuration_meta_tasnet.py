# SPDX-License-Identifier: Apache-2.0
"""Configuration of Meta-TasNet: sizes are those of the first stage, and each further stage doubles them.

There is no field for the loss: the paper's looks at what is inside every stage and cannot be exchanged for one on
waveforms. Its weights are fields. The groups of a norm are eight: that is a constant in the authors' code as well.
"""

from __future__ import annotations

from transformers import PreTrainedConfig

from ...errors import CheckpointError
from ...hub.bounds import bounded, shown, true_or_false
from ...hub.config import HubsepConfigMixin


MAX_FILTER_LENGTHS = 8
NORM_GROUPS = 8
MAX_INSTRUMENTS = 64
LOWER_LIMIT = "the transform of the first stage needs"  # what sets `minimum_samples`, for errors
MAX_NAME_CHARACTERS = 100


class MetaTasNetConfig(HubsepConfigMixin, PreTrainedConfig):
    """Configuration of `MetaTasNetForAudioSeparation` (Meta-TasNet, 2002.07016); the defaults are the published model.

    Args:
        instruments: names of the sources, in the order they come out.
        num_stages: networks, each at twice the sampling rate of the one before.
        sampling_rate: of the last stage, which is the model's, in Hz.
        num_filters: size of the latent space of the first stage, N.
        num_filter_lengths: of how many lengths the filters of a stage are, each twice as long as the one before.
        kernel_size: of the shortest filters of the first stage in samples, L.
        stride: samples between the frames of the first stage, W.
        n_fft: length of the first stage's Fourier transform in samples.
        hop_length: samples between its spectra.
        num_mels: channels that each stage makes of its spectra.
        bottleneck_channels: of the residual stream and the skip sum, B.
        hidden_channels: inside a block, H.
        conv_kernel_size: of the dilated convolutions.
        num_blocks: blocks of a repeat; their dilations are 1, 2, 4, ...
        num_repeats: how often the dilations begin anew.
        generated: whether the weights of the mask networks are made from embeddings of the instruments; without, each
            instrument has weights of its own.
        embedding_size: of an instrument, if `generated`.
        generator_size: of the layer between embedding and weights, if `generated`.
        residual_bias: whether the last products of a block have a bias.
        normalise: whether mixtures are divided by their standard deviation at every rate, as in the published
            evaluation. The sources get it back.
        rescale: whether sources are multiplied by the gains with which they add up to the mixture best, as in the
            published evaluation; the pipeline then goes over a whole recording beforehand, for its deviation and for
            the gains. Without, their level is free and the pipeline sets it segment by segment, with safeguards for
            sources that are silent.
        reconstruction_weight: of the mixture's reconstruction in the loss.
        dissimilarity_weight: of the likeness of different instruments in the loss.
        similarity_weight: of the likeness of the same instrument in different songs in the loss.
        segment_samples: length in which long recordings are worked through.
        overlap_samples: how much neighbouring segments share.
    """

    model_type = "meta_tasnet"

    instruments: list[str] | tuple[str, ...] = ("drums", "bass", "other", "vocals")
    num_stages: int = 3
    sampling_rate: int = 32_000
    num_filters: int = 440
    num_filter_lengths: int = 3
    kernel_size: int = 20
    stride: int = 20
    n_fft: int = 1_024
    hop_length: int = 256
    num_mels: int = 256
    bottleneck_channels: int = 160
    hidden_channels: int = 160
    conv_kernel_size: int = 3
    num_blocks: int = 6
    num_repeats: int = 3
    generated: bool = True
    embedding_size: int = 8
    generator_size: int = 5
    residual_bias: bool = False
    normalise: bool = True
    rescale: bool = False
    reconstruction_weight: float = 0.05
    dissimilarity_weight: float = 3.0
    similarity_weight: float = 2.0
    segment_samples: int = 384_000
    overlap_samples: int = 64_000

    is_text_queried = False
    num_channels = 1
    known_sounds = ()
    unordered_sources = False
    call_options = ("normalise", "rescale")

    @property
    def num_sources(self) -> int:
        """How many instruments."""
        return len(self.instruments)

    @property
    def source_names(self) -> tuple[str, ...]:
        """What the sources are called."""
        return tuple(self.instruments)

    @property
    def free_scale(self) -> bool:
        """Whether the level of the sources means nothing, as the scale-invariant loss leaves it."""
        return not self.rescale

    @property
    def minimum_samples(self) -> int:
        """Shortest waveform whose edges the Fourier transform can reflect."""
        return 2 ** (self.num_stages - 1) * (self.n_fft // 2) + 1

    def segment_numbers(self) -> int:
        """About how many numbers `forward` holds at a time over one segment."""
        samples = self.segment_samples // 2 ** (self.num_stages - 1) + self.n_fft  # of the first stage
        filters = self.num_filters * (2**self.num_stages - 1)  # of all stages together
        width = self.num_stages * (3 * self.hidden_channels + 2 * self.bottleneck_channels) + 3 * filters
        width += self.kernel_size * 2 ** (self.num_stages + self.num_filter_lengths - 2)  # frames of the last stage
        spectra = (samples // self.hop_length + 1) * (self.n_fft + self.num_mels)
        return (samples // self.stride + 1) * self.num_sources * width + spectra

    def check_fields(self) -> None:
        """Checks every field before a module is built from it.

        Raises:
            CheckpointError: naming the field, its value and the limits.
        """
        self._check_instruments()
        bounded("num_stages", self.num_stages, 1, 6)
        for name in ("num_filters", "bottleneck_channels", "hidden_channels"):
            value = bounded(name, getattr(self, name), NORM_GROUPS, 16_384)
            if value % NORM_GROUPS:
                raise CheckpointError(f"{name} is {value}; {NORM_GROUPS} groups of a norm must divide it.")
        most = min(MAX_FILTER_LENGTHS, self.num_filters.bit_length() - 1)  # the longest are num_filters / 2**most
        bounded("num_filter_lengths", self.num_filter_lengths, 1, most)
        bounded("kernel_size", self.kernel_size, 2, 4_096)
        bounded("stride", self.stride, 2, self.kernel_size)
        for name in ("kernel_size", "stride"):
            if getattr(self, name) % 2:
                raise CheckpointError(f"{name} is {getattr(self, name)}; it must be even, to be padded evenly.")
        bounded("n_fft", self.n_fft, 4, 65_536)
        bounded("hop_length", self.hop_length, 1, self.n_fft)
        bounded("num_mels", self.num_mels, 1, 16_384)
        bounded("conv_kernel_size", self.conv_kernel_size, 1, 1_023)
        if self.conv_kernel_size % 2 == 0:
            raise CheckpointError(f"conv_kernel_size is {self.conv_kernel_size}; it must be odd, to have a middle.")
        bounded("num_blocks", self.num_blocks, 1, 24)
        bounded("num_repeats", self.num_repeats, 1, 64)
        bounded("embedding_size", self.embedding_size, 1, 4_096)
        bounded("generator_size", self.generator_size, 1, 4_096)
        for name in ("generated", "residual_bias", "normalise", "rescale"):
            true_or_false(name, getattr(self, name))
        for name in ("reconstruction_weight", "dissimilarity_weight", "similarity_weight"):
            bounded(name, getattr(self, name), 0, 1e6, kind=float)
        self.check_segments()

    def _check_instruments(self) -> None:
        names = self.instruments
        if not isinstance(names, list | tuple) or not 1 <= len(names) <= MAX_INSTRUMENTS:
            raise CheckpointError(f"instruments is {shown(names)}; it must be a list of 1 to {MAX_INSTRUMENTS} names.")
        for name in names:
            is_text = isinstance(name, str) and 0 < len(name) <= MAX_NAME_CHARACTERS and name.isprintable()
            if not is_text or name.strip() != name:
                raise CheckpointError(f"instruments holds {shown(name)}, which is no name.")
        if len(set(names)) != len(names):
            raise CheckpointError(f"instruments is {shown(list(names))}; every name must be there once.")

    def estimated_parameters(self) -> int:
        """How many parameters the model will have, but for norms, biases and slopes."""
        blocks, bottleneck, hidden = self.num_blocks * self.num_repeats, self.bottleneck_channels, self.hidden_channels
        # the last block has no residual product
        weights = blocks * hidden * (3 * bottleneck + self.conv_kernel_size) - hidden * bottleneck
        factor = self.generator_size + 1 if self.generated else self.num_sources
        total = 0
        for stage in range(self.num_stages):
            scale = 2**stage
            filters = self.num_filters * scale
            previous = filters // 2 if stage else 0
            masks = weights + bottleneck * (2 * filters + previous)
            encoded = filters // 4 * self.num_filter_lengths + self.num_mels
            decoded = sum(filters // 2 ** (index + 1) for index in range(self.num_filter_lengths))
            spectra = self.num_mels * self.n_fft * scale // 2
            total += factor * masks + filters * (encoded + filters + decoded) + spectra
            for index in range(self.num_filter_lengths):
                kernels = filters // 4 + filters // 2 ** (index + 1)
                total += kernels * self.kernel_size * scale * 2**index
        return total


__all__ = ["LOWER_LIMIT", "NORM_GROUPS", "MetaTasNetConfig"]
