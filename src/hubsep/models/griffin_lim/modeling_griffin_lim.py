# SPDX-License-Identifier: Apache-2.0
"""A vocoder that learns nothing: magnitudes that explain a mel spectrogram, and phases that agree with them.

It stands where a trained HiFi-GAN would in an AudioLDM 2 that had no hours for one. Measured on held-out recordings, a
HiFi-GAN of 0.8 M parameters after half an hour of one CPU core is 0.75 nepers from the mel spectrogram it is given,
and has no harmonics at all; this is 0.13 to 0.26 from it. Its phases blur attacks, which a trained vocoder would not.

- Magnitudes: those without a negative one whose mel spectrogram is nearest, by multiplicative updates.
- Phases: Griffin and Lim's iteration (1984) in the fast form of Perraudin, Balazs and Sondergaard (2013). It begins
  with phases from a fixed seed, so that the same spectrogram has one waveform.
- A spectrogram that comes in pieces: the part of a piece that is known from the piece before keeps its waveform, and
  the iteration makes what follows agree with it, so that there is no seam.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn.functional import pad
from transformers import PreTrainedModel

from ...errors import AudioError
from ...hub.models import HubsepModelMixin
from ...mel import MelSettings
from .configuration_griffin_lim import GriffinLimVocoderConfig


TINY = 1e-12


class GriffinLimVocoder(HubsepModelMixin, PreTrainedModel):
    """Waveforms of log mel spectrograms, by iteration; in float32 whatever the precision of its one weight.

    The weight is the filterbank (bins, num_mels) the spectrogram was made with, so that a folder holds all there is.
    """

    config_class = GriffinLimVocoderConfig
    base_model_prefix = "vocoder"
    main_input_name = "spectrogram"
    config: GriffinLimVocoderConfig
    continues = True  # `forward` takes what is known of the beginning

    def __init__(self, config: GriffinLimVocoderConfig):
        super().__init__(config)
        self.n_fft = MelSettings.of(config).n_fft
        self.filterbank = nn.Parameter(torch.zeros(self.n_fft // 2 + 1, config.model_in_dim), requires_grad=False)
        self.post_init()

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        """The filterbank of the configuration."""
        if module is self:
            self.filterbank.copy_(MelSettings.of(self.config).filterbank())

    @torch.no_grad()
    def forward(self, spectrogram: Tensor, known: Tensor | None = None) -> Tensor:
        """Makes waveforms.

        Args:
            spectrogram: natural logarithm of mel magnitudes, (batch, frames, num_mels) or (frames, num_mels).
            known: the waveform of the first frames, (batch, samples), that the rest is to go on from.

        Returns:
            (batch, frames * hop_length) or (frames * hop_length,), float32; within full scale, as trained vocoders are
            by their last layer, whatever the spectrogram.

        Raises:
            AudioError: if the spectrogram has another number of bins.
        """
        bins = self.config.model_in_dim
        if spectrogram.ndim not in (2, 3) or spectrogram.shape[-1] != bins or spectrogram.shape[-2] < 1:
            raise AudioError(
                f"a spectrogram must be (batch, frames, {bins}) or (frames, {bins}), got {tuple(spectrogram.shape)}"
            )
        mel = spectrogram.float() if spectrogram.ndim == 3 else spectrogram.float()[None]
        magnitudes = self.magnitudes(mel).transpose(1, 2)
        waveform = self._with_phases(pad(magnitudes, (1, 1), mode="replicate"), known)
        # frames are centred half a hop after they begin; one frame was added in front
        start = self.config.hop_length // 2
        waveform = waveform[:, start : start + mel.shape[1] * self.config.hop_length].clamp(-1, 1)
        return waveform if spectrogram.ndim == 3 else waveform[0]

    def magnitudes(self, mel: Tensor) -> Tensor:
        """(batch, frames, num_mels) -> (batch, frames, bins): not negative, and nearest to the mel spectrogram."""
        triangles = self.filterbank.float()
        loudest = (self.n_fft / 2 * triangles.amax(dim=0)).clamp(min=TINY).log()  # no full-scale waveform has more
        wanted = torch.minimum(mel, loudest).exp()
        spread = wanted @ triangles.T
        magnitudes = spread / triangles.sum(dim=1).square().clamp(min=TINY)
        for _ in range(self.config.inversion_steps):
            magnitudes = magnitudes * spread / ((magnitudes @ triangles) @ triangles.T).clamp(min=TINY)
        return magnitudes

    def _with_phases(self, magnitudes: Tensor, known: Tensor | None) -> Tensor:
        window = torch.hann_window(self.n_fft, device=magnitudes.device)
        hop, batch = self.config.hop_length, magnitudes.shape[0]
        generator = torch.Generator().manual_seed(0)
        angles = 2 * math.pi * torch.rand(magnitudes.shape[1:], generator=generator).to(magnitudes)
        phases = torch.polar(torch.ones_like(angles), angles).expand(batch, -1, -1)
        fixed = None if known is None else self._known_spectrum(known, window)
        before = torch.zeros_like(phases)
        for step in range(self.config.phase_steps + 1):
            spectrum = magnitudes * phases
            if fixed is not None:
                spectrum[..., : fixed.shape[-1]] = fixed
            waveform = torch.istft(spectrum, self.n_fft, hop, window=window)
            if step == self.config.phase_steps:
                break
            rebuilt = torch.stft(waveform, self.n_fft, hop, window=window, return_complex=True)
            phases = rebuilt - before * (self.config.momentum / (1 + self.config.momentum))
            phases = phases / phases.abs().clamp(min=TINY)
            before = rebuilt
        return waveform

    def _known_spectrum(self, known: Tensor, window: Tensor) -> Tensor | None:
        """Spectra of the frames whose windows end within what is known; None if there are none."""
        hop = self.config.hop_length
        if known.shape[-1] < self.n_fft:
            return None
        padded = pad(known.to(window)[:, None], (hop // 2, 0))[:, 0]  # frame 0 is the one added in front
        spectrum = torch.stft(padded, self.n_fft, hop, window=window, return_complex=True)
        return spectrum[..., : (padded.shape[-1] - self.n_fft // 2) // hop + 1]


__all__ = ["GriffinLimVocoder"]
