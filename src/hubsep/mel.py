# SPDX-License-Identifier: Apache-2.0
"""The mel spectrogram that AudioLDM 2's autoencoder reads, and the level a recording has in it.

Two framings were in use: the original reads recordings centred (`samples // hop + 1` frames) and was trained with
frames that start a little before the recording (`samples // hop` frames). Both are here; a recording that is edited
takes the second one, because its frames line up with what the vocoder gives back. The model knows recordings without
offset and with a peak of 0.5. What is generated from a recording is brought back to the recording's own level.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import torch
from torch import Tensor
from torch.nn.functional import pad

from .errors import AudioError


FLOOR = 1e-5
PEAK = 0.5
SILENCE = 1e-8
SPEECH_RATE = 16_000


@runtime_checkable
class VocoderFields(Protocol):
    """What the configuration of a vocoder says of its spectrogram; a frame has the product of the rates in samples."""

    sampling_rate: int
    model_in_dim: int
    upsample_rates: Sequence[int]


class FrameFields(Protocol):
    """The same where it is said directly."""

    sampling_rate: int
    num_mels: int
    hop_length: int


@dataclass(frozen=True)
class MelSettings:
    """A log mel spectrogram of magnitudes; frequencies in Hz, sizes in samples."""

    sampling_rate: int
    n_fft: int
    hop_length: int
    num_mels: int
    lowest: float
    highest: float

    @classmethod
    def of(cls, config: VocoderFields | FrameFields, *, hops: int = 4, lowest: float | None = None) -> MelSettings:
        """Those of the published models of that rate: windows of 1024 samples at 16 kHz, of 2048 at 48 kHz.

        Args:
            config: of a vocoder, of a recipe that trains what makes spectrograms, or of a model that reads them.
            hops: a window is the power of two that is at least so many hops long.
            lowest: frequency in Hz; by default 0 up to 16 kHz, 20 above.
        """
        if isinstance(config, VocoderFields):
            hop, bands = math.prod(int(rate) for rate in config.upsample_rates), int(config.model_in_dim)
        else:
            hop, bands = config.hop_length, config.num_mels
        rate = int(config.sampling_rate)
        if lowest is None:
            lowest = 0.0 if rate <= SPEECH_RATE else 20.0
        return cls(rate, 1 << (hops * hop - 1).bit_length(), hop, bands, lowest, rate / 2)

    def filterbank(self) -> Tensor:
        """Triangles on Slaney's scale, each of area one: (bins, num_mels); made in double precision."""
        edges = _hertz(torch.linspace(_mels(self.lowest), _mels(self.highest), self.num_mels + 2, dtype=torch.float64))
        bins = torch.linspace(0, self.sampling_rate / 2, self.n_fft // 2 + 1, dtype=torch.float64)[:, None]
        rising = (bins - edges[:-2]) / (edges[1:-1] - edges[:-2])
        falling = (edges[2:] - bins) / (edges[2:] - edges[1:-1])
        return (torch.minimum(rising, falling).clamp(min=0) * 2 / (edges[2:] - edges[:-2])).float()


def _mels(frequency: float) -> float:
    """Slaney's scale: a line up to 1 kHz, which is 15, then a logarithm that takes 27 to 6.4 kHz."""
    return 0.015 * frequency if frequency < 1_000 else 15 + 27 * math.log(frequency / 1_000) / math.log(6.4)


def _hertz(mels: Tensor) -> Tensor:
    return torch.where(mels < 15, mels / 0.015, 1_000 * torch.exp((mels - 15) * (math.log(6.4) / 27)))


def mel_spectrogram(waveform: Tensor, settings: MelSettings, *, centred: bool = False) -> Tensor:
    """The natural logarithm of mel magnitudes.

    Args:
        waveform: (batch, samples), float32.
        settings: of the autoencoder.
        centred: whether frame 0 is centred on the first sample, as in the original's reader, or starts there but for
            the half of what a window is longer than a hop, as in its training.

    Returns:
        (batch, frames, num_mels), float32, at least log(1e-5).

    Raises:
        AudioError: if the recording is shorter than half a window.
    """
    overhang = settings.n_fft // 2 if centred else (settings.n_fft - settings.hop_length) // 2
    if waveform.shape[-1] <= overhang:
        raise AudioError(f"a recording needs more than {overhang} samples to be analysed, got {waveform.shape[-1]}")
    waveform = waveform.float()
    padded = pad(waveform[:, None], (overhang, overhang), mode="reflect")[:, 0]
    spectrum = torch.stft(
        padded,
        settings.n_fft,
        settings.hop_length,
        window=torch.hann_window(settings.n_fft, device=waveform.device),
        center=False,
        return_complex=True,
    )
    mel = spectrum.abs().transpose(1, 2) @ settings.filterbank().to(waveform.device)
    return mel.clamp(min=FLOOR).log()


@dataclass(frozen=True)
class Level:
    """How a recording was brought to the model's level: `(waveform - offset) * gain`."""

    offset: float
    gain: float

    @classmethod
    def of(cls, waveform: Tensor) -> Level:
        """The level of a recording (samples,); silence is left as it is."""
        offset = float(waveform.mean())
        peak = float((waveform - offset).abs().max())
        return cls(offset, PEAK / (peak + SILENCE)) if peak > SILENCE else cls(offset, 1.0)

    def apply(self, waveform: Tensor) -> Tensor:
        """Without offset, with the model's peak."""
        return (waveform - self.offset) * self.gain

    def undo(self, waveform: Tensor) -> Tensor:
        """Back to the recording's own level."""
        return waveform / self.gain + self.offset


__all__ = ["Level", "MelSettings", "mel_spectrogram"]
