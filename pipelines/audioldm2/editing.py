# SPDX-License-Identifier: Apache-2.0
"""What AudioLDM 2 can do with recordings: vary, continue, fill in, extend in frequency, and go between two sounds.

All of it is the same sampling under other conditions. A recording is known to the model as latents, of its
spectrogram, and as language of audio (LOA), if the folder holds `audio_mae`; without it a prompt has to say what is to
be heard. What a method does not change is taken from the recording itself, not from the model's picture of it, with
short cross-fades between the two. Recordings have one channel; results have the model's sampling rate and the
recording's own level.

Also here: what AudioLDM 2 hears in a recording: its language of audio (LOA), by AudioMAE, and which bands of it are
there.

Neither the published folders nor diffusers have AudioMAE; `hubsep convert audiomae` makes the component of its
checkpoint. It hears 10.24 s at 16 kHz, shorter recordings with silence after them, so the first token of LOA is always
the first 1.28 s; of a longer recording it hears the beginning.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from hubsep.audio.reader import resample
from hubsep.errors import AudioError, QueryError
from hubsep.hub.bounds import is_number, is_whole, shown
from hubsep.mel import MelSettings
from hubsep.models.audiomae.feature_extraction_audiomae import AudioMAEFeatureExtractor

from ..amounts import check_amount, memory_errors
from .codec import AudioLDM2Output
from .conditions import Conditions, between, crossover, ramp
from .loading.devices import ready
from .long import Long, Passage
from .sampling import Known, Sampler
from .settings import MOST_WAVEFORMS, Sampling, SamplingOptions, shows_options


if TYPE_CHECKING:
    from typing_extensions import Unpack

    from hubsep.audio.sources import AudioInput


class Hearing(Sampler):
    """The rung that makes conditions of recordings."""

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
        if self.audio_mae is None:
            raise QueryError(
                "the language of audio of a recording needs the component audio_mae, which published folders lack: "
                "pass prompt=, or set pipe.audio_mae to a hubsep AudioMAEModel"
            )
        config = self.audio_mae.config
        extractor = AudioMAEFeatureExtractor.of(config)
        heard = torch.from_numpy(resample(waveform[None].numpy(), self.sampling_rate, config.sampling_rate)[0])
        needed = extractor.minimum_samples
        heard = torch.nn.functional.pad(heard, (0, max(0, needed - len(heard))))
        features = extractor(heard, config.sampling_rate, truncation=True)["input_features"]
        ready(self.audio_mae)
        pool = config.loa_pool(tokens or self.default_loa_tokens())
        loa: Tensor = self.audio_mae.loa(features.to(self._execution_device, self.audio_mae.dtype), *pool)
        return loa

    def _conditions(self, prompt: str, waveform: Tensor, *, going_on: bool = False) -> Conditions:
        """What a prompt says and a recording (samples,) sounds like; LOA is the recording's if it can be heard.

        With `going_on` only the part of LOA that the recording fills is taken, and GPT-2 makes the rest.
        """
        _check_prompt(prompt)
        if self.audio_mae is None:
            if not prompt:
                raise QueryError(
                    "pass prompt= with what is to be heard: the folder holds no audio_mae to hear it with"
                )
            return self.encode_prompt(prompt)
        loa = self.encode_loa(waveform)
        if going_on:
            config = self.audio_mae.config
            length = config.num_frames / 100 * self.sampling_rate  # frames are 10 ms apart
            tokens = min(loa.shape[1] - 1, int(len(waveform) / length * loa.shape[1]))
            return self.encode_prompt(prompt, loa_prefix=loa[:, :tokens])
        states, weights = self._text_states([prompt])
        return Conditions(loa, states, weights.float())

    def _either(self, sound: str | Mapping[str, Any]) -> Conditions:
        """Conditions of a prompt, or of `{"audio": recording}`."""
        if isinstance(sound, str):
            return self.encode_prompt(sound)
        if not isinstance(sound, dict) or "audio" not in sound:
            raise QueryError(f'a sound is a prompt or {{"audio": recording}}, got {type(sound).__name__}')
        waveform, _ = self.read_recording(sound["audio"], sound.get("sampling_rate"))
        if self.audio_mae is None:
            raise QueryError("a sound given as a recording needs the component audio_mae; give it as a prompt")
        return self._conditions("", waveform)

    def _around(self, waveform: Tensor, latents: Tensor, mask: Tensor, prompt: str, sampling: Sampling) -> Tensor:
        """A waveform (samples,) whose latents are given where `mask` is 1."""
        _check_prompt(prompt)
        # a prompt says what belongs there; a recording with a hole in it would describe the hole as well
        conditions = self.encode_prompt(prompt) if prompt else self._conditions("", waveform)
        negative = self.led_away_from(conditions, sampling)
        noise = self.noise(1, latents.shape[2], sampling.generator)
        edited = self.sample(conditions, negative, sampling, noise, known=Known(latents, mask, noise))
        return self.decode_latents(edited, len(waveform))[0]

    def _bands_below(self, frequency: float) -> int:
        """Latent bands that lie below a frequency in Hz as a whole."""
        triangles = MelSettings.of(self.vocoder.config).filterbank()
        bins = torch.linspace(0, self.sampling_rate / 2, triangles.shape[0])
        # a triangle ends at its last bin that is not zero; one that falls between two bins ends where the next begins
        ends = [float(bins[column > 0].max()) if bool((column > 0).any()) else 0.0 for column in triangles.T]
        fits = [end <= frequency for end in ends]
        whole = next((index for index, fit in enumerate(fits) if not fit), len(fits))
        return whole // self.vae_scale_factor


SEAM_SECONDS = 0.02


class Editing(Long, Hearing):
    """The rung that starts from recordings."""

    @shows_options
    @memory_errors()
    @torch.no_grad()
    def vary(
        self,
        audio: AudioInput,
        prompt: str = "",
        *,
        strength: float = 0.6,
        variations: int = 1,
        sampling_rate: int | None = None,
        **options: Unpack[SamplingOptions],
    ) -> AudioLDM2Output:
        """Makes sounds like a recording.

        Args:
            audio: the recording.
            prompt: what else is to be heard; needed if the folder holds no `audio_mae`.
            strength: above 0, at most 1: how much is made anew. With 1 only the recording's LOA is left of it.
            variations: how many.
            sampling_rate: of a bare array, in Hz.
            **options: those of `Sampling`.

        Raises:
            AudioError: if the recording cannot be read, or `strength` is out of range.
            QueryError: if nothing says what is to be heard, or `variations` is out of range.
        """
        sampling = Sampling.of(self.vary, **options)
        if not (is_number(strength) and 0 < strength <= 1):
            raise AudioError(f"strength must be above 0 and at most 1, got {shown(strength)}")
        if not is_whole(variations, MOST_WAVEFORMS):
            raise QueryError(f"variations must be 1 to {MOST_WAVEFORMS}, got {shown(variations)}")
        waveform, level = self.read_recording(audio, sampling_rate)
        length = len(waveform) / self.sampling_rate
        check_amount(length, variations, f"variations={variations} of a recording of {length:g} seconds")
        conditions = self._conditions(prompt, waveform).repeat(variations)
        latents = self.encode_waveform(waveform[None])
        negative = self.led_away_from(conditions, sampling)
        noise = self.noise(variations, latents.shape[2], sampling.generator)
        start = latents.expand(variations, -1, -1, -1)
        variants = self.sample(conditions, negative, sampling, noise, start=start, strength=strength)
        return self.finished(level.undo(self.decode_latents(variants, len(waveform))))

    @shows_options
    @memory_errors()
    @torch.no_grad()
    def continue_audio(
        self,
        audio: AudioInput,
        prompt: str = "",
        *,
        seconds: float = 5.0,
        sampling_rate: int | None = None,
        **options: Unpack[SamplingOptions],
    ) -> AudioLDM2Output:
        """Lets a recording go on.

        The end of it, half a window at most, is the beginning of what is made; with `audio_mae`, GPT-2 goes on from
        its LOA as well.

        Args:
            audio: the recording.
            prompt: what is to be heard; needed if the folder holds no `audio_mae`.
            seconds: how long it goes on.
            sampling_rate: of a bare array, in Hz.
            **options: those of `Sampling`.

        Returns:
            The recording with its continuation.

        Raises:
            AudioError: if the recording cannot be read, or is shorter than a latent frame.
            QueryError: if nothing says what is to be heard.
        """
        sampling = Sampling.of(self.continue_audio, **options)
        waveform, level = self.read_recording(audio, sampling_rate)
        step = self.vae_scale_factor * self.hop_length
        frames = min(len(waveform) // step, max(1, self.native_frames // 2))
        if frames < 1:
            raise AudioError(f"a recording to go on from needs at least {step} samples, got {len(waveform)}")
        context = waveform[len(waveform) - frames * step :]
        conditions = self._conditions(prompt, context, going_on=True)
        negative = self.led_away_from(conditions, sampling)
        start, more = self.encode_waveform(context[None]), self.latent_frames(seconds)
        blocks = list(self.extend(Passage(conditions, negative, sampling, start, frames + more)))
        continuation = torch.cat(blocks, dim=1)[0, : len(context) + round(seconds * self.sampling_rate)]
        whole = torch.cat([waveform, continuation[len(context) :]])
        seam = min(round(SEAM_SECONDS * self.sampling_rate), len(context))
        rise = ramp(seam)
        end = slice(len(waveform) - seam, len(waveform))
        whole[end] = waveform[end] * (1 - rise) + continuation[len(context) - seam : len(context)] * rise
        return self.finished(level.undo(whole)[None])

    @shows_options
    @memory_errors()
    @torch.no_grad()
    def inpaint(
        self,
        audio: AudioInput,
        start: float,
        stop: float,
        prompt: str = "",
        *,
        sampling_rate: int | None = None,
        **options: Unpack[SamplingOptions],
    ) -> AudioLDM2Output:
        """Makes a part of a recording anew.

        Args:
            audio: the recording.
            start: where the part begins, in seconds.
            stop: where it ends.
            prompt: what is to be heard; needed if the folder holds no `audio_mae`.
            sampling_rate: of a bare array, in Hz.
            **options: those of `Sampling`.

        Raises:
            AudioError: if the recording cannot be read, or there is no such part in it.
            QueryError: if nothing says what is to be heard.
        """
        sampling = Sampling.of(self.inpaint, **options)
        waveform, level = self.read_recording(audio, sampling_rate)
        length = len(waveform) / self.sampling_rate
        if not (is_number(start) and is_number(stop)):
            raise AudioError(f"start and stop must be numbers of seconds, got {shown(start)} and {shown(stop)}")
        inside = 0 <= start < stop <= length  # asked first, because infinity is no number of samples
        first, last = (round(second * self.sampling_rate) if inside else 0 for second in (start, stop))
        if not first < last:
            raise AudioError(f"a part of a recording of {length:g} s has to lie in it, got {start:g} to {stop:g} s")
        latents, step = self.encode_waveform(waveform[None]), self.vae_scale_factor * self.hop_length
        mask = torch.ones_like(latents[:, :1])
        mask[:, :, first // step : -(-last // step)] = 0
        edited = self._around(waveform, latents, mask, prompt, sampling)
        share = torch.zeros(len(waveform))
        share[first:last] = 1
        seam = min(round(SEAM_SECONDS * self.sampling_rate), last - first)
        rise = ramp(seam)
        if first > 0:
            share[first : first + seam] *= rise
        if last < len(waveform):
            share[last - seam : last] *= 1 - rise
        return self.finished(level.undo(waveform * (1 - share) + edited * share)[None])

    @shows_options
    @memory_errors()
    @torch.no_grad()
    def super_resolve(
        self,
        audio: AudioInput,
        cutoff: float,
        prompt: str = "",
        *,
        sampling_rate: int | None = None,
        **options: Unpack[SamplingOptions],
    ) -> AudioLDM2Output:
        """Makes the frequencies that a recording does not have.

        Args:
            audio: the recording.
            cutoff: what is above this frequency is made, in Hz; what is below is kept.
            prompt: what is to be heard; needed if the folder holds no `audio_mae`.
            sampling_rate: of a bare array, in Hz.
            **options: those of `Sampling`.

        Raises:
            AudioError: if the recording cannot be read, or nothing is above or below that frequency.
            QueryError: if nothing says what is to be heard.
        """
        sampling = Sampling.of(self.super_resolve, **options)
        waveform, level = self.read_recording(audio, sampling_rate)
        latents = self.encode_waveform(waveform[None])
        if not is_number(cutoff):
            raise AudioError(f"cutoff must be a number of Hz, got {shown(cutoff)}")
        kept = self._bands_below(cutoff)
        if not 0 < kept < latents.shape[3]:
            raise AudioError(
                f"cutoff is {cutoff:g} Hz; of {latents.shape[3]} latent bands up to {self.sampling_rate // 2} Hz it "
                "has to leave at least one on either side"
            )
        mask = torch.zeros_like(latents[:, :1])
        mask[..., :kept] = 1
        edited = self._around(waveform, latents, mask, prompt, sampling)
        return self.finished(level.undo(crossover(waveform, edited, cutoff / self.sampling_rate))[None])

    @shows_options
    @memory_errors()
    @torch.no_grad()
    def interpolate(
        self,
        first: str | Mapping[str, Any],
        second: str | Mapping[str, Any],
        weights: Sequence[float] = (0.0, 0.25, 0.5, 0.75, 1.0),
        *,
        seconds: float | None = None,
        **options: Unpack[SamplingOptions],
    ) -> AudioLDM2Output:
        """Makes sounds between two, which are prompts, or recordings if the folder holds `audio_mae`.

        LOA goes along the circle from one to the other; of the texts both are there, each as far as it counts. All
        sounds start from the same noise.

        Args:
            first: a prompt, or `{"audio": recording}`.
            second: likewise.
            weights: 0 is the first, 1 the second.
            seconds: how long.
            **options: those of `Sampling`.

        Raises:
            QueryError: if there are no weights, or one is not in [0, 1].
        """
        sampling = Sampling.of(self.interpolate, **options)
        shares = weights.tolist() if isinstance(weights, np.ndarray | Tensor) else weights
        if not isinstance(shares, list | tuple) or not shares or not all(map(_is_share, shares)):
            raise QueryError(f"weights must be a list of numbers from 0 to 1, got {shown(shares)}")
        length = self.native_seconds if seconds is None else seconds
        frames = self.latent_frames(length)
        check_amount(length, len(shares), f"{len(shares)} weights of {length:g} seconds")
        conditions = between(
            self._either(first), self._either(second), torch.tensor([float(share) for share in shares])
        )
        samples = round(length * self.sampling_rate)
        negative = self.led_away_from(conditions, sampling)
        noise = self.noise(1, frames, sampling.generator).expand(len(shares), -1, -1, -1)
        latents = self.sample(conditions, negative, sampling, noise)
        return self.finished(self.decode_latents(latents, samples))


def _check_prompt(prompt: object) -> None:
    """A recording has one prompt, which may be empty."""
    if not isinstance(prompt, str):
        raise QueryError(f"a recording is worked on with one prompt, a text; got {shown(prompt)}")


def _is_share(value: Any) -> bool:
    return is_number(value) and 0 <= value <= 1


__all__ = ["Editing", "Hearing"]
