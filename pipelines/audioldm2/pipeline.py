# SPDX-License-Identifier: Apache-2.0
"""`hubsep.AudioLDM2Pipeline`: text to audio, music and speech; from recordings to others like them.

Words go through GPT-2 to the "language of audio" of AudioMAE, latent diffusion makes a spectrogram of it, a vocoder a
waveform. Source: AudioLDM 2 (2308.05734). The folders are those of `diffusers.AudioLDM2Pipeline`, the components its
classes and transformers'; this pipeline is written anew around them, because that one does not run on `GPT2Model`,
which every published folder names, mixes the candidates of several prompts, and has no AudioMAE.

`parts` draws the ladder of classes that this one stands on. Nothing is imported from diffusers until this module is:
`import hubsep` does without.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Literal, overload

import torch
from diffusers import DiffusionPipeline
from torch import Tensor

from hubsep.errors import QueryError
from hubsep.hub.bounds import shown

from ..amounts import check_amount, memory_errors
from ..base import check_finite
from .arguments import CallOptions, Embeds, OutputType, as_texts, check_output, check_values, given_conditions
from .codec import AudioLDM2Output, Numbers
from .conditions import Conditions
from .editing import Editing
from .loading.components import OPTIONAL
from .ranking import Ranking
from .settings import Sampling, StepOptions, Unconditional, shows_options
from .switches import Switches


if TYPE_CHECKING:
    from diffusers import AutoencoderKL
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
    from typing_extensions import Unpack

    from hubsep.models.audiomae.modeling_audiomae import AudioMAEModel
    from hubsep.models.griffin_lim.modeling_griffin_lim import GriffinLimVocoder

    from .parts import Scheduler


class AudioLDM2Pipeline(Ranking, Switches, Editing, DiffusionPipeline):
    """Text to audio.

    One pipeline is used by one thread at a time: while a call runs, the U-Net and the autoencoder work with layers
    and attention processors that are put in for its time. Threads that generate at once need a pipeline each,
    loaded by itself.

    Args:
        vae: between mel spectrograms and latents.
        text_encoder: CLAP; it also ranks.
        text_encoder_2: T5, or VITS for speech.
        projection_model: from both to GPT-2.
        language_model: GPT-2, with or without head.
        tokenizer: of CLAP.
        tokenizer_2: of T5 or VITS.
        feature_extractor: of CLAP, for ranking.
        unet: predicts noise.
        scheduler: the noise schedule, and a solver.
        vocoder: from mel spectrograms to waveforms.
        audio_mae: `hubsep.models.audiomae`'s encoder, for methods that hear recordings; published folders have none.
    """

    _optional_components = list(OPTIONAL)
    _callback_tensor_inputs = ["latents"]
    model_cpu_offload_seq = (
        "text_encoder->text_encoder_2->projection_model->language_model->audio_mae->unet->vae->vocoder"
    )

    def __init__(
        self,
        vae: AutoencoderKL,
        text_encoder: ClapModel | ClapTextModelWithProjection,
        text_encoder_2: T5EncoderModel | VitsModel,
        projection_model: AudioLDM2ProjectionModel,
        language_model: GPT2Model | GPT2LMHeadModel,
        tokenizer: PreTrainedTokenizerBase,
        tokenizer_2: PreTrainedTokenizerBase,
        unet: AudioLDM2UNet2DConditionModel,
        scheduler: Scheduler,
        vocoder: SpeechT5HifiGan | GriffinLimVocoder,
        feature_extractor: ClapFeatureExtractor | None = None,
        audio_mae: AudioMAEModel | None = None,
    ):
        super().__init__()
        self.register_modules(
            vae=vae,
            text_encoder=text_encoder,
            text_encoder_2=text_encoder_2,
            projection_model=projection_model,
            language_model=language_model,
            tokenizer=tokenizer,
            tokenizer_2=tokenizer_2,
            feature_extractor=feature_extractor,
            unet=unet,
            scheduler=scheduler,
            vocoder=vocoder,
            audio_mae=audio_mae,
        )

    @overload
    def __call__(
        self,
        prompt: str | Sequence[str] | None = ...,
        *,
        return_dict: Literal[True] = ...,
        **options: Unpack[CallOptions],
    ) -> AudioLDM2Output: ...

    @overload
    def __call__(
        self,
        prompt: str | Sequence[str] | None = ...,
        *,
        return_dict: Literal[False],
        **options: Unpack[CallOptions],
    ) -> tuple[Numbers, Numbers | None]: ...

    @shows_options
    @memory_errors()
    @torch.no_grad()
    def __call__(
        self,
        prompt: str | Sequence[str] | None = None,
        *,
        transcription: str | Sequence[str] | None = None,
        negative_prompt: str | Sequence[str] | None = None,
        seconds: float | None = None,
        audio_length_in_s: float | None = None,
        num_waveforms_per_prompt: int = 1,
        unconditional: Unconditional | None = None,
        latents: Tensor | None = None,
        prompt_embeds: Tensor | None = None,
        attention_mask: Tensor | None = None,
        generated_prompt_embeds: Tensor | None = None,
        negative_prompt_embeds: Tensor | None = None,
        negative_attention_mask: Tensor | None = None,
        negative_generated_prompt_embeds: Tensor | None = None,
        max_new_tokens: int | None = None,
        output_type: OutputType = "np",
        return_dict: bool = True,
        **settings: Unpack[StepOptions],
    ) -> AudioLDM2Output | tuple[Numbers, Numbers | None]:
        """Makes sounds of prompts.

        Args:
            prompt: what is to be heard, one text or several.
            transcription: what is to be said, for models of speech.
            negative_prompt: what is not to be heard: one text, or one for each prompt.
            seconds: how long; by default what the model was trained on, 10.24 s. More is made in windows.
            audio_length_in_s: the same by diffusers' name.
            num_waveforms_per_prompt: candidates; if several, they are ranked.
            unconditional: what guidance leads away from: "zeros" as the original, or "generated" by GPT-2 from the
                negative prompt as in diffusers; by default the second where there is a negative prompt.
            latents: noise to begin with.
            prompt_embeds: states of T5 instead of a prompt, (batch, states, size).
            attention_mask: which of them count, (batch, states).
            generated_prompt_embeds: language of audio instead of a prompt, (batch, tokens, size).
            negative_prompt_embeds: states of T5 to lead away from.
            negative_attention_mask: which of them count.
            negative_generated_prompt_embeds: language of audio to lead away from.
            max_new_tokens: tokens of language of audio; by default what the model was trained with.
            output_type: "np", "pt" or "latent".
            return_dict: whether an `AudioLDM2Output` is returned, or a tuple of audios and scores.
            **settings: those of `Sampling`: `num_inference_steps` (25), `guidance_scale` (3.5), `generator` (one, or
                one for each waveform), `callback_on_step_end`, `solver`, `eta`, `guidance_interval`,
                `guidance_every`, `window_seconds`, `callback_on_step_end_tensor_inputs`; and `callback`,
                `callback_steps` and `cross_attention_kwargs` of diffusers.

        Raises:
            TypeError: if there is no such setting.
            QueryError: if prompts, embeddings or settings are wrong or do not go together.
            AudioError: if the length is.
        """
        # 1. Check
        sampling = Sampling.of(self.__call__, unconditional=unconditional, negative_prompt=negative_prompt, **settings)
        length, times = self.check_length(seconds, audio_length_in_s), num_waveforms_per_prompt
        self.check_output(prompt, output_type, times, prompt_embeds, length)
        # 2. Encode the prompt
        embeds = prompt_embeds, attention_mask, generated_prompt_embeds
        positive = self.encode_positive(prompt, transcription, max_new_tokens, embeds)
        # 3. Encode what guidance leads away from
        embeds = negative_prompt_embeds, negative_attention_mask, negative_generated_prompt_embeds
        negative = self.encode_negative(positive, sampling, embeds)
        # 4. Draw the noise
        noise = self.draw_noise(latents, len(positive.loa) * times, length, sampling)
        # 5. Sample
        latents = self.sample(positive.repeat(times), negative and negative.repeat(times), sampling, noise)
        # 6. Decode, and rank the candidates
        audios, scores = self.decode_and_rank(latents, length, sampling, prompt if times > 1 else None, output_type)
        # 7. Hand over
        return self.hand_over(audios, scores, output_type, return_dict)

    def check_length(self, seconds: float | None, audio_length_in_s: float | None) -> float:
        """The length of a sound in seconds: the one that is asked for, or what the model was trained on.

        Raises:
            QueryError: if it is given by both names.
        """
        if seconds is not None and audio_length_in_s is not None:
            raise QueryError("seconds and audio_length_in_s are the same; pass one of them")
        length = seconds if seconds is not None else audio_length_in_s
        return self.native_seconds if length is None else length

    def check_output(
        self, prompt: str | Sequence[str] | None, output_type: str, candidates: int, embeds: object, seconds: float
    ) -> None:
        """Refuses outputs that there are not, more sound than is made at once, and candidates that cannot be ranked.

        Raises:
            AudioError: if the length is out of range.
            QueryError: naming the value, or what the folder lacks.
        """
        check_output(output_type, candidates)
        self.check_together(prompt, embeds, candidates, seconds)
        if prompt is not None and candidates > 1 and output_type != "latent":
            self.check_ranking()

    def check_together(self, prompt: str | Sequence[str] | None, embeds: object, times: int, seconds: float) -> None:
        """Refuses a length that is none, and more sound at once than is made.

        Raises:
            AudioError: if the length is out of range.
            QueryError: naming how many sounds of how many seconds there would be.
        """
        self.latent_frames(seconds)
        prompts = len(as_texts(prompt)) if prompt is not None else len(embeds) if isinstance(embeds, Tensor) else 1
        what = f"{prompts} prompts with num_waveforms_per_prompt={times} of {seconds:g} seconds"
        check_amount(seconds, prompts * times, what)

    def encode_positive(
        self,
        prompt: str | Sequence[str] | None,
        transcription: str | Sequence[str] | None,
        max_new_tokens: int | None,
        embeds: Embeds,
    ) -> Conditions:
        """The conditions that a prompt stands for, or that are given in place of one.

        Raises:
            QueryError: if there is neither or both, or one is not as it has to be.
        """
        conditions = given_conditions(embeds)
        if (prompt is None) == (conditions is None):
            raise QueryError("pass a prompt, or prompt_embeds together with generated_prompt_embeds")
        if conditions is not None:
            return conditions
        assert prompt is not None
        self.warn_of_unknown(as_texts(prompt))
        return self.encode_prompt(prompt, transcription=transcription, max_new_tokens=max_new_tokens)

    def encode_negative(self, positive: Conditions, sampling: Sampling, embeds: Embeds) -> Conditions | None:
        """What guidance leads away from; None where nothing is guided.

        Raises:
            QueryError: if it is not as it has to be.
        """
        if sampling.guidance_scale <= 1:
            return None
        return given_conditions(embeds) or self.led_away_from(positive, sampling)

    def draw_noise(self, latents: Tensor | None, batch: int, seconds: float, sampling: Sampling) -> Tensor:
        """The noise that sampling begins with, or the latents that are given in place of it.

        Raises:
            AudioError: if the length is out of range.
            QueryError: if the latents have another shape, or there is not one generator for each sound.
        """
        frames = self.latent_frames(seconds)
        if latents is None:
            return self.noise(batch, frames, sampling.generator)
        shape = (batch, self.unet.config.in_channels, frames, self._latent_bands())
        actual = tuple(latents.shape) if isinstance(latents, Tensor) else shown(latents)
        if actual != shape:
            raise QueryError(f"latents must be a tensor {shape} for these prompts and this length, got {actual}")
        check_values("latents", latents)
        return latents.to(self._execution_device, torch.float32)

    def decode_and_rank(
        self,
        latents: Tensor,
        seconds: float,
        sampling: Sampling,
        prompt: str | Sequence[str] | None,
        output_type: OutputType,
    ) -> tuple[Tensor, Tensor | None]:
        """Waveforms, those of each prompt from the best to the worst with their scores; or latents as they are.

        Args:
            latents: that were sampled.
            seconds: of each waveform.
            sampling: says how long windows are.
            prompt: to rank by, None for no ranking.
            output_type: "latent" for no waveforms.

        Raises:
            CheckpointError: if they hold NaN or infinity.
        """
        if output_type == "latent":
            check_finite(latents)
            return latents, None
        samples = round(seconds * self.sampling_rate)
        waveforms = self.decode_latents(latents, samples, self.windows(sampling.window_seconds))
        return (waveforms, None) if prompt is None else self.rank(as_texts(prompt), waveforms)

    def hand_over(
        self, audios: Tensor, scores: Tensor | None, output_type: OutputType, return_dict: bool
    ) -> AudioLDM2Output | tuple[Numbers, Numbers | None]:
        """The result of a call, with what was offloaded out of the way."""
        self.maybe_free_model_hooks()
        arrays = output_type == "np"
        waveforms: Numbers = audios.numpy() if arrays else audios
        ranked: Numbers | None = scores.numpy() if arrays and scores is not None else scores
        if not return_dict:
            return waveforms, ranked
        return AudioLDM2Output(audios=waveforms, scores=ranked, sampling_rate=self.sampling_rate)


__all__ = ["AudioLDM2Output", "AudioLDM2Pipeline"]
