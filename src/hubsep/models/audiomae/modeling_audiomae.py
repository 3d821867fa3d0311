# SPDX-License-Identifier: Apache-2.0
"""AudioMAE (2207.06405): a vision transformer on log-mel spectrograms, pre-trained by filling in hidden patches.

AudioLDM 2 (2308.05734) describes any sound by what this encoder makes of it: the outputs of the last layers, averaged
and pooled over patches, are its "language of audio" (LOA). Decisions:

- The output is the mean over the last layers of their normalised outputs. Pre-training, which sees a part of the
  patches, takes the last layer's alone, as published.
- Positions are stored with the weights, as published, and fixed. A shorter spectrogram takes the first of them, which
  are the places its patches have in a long one: any multiple of `patch_size` frames goes.
- Pre-training draws its mask from torch's generator, or takes the noise it is given.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers import initialization as init
from transformers.modeling_outputs import BaseModelOutput
from transformers.utils import ModelOutput, can_return_tuple

from ...errors import AudioError
from ...hub import HubsepModelMixin
from ...modeling_inputs import check_keywords
from .configuration_audiomae import AudioMAEConfig
from .decoder_audiomae import AudioMAEDecoder, WindowAttention
from .layers_audiomae import AudioMAELayer, position_table
from .masking_audiomae import Masking, patchify, random_masking, reconstruction_loss, time_frequency_masking


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
    "AudioMAEForPreTraining",
    "AudioMAEForPreTrainingOutput",
    "AudioMAEModel",
    "AudioMAEPreTrainedModel",
    "pool_patches",
]
