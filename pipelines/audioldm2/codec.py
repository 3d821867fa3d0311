# SPDX-License-Identifier: Apache-2.0
"""Between waveforms and AudioLDM 2's latents, in windows where they are longer than the model was trained on.

What fits the window takes one call each of autoencoder and vocoder. A longer one is decoded window by window, the mel
spectrograms cross-faded where windows overlap; the vocoder then works through the spectrogram piece by piece, with
enough frames to either side of a piece that nothing depends on where it was cut. So memory does not grow with length
beyond that of the latents, and a stream and an array hold the same samples.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from diffusers.utils import BaseOutput
from torch import Tensor
from torch.nn.functional import pad

from hubsep.audio.reader import read_audio, resample
from hubsep.chunking import Segments
from hubsep.errors import AudioError
from hubsep.hub.bounds import is_number, shown
from hubsep.mel import Level, MelSettings, mel_spectrogram
from hubsep.registry import MOST_SECONDS

from ..base import check_finite
from .bfloat16.vocoder import decoded, vocoded
from .loading.adapters import Adapters
from .loading.devices import ready


if TYPE_CHECKING:
    from hubsep.audio.sources import AudioInput

# HiFi-GAN with the published kernels looks at 21 frames to either side
VOCODER_CONTEXT = 32
OVERLAP = 1 / 8  # of a window
ROWS = 8  # that an accelerator decodes at a time


Numbers = np.ndarray[Any, Any] | Tensor


@dataclass
class AudioLDM2Output(BaseOutput):
    """What was made.

    Attributes:
        audios: waveforms (batch, samples) in [-1, 1] as array or tensor, the candidates of a prompt from the best to
            the worst one after the other; or latents (batch, channels, latent frames, latent bands).
        scores: cosine of each candidate with its prompt by CLAP, (prompts, candidates); None where nothing was ranked.
        sampling_rate: in Hz.
    """

    audios: Numbers
    scores: Numbers | None = None
    sampling_rate: int = 16_000


class Codec(Adapters):
    """The rung that knows samples, frames and latents."""

    @property
    def sampling_rate(self) -> int:
        """Of what is generated, in Hz."""
        return int(self.vocoder.config.sampling_rate)

    @property
    def hop_length(self) -> int:
        """Samples of a frame."""
        return int(math.prod(self.vocoder.config.upsample_rates))

    @property
    def vae_scale_factor(self) -> int:
        """Frames of a latent frame, and mel bands of a latent band."""
        return int(2 ** (len(self.vae.config.block_out_channels) - 1))

    @property
    def native_seconds(self) -> float:
        """Length of a window: what the U-Net was trained on."""
        return self.native_frames * self.vae_scale_factor * self.hop_length / self.sampling_rate

    @property
    def native_frames(self) -> int:
        """Latent frames of a window."""
        size = self.unet.config.sample_size
        return int(size if isinstance(size, int) else size[0])

    def latent_frames(self, seconds: float) -> int:
        """Latent frames that hold so many seconds.

        Raises:
            AudioError: if that is no number, less than one latent frame, or more than an hour.
        """
        shortest = self.vae_scale_factor * self.hop_length / self.sampling_rate
        if not is_number(seconds):
            raise AudioError(f"a length must be a number of seconds, got {shown(seconds)}")
        if not shortest <= seconds <= MOST_SECONDS:
            raise AudioError(f"a length must be {shortest:g} to {MOST_SECONDS} seconds, got {seconds:g}")
        frames = math.ceil(round(seconds * self.sampling_rate) / self.hop_length)
        return math.ceil(frames / self.vae_scale_factor)

    def _latent_bands(self) -> int:
        return int(self.vocoder.config.model_in_dim) // self.vae_scale_factor

    def windows(self, seconds: float | None = None) -> Segments:
        """How longer latents are cut: windows of so many seconds, an eighth of each shared with the next."""
        frames = self.native_frames if seconds is None else self.latent_frames(seconds)
        return Segments(frames, max(1, round(frames * OVERLAP)) if frames > 1 else 0)

    @torch.no_grad()
    def decode_latents(self, latents: Tensor, samples: int | None = None, windows: Segments | None = None) -> Tensor:
        """Waveforms of latents.

        Args:
            latents: (batch, channels, latent frames, latent bands), as the U-Net makes them.
            samples: of the waveform; by default all there are.
            windows: how long latents are cut; by default as the U-Net was trained.

        Returns:
            (batch, samples), float32, on the CPU.
        """
        pieces = list(self.vocode(self.decode_mel(latents, windows or self.windows())))
        waveform = torch.cat(pieces, dim=1)
        return waveform if samples is None else waveform[:, :samples]

    def decode_mel(self, latents: Tensor, windows: Segments) -> Iterator[Tensor]:
        """The mel spectrogram of latents in pieces, (batch, frames, num_mels) each."""
        factor, held = self.vae_scale_factor, None
        spans = spans_of(latents.shape[2], windows)
        shares = shares_of(spans, windows, factor)
        for index, (start, stop) in enumerate(spans):
            mel = self._decode_window(latents[:, :, start:stop])
            if len(spans) > 1:
                mel = mel * shares[index].to(mel)[:, None]
            if held is not None:
                mel[:, : held.shape[1]] += held
            final = mel.shape[1] if index == len(spans) - 1 else (spans[index + 1][0] - start) * factor
            held = mel[:, final:]
            yield mel[:, :final]

    @torch.no_grad()
    def vocode(self, pieces: Iterable[Tensor]) -> Iterator[Tensor]:
        """The waveform of a mel spectrogram that comes in pieces, (batch, samples) each; a trained vocoder makes the
        same samples however it is cut, one that iterates goes on from what it made before."""
        buffer, skipped, prefix, hop = None, 0, None, self.hop_length
        for piece in pieces:
            if buffer is not None and buffer.shape[1] - skipped > VOCODER_CONTEXT:
                final = buffer.shape[1] - VOCODER_CONTEXT
                waveform = self._vocoded(torch.cat([buffer, piece[:, :VOCODER_CONTEXT]], dim=1), prefix)
                yield waveform[:, skipped * hop : final * hop]
                start = max(0, final - VOCODER_CONTEXT)
                buffer, skipped, prefix = buffer[:, start:], final - start, waveform[:, start * hop : final * hop]
            buffer = piece if buffer is None else torch.cat([buffer, piece], dim=1)
        if buffer is not None:
            yield self._vocoded(buffer, prefix)[:, skipped * hop :]

    def _decode_window(self, latents: Tensor) -> Tensor:
        scaled = latents.to(self._execution_device) / self.vae.config.scaling_factor
        return torch.cat([decoded(self.vae, row) for row in scaled.split(self._rows())])[:, 0]

    def _vocoded(self, mel: Tensor, prefix: Tensor | None = None) -> Tensor:
        ready(self.vocoder)
        rows = mel.to(self._execution_device).split(self._rows())
        before = [None] * len(rows) if prefix is None else prefix.split(self._rows())
        waveforms = torch.cat([vocoded(self.vocoder, *pair).cpu() for pair in zip(rows, before, strict=True)])
        check_finite(waveforms)
        return waveforms

    def _rows(self) -> int:
        """How many items are decoded at a time: on a CPU one, where more are no faster and take more memory."""
        return 1 if self._execution_device.type == "cpu" else ROWS

    @torch.no_grad()
    def encode_waveform(self, waveform: Tensor) -> Tensor:
        """Latents of waveforms (batch, samples) at the model's level, in float32.

        What does not fill the last latent frame is filled up with silence.
        """
        settings = MelSettings.of(self.vocoder.config)
        step = self.vae_scale_factor * self.hop_length
        waveform = pad(waveform, (0, -waveform.shape[1] % step))
        spans = spans_of(waveform.shape[1] // step, self.windows())
        mel = mel_spectrogram(waveform, settings)
        latents, factor = [], self.vae_scale_factor
        for index, (start, stop) in enumerate(spans):
            # windows of different length would see different silence at their edges: each keeps up to its middle
            part = mel[:, None, start * factor : stop * factor].to(self._execution_device, self.vae.dtype)
            block = self.vae.encode(part).latent_dist.mode().float() * self.vae.config.scaling_factor
            left = 0 if index == 0 else (spans[index - 1][1] - start) // 2
            right = block.shape[2] if index == len(spans) - 1 else stop - start - (stop - spans[index + 1][0] + 1) // 2
            latents.append(block[:, :, left:right])
        return torch.cat(latents, dim=2)

    def finished(self, waveforms: Tensor) -> AudioLDM2Output:
        """The result of a method that starts from a recording."""
        self.maybe_free_model_hooks()
        return AudioLDM2Output(audios=waveforms.numpy(), sampling_rate=self.sampling_rate)

    def read_recording(self, audio: AudioInput, sampling_rate: int | None = None) -> tuple[Tensor, Level]:
        """A recording as waveform (samples,) at the model's rate and level, and its own level.

        Args:
            audio: whatever `hubsep.read_audio` takes, with one channel.
            sampling_rate: of a bare array, in Hz.

        Raises:
            AudioError: if it cannot be read, or has several channels.
        """
        recording = read_audio(
            audio, sampling_rate=sampling_rate, way_out="pass the part of it that is to be worked on"
        )
        channels = recording.waveform.shape[0]
        if channels != 1:
            raise AudioError(f"{recording.name} has {channels} channels; this model knows one: pass one of them")
        samples = resample(recording.waveform, recording.sampling_rate, self.sampling_rate)[0]
        waveform = torch.from_numpy(samples)
        level = Level.of(waveform)
        return level.apply(waveform), level


def spans_of(frames: int, windows: Segments) -> list[tuple[int, int]]:
    """Where windows start and stop: all of the same length, the last one moved back to end where the latents do."""
    if frames <= windows.samples:
        return [(0, frames)]
    starts = [*range(0, frames - windows.samples, windows.hop), frames - windows.samples]
    return [(start, start + windows.samples) for start in starts]


def shares_of(spans: list[tuple[int, int]], windows: Segments, factor: int = 1) -> list[Tensor]:
    """What each window contributes to each of its frames: cross-faded, and one in total.

    Args:
        spans: of the windows.
        windows: says over how many frames they fade in and out.
        factor: frames wanted for one of `spans`.
    """
    fades = Segments(windows.samples * factor, windows.overlap * factor)
    weights, total = [], torch.zeros(spans[-1][1] * factor)
    for index, (start, stop) in enumerate(spans):
        weight = fades.weights((stop - start) * factor, first=index == 0, last=index == len(spans) - 1)
        total[start * factor : stop * factor] += weight
        weights.append(weight)
    return [
        weight / total[start * factor : stop * factor] for weight, (start, stop) in zip(weights, spans, strict=True)
    ]


__all__ = ["AudioLDM2Output", "Codec", "Numbers", "VOCODER_CONTEXT", "shares_of", "spans_of"]
