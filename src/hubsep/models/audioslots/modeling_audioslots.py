# SPDX-License-Identifier: Apache-2.0
"""AudioSlots (2305.05591): a mixture becomes an unordered set of slots, each slot becomes a source's spectrogram.

The authors published neither code nor weights; this is a re-implementation from the paper's description.

The paper's: the waveform is cropped and its magnitude spectrogram encoded by a permutation-equivariant
Transformer-based network into source embeddings; a spatial broadcast decoder shared by all slots generates the
spectrograms; training matches them with the sources'; the magnitudes are generated, not masked.

Ours: every size; magnitudes to the power 0.3 of a waveform brought to unit level; the mixture's phase; masks made of
the generated magnitudes, which add up to the mixture (`reconstruct`); chunks and their stitching; the count of
sources; silence for unused slots. Beyond the paper, off by default: sequential mode, MixIT, the refinement decoder and
a loss on the waveform. One Fourier transform covers the whole input, chunks are frames of it and are cross-faded as
spectrograms, and one inverse transform gives the sources.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers import initialization as init
from transformers.utils import can_return_tuple

from ...errors import AudioError
from ...hub.models import HubsepModelMixin
from ...layers import istft, stft
from ...losses import mixit_loss, sdr_loss
from ...modeling import AudioSeparationOutput, check_keywords, check_waveform
from .configuration_audioslots import AudioSlotsConfig
from .decoder_audioslots import BroadcastDecoder, Correction, RefinementDecoder
from .layers_audioslots import AudioSlotsEncoder
from .slots_audioslots import AudioSlotsSlots
from .stitching_audioslots import align, count_sources, cross_fade, cut, match, matching_loss, reorder


STITCHINGS = ("overlap", "labels", "none")
MEMORY_SECONDS = 2.0  # of the slot embeddings, for stitching across a pause
PRESENCE_SCALE_DB = 3.0  # level above or below the threshold that makes a logit of one
LEVEL_FLOOR = 1e-5  # of the waveform: quieter than the last bit of 16
CARRIED_AT_FIRST = 0.5  # share of the previous chunk's slots, before anything is learnt
MAGNITUDE_FLOOR = 1e-4  # of generated compressed magnitudes, which are about 1: where their logarithm ends


@dataclass
class AudioSlotsOutput(AudioSeparationOutput):
    """Output of `AudioSlotsForAudioSeparation`, beside what every model returns.

    Args:
        slots (`torch.Tensor` of shape `(batch, chunks, num_sources, hidden_size)`): embeddings, in the slots' order.
        permutations (`torch.Tensor` of shape `(batch, chunks, num_sources)`): the slot that went on each output.
        num_sources (`torch.Tensor` of shape `(batch,)`): how many sources are there.
        num_sources_score (`torch.Tensor` of shape `(batch,)`): probability of that number, from 0 to 1.
    """

    slots: torch.Tensor | None = None
    permutations: torch.Tensor | None = None
    num_sources: torch.Tensor | None = None
    num_sources_score: torch.Tensor | None = None


@dataclass
class Mixture:
    """The length of the input, its level, and its spectrogram at unit level, (batch, 1, frames, bins)."""

    samples: int
    level: Tensor  # (batch, 1, 1)
    spectrogram: Tensor


@dataclass
class Chunks:
    """What the network saw and made; all but `slots` end in (chunk_frames, bins), and `hop` is in frames."""

    features: Tensor  # compressed magnitudes of the mixture, (batch, chunks, ...)
    slots: Tensor  # (batch, chunks, num_sources, hidden_size)
    magnitudes: Tensor  # of the slots, compressed, (batch, chunks, num_sources, ...)
    masks: Tensor  # what the mixture is multiplied with, same shape
    hop: int


class AudioSlotsPreTrainedModel(HubsepModelMixin, PreTrainedModel):
    """Weights initialisation and loading shared by AudioSlots models."""

    config: AudioSlotsConfig
    config_class = AudioSlotsConfig
    base_model_prefix = "audioslots"
    main_input_name = "input_values"
    input_modalities = ("audio",)
    _no_split_modules = ["ResidualBlock", "TokenLayer", "SlotLayer", "UpBlock"]

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        """He-normal convolutions, Xavier-uniform matrices, zero biases; corrections start as no change."""
        if isinstance(module, nn.Conv2d):
            init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
        elif isinstance(module, Correction):
            init.zeros_(module.weight)
        elif isinstance(module, nn.Linear):
            init.xavier_uniform_(module.weight)
        elif isinstance(module, (nn.GroupNorm, nn.LayerNorm)):
            init.ones_(module.weight)
        if getattr(module, "bias", None) is not None and isinstance(module.bias, Tensor):
            init.zeros_(module.bias)
        if isinstance(module, AudioSlotsEncoder):
            init.normal_(module.row_positions, std=0.02)
            init.normal_(module.column_positions, std=0.02)
        elif isinstance(module, AudioSlotsSlots):
            if module.carry is not None:
                init.copy_(module.carry.weight, CARRIED_AT_FIRST * torch.eye(module.carry.out_features))
            if module.gaussian:
                init.zeros_(module.mean)
                init.zeros_(module.log_deviation)
            else:
                init.normal_(module.queries, std=1.0)


class AudioSlotsForAudioSeparation(AudioSlotsPreTrainedModel):
    """Separates a mixture into as many sources as there are slots. Source: 2305.05591; the module says what is ours.

    What is worth compiling for training are its parts: `encoder`, `slots`, `decoder` and `refiner`.
    """

    def __init__(self, config: AudioSlotsConfig):
        super().__init__(config)
        self.encoder = AudioSlotsEncoder(config)
        self.slots = AudioSlotsSlots(config)
        self.decoder = BroadcastDecoder(config)
        self.refiner = RefinementDecoder(config) if config.refinement else None
        self.post_init()

    @can_return_tuple
    def forward(
        self,
        input_values: Tensor,
        labels: Tensor | None = None,
        num_sources: int | None = None,
        previous_slots: Tensor | None = None,
        generator: torch.Generator | None = None,
        stitching: str | None = None,
        **kwargs: object,
    ) -> AudioSlotsOutput:
        """Separates mixtures of any length.

        In training with labels, chunks do not overlap, as the loss is taken on each (in sequential mode, on all of
        them with one matching), and the sources come in the order of the labels.

        Args:
            input_values: mixtures, (batch, 1, samples), at least `config.minimum_samples` long.
            labels: waveforms of the sources, (batch, n, 1, samples), n up to the number of slots; with the loss
                "mixit", two mixtures that add up to the input.
            num_sources: how many slots there are in this call, by default `config.num_sources`; only "gaussian" slots
                come in any number. Slots that find no source give silence.
            previous_slots: in sequential mode the last chunk's `slots` of an earlier call, (batch, num_sources,
                hidden_size), to go on where that ended.
            generator: draws gaussian slots, instead of `config.slot_seed` or, in training, the global generator.
            stitching: "overlap" aligns chunks by what they share; "labels" by the matching, to tell errors of
                stitching from those of separation; "none" leaves slots where they are, as in sequential mode.

        Returns:
            AudioSlotsOutput: `sources` (batch, num_sources, 1, samples), `masks` (what the spectrogram was multiplied
            with, (batch, num_sources, frames, bins)), `presence_logits`, `loss` with labels.

        Raises:
            AudioError: if the waveform or the labels have another shape or are too short, or the slots cannot come in
                this number.
        """
        check_keywords(self, kwargs)
        check_waveform(self.config, input_values, lower="the Fourier transform needs")
        num_sources = self._check_slots(input_values, labels, num_sources, previous_slots)
        stitching = self._check_stitching(stitching, labels)
        mixture = self._analyse(input_values)
        hop = self.config.half_frames * (2 if self.training and labels is not None else 1)
        features = cut(self._compress(mixture.spectrogram.squeeze(1)), self.config.chunk_frames, hop)
        start = self.slots(draw=(len(input_values), num_sources, generator))
        slots, magnitudes = self.generate(features, start, previous_slots)
        chunks = Chunks(features, slots, magnitudes, self._masks(magnitudes, features), hop)

        loss = order = None
        if labels is not None and self.config.loss == "matching":
            labels = F.pad(labels.float(), (0, 0, 0, 0, 0, num_sources - labels.shape[1]))
            targets = self._targets(labels / mixture.level.unsqueeze(1), hop)
            order = match(magnitudes.detach(), targets, whole=self.config.sequential)
            loss = matching_loss(magnitudes, targets, order)
        permutations = order if stitching == "labels" else self._stitch(stitching, chunks)
        assert permutations is not None  # "labels" was refused without labels
        masks, sources = self._assemble(chunks, permutations, mixture)
        if labels is not None and loss is None:
            loss = self._mixit(chunks, sources, labels, mixture)
        elif labels is not None and loss is not None and order is not None and self.config.waveform_weight:
            ordered = sources if permutations is order else self._assemble(chunks, order, mixture)[1]
            loss = loss + self.config.waveform_weight * sdr_loss(ordered, labels, input_values)
        presence = self._presence(sources, input_values)
        return AudioSlotsOutput(loss, sources, masks, presence, slots, permutations, *count_sources(presence))

    def generate(self, features: Tensor, start: Tensor, previous: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """The network: compressed magnitudes of chunks -> slots, and the compressed magnitudes each of them makes.

        Args:
            features: (batch, chunks, chunk_frames, bins), in sequential mode consecutive chunks.
            start: where slots start at first, (batch, num_sources, hidden_size).
            previous: in sequential mode the slots of the chunk before the first, the same shape.

        Returns:
            Slots (batch, chunks, num_sources, hidden_size) and (batch, chunks, num_sources, chunk_frames, bins).
        """
        batch, chunks = features.shape[:2]
        tokens, maps = self.encoder(features.flatten(0, 1)[..., :-1])  # without Nyquist, sizes halve evenly
        slots = self.slots(start, tokens.unflatten(0, (batch, chunks)), previous)
        linear = self.decoder(slots.flatten(0, 2)).unflatten(0, slots.shape[:3])
        if self.refiner is not None:
            correction = self.refiner(slots.flatten(0, 1), tokens, maps).unflatten(0, (batch, chunks))
            linear = linear + F.pad(correction, (0, 1))
        return slots, F.softplus(linear) + MAGNITUDE_FLOOR

    def slots_at(self, slots: Tensor, samples: int) -> Tensor:
        """The `previous_slots` of an input that starts `samples` after the one whose `slots` these are.

        They are those of the last chunk but what the inputs share, so that a sequence is the same however it is cut,
        if it is cut where chunks start. Later than the last chunk and before the second, those two are taken.

        Args:
            slots: (batch, chunks, num_sources, hidden_size), of a call outside training.
            samples: 0 or more.

        Returns:
            (batch, num_sources, hidden_size).
        """
        chunk = samples // (self.config.half_frames * self.config.hop_length) - 1
        return slots[:, min(max(chunk, 0), slots.shape[1] - 1)]

    def _analyse(self, input_values: Tensor) -> Mixture:
        level = input_values.float().square().mean(dim=(1, 2), keepdim=True).sqrt().clamp_min(LEVEL_FLOOR)
        spectrogram = stft(input_values / level, self.config.n_fft, self.config.hop_length)
        return Mixture(input_values.shape[-1], level, spectrogram)

    def _assemble(self, chunks: Chunks, order: Tensor, mixture: Mixture) -> tuple[Tensor, Tensor]:
        """Masks (batch, num_sources, frames, bins) and sources (batch, num_sources, 1, samples), slots in `order`."""
        masks = cross_fade(reorder(chunks.masks, order), chunks.hop, mixture.spectrogram.shape[2])
        return masks, self._synthesise(masks, mixture.spectrogram, mixture.samples) * mixture.level.unsqueeze(1)

    def _compress(self, spectrogram: Tensor) -> Tensor:
        """Magnitude to the power of the config; the floor keeps the gradient of a power finite."""
        power = spectrogram.real.square() + spectrogram.imag.square()
        return torch.where(power > 1e-12, power.clamp_min(1e-12) ** (self.config.compression / 2), 0.0)

    def _targets(self, labels: Tensor, hop: int) -> Tensor:
        """Compressed magnitudes of labels (batch, n, 1, samples), (batch, chunks, n, chunk_frames, bins)."""
        spectrogram = stft(labels.squeeze(2), self.config.n_fft, self.config.hop_length)
        return cut(self._compress(spectrogram), self.config.chunk_frames, hop).transpose(1, 2)

    def _masks(self, magnitudes: Tensor, features: Tensor) -> Tensor:
        """What to multiply the mixture with, from (batch, chunks, num_sources, chunk_frames, bins)."""
        if self.config.reconstruct == "mask":
            return (magnitudes.log() * (2 / self.config.compression)).softmax(dim=2)
        ratio = (magnitudes / features.clamp_min(1e-4).unsqueeze(2)) ** (1 / self.config.compression)
        return ratio.clamp_max(2.0)  # the power makes small errors of loud bins large

    def _stitch(self, stitching: str, chunks: Chunks) -> Tensor:
        """The slot of each output in each chunk, (batch, chunks, num_sources)."""
        shape = chunks.slots.shape[:3]
        if stitching == "none" or shape[1] == 1 or shape[2] == 1:
            return torch.arange(shape[2], device=chunks.slots.device).expand(shape)
        magnitudes = chunks.masks.detach() ** self.config.compression * chunks.features.unsqueeze(2)
        hop_seconds = chunks.hop * self.config.hop_length / self.config.sampling_rate
        return align(magnitudes, chunks.slots.detach(), chunks.features, chunks.hop, MEMORY_SECONDS / hop_seconds)

    def _synthesise(self, masks: Tensor, spectrogram: Tensor, samples: int) -> Tensor:
        """Waveforms (..., num_sources, 1, samples) of masks on the mixture (..., 1, frames, bins)."""
        return istft(masks * spectrogram, self.config.n_fft, self.config.hop_length, samples).unsqueeze(-2)

    def _mixit(self, chunks: Chunks, sources: Tensor, labels: Tensor, mixture: Mixture) -> Tensor:
        """MixIT (2006.12701) on each chunk by itself, in sequential mode on the whole input."""
        if self.config.sequential:
            return mixit_loss(sources, labels)
        samples, step = 2 * self.config.half_frames * self.config.hop_length, chunks.hop * self.config.hop_length
        spectrogram = cut(mixture.spectrogram.squeeze(1), self.config.chunk_frames, chunks.hop).unsqueeze(2)
        waveforms = self._synthesise(chunks.masks, spectrogram, samples).flatten(0, 1)
        targets = (labels.float() / mixture.level.unsqueeze(1)).transpose(2, 3)  # (batch, mixtures, samples, 1)
        targets = cut(targets, samples, step)[:, :, : spectrogram.shape[1]].permute(0, 2, 1, 4, 3).flatten(0, 1)
        return mixit_loss(waveforms, targets)

    @torch.no_grad()
    def _presence(self, sources: Tensor, mixture: Tensor) -> Tensor:
        """Logits that a source is there, from its level against the mixture's, (batch, num_sources)."""
        share = sources.square().sum(dim=(2, 3)) / mixture.float().square().sum(dim=(1, 2)).clamp_min(1e-8)[:, None]
        level = 10 * share.clamp_min(1e-12).log10()
        return (level - self.config.presence_threshold_db) / PRESENCE_SCALE_DB

    def _check_slots(
        self, input_values: Tensor, labels: Tensor | None, num_sources: int | None, previous_slots: Tensor | None
    ) -> int:
        """The number of slots of this call."""
        batch, _, samples = input_values.shape
        if num_sources is None:
            num_sources = self.config.num_sources if previous_slots is None else previous_slots.shape[1]
        if not 1 <= num_sources <= 32:
            raise AudioError(f"num_sources must be 1 to 32, got {num_sources}")
        if previous_slots is None and not self.slots.gaussian and num_sources != len(self.slots.queries):
            raise AudioError(
                f"this model has learned {len(self.slots.queries)} slots and cannot separate {num_sources} sources; "
                'slot_init "gaussian" takes any number'
            )
        if previous_slots is not None and not self.config.sequential:
            raise AudioError("previous_slots are for models in sequential mode; leave them out")
        wanted = (batch, num_sources, self.config.hidden_size)
        if previous_slots is not None and tuple(previous_slots.shape) != wanted:
            raise AudioError(f"previous_slots must be {wanted}, got {tuple(previous_slots.shape)}")
        if labels is None:
            return num_sources
        shape, most = tuple(labels.shape), num_sources if self.config.loss == "matching" else 2
        if len(shape) != 4 or (shape[0], *shape[2:]) != (batch, 1, samples) or not 1 <= shape[1] <= most:
            raise AudioError(f"labels must be ({batch}, up to {most}, 1, {samples}), got {shape}")
        return num_sources

    def _check_stitching(self, stitching: str | None, labels: Tensor | None) -> str:
        matched = labels is not None and self.config.loss == "matching"
        if stitching is None:
            if self.training and labels is not None:
                return "labels" if matched else "none"
            return "none" if self.config.sequential else "overlap"
        if stitching not in STITCHINGS:
            raise AudioError(f"stitching must be one of {', '.join(STITCHINGS)}, got {stitching!r}")
        if stitching == "labels" and not matched:
            raise AudioError('stitching by "labels" needs labels and the loss "matching"')
        return stitching


__all__ = ["AudioSlotsForAudioSeparation", "AudioSlotsOutput", "AudioSlotsPreTrainedModel"]
