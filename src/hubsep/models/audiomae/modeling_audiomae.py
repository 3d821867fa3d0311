# SPDX-License-Identifier: Apache-2.0
"""AudioMAE (2207.06405): a vision transformer on log-mel spectrograms, pre-trained by filling in hidden patches.

AudioLDM 2 (2308.05734) describes any sound by what this encoder makes of it: the outputs of the last layers, averaged
and pooled over patches, are its "language of audio" (LOA). Decisions:

- The output is the mean over the last layers of their normalised outputs. Pre-training, which sees a part of the
  patches, takes the last layer's alone, as published.
- Positions are stored with the weights, as published, and fixed. A shorter spectrogram takes the first of them, which
  are the places its patches have in a long one: any multiple of `patch_size` frames goes.
- Pre-training draws its mask from torch's generator, or takes the noise it is given.

Also here: the decoders of AudioMAE's pre-training: attention within windows that shift (2207.06405, section 3.3), or
global.

A window layer attends by the cosine of queries and keys over a learnt temperature, with biases that a small network
makes from the distances within a window on a logarithmic scale (Swin Transformer V2, 2111.09883); its norms come after
attention and feed-forward network. Every other layer moves the windows by half their length in time, not in
frequency; patches that lie together only because the spectrogram's end meets its start there do not see each other.

Also here: what encoder and decoders of AudioMAE share: the fixed table of positions, and the transformer layer.

The table keeps a property of the published weights: it counts the patches as if frequency were the slow axis, while
the patches come with time as the slow one. Every patch still has a place of its own, nothing but the place is odd; a
table that counted right would not fit the published weights. A patch has the same place however long the spectrogram.

Also here: which patches AudioMAE's pre-training hides, and what it has to say about them.

Masking is drawn for each recording of a batch. "random" hides patches; "time_frequency" hides whole time steps and
whole bands. The noise that decides can be given, so that a draw can be repeated anywhere: small noise is kept.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers import initialization as init
from transformers.modeling_layers import GradientCheckpointingLayer
from transformers.modeling_outputs import BaseModelOutput
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS
from transformers.utils import ModelOutput, can_return_tuple

from ...errors import AudioError, DataError
from ...hub.models import HubsepModelMixin
from ...layers import eager_attention
from ...modeling import check_keywords
from .configuration_audiomae import AudioMAEConfig


EPSILON = 1e-6  # added to the variance of a target patch


class Masking(NamedTuple):
    """What is hidden: `kept` (batch, kept patches), `ids_restore` and `mask` (batch, patches), 1 where hidden."""

    kept: Tensor
    ids_restore: Tensor
    mask: Tensor


def random_masking(noise: Tensor, ratio: float) -> Masking:
    """Hides a part of the patches.

    Args:
        noise: (batch, patches); the patches with the smallest are kept, in that order.
        ratio: part of the patches that is hidden.
    """
    return _masking(noise.argsort(dim=1, stable=True), _num_kept(noise.shape[1], ratio))


def time_frequency_masking(noise: Tensor, bands: int, time_ratio: float, frequency_ratio: float) -> Masking:
    """Hides whole time steps and whole bands; patches are kept in their order.

    Args:
        noise: (batch, time steps + bands); the steps, and the bands, with the smallest are kept.
        bands: how many bands there are.
        time_ratio: part of the time steps that is hidden.
        frequency_ratio: part of the bands that is hidden.
    """
    steps = noise.shape[1] - bands
    time_kept, frequency_kept = _num_kept(steps, time_ratio), _num_kept(bands, frequency_ratio)
    hidden_steps = _ranks(noise[:, :steps]) >= time_kept
    hidden_bands = _ranks(noise[:, steps:]) >= frequency_kept
    hidden = (hidden_steps[:, :, None] | hidden_bands[:, None, :]).flatten(1)
    return _masking(hidden.long().argsort(dim=1, stable=True), time_kept * frequency_kept)


def _num_kept(number: int, ratio: float) -> int:
    """What is left of `number`, rounded down; 40 * (1 - 0.8) is 7.999 to a computer and 8 here."""
    return int(number * (1 - ratio) + 1e-6)


def _ranks(noise: Tensor) -> Tensor:
    return noise.argsort(dim=1, stable=True).argsort(dim=1)


def _masking(order: Tensor, num_kept: int) -> Masking:
    """From the patches in the order of being kept."""
    if num_kept < 1:
        raise DataError(f"the masking keeps none of {order.shape[1]} patches; hide less, or give longer spectrograms")
    ids_restore = order.argsort(dim=1)
    return Masking(order[:, :num_kept], ids_restore, (ids_restore >= num_kept).float())


def patchify(spectrogram: Tensor, patch_size: int) -> Tensor:
    """Patches with time as the slow axis: (batch, 1, frames, bins) -> (batch, patches, patch_size^2)."""
    patches = spectrogram[:, 0].unflatten(2, (-1, patch_size)).unflatten(1, (-1, patch_size))
    return patches.transpose(2, 3).flatten(3).flatten(1, 2)


def unpatchify(patches: Tensor, bands: int, patch_size: int) -> Tensor:
    """Inverse of `patchify`, of a spectrogram with `bands` patches in frequency."""
    blocks = patches.unflatten(2, (patch_size, patch_size)).unflatten(1, (-1, bands))
    return blocks.transpose(2, 3).flatten(3).flatten(1, 2).unsqueeze(1)


def reconstruction_loss(logits: Tensor, target: Tensor, mask: Tensor, normalize: bool) -> Tensor:
    """Mean squared error over the hidden patches, in float32.

    Args:
        logits: predicted patches, (batch, patches, patch_size^2).
        target: true patches of the same shape.
        mask: (batch, patches), 1 where hidden.
        normalize: whether each target patch has its own mean and (unbiased) variance taken out.
    """
    target = target.float()
    if normalize:
        variance, mean = torch.var_mean(target, dim=-1, keepdim=True)
        target = (target - mean) * (variance + EPSILON).rsqrt()
    error = (logits.float() - target).square().mean(dim=-1)
    return (error * mask).sum() / mask.sum().clamp_min(1)


def position_table(grid: tuple[int, int], size: int) -> Tensor:
    """Sines and cosines of two axes, after a row of zeros for the class token.

    Args:
        grid: patches in time and in frequency.
        size: of an entry, a multiple of 4.

    Returns:
        (1, 1 + patches, size), float32.
    """
    length, height = grid
    frequencies = 1 / 10_000 ** (torch.arange(size // 4, dtype=torch.float64) / (size // 4))
    places = torch.arange(length * height)
    axes = [(places % length).double(), (places // length).double()]
    halves = [f(axis[:, None] * frequencies) for axis in axes for f in (torch.sin, torch.cos)]
    return F.pad(torch.cat(halves, dim=1), (0, 0, 1, 0)).float().unsqueeze(0)


class AudioMAEAttention(nn.Module):
    """Multi-head self-attention over all patches; queries, keys and values come from one matrix product."""

    is_causal = False

    def __init__(self, config: AudioMAEConfig, size: int, num_heads: int):
        super().__init__()
        self.config = config
        self.num_heads = num_heads
        self.scaling = (size // num_heads) ** -0.5
        self.qkv = nn.Linear(size, 3 * size)
        self.output = nn.Linear(size, size)

    def forward(self, x: Tensor) -> Tensor:
        """x: (batch, length, size)."""
        query, key, value = self.qkv(x).unflatten(2, (3, self.num_heads, -1)).permute(2, 0, 3, 1, 4).unbind(0)
        attend = ALL_ATTENTION_FUNCTIONS.get_interface(self.config._attn_implementation, eager_attention)
        mixed, _ = attend(self, query, key, value, None, scaling=self.scaling, dropout=0.0, is_causal=False)
        return self.output(mixed.flatten(2))


class AudioMAELayer(GradientCheckpointingLayer):
    """A transformer layer with its norms before attention and feed-forward network."""

    def __init__(self, config: AudioMAEConfig, size: int, num_heads: int, intermediate_size: int):
        super().__init__()
        self.attention_norm = nn.LayerNorm(size, eps=config.layer_norm_eps)
        self.attention = AudioMAEAttention(config, size, num_heads)
        self.ffn_norm = nn.LayerNorm(size, eps=config.layer_norm_eps)
        self.linear1 = nn.Linear(size, intermediate_size)
        self.linear2 = nn.Linear(intermediate_size, size)

    def forward(self, x: Tensor) -> Tensor:
        """x: (batch, length, size)."""
        x = x + self.attention(self.attention_norm(x))
        return x + self.linear2(F.gelu(self.linear1(self.ffn_norm(x))))


SMALLEST_TEMPERATURE = 0.01
NEVER = -100.0  # added to what is attended to across the spectrogram's ends, as in the published code


def window_offsets(window: int) -> Tensor:
    """Signed logarithms of the distances between all places of a window, (window^4, 2), time first."""
    places = torch.cartesian_prod(torch.arange(window), torch.arange(window)).float()
    offsets = (places[:, None] - places[None]).flatten(0, 1)
    return offsets.sign() * offsets.abs().log1p()


def shift_mask(steps: int, window: int, shift: int) -> Tensor:
    """What is added to attention in windows moved by `shift` time steps, (windows in time, window^2, window^2).

    Only the last windows in time hold both the end and the start of a spectrogram.
    """
    wrapped = torch.arange(steps).unflatten(0, (-1, window)) >= steps - shift
    side = wrapped.repeat_interleave(window, dim=1)  # of every place: frequency is the fast axis of a window
    return NEVER * (side[:, :, None] != side[:, None, :]).float()


class WindowAttention(nn.Module):
    """Cosine attention within windows, with biases from the distances between places."""

    def __init__(self, config: AudioMAEConfig):
        super().__init__()
        size, hidden = config.decoder_hidden_size, config.decoder_bias_hidden_size
        self.num_heads, self.window = config.decoder_num_attention_heads, config.decoder_window_size
        self.bias_dropout = config.decoder_bias_dropout
        self.qkv = nn.Linear(size, 3 * size)
        self.output = nn.Linear(size, size)
        self.bias1 = nn.Linear(2, hidden)
        self.bias2 = nn.Linear(hidden, self.num_heads)
        self.temperature = nn.Parameter(torch.ones(self.num_heads))

    def forward(self, x: Tensor, mask: Tensor | None) -> Tensor:
        """x: (batch, windows, window^2, size); mask: (windows, 1, window^2, window^2), added before the softmax."""
        query, key, value = self.qkv(x).unflatten(3, (3, self.num_heads, -1)).permute(3, 0, 1, 4, 2, 5).unbind(0)
        temperature = self.temperature.clamp_min(SMALLEST_TEMPERATURE)[:, None, None]
        query, key = F.normalize(query, dim=-1) / temperature, F.normalize(key, dim=-1)
        added = self.biases() if mask is None else self.biases() + mask.to(x.dtype)
        mixed = F.scaled_dot_product_attention(
            query, key, value, attn_mask=added.expand(*query.shape[:4], -1), scale=1.0
        )
        return self.output(mixed.transpose(2, 3).flatten(3))

    def biases(self) -> Tensor:
        """(heads, window^2, window^2)."""
        offsets = window_offsets(self.window).to(self.bias1.weight)
        hidden = F.dropout(F.relu(self.bias1(offsets)), self.bias_dropout, self.training)
        biases = F.dropout(self.bias2(hidden), self.bias_dropout, self.training)
        return biases.T.unflatten(1, (self.window**2, -1))


class WindowLayer(GradientCheckpointingLayer):
    """A transformer layer on windows of patches, with its norms after attention and feed-forward network."""

    def __init__(self, config: AudioMAEConfig, shifted: bool):
        super().__init__()
        size = config.decoder_hidden_size
        self.window = config.decoder_window_size
        self.shift = self.window // 2 if shifted else 0
        self.attention = WindowAttention(config)
        self.attention_norm = nn.LayerNorm(size, eps=config.layer_norm_eps)
        self.linear1 = nn.Linear(size, config.decoder_intermediate_size)
        self.linear2 = nn.Linear(config.decoder_intermediate_size, size)
        self.ffn_norm = nn.LayerNorm(size, eps=config.layer_norm_eps)

    def forward(self, x: Tensor, grid: tuple[int, int]) -> Tensor:
        """x: (batch, patches, size), in `grid` patches of time and of frequency."""
        x = x + self.attention_norm(self._attend(x.unflatten(1, grid)).flatten(1, 2))
        return x + self.ffn_norm(self.linear2(F.gelu(self.linear1(x))))

    def _attend(self, x: Tensor) -> Tensor:
        """x: (batch, time, frequency, size)."""
        (_, steps, bands, _), window = x.shape, self.window
        # with a single window in time, nothing is gained by moving it
        shift = self.shift if steps > window else 0
        rows = x.roll(-shift, dims=1).unflatten(2, (-1, window)).unflatten(1, (-1, window))
        windows = rows.transpose(2, 3).flatten(3, 4).flatten(1, 2)
        mask = None
        if shift:
            mask = shift_mask(steps, window, shift).repeat_interleave(bands // window, dim=0)[:, None].to(x.device)
        mixed = self.attention(windows, mask).unflatten(2, (window, window)).unflatten(1, (-1, bands // window))
        return mixed.transpose(2, 3).flatten(3, 4).flatten(1, 2).roll(shift, dims=1)


class AudioMAEDecoder(nn.Module):
    """From what the encoder made of the patches it saw to the contents of all patches."""

    positions: Tensor

    def __init__(self, config: AudioMAEConfig):
        super().__init__()
        size = config.decoder_hidden_size
        self.grid, self.is_global = config.grid, config.decoder_type == "global"
        self.embedding = nn.Linear(config.hidden_size, size)
        self.mask_token = nn.Parameter(torch.zeros(1, 1, size))
        self.register_buffer("positions", position_table(config.grid, size))
        self.layers = nn.ModuleList(self._layer(config, index) for index in range(config.decoder_num_layers))
        self.norm = nn.LayerNorm(size, eps=config.layer_norm_eps)
        self.head = nn.Linear(size, config.patch_size**2)

    @staticmethod
    def _layer(config: AudioMAEConfig, index: int) -> nn.Module:
        if config.decoder_type == "shifted_window":
            return WindowLayer(config, shifted=index % 2 == 1)
        size, heads = config.decoder_hidden_size, config.decoder_num_attention_heads
        return AudioMAELayer(config, size, heads, config.decoder_intermediate_size)

    def forward(self, hidden: Tensor, ids_restore: Tensor) -> Tensor:
        """Predicts the contents of every patch.

        Args:
            hidden: the encoder's output, (batch, 1 + seen patches, hidden_size).
            ids_restore: of every patch, which of the seen and then the hidden ones it is, (batch, patches).

        Returns:
            (batch, patches, patch_size^2).
        """
        seen = self.embedding(hidden)
        batch, patches = ids_restore.shape
        tokens = self.mask_token.to(seen.dtype).expand(batch, patches + 1 - seen.shape[1], -1)
        every = torch.cat([seen[:, 1:], tokens], dim=1)
        every = every.gather(1, ids_restore[..., None].expand(-1, -1, seen.shape[2]))
        positions = self.positions[:, : patches + 1].to(seen.dtype)
        x = every + positions[:, 1:]
        if self.is_global:
            x = torch.cat([seen[:, :1] + positions[:, :1], x], dim=1)
        for layer in self.layers:
            x = layer(x) if self.is_global else layer(x, (patches // self.grid[1], self.grid[1]))
        x = self.head(self.norm(x))
        return x[:, 1:] if self.is_global else x


LOA_POOL = 8  # of AudioLDM 2 for sounds and music; for speech it is 1


@dataclass
class AudioMAEForPreTrainingOutput(ModelOutput):
    """Output of `AudioMAEForPreTraining`.

    Args:
        loss (`torch.Tensor` of shape `()`): mean squared error on hidden patches.
        logits (`torch.Tensor` of shape `(batch, patches, patch_size^2)`): predicted contents of every patch, as
            normalised as the targets are.
        mask (`torch.Tensor` of shape `(batch, patches)`): 1 where a patch was hidden.
        ids_restore (`torch.Tensor` of shape `(batch, patches)`): of every patch, which of the seen and then the
            hidden ones it is.
        last_hidden_state (`torch.Tensor` of shape `(batch, 1 + seen patches, hidden_size)`): of the encoder.
    """

    loss: torch.Tensor | None = None
    logits: torch.Tensor | None = None
    mask: torch.Tensor | None = None
    ids_restore: torch.Tensor | None = None
    last_hidden_state: torch.Tensor | None = None


def pool_patches(hidden: Tensor, bands: int, time_pool: int = LOA_POOL, frequency_pool: int = LOA_POOL) -> Tensor:
    """The mean of average and largest value over rectangles of patches.

    Args:
        hidden: of every patch, without the class token, (batch, patches, hidden_size).
        bands: patches in frequency.
        time_pool: patches of a rectangle in time.
        frequency_pool: patches of a rectangle in frequency.

    Returns:
        Tokens with time as the slow axis, (batch, patches / (time_pool * frequency_pool), hidden_size).

    Raises:
        AudioError: if the rectangles do not fill the patches.
    """
    steps = hidden.shape[1] // bands
    if time_pool < 1 or frequency_pool < 1 or steps % time_pool or bands % frequency_pool:
        raise AudioError(
            f"{steps} x {bands} patches cannot be pooled by {time_pool} x {frequency_pool}; take numbers that divide "
            "them, or a longer spectrogram"
        )
    image, kernel = hidden.unflatten(1, (steps, bands)).permute(0, 3, 1, 2), (time_pool, frequency_pool)
    pooled = (F.avg_pool2d(image, kernel) + F.max_pool2d(image, kernel)) / 2
    return pooled.flatten(2).transpose(1, 2)


class AudioMAEEmbeddings(nn.Module):
    """Spectrogram to patches with their positions, after a class token."""

    positions: Tensor

    def __init__(self, config: AudioMAEConfig):
        super().__init__()
        self.patches = nn.Conv2d(1, config.hidden_size, config.patch_size, stride=config.patch_size)
        self.class_token = nn.Parameter(torch.zeros(1, 1, config.hidden_size))
        self.register_buffer("positions", position_table(config.grid, config.hidden_size))

    def forward(self, spectrogram: Tensor, kept: Tensor | None = None) -> Tensor:
        """(batch, 1, frames, bins) -> (batch, 1 + patches, hidden_size); of `kept` (batch, kept) patches only."""
        x = self.patches(spectrogram.to(self.patches.weight.dtype)).flatten(2).transpose(1, 2)
        positions = self.positions[:, : x.shape[1] + 1].to(x.dtype)
        x = x + positions[:, 1:]
        if kept is not None:
            x = x.gather(1, kept[..., None].expand(-1, -1, x.shape[2]))
        start = (self.class_token + positions[:, :1]).expand(len(x), -1, -1)
        return torch.cat([start.to(x.dtype), x], dim=1)


class AudioMAEPreTrainedModel(HubsepModelMixin, PreTrainedModel):
    """Weights initialisation and loading shared by AudioMAE models."""

    config: AudioMAEConfig
    config_class = AudioMAEConfig
    base_model_prefix = "audiomae"
    main_input_name = "input_features"
    input_modalities = ("audio",)
    supports_gradient_checkpointing = True
    _supports_sdpa = True
    _supports_flash_attn = True
    _supports_flex_attn = True
    _supports_attention_backend = True
    _no_split_modules = ["AudioMAEEmbeddings", "AudioMAELayer", "WindowLayer"]

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        """Xavier's uniform in every product, that of a patch included; small normal tokens."""
        config = self.config
        if isinstance(module, nn.Linear):
            init.xavier_uniform_(module.weight)
            if module.bias is not None:
                init.zeros_(module.bias)
        elif isinstance(module, nn.Conv2d):
            bound = (6 / (module.weight[0].numel() + module.weight.shape[0])) ** 0.5
            init.uniform_(module.weight, -bound, bound)
            if module.bias is not None:
                init.zeros_(module.bias)
        elif isinstance(module, nn.LayerNorm):
            init.ones_(module.weight)
            init.zeros_(module.bias)
        elif isinstance(module, WindowAttention):
            init.ones_(module.temperature)
        elif isinstance(module, AudioMAEEmbeddings):
            init.normal_(module.class_token, std=config.initializer_range)
            init.copy_(module.positions, position_table(config.grid, config.hidden_size))
        elif isinstance(module, AudioMAEDecoder):
            init.normal_(module.mask_token, std=config.initializer_range)
            init.copy_(module.positions, position_table(config.grid, config.decoder_hidden_size))

    def _check_spectrogram(self, input_features: Tensor) -> None:
        config, shape = self.config, tuple(input_features.shape)
        if len(shape) != 4 or shape[1] != 1 or shape[3] != config.num_mel_bins:
            raise AudioError(
                f"input_features must be (batch, 1, frames, {config.num_mel_bins}), got {shape}; "
                "AudioMAEFeatureExtractor makes them"
            )
        if shape[2] % config.patch_size or not 0 < shape[2] <= config.num_frames:
            raise AudioError(
                f"input_features has {shape[2]} frames; there must be a multiple of {config.patch_size}, at most "
                f"{config.num_frames}: work through longer recordings in pieces"
            )


