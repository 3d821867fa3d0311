# SPDX-License-Identifier: Apache-2.0
"""Sounds that go on: window after window, each beginning with the end of the one before.

A window is made around what is already there, as in inpainting: its first latents are the last ones of the window
before (or of a recording), under the noise of each step. Mel spectrograms are cross-faded over that part, and the
vocoder runs on across windows, so there is no seam, and memory is that of one window however long the sound gets.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from hubsep.errors import QueryError

from .conditions import Conditions, filled, ramp
from .prompts import PromptMixin
from .sampling import Known, SamplingMixin
from .settings import Sampling, SamplingOptions, shows_options


if TYPE_CHECKING:
    from typing_extensions import Unpack


CARRIED = 1 / 4  # of a window: what the next one begins with
EDGE = 1 / 20  # of a window, left out at its end: models fade out there, as the recordings they learned from did


class LongMixin(PromptMixin, SamplingMixin):
    """The part of the pipeline that makes sounds window by window."""

    guidance_of: Any
    maybe_free_model_hooks: Any

    @shows_options
    def stream(
        self,
        prompt: str,
        *,
        seconds: float | None = None,
        transcription: str | None = None,
        negative_prompt: str | Sequence[str] | None = None,
        unconditional: Any = None,
        **options: Unpack[SamplingOptions],
    ) -> Iterator[Tensor]:
        """Makes a sound and gives it out while it is made.

        Args:
            prompt: what is to be heard.
            seconds: how long; None for a sound that ends when nobody asks for more.
            transcription: for models of speech.
            negative_prompt: what is not to be heard.
            unconditional: as in a call.
            **options: those of `Sampling`.

        Yields:
            Blocks (samples,), float32.
        """
        sampling = Sampling.of(self.stream, **options)
        if not isinstance(prompt, str):
            raise QueryError(f"one prompt can be streamed at a time, got {type(prompt).__name__}")
        total = None if seconds is None else round(seconds * self.sampling_rate)
        frames = None if seconds is None else self.latent_frames(seconds)
        conditions = self.encode_prompt(prompt, transcription=transcription)
        negative = self.guidance_of(conditions, unconditional, negative_prompt)
        given = 0
        for block in self.extend(conditions, negative, sampling, None, frames):
            piece = block[0] if total is None else block[0, : total - given]
            given += piece.shape[0]
            yield piece

    def extend(
        self,
        conditions: Conditions,
        negative: Conditions | None,
        sampling: Sampling,
        start: Tensor | None,
        frames: int | None,
    ) -> Iterator[Tensor]:
        """The waveform that begins with the latents `start` and is `frames` latent frames long in all.

        Yields:
            Blocks (batch, samples).
        """
        yield from self.vocode(self._mel_windows(conditions, negative, sampling, start, frames))
        self.maybe_free_model_hooks()

    @torch.no_grad()
    def _mel_windows(
        self,
        conditions: Conditions,
        negative: Conditions | None,
        sampling: Sampling,
        start: Tensor | None,
        frames: int | None,
    ) -> Iterator[Tensor]:
        window, factor = self.native_frames, self.vae_scale_factor
        carry, edge = max(1, round(window * CARRIED)), round(window * EDGE)
        made, carried, held = 0, start, None
        while frames is None or made < frames:
            known = 0 if carried is None else carried.shape[2]
            size = window if frames is None else min(window, frames - made + (known if made else 0))
            latents = self._window(conditions, negative, sampling, carried, max(size, known + 1))
            mel = self._decode_window(latents)
            if held is not None:
                mel[:, : held.shape[1]] = faded(held, mel[:, : held.shape[1]])
            last = frames is not None and made + latents.shape[2] - (known if made else 0) >= frames
            if not last:
                latents = latents[:, :, : max(latents.shape[2] - edge, known + 1)]
                mel = mel[:, : latents.shape[2] * factor]
            made += latents.shape[2] - (known if made else 0)
            kept = mel.shape[1] if last else mel.shape[1] - carry * factor
            yield mel[:, :kept]
            held, carried = mel[:, kept:], latents[:, :, -carry:]

    def _window(
        self,
        conditions: Conditions,
        negative: Conditions | None,
        sampling: Sampling,
        carried: Tensor | None,
        frames: int,
    ) -> Tensor:
        noise = self.noise(len(conditions.loa), frames, sampling.generator)
        known = None
        if carried is not None:
            mask = torch.ones_like(carried[:, :1])
            known = Known(filled(carried, frames), filled(mask, frames), noise)
        latents: Tensor = self.sample(conditions, negative, sampling, noise, known=known)
        return latents


def faded(before: Tensor, after: Tensor) -> Tensor:
    """From one spectrogram into another, (batch, frames, bands) both."""
    rise = ramp(before.shape[1])[:, None].to(before)
    return before * (1 - rise) + after * rise


__all__ = ["LongMixin"]
