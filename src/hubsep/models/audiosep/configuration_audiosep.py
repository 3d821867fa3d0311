# SPDX-License-Identifier: Apache-2.0
"""Configuration of AudioSep. The defaults are the published model's; what departs from it is off by default."""

from __future__ import annotations

import math
from typing import Any, cast

from transformers import ClapConfig, PreTrainedConfig

from ...errors import CheckpointError
from ...hub.bounds import bounded, bounded_list, one_of, shown
from ...hub.clap import check_clap
from ...hub.config import HubsepConfigMixin


class AudioSepConfig(HubsepConfigMixin, PreTrainedConfig):
    """Configuration of `AudioSepForAudioSeparation` (AudioSep, 2308.05037).

    Args:
        query_config: the CLAP model that turns text or sound into the query embedding; its `projection_dim` is the
            size of the condition.
        query_pooling: "first" takes the text tower's pooled first token, as published; "mean" the mean of all tokens,
            as sentence encoders do.
        sampling_rate: in Hz.
        num_channels: channels of the waveform the network sees at once; recordings with more are done one by one.
        n_fft: Fourier window in samples. The bins below Nyquist must divide by the product of the frequency strides
            and `frequency_fold`.
        hop_length: samples between frames.
        stem_channels: channels after the first 1x1 convolution.
        encoder_channels: channels of each encoder block; the decoder mirrors them.
        encoder_strides: (time, frequency) average pooling after each encoder block.
        batch_norm_momentum: of every batch norm.
        batch_norm_eps: of every batch norm.
        input_features: "magnitude" as published, or "compressed": magnitude to the power 0.3 together with its
            product with the cosine and sine of the phase, three features instead of one.
        frequency_fold: neighbouring bins laid side by side as channels, for cheaper and wider convolutions.
        query_hidden_size: width of a two-layer network between the query embedding and all FiLM layers; 0 as
            published, where every FiLM layer takes the embedding itself.
        query_classes: names of the meanings the query network tells apart before it turns them into what the FiLM
            layers share, so that words of one meaning have one effect; empty for a network without this step.
        query_noise: largest length of the random vector added to a query of unit length in training, so that words
            never heard in training, which lie near the ones that were, are understood.
        film_gain: whether the query also scales the normalised activations; the published model only shifts them.
        normalize_input: whether the network sees each segment at unit level, so that output scales with input.
        presence_head: whether a head on the bottleneck says if the query is in the mixture at all.
        loss: "l1" as published, "sdr" or "si_sdr".
        presence_weight: weight of the presence head's cross entropy in the loss.
        frame_presence_weight: weight of the cross entropy of the head's evidence in each frame of the bottleneck, that
            the query is heard there.
        sum_weight: weight of what the sum of all queries' outputs lacks to the sum of their targets.
        listener_channels: channels of the blocks of a listener, which says of all `query_classes` at once whether
            they are in the recording; empty for a model without one. It takes the place of a presence head.
        listener_size: width of its last layer but one.
        listener_dropout: in training, before its last layer.
        listener_classes: how many of the `query_classes`, from the first on, the listener hears; 0 for all. The
            presence head, if there is one, speaks of the rest.
        presence_mix: what a presence logit is made of: the shares of the listener's logit, of the presence head's and
            of the level of the source against the mixture in nepers, and an offset; found on held-out recordings.
        presence_gate: whether what is probably not there is turned down, by its odds: 0.1 dB at 9 to 1 for it, and
            38 dB at 9 to 1 against it.
        segment_samples: length in which long recordings are worked through.
        overlap_samples: how much neighbouring segments share.
        known_sounds: names of the sounds the weights were trained on, for error messages and demos.
    """

    model_type = "audiosep"
    sub_configs = {"query_config": ClapConfig}

    query_config: dict | PreTrainedConfig | None = None
    query_pooling: str = "first"
    sampling_rate: int = 32_000
    num_channels: int = 1
    n_fft: int = 2_048
    hop_length: int = 320
    stem_channels: int = 32
    encoder_channels: list[int] | tuple[int, ...] = (32, 64, 128, 256, 384, 384)
    encoder_strides: list[Any] | tuple[Any, ...] = ((2, 2), (2, 2), (2, 2), (2, 2), (2, 2), (1, 2))
    batch_norm_momentum: float = 0.01
    batch_norm_eps: float = 1e-5
    input_features: str = "magnitude"
    frequency_fold: int = 1
    query_hidden_size: int = 0
    query_classes: list[str] | tuple[str, ...] = ()
    query_noise: float = 0.0
    film_gain: bool = False
    normalize_input: bool = False
    presence_head: bool = False
    loss: str = "l1"
    presence_weight: float = 2.0
    listener_channels: list[int] | tuple[int, ...] = ()
    listener_size: int = 256
    listener_dropout: float = 0.2
    listener_classes: int = 0
    presence_mix: list[float] | tuple[float, ...] = (1.0, 0.0, 0.0, 0.0)
    presence_gate: bool = False
    frame_presence_weight: float = 0.0
    sum_weight: float = 0.0
    segment_samples: int = 307_200
    overlap_samples: int = 61_440
    known_sounds: list[str] | tuple[str, ...] = ()

    is_text_queried = True
    source_names = ()

    def __post_init__(self, **kwargs: Any) -> None:
        if self.query_config is None:
            self.query_config = ClapConfig()
        elif isinstance(self.query_config, dict):
            self.query_config = ClapConfig(**self.query_config)
        super().__post_init__(**kwargs)

    @property
    def condition_size(self) -> int:
        """Size of a query embedding."""
        query_config: Any = self.query_config
        return query_config.projection_dim

    @property
    def film_size(self) -> int:
        """Size of what the FiLM layers take."""
        return self.query_hidden_size or self.condition_size

    @property
    def num_bins(self) -> int:
        """Frequency bins of the spectrogram, Nyquist included."""
        return self.n_fft // 2 + 1

    @property
    def num_features(self) -> int:
        """Numbers the network sees for each bin and channel."""
        return 3 if self.input_features == "compressed" else 1

    @property
    def time_stride(self) -> int:
        """Frames that end in one frame of the bottleneck."""
        return math.prod(stride[0] for stride in self.encoder_strides)

    @property
    def minimum_samples(self) -> int:
        """Shortest waveform the reflected edges of the Fourier transform allow."""
        return self.n_fft // 2 + 1

    def check_fields(self) -> None:
        """Checks every field before a module is built from it.

        Raises:
            CheckpointError: naming the field, its value and the limits.
        """
        bounded("num_channels", self.num_channels, 1, 64)
        bounded("n_fft", self.n_fft, 16, 65_536)
        bounded("hop_length", self.hop_length, 1, self.n_fft // 2)
        bounded("stem_channels", self.stem_channels, 1, 4_096)
        bounded_list("encoder_channels", self.encoder_channels, 1, 4_096, max_items=12)
        bounded("frequency_fold", self.frequency_fold, 1, 64)
        bounded("query_hidden_size", self.query_hidden_size, 0, 4_096)
        bounded("batch_norm_momentum", self.batch_norm_momentum, 0.0, 1.0, kind=float)
        bounded("batch_norm_eps", self.batch_norm_eps, 1e-12, 1.0, kind=float)
        bounded("query_noise", self.query_noise, 0.0, 10.0, kind=float)
        for name in ("presence_weight", "frame_presence_weight", "sum_weight"):
            bounded(name, getattr(self, name), 0.0, 1e3, kind=float)
        one_of("input_features", self.input_features, ("magnitude", "compressed"))
        one_of("query_pooling", self.query_pooling, ("first", "mean"))
        one_of("loss", self.loss, ("l1", "sdr", "si_sdr"))
        self._check_strides()
        self.check_segments()
        check_clap("query_config", cast(ClapConfig, self.query_config).to_dict())
        if self.query_classes and not self.query_hidden_size:
            raise CheckpointError("query_classes need a query_hidden_size above 0, got 0.")
        for field in ("known_sounds", "query_classes"):
            if not isinstance(getattr(self, field), list | tuple):
                raise CheckpointError(f"{field} must be a list of names, not {shown(getattr(self, field))}.")
            for name in getattr(self, field):
                if not isinstance(name, str):
                    raise CheckpointError(f"{field} must be names, got {shown(name)}.")
        self._check_listener()

    def segment_numbers(self) -> int:
        """About how many numbers `forward` holds at a time over one segment."""
        places = (self.segment_samples // self.hop_length + 1) * self.num_bins // self.frequency_fold
        total = 2 * places * (self.num_channels * self.num_features * self.frequency_fold + self.stem_channels)
        for channels, stride in zip(self.encoder_channels, self.encoder_strides, strict=True):
            total += 3 * places * channels
            places = -(-places // math.prod(stride))
        return total

    def _check_listener(self) -> None:
        if not isinstance(self.listener_channels, list | tuple):
            raise CheckpointError(f"listener_channels must be a list, not {shown(self.listener_channels)}.")
        if self.listener_channels:
            bounded_list("listener_channels", self.listener_channels, 1, 4_096, max_items=5)
        bounded("listener_size", self.listener_size, 1, 65_536)
        bounded("listener_dropout", self.listener_dropout, 0.0, 0.95, kind=float)
        bounded("listener_classes", self.listener_classes, 0, len(self.query_classes))
        if not isinstance(self.presence_mix, list | tuple) or len(self.presence_mix) != 4:
            raise CheckpointError(f"presence_mix must be four numbers, got {shown(self.presence_mix)}.")
        for value in self.presence_mix:
            bounded("presence_mix", value, -100.0, 100.0, kind=float)
        if self.listener_channels and not self.query_classes:
            raise CheckpointError("a listener hears query_classes, and there are none; leave out listener_channels.")

    def _check_strides(self) -> None:
        if not isinstance(self.encoder_strides, list | tuple):
            raise CheckpointError(f"encoder_strides must be a list, not {shown(self.encoder_strides)}.")
        if len(self.encoder_strides) != len(self.encoder_channels):
            raise CheckpointError(
                f"encoder_strides has {len(self.encoder_strides)} entries for {len(self.encoder_channels)} "
                "encoder_channels; give one (time, frequency) pair a block."
            )
        for stride in self.encoder_strides:
            bounded_list("encoder_strides", stride, 1, 8, max_items=2)
            if len(stride) != 2:
                raise CheckpointError(f"encoder_strides must hold (time, frequency) pairs, got {shown(stride)}.")
        divisor = math.prod(stride[1] for stride in self.encoder_strides) * self.frequency_fold
        if (self.n_fft // 2) % divisor:
            raise CheckpointError(f"n_fft is {self.n_fft}; half of it must divide by {divisor} (strides x fold).")


__all__ = ["AudioSepConfig"]