class AudioMAEModel(AudioMAEPreTrainedModel):
    """The encoder. Source: 2207.06405, section 3; features as AudioLDM 2 takes them, 2308.05734, section 3."""

    # a folder with the decoder of pre-training holds a whole encoder
    _keys_to_ignore_on_load_unexpected = [r"^decoder\."]

    def __init__(self, config: AudioMAEConfig):
        super().__init__(config)
        self.embeddings = AudioMAEEmbeddings(config)
        self.layers = nn.ModuleList(
            AudioMAELayer(config, config.hidden_size, config.num_attention_heads, config.intermediate_size)
            for _ in range(config.num_hidden_layers)
        )
        self.norm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.post_init()

    @can_return_tuple
    def forward(self, input_features: Tensor, kept: Tensor | None = None, **kwargs: object) -> BaseModelOutput:
        """Encodes spectrograms.

        Args:
            input_features: from `AudioMAEFeatureExtractor`, (batch, 1, frames, num_mel_bins); frames are a multiple
                of `patch_size`, at most `num_frames`.
            kept: indices of the patches that pre-training looks at, (batch, kept); None for all patches.

        Returns:
            BaseModelOutput: `last_hidden_state` (batch, 1 + patches, hidden_size), the class token first, then the
            patches with time as the slow axis, or those of `kept` as they stand there. It is the mean of the last
            `num_averaged_layers`; with `kept` it is the last layer's.

        Raises:
            AudioError: if the spectrograms have another shape.
        """
        check_keywords(self, kwargs)
        self._check_spectrogram(input_features)
        x = self.embeddings(input_features, kept)
        averaged = self.config.num_averaged_layers if kept is None else 1
        total: Any = 0
        for index, layer in enumerate(self.layers):
            x = layer(x)
            if index >= len(self.layers) - averaged:
                total = total + self.norm(x)
        return BaseModelOutput(last_hidden_state=total / averaged)

    def loa(self, input_features: Tensor, time_pool: int = LOA_POOL, frequency_pool: int = LOA_POOL) -> Tensor:
        """The "language of audio" of recordings: AudioLDM 2's description of them, made of the recordings themselves.

        Args:
            input_features: as `forward` takes them.
            time_pool: patches in time that become one token: 8 for sounds and music, 1 for speech; the original's
                training of the latent diffusion draws it from 1, 2, 4 and 8.
            frequency_pool: patches in frequency that become one token, the smaller of 8 and `time_pool` there.

        Returns:
            (batch, tokens, hidden_size) with time as the slow axis: of 1,024 frames 8 tokens with 8 and 8, 512 with 1
            and 1. Every token counts: the attention mask that goes with them is all ones.

        Raises:
            AudioError: if the spectrograms have another shape, or the numbers do not divide their patches.
        """
        hidden = self.forward(input_features).last_hidden_state
        return pool_patches(hidden[:, 1:], self.config.grid[1], time_pool, frequency_pool)


