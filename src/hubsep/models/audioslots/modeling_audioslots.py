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

- Encoder: before the Transformer, residual blocks with group norm, as in the authors' other slot models. Maps are
  channels last and the convolutions dense, which is what a CPU trains fastest in bfloat16.
- Slots: no layer knows the number of a slot. With "gaussian" starts any number of slots can be asked for, with
  "learned" ones there is a vector for each; slot attention (2006.15055) is the alternative to the Transformer.
- Decoder: a slot is laid on every position with the position's code. The first layer is applied to the parts, slot,
  time and frequency, and their sums are broadcast: the same numbers without a map of the inputs.
- Refinement: a path of upsampling leads from the tokens through the backbone's maps; each slot generates the weights
  of its last convolution, which corrects the log magnitudes. They start at zero: so does training, without it.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers import initialization as init
from transformers.utils import can_return_tuple

from ...errors import AudioError
from ...hub.models import HubsepModelMixin
from ...layers import dtype_of, istft, stft
from ...losses import mixit_loss, sdr_loss
from ...modeling import AudioSeparationOutput, check_keywords, check_waveform
from .configuration_audioslots import AudioSlotsConfig
from .stitching_audioslots import align, count_sources, cross_fade, cut, match, matching_loss, reorder


STITCHINGS = ("overlap", "labels", "none")
MEMORY_SECONDS = 2.0  # of the slot embeddings, for stitching across a pause
PRESENCE_SCALE_DB = 3.0  # level above or below the threshold that makes a logit of one
LEVEL_FLOOR = 1e-5  # of the waveform: quieter than the last bit of 16
CARRIED_AT_FIRST = 0.5  # share of the previous chunk's slots, before anything is learnt
STRIP_ELEMENTS = 2**24  # of a hidden map, when nothing is learnt: 64 MB, whatever the length of the recording
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


class ResidualBlock(nn.Module):
    """Two 3x3 convolutions with group norm and a shortcut, (batch, channels, time, frequency)."""

    def __init__(self, in_channels: int, out_channels: int, stride: tuple[int, int], groups: int):
        super().__init__()
        self.conv1 = nn.Conv2d(in_channels, out_channels, 3, stride, padding=1, bias=False)
        self.norm1 = nn.GroupNorm(groups, out_channels)
        self.conv2 = nn.Conv2d(out_channels, out_channels, 3, padding=1, bias=False)
        self.norm2 = nn.GroupNorm(groups, out_channels)
        same = in_channels == out_channels and max(stride) == 1
        self.shortcut = nn.Identity() if same else nn.Conv2d(in_channels, out_channels, 1, stride)

    def forward(self, x: Tensor) -> Tensor:
        hidden = F.relu(self.norm1(self.conv1(x)))
        return F.relu(self.norm2(self.conv2(hidden)) + self.shortcut(x))


class Attention(nn.Module):
    """Multi-head attention of `queries` (batch, n, size) to `tokens` (batch, m, size)."""

    def __init__(self, size: int, num_heads: int):
        super().__init__()
        self.num_heads = num_heads
        self.query = nn.Linear(size, size)
        self.key_value = nn.Linear(size, 2 * size)
        self.output = nn.Linear(size, size)

    def forward(self, queries: Tensor, tokens: Tensor) -> Tensor:
        query = self.query(queries).unflatten(-1, (self.num_heads, -1)).transpose(1, 2)
        key, value = self.key_value(tokens).unflatten(-1, (2, self.num_heads, -1)).permute(2, 0, 3, 1, 4)
        attended = F.scaled_dot_product_attention(query, key, value)
        return self.output(attended.transpose(1, 2).flatten(2))


class FeedForward(nn.Module):
    """Two linear layers with a GELU between them."""

    def __init__(self, size: int, intermediate_size: int):
        super().__init__()
        self.linear1 = nn.Linear(size, intermediate_size)
        self.linear2 = nn.Linear(intermediate_size, size)

    def forward(self, x: Tensor) -> Tensor:
        return self.linear2(F.gelu(self.linear1(x)))


class TokenLayer(nn.Module):
    """A pre-norm Transformer layer over tokens (batch, tokens, hidden_size)."""

    def __init__(self, config: AudioSlotsConfig):
        super().__init__()
        self.attention_norm = nn.LayerNorm(config.hidden_size)
        self.attention = Attention(config.hidden_size, config.num_heads)
        self.feed_forward_norm = nn.LayerNorm(config.hidden_size)
        self.feed_forward = FeedForward(config.hidden_size, config.intermediate_size)

    def forward(self, tokens: Tensor) -> Tensor:
        normed = self.attention_norm(tokens)
        tokens = tokens + self.attention(normed, normed)
        return tokens + self.feed_forward(self.feed_forward_norm(tokens))


