# SPDX-License-Identifier: Apache-2.0
"""The components of AudioLDM 2 by name and type: the lowest rung of the ladder that its pipeline is.

Each class sees those below it, and none above:

    Components <- Devices <- Folder <- Adapters         where they are, and how they get there (loading/)
    <- Codec <- Prompts                                 waveforms and latents; words and conditions
    Prompts <- Sampler <- Long, Hearing <- Editing      the loop; window by window; from recordings
    Prompts <- Understanding <- Ranking                 what words mean to a small model, what sounds like them
    Prompts <- Switches                                 what else diffusers offers
    Ranking, Switches, Editing <- AudioLDM2Pipeline     the call

`diffusers.DiffusionPipeline` is the last base of the pipeline alone, so nothing is imported from diffusers until that
is; type checkers see it below the lowest rung.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Protocol

from torch import Tensor


if TYPE_CHECKING:
    import torch
    from diffusers import AutoencoderKL
    from diffusers import DiffusionPipeline as _Pipeline
    from diffusers.pipelines.audioldm2 import AudioLDM2ProjectionModel, AudioLDM2UNet2DConditionModel
    from transformers import (
        ClapFeatureExtractor,
        ClapModel,
        ClapTextModelWithProjection,
        GPT2LMHeadModel,
        GPT2Model,
        PreTrainedTokenizerBase,
        SpeechT5HifiGan,
        T5EncoderModel,
        VitsModel,
    )

    from hubsep.models.audiomae.modeling_audiomae import AudioMAEModel
    from hubsep.models.griffin_lim.modeling_griffin_lim import GriffinLimVocoder
else:
    _Pipeline = object


class Scheduler(Protocol):
    """What the sampling loop asks of a scheduler of diffusers, which has one class for each solver."""

    config: Mapping[str, object]
    timesteps: Tensor
    order: int
    init_noise_sigma: float | Tensor

    @classmethod
    def from_config(cls, config: Mapping[str, object]) -> Scheduler:
        """A new one of the same settings."""

    def set_timesteps(self, num_inference_steps: int, *, device: torch.device | str | None = None) -> None:
        """Chooses the steps of a call."""

    def scale_model_input(self, sample: Tensor, timestep: Tensor) -> Tensor:
        """Latents as the U-Net is to see them."""

    def add_noise(self, original_samples: Tensor, noise: Tensor, timesteps: Tensor) -> Tensor:
        """Latents at the noise of a step."""

    def step(self, model_output: Tensor, timestep: Tensor, sample: Tensor, **options: object) -> tuple[Tensor, ...]:
        """Latents after a step."""


class Components(_Pipeline):
    """What an AudioLDM 2 consists of; `AudioLDM2Pipeline` says what each is for."""

    vae: AutoencoderKL
    text_encoder: ClapModel | ClapTextModelWithProjection
    text_encoder_2: T5EncoderModel | VitsModel
    projection_model: AudioLDM2ProjectionModel
    language_model: GPT2Model | GPT2LMHeadModel
    tokenizer: PreTrainedTokenizerBase
    tokenizer_2: PreTrainedTokenizerBase
    feature_extractor: ClapFeatureExtractor | None
    unet: AudioLDM2UNet2DConditionModel
    scheduler: Scheduler
    vocoder: SpeechT5HifiGan | GriffinLimVocoder
    audio_mae: AudioMAEModel | None


__all__ = ["Components", "Scheduler"]