class AudioMAEForPreTraining(AudioMAEPreTrainedModel):
    """Encoder and decoder, to be trained on hidden patches. Source: 2207.06405, section 3."""

    def __init__(self, config: AudioMAEConfig):
        super().__init__(config)
        self.audiomae = AudioMAEModel(config)
        self.decoder = AudioMAEDecoder(config)
        self.post_init()
        # transformers hands on what the encoder ignores; here every tensor counts
        self._keys_to_ignore_on_load_unexpected: set[str] = set()

    @can_return_tuple
    def forward(
        self, input_features: Tensor, noise: Tensor | None = None, **kwargs: object
    ) -> AudioMAEForPreTrainingOutput:
        """Hides patches and predicts them.

        Args:
            input_features: as `AudioMAEModel` takes them; the shifted-window decoder needs frames that fill its
                windows as well.
            noise: what decides which patches are hidden, (batch, patches) for "random" masking, (batch, time steps +
                bands) for "time_frequency"; drawn uniformly if None.

        Returns:
            AudioMAEForPreTrainingOutput: with the loss.

        Raises:
            AudioError: if spectrograms or noise have another shape.
        """
        check_keywords(self, kwargs)
        self._check_spectrogram(input_features)
        config = self.config
        steps, bands = input_features.shape[2] // config.patch_size, config.grid[1]
        if config.decoder_type == "shifted_window" and steps % config.decoder_window_size:
            raise AudioError(
                f"input_features has {input_features.shape[2]} frames; windows of the decoder need a multiple of "
                f"{config.patch_size * config.decoder_window_size}"
            )
        masking = self._mask(input_features, steps, bands, noise)
        hidden = self.audiomae(input_features, kept=masking.kept).last_hidden_state
        logits = self.decoder(hidden, masking.ids_restore)
        target = patchify(input_features, config.patch_size)
        return AudioMAEForPreTrainingOutput(
            loss=reconstruction_loss(logits, target, masking.mask, config.normalize_targets),
            logits=logits,
            mask=masking.mask,
            ids_restore=masking.ids_restore,
            last_hidden_state=hidden,
        )

    def _mask(self, input_features: Tensor, steps: int, bands: int, noise: Tensor | None) -> Masking:
        config, is_random = self.config, self.config.masking == "random"
        shape = (len(input_features), steps * bands if is_random else steps + bands)
        if noise is None:
            noise = torch.rand(shape, device=input_features.device)
        elif tuple(noise.shape) != shape:
            raise AudioError(f"noise must be {shape} for {config.masking!r} masking, got {tuple(noise.shape)}")
        if is_random:
            return random_masking(noise, config.mask_ratio)
        return time_frequency_masking(noise, bands, config.mask_time_ratio, config.mask_frequency_ratio)


__all__ = [
    "AudioMAEAttention",
    "AudioMAEDecoder",
    "AudioMAEForPreTraining",
    "AudioMAEForPreTrainingOutput",
    "AudioMAELayer",
    "AudioMAEModel",
    "AudioMAEPreTrainedModel",
    "Masking",
    "WindowAttention",
    "WindowLayer",
    "patchify",
    "pool_patches",
    "position_table",
    "random_masking",
    "reconstruction_loss",
    "shift_mask",
    "time_frequency_masking",
    "unpatchify",
    "window_offsets",
]
