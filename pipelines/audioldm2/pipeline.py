# SPDX-License-Identifier: Apache-2.0
"""`hubsep.AudioLDM2Pipeline`: text to audio, music and speech; from recordings to others like them.

Words go through GPT-2 to the "language of audio" of AudioMAE, latent diffusion makes a spectrogram of it, a vocoder a
waveform. Source: AudioLDM 2 (2308.05734). The folders are those of `diffusers.AudioLDM2Pipeline`, the components its
classes and transformers'; this pipeline is written anew around them, because that one does not run on `GPT2Model`,
which every published folder names, mixes the candidates of several prompts, and has no AudioMAE.

Nothing is imported from diffusers until this module is: `import hubsep` does without.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Literal, overload

import torch
from diffusers import DiffusionPipeline
from torch import Tensor

from hubsep.errors import QueryError

from .arguments import AudioLDM2Output, CallOptions, Numbers, OutputType, check_output, given_conditions
from .conditions import Conditions
from .editing import EditingMixin
from .loading.adapters import AdapterMixin
from .loading.components import OPTIONAL
from .loading.devices import OffloadingMixin
from .loading.folder import FolderMixin
from .prompts import Unconditional, as_texts
from .ranking import RankingMixin
from .settings import Generator, Sampling, SamplingOptions, shows_options
from .switches import SwitchesMixin


if TYPE_CHECKING:
    from typing_extensions import Unpack


class AudioLDM2Pipeline(
    AdapterMixin, FolderMixin, OffloadingMixin, SwitchesMixin, EditingMixin, RankingMixin, DiffusionPipeline
):
    """Text to audio.

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
        vae: Any,
        text_encoder: Any,
        text_encoder_2: Any,
        projection_model: Any,
        language_model: Any,
        tokenizer: Any,
        tokenizer_2: Any,
        unet: Any,
        scheduler: Any,
        vocoder: Any,
        feature_extractor: Any = None,
        audio_mae: Any = None,
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
        **settings: Unpack[SamplingOptions],
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
        sampling = Sampling.of(self.__call__, **settings)
        length = self._length(seconds, audio_length_in_s)
        check_output(output_type, num_waveforms_per_prompt)
        if prompt is not None and num_waveforms_per_prompt > 1 and output_type != "latent":
            self.check_ranking()
        given = (prompt_embeds, attention_mask, generated_prompt_embeds)
        positive = self._positive(prompt, transcription, max_new_tokens, given)
        away = (negative_prompt_embeds, negative_attention_mask, negative_generated_prompt_embeds)
        negative = None
        if sampling.guidance_scale > 1:
            negative = given_conditions(away) or self.guidance_of(positive, unconditional, negative_prompt)
        noise = self._start(latents, len(positive.loa) * num_waveforms_per_prompt, length, sampling.generator)
        times = num_waveforms_per_prompt
        made = self.sample(positive.repeat(times), negative and negative.repeat(times), sampling, noise)
        texts = as_texts(prompt) if prompt is not None and times > 1 else None
        return self._delivered(made, length, sampling, texts, output_type, return_dict)

    def guidance_of(
        self, positive: Conditions, unconditional: Unconditional | None, negative_prompt: str | Sequence[str] | None
    ) -> Conditions:
        """What guidance leads away from; zeros, as in the original, unless something else is asked for."""
        kind: Unconditional = unconditional or ("zeros" if negative_prompt is None else "generated")
        return self.encode_unconditional(positive, kind, negative_prompt)

    def finished(self, waveforms: Tensor) -> AudioLDM2Output:
        """The result of a method that starts from a recording."""
        self.maybe_free_model_hooks()
        return AudioLDM2Output(audios=waveforms.numpy(), sampling_rate=self.sampling_rate)

    def _length(self, seconds: float | None, audio_length_in_s: float | None) -> float:
        if seconds is not None and audio_length_in_s is not None:
            raise QueryError("seconds and audio_length_in_s are the same; pass one of them")
        asked = seconds if seconds is not None else audio_length_in_s
        return self.native_seconds if asked is None else asked

    def _positive(
        self,
        prompt: str | Sequence[str] | None,
        transcription: str | Sequence[str] | None,
        max_new_tokens: int | None,
        given: tuple[Tensor | None, Tensor | None, Tensor | None],
    ) -> Conditions:
        found = given_conditions(given)
        if (prompt is None) == (found is None):
            raise QueryError("pass a prompt, or prompt_embeds together with generated_prompt_embeds")
        if found is not None:
            return found
        assert prompt is not None
        self.warn_of_unknown(as_texts(prompt))
        return self.encode_prompt(prompt, transcription=transcription, max_new_tokens=max_new_tokens)

    def _start(self, latents: Tensor | None, batch: int, seconds: float, generator: Generator) -> Tensor:
        frames = self.latent_frames(seconds)
        if latents is None:
            return self.noise(batch, frames, generator)
        shape = (batch, self.unet.config.in_channels, frames, self._latent_bands())
        if tuple(latents.shape) != shape:
            raise QueryError(f"latents must be {shape} for these prompts and this length, got {tuple(latents.shape)}")
        return latents.to(self._execution_device, torch.float32)

    def _delivered(
        self,
        made: Tensor,
        seconds: float,
        sampling: Sampling,
        texts: list[str] | None,
        output_type: OutputType,
        return_dict: bool,
    ) -> AudioLDM2Output | tuple[Numbers, Numbers | None]:
        scores = None
        if output_type != "latent":
            samples = round(seconds * self.sampling_rate)
            made = self.decode_latents(made, samples, self.windows(sampling.window_seconds))
            if texts is not None:
                made, scores = self.rank(texts, made)
        self.maybe_free_model_hooks()
        audios: Numbers = made.numpy() if output_type == "np" else made
        ranked: Numbers | None = scores.numpy() if output_type == "np" and scores is not None else scores
        if not return_dict:
            return audios, ranked
        return AudioLDM2Output(audios=audios, scores=ranked, sampling_rate=self.sampling_rate)


__all__ = ["AudioLDM2Output", "AudioLDM2Pipeline"]