class AudioSlotsEncoder(nn.Module):
    """Compressed magnitudes of chunks -> tokens with learned positions, and the maps they were made from."""

    def __init__(self, config: AudioSlotsConfig):
        super().__init__()
        kernel, stride = tuple(config.root_kernel), tuple(config.root_stride)
        padding = (kernel[0] // 2, kernel[1] // 2)
        self.root = nn.Conv2d(1, config.root_channels, kernel, stride, padding, bias=False)  # type: ignore[arg-type]
        self.root_norm = nn.GroupNorm(config.norm_groups, config.root_channels)
        self.stages = nn.ModuleList()
        channels = config.root_channels
        for depth, width, (time, frequency) in zip(
            config.backbone_depths, config.backbone_channels, config.backbone_strides, strict=True
        ):
            blocks = [ResidualBlock(channels, width, (time, frequency), config.norm_groups)]
            blocks += [ResidualBlock(width, width, (1, 1), config.norm_groups) for _ in range(depth - 1)]
            self.stages.append(nn.Sequential(*blocks))
            channels = width
        rows, columns = config.grids[-1]
        self.projection = nn.Linear(channels, config.hidden_size)
        self.row_positions = nn.Parameter(torch.empty(rows, config.hidden_size))
        self.column_positions = nn.Parameter(torch.empty(columns, config.hidden_size))
        self.layers = nn.ModuleList(TokenLayer(config) for _ in range(config.encoder_layers))
        self.norm = nn.LayerNorm(config.hidden_size)

    def forward(self, features: Tensor) -> tuple[Tensor, list[Tensor]]:
        """Encodes chunks.

        Args:
            features: (chunks, chunk_frames, bins without Nyquist), float32.

        Returns:
            Tokens (chunks, tokens, hidden_size), and the maps after the root and each stage,
            (chunks, channels, time, frequency).
        """
        x = features.unsqueeze(1).to(dtype_of(self.root)).contiguous(memory_format=torch.channels_last)
        x = F.relu(self.root_norm(self.root(x)))
        maps = [x]
        for stage in self.stages:
            x = stage(x)
            maps.append(x)
        tokens = self.projection(x.permute(0, 2, 3, 1))
        tokens = (tokens + self.row_positions[:, None] + self.column_positions).flatten(1, 2)
        for layer in self.layers:
            tokens = layer(tokens)
        return self.norm(tokens), maps


class SlotLayer(nn.Module):
    """A pre-norm Transformer decoder layer: slots among themselves, slots to tokens, feed-forward."""

    def __init__(self, config: AudioSlotsConfig):
        super().__init__()
        size = config.hidden_size
        self.self_norm, self.cross_norm, self.feed_forward_norm = (nn.LayerNorm(size) for _ in range(3))
        self.self_attention = Attention(size, config.num_heads)
        self.cross_attention = Attention(size, config.num_heads)
        self.feed_forward = FeedForward(size, config.intermediate_size)

    def forward(self, slots: Tensor, tokens: Tensor) -> Tensor:
        normed = self.self_norm(slots)
        slots = slots + self.self_attention(normed, normed)
        slots = slots + self.cross_attention(self.cross_norm(slots), tokens)
        return slots + self.feed_forward(self.feed_forward_norm(slots))


class SlotTransformer(nn.Module):
    """`slot_layers` decoder layers, each with its own weights."""

    def __init__(self, config: AudioSlotsConfig):
        super().__init__()
        self.layers = nn.ModuleList(SlotLayer(config) for _ in range(config.slot_layers))
        self.norm = nn.LayerNorm(config.hidden_size)

    def forward(self, slots: Tensor, tokens: Tensor) -> Tensor:
        for layer in self.layers:
            slots = layer(slots, tokens)
        return self.norm(slots)


class SlotAttention(nn.Module):
    """Slot attention (2006.15055, algorithm 1): `slot_layers` iterations of the same recurrent update."""

    def __init__(self, config: AudioSlotsConfig):
        super().__init__()
        size = config.hidden_size
        self.iterations = config.slot_layers
        self.slot_norm, self.feed_forward_norm, self.norm = (nn.LayerNorm(size) for _ in range(3))
        self.query = nn.Linear(size, size, bias=False)
        self.key_value = nn.Linear(size, 2 * size, bias=False)
        self.gates_input = nn.Linear(size, 3 * size)
        self.gates_slots = nn.Linear(size, 3 * size)
        self.feed_forward = FeedForward(size, config.intermediate_size)

    def forward(self, slots: Tensor, tokens: Tensor) -> Tensor:
        key, value = self.key_value(tokens).chunk(2, dim=-1)
        for _ in range(self.iterations):
            scores = self.query(self.slot_norm(slots)) @ key.transpose(1, 2) * slots.shape[-1] ** -0.5
            weights = scores.float().softmax(dim=1) + 1e-8  # slots compete for each token
            weights = weights / weights.sum(dim=2, keepdim=True)
            slots = self._gru(weights.to(value.dtype) @ value, slots)
            slots = slots + self.feed_forward(self.feed_forward_norm(slots))
        return self.norm(slots)

    def _gru(self, update: Tensor, slots: Tensor) -> Tensor:
        reset_in, keep_in, new_in = self.gates_input(update).chunk(3, dim=-1)
        reset, keep, new = self.gates_slots(slots).chunk(3, dim=-1)
        keep = torch.sigmoid(keep_in + keep)
        return torch.lerp(torch.tanh(new_in + torch.sigmoid(reset_in + reset) * new), slots.to(keep.dtype), keep)


class AudioSlotsSlots(nn.Module):
    """Where slots start, how they read the tokens, and how they go on to the next chunk."""

    def __init__(self, config: AudioSlotsConfig):
        super().__init__()
        self.seed = config.slot_seed
        self.gaussian = config.slot_init == "gaussian"
        if self.gaussian:
            self.mean = nn.Parameter(torch.empty(config.hidden_size))
            self.log_deviation = nn.Parameter(torch.empty(config.hidden_size))
        else:
            self.queries = nn.Parameter(torch.empty(config.num_sources, config.hidden_size))
        kind = SlotTransformer if config.slot_encoder == "transformer" else SlotAttention
        self.reader = kind(config)
        self.carry = nn.Linear(config.hidden_size, config.hidden_size) if config.sequential else None

    def start(self, batch: int, num_sources: int, generator: torch.Generator | None = None) -> Tensor:
        """Slots before they have seen anything, (batch, num_sources, hidden_size).

        Gaussian ones are drawn anew for each item in training. Otherwise all items share one seeded draw, and the
        global random state is left alone. With a `generator` the draw is its, in both modes.
        """
        if not self.gaussian:
            return self.queries.expand(batch, -1, -1)
        shape, device = (batch, num_sources, len(self.mean)), self.mean.device
        if generator is not None:
            noise = drawn(shape, generator).to(device)
        elif self.training:
            noise = torch.randn(shape, device=device)
        else:
            noise = drawn(shape[1:], torch.Generator().manual_seed(self.seed)).to(device).expand(shape)
        return self.mean + self.log_deviation.exp() * noise.to(self.mean.dtype)

    def carried(self, start: Tensor, previous: Tensor) -> Tensor:
        """Where slots start in the chunk after the one that ended with `previous`, in sequential mode.

        What is carried is added to where slots start at first. Slots that were only carried became alike within a
        minute, and so did the sources: what kept them apart was in the first start alone.
        """
        assert self.carry is not None  # the model refused earlier slots in other modes
        return start + self.carry(previous.to(dtype_of(self.carry)))

    def forward(
        self,
        start: Tensor | None = None,
        tokens: Tensor | None = None,
        previous: Tensor | None = None,
        *,
        draw: tuple[int, int, torch.Generator | None] | None = None,
    ) -> Tensor:
        """Slots of every chunk; with `draw` those of `start(*draw)`: weights that are offloaded come with a call only.

        Args:
            start: where slots start at first, (batch, num_sources, hidden_size).
            tokens: (batch, chunks, tokens, hidden_size).
            previous: in sequential mode the slots of the chunk before the first.
            draw: arguments of `start`, instead of the others.

        Returns:
            (batch, chunks, num_sources, hidden_size).
        """
        if start is None or tokens is None:
            assert draw is not None
            return self.start(*draw)
        chunks = tokens.shape[1]
        if self.carry is None:
            starts = start.unsqueeze(1).expand(-1, chunks, -1, -1).flatten(0, 1)
            return self.reader(starts, tokens.flatten(0, 1)).unflatten(0, (-1, chunks))
        slots = []
        for chunk in tokens.unbind(1):
            slots.append(self.reader(start if previous is None else self.carried(start, previous), chunk))
            previous = slots[-1]
        return torch.stack(slots, dim=1)


def drawn(shape: Sequence[int], generator: torch.Generator) -> Tensor:
    """Gaussian numbers. A trace would leave the generator out, and draw other ones each time: it gets the numbers."""
    noise = torch.randn(tuple(shape), generator=generator, device=generator.device)
    return torch.tensor(noise.tolist(), device=generator.device) if torch.jit.is_tracing() else noise


def position_code(positions: int, frequencies: int, like: Tensor) -> Tensor:
    """Sines and cosines of a line from -1 to 1, (positions, 2 * frequencies), half periods 1 to `frequencies`."""
    line = torch.linspace(-1.0, 1.0, positions, device=like.device)
    angles = math.pi * line[:, None] * torch.arange(1, frequencies + 1, device=like.device)
    return torch.cat([angles.sin(), angles.cos()], dim=1)


class BroadcastDecoder(nn.Module):
    """Slots (n, hidden_size) -> maps (n, chunk_frames, bins), before the softplus that makes them magnitudes."""

    def __init__(self, config: AudioSlotsConfig):
        super().__init__()
        self.shape = (config.chunk_frames, config.num_bins)
        self.patch = (config.decoder_patch[0], config.decoder_patch[1])
        self.frequencies, width = config.position_frequencies, config.decoder_hidden_size
        self.slot = nn.Linear(config.hidden_size, width)
        self.time = nn.Linear(2 * self.frequencies, width, bias=False)
        self.frequency = nn.Linear(2 * self.frequencies, width, bias=False)
        self.layers = nn.ModuleList(nn.Linear(width, width) for _ in range(config.decoder_layers - 1))
        self.head = nn.Linear(width, self.patch[0] * self.patch[1])

    def forward(self, slots: Tensor) -> Tensor:
        rows, columns = (-(-size // step) for size, step in zip(self.shape, self.patch, strict=True))
        time = self.time(position_code(rows, self.frequencies, slots).to(dtype_of(self.time)))
        frequency = self.frequency(position_code(columns, self.frequencies, slots).to(dtype_of(self.frequency)))
        grid, slots = time[:, None] + frequency, self.slot(slots)
        if torch.is_grad_enabled():
            return self._decode(slots, grid)
        strip = max(STRIP_ELEMENTS // grid.numel(), 1)
        return torch.cat([self._decode(part, grid) for part in slots.split(strip)])

    def _decode(self, slots: Tensor, grid: Tensor) -> Tensor:
        hidden = F.relu(slots[:, None, None] + grid)
        for layer in self.layers:
            hidden = F.relu(layer(hidden))
        return unfold_patches(self.head(hidden).float(), self.patch)[:, : self.shape[0], : self.shape[1]]


class Correction(nn.Linear):
    """A linear layer that starts at zero. Its own class, because transformers initialises by module, and passes over
    modules without parameters of their own."""


class UpBlock(nn.Module):
    """A coarser map is brought to the size and channels of a finer one and added to it, before a residual block."""

    def __init__(self, coarse: int, fine: int, groups: int):
        super().__init__()
        self.project = nn.Linear(coarse, fine)
        self.block = ResidualBlock(fine, fine, (1, 1), groups)

    def forward(self, coarse: Tensor, fine: Tensor) -> Tensor:
        projected = self.project(coarse.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)
        if projected.shape[2:] != fine.shape[2:]:
            projected = F.interpolate(projected, size=fine.shape[2:], mode="nearest")
        return self.block(fine + projected)


class RefinementDecoder(nn.Module):
    """Corrections of log magnitudes (chunks, num_sources, chunk_frames, bins - 1) from slots, tokens and maps."""

    def __init__(self, config: AudioSlotsConfig):
        super().__init__()
        self.frames, self.grid = config.chunk_frames, config.grids[-1]
        self.patch = (config.root_stride[0], config.root_stride[1])
        fine = [config.root_channels, *config.backbone_channels][::-1]
        coarse = [config.hidden_size, *fine]
        self.blocks = nn.ModuleList(
            UpBlock(below, above, config.norm_groups) for below, above in zip(coarse, fine, strict=False)
        )
        self.area = self.patch[0] * self.patch[1]
        self.kernel = Correction(config.hidden_size, config.root_channels * self.area)
        self.bias = Correction(config.hidden_size, self.area)
        self.bins = config.num_bins - 1

    def forward(self, slots: Tensor, tokens: Tensor, maps: list[Tensor]) -> Tensor:
        x = tokens.unflatten(1, self.grid).permute(0, 3, 1, 2)
        for block, fine in zip(self.blocks, maps[::-1], strict=True):
            x = block(x, fine)
        num_sources, (rows, columns) = slots.shape[1], x.shape[2:]
        # A mean over channels rather than a sum: a first step of Adam then moves the result as far as elsewhere.
        kernel = self.kernel(slots).unflatten(-1, (self.area, -1)).flatten(1, 2) / x.shape[1]
        logits = x.permute(0, 2, 3, 1).flatten(1, 2) @ kernel.transpose(1, 2)
        logits = logits + self.bias(slots).flatten(1).unsqueeze(1)
        logits = logits.float().unflatten(1, (rows, columns)).unflatten(3, (num_sources, -1))
        logits = unfold_patches(logits.permute(0, 3, 1, 2, 4).flatten(0, 1), self.patch)
        return logits.unflatten(0, (-1, num_sources))[:, :, : self.frames, : self.bins]


def unfold_patches(x: Tensor, patch: tuple[int, int]) -> Tensor:
    """Lays the channels of each position out as a rectangle: (n, rows, columns, area) -> (n, frames, bins)."""
    return x.unflatten(3, patch).transpose(2, 3).flatten(3, 4).flatten(1, 2)


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
