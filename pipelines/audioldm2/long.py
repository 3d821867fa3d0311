# SPDX-License-Identifier: Apache-2.0
"""Sounds that go on: window after window, each beginning with the end of the one before.

A window is made around what is already there, as in inpainting: its first latents are the last ones of the window
before (or of a recording), under the noise of each step. Mel spectrograms are cross-faded over that part, and the
vocoder runs on across windows, so there is no seam, and memory is that of one window however long the sound gets.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from hubsep.errors import QueryError

from ..amounts import memory_errors
from .conditions import Conditions, filled, ramp
from .sampling import Known, Sampler
from .settings import Sampling, SamplingOptions, shows_options


if TYPE_CHECKING:
    from typing_extensions import Unpack


CARRIED = 1 / 4  # of a window: what the next one begins with
EDGE = 1 / 20  # of a window, left out at its end: models fade out there, as the recordings they learned from did


@dataclass(frozen=True)
class Passage:
    """A sound that is made window by window.

    Attributes:
        conditions: of each sound of a batch.
        negative: what guidance leads away from.
        sampling: the settings.
        start: latents that it begins with; None for none.
        frames: latent frames in all; None for a sound that ends when nobody asks for more.
    """

    conditions: Conditions
    negative: Conditions | None
    sampling: Sampling
    start: Tensor | None = None
    frames: int | None = None


class Long(Sampler):
    """The rung that makes sounds window by window."""

    @shows_options
    def stream(
        self,
        prompt: str,
        *,
        seconds: float | None = None,
        transcription: str | None = None,
        **options: Unpack[SamplingOptions],
    ) -> Iterator[Tensor]:
        """Makes a sound and gives it out while it is made.

        Args:
            prompt: what is to be heard.
            seconds: how long; None for a sound that ends when nobody asks for more.
            transcription: for models of speech.
            **options: those of `Sampling`.

        Yields:
            Blocks (samples,), float32.
        """
        sampling = Sampling.of(self.stream, **options)
        if not isinstance(prompt, str):
            raise QueryError(f"one prompt can be streamed at a time, got {type(prompt).__name__}")
        frames = None if seconds is None else self.latent_frames(seconds)
        total = None if seconds is None else round(seconds * self.sampling_rate)
        with memory_errors():
            conditions = self.encode_prompt(prompt, transcription=transcription)
            negative = self.led_away_from(conditions, sampling)
            samples = 0
            for block in self.extend(Passage(conditions, negative, sampling, frames=frames)):
                piece = block[0] if total is None else block[0, : total - samples]
                samples += piece.shape[0]
                yield piece

    def extend(self, passage: Passage) -> Iterator[Tensor]:
        """The waveform of a passage, that of its `start` included.

        Yields:
            Blocks (batch, samples).
        """
        yield from self.vocode(self._mel_windows(passage))
        self.maybe_free_model_hooks()

    @torch.no_grad()
    def _mel_windows(self, passage: Passage) -> Iterator[Tensor]:
        window, factor, frames = self.native_frames, self.vae_scale_factor, passage.frames
        carry, edge = max(1, round(window * CARRIED)), round(window * EDGE)
        done, carried, held = 0, passage.start, None
        while frames is None or done < frames:
            overlap = 0 if carried is None else carried.shape[2]
            size = window if frames is None else min(window, frames - done + (overlap if done else 0))
            latents = self._window(passage, carried, max(size, overlap + 1))
            mel = self._decode_window(latents)
            if held is not None:
                mel[:, : held.shape[1]] = faded(held, mel[:, : held.shape[1]])
            last = frames is not None and done + latents.shape[2] - (overlap if done else 0) >= frames
            if not last:
                latents = latents[:, :, : max(latents.shape[2] - edge, overlap + 1)]
                mel = mel[:, : latents.shape[2] * factor]
            done += latents.shape[2] - (overlap if done else 0)
            kept = mel.shape[1] if last else mel.shape[1] - carry * factor
            yield mel[:, :kept]
            held, carried = mel[:, kept:], latents[:, :, -carry:]

    def _window(self, passage: Passage, carried: Tensor | None, frames: int) -> Tensor:
        """Latents of a window of so many frames, which begins with what is carried over."""
        noise = self.noise(len(passage.conditions.loa), frames, passage.sampling.generator)
        known = None
        if carried is not None:
            mask = torch.ones_like(carried[:, :1])
            known = Known(filled(carried, frames), filled(mask, frames), noise)
        return self.sample(passage.conditions, passage.negative, passage.sampling, noise, known=known)


def faded(before: Tensor, after: Tensor) -> Tensor:
    """From one spectrogram into another, (batch, frames, bands) both."""
    rise = ramp(before.shape[1])[:, None].to(before)
    return before * (1 - rise) + after * rise


__all__ = ["Long", "Passage"]
