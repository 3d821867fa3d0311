# SPDX-License-Identifier: Apache-2.0
"""What AudioLDM 2 hears in a recording: its language of audio (LOA), by AudioMAE, and which bands of it are there.

Neither the published folders nor diffusers have AudioMAE; `hubsep convert audiomae` makes the component of its
checkpoint. It hears 10.24 s at 16 kHz, shorter recordings with silence after them, so the first token of LOA is always
the first 1.28 s; of a longer recording it hears the beginning.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from hubsep.audio import resample
from hubsep.errors import QueryError
from hubsep.pipelines.audioldm2_conditions import Conditions
from hubsep.pipelines.audioldm2_hooks import ready
from hubsep.pipelines.audioldm2_mel import MelSettings
from hubsep.pipelines.audioldm2_prompts import PromptMixin
from hubsep.pipelines.audioldm2_sampling import Known, SamplingMixin
from hubsep.pipelines.audioldm2_settings import Sampling


class HearingMixin(PromptMixin, SamplingMixin):
    """The part of the pipeline that makes conditions of recordings."""

    audio_mae: Any
    guidance_of: Any

    @torch.no_grad()
    def encode_loa(self, waveform: Tensor, tokens: int | None = None) -> Tensor:
        """LOA of a recording.

        Args:
            waveform: (samples,) at the model's rate.
            tokens: how many are wanted; by default as many as the U-Net was trained with.

        Returns:
            (1, tokens, size).

        Raises:
            QueryError: if the folder holds no `audio_mae`, or it cannot give so many tokens.
        """
        from hubsep.models.audiomae.feature_extraction_audiomae import AudioMAEFeatureExtractor

        if self.audio_mae is None:
            raise QueryError(
                "the language of audio of a recording needs the component audio_mae, which published folders lack: "
                "pass prompt=, or set pipe.audio_mae to a hubsep AudioMAEModel"
            )
        config = self.audio_mae.config
        extractor = AudioMAEFeatureExtractor(
            sampling_rate=config.sampling_rate, num_frames=config.num_frames, num_mel_bins=config.num_mel_bins
        )
        heard = torch.from_numpy(resample(waveform[None].numpy(), self.sampling_rate, config.sampling_rate)[0])
        needed = extractor.minimum_samples
        heard = torch.nn.functional.pad(heard, (0, max(0, needed - len(heard))))
        features = extractor(heard, config.sampling_rate, truncation=True)["input_features"]
        ready(self.audio_mae)
        pool = self._loa_pool(tokens or self.default_loa_tokens())
        loa: Tensor = self.audio_mae.loa(features.to(self._execution_device, self.audio_mae.dtype), *pool)
        return loa

    def _loa_pool(self, tokens: int) -> tuple[int, int]:
        """Patches of a token in time and frequency; the original pools 8 x 8 for sounds, 1 x 1 for speech."""
        steps, bands = self.audio_mae.config.grid
        for size in (8, 4, 2, 1):
            pool = (min(size, steps), min(size, bands))
            if (steps // pool[0]) * (bands // pool[1]) == tokens:
                return pool
        raise QueryError(f"{steps} x {bands} patches cannot be pooled to {tokens} tokens of LOA")

    def _conditions(self, prompt: str, waveform: Tensor, *, going_on: bool = False) -> Conditions:
        """What a prompt says and a recording (samples,) sounds like; LOA is the recording's if it can be heard.

        With `going_on` only the part of LOA that the recording fills is taken, and GPT-2 makes the rest.
        """
        if self.audio_mae is None:
            if not prompt:
                raise QueryError(
                    "pass prompt= with what is to be heard: the folder holds no audio_mae to hear it with"
                )
            found: Conditions = self.encode_prompt(prompt)
            return found
        loa = self.encode_loa(waveform)
        if going_on:
            config = self.audio_mae.config
            length = config.num_frames / 100 * self.sampling_rate  # frames are 10 ms apart
            known = min(loa.shape[1] - 1, int(len(waveform) / length * loa.shape[1]))
            going: Conditions = self.encode_prompt(prompt, loa_prefix=loa[:, :known])
            return going
        states, weights = self._text_states([prompt])
        return Conditions(loa, states, weights.float())

    def _either(self, sound: Any) -> Conditions:
        """Conditions of a prompt, or of `{"audio": recording}`."""
        if isinstance(sound, str):
            found: Conditions = self.encode_prompt(sound)
            return found
        if not isinstance(sound, dict) or "audio" not in sound:
            raise QueryError(f'a sound is a prompt or {{"audio": recording}}, got {type(sound).__name__}')
        waveform, _ = self.read_recording(sound["audio"], sound.get("sampling_rate"))
        if self.audio_mae is None:
            raise QueryError("a sound given as a recording needs the component audio_mae; give it as a prompt")
        return self._conditions("", waveform)

    def _around(
        self, waveform: Tensor, latents: Tensor, mask: Tensor, prompt: str, away: tuple[Any, Any], sampling: Sampling
    ) -> Tensor:
        """A waveform (samples,) whose latents are given where `mask` is 1."""
        # a prompt says what belongs there; a recording with a hole in it would describe the hole as well
        conditions = self.encode_prompt(prompt) if prompt else self._conditions("", waveform)
        negative = self.guidance_of(conditions, *away)
        noise = self.noise(1, latents.shape[2], sampling.generator)
        made = self.sample(conditions, negative, sampling, noise, known=Known(latents, mask, noise))
        decoded: Tensor = self.decode_latents(made, len(waveform))[0]
        return decoded

    def _bands_below(self, frequency: float) -> int:
        """Latent bands that lie below a frequency in Hz as a whole."""
        triangles = MelSettings.of(self.vocoder.config).filterbank()
        bins = torch.linspace(0, self.sampling_rate / 2, triangles.shape[0])
        # a triangle ends at its last bin that is not zero; one that falls between two bins ends where the next begins
        ends = [float(bins[column > 0].max()) if bool((column > 0).any()) else 0.0 for column in triangles.T]
        fits = [end <= frequency for end in ends]
        whole = next((index for index, fit in enumerate(fits) if not fit), len(fits))
        return whole // self.vae_scale_factor


__all__ = ["HearingMixin"]
