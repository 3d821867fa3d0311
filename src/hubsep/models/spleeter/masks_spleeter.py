# SPDX-License-Identifier: Apache-2.0
"""Spleeter's Fourier transform pair and its ratio masks, in float32 whatever the model's dtype.

The transforms differ from the shared ones: frames begin a window's length before the waveform instead of being
centred, and the inverse divides by the constant that squared Hann windows a quarter apart add up to, not by what they
add up to at each sample. With all of the mixture in the mask, every sample comes back, those at the edges too.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


MASK_EPSILON = 1e-10
OVERLAP = 4  # frames that see a sample
WINDOW_SUM = 1.5  # of the squares of four Hann windows


def stft(waveform: Tensor, n_fft: int, *, lead: bool = True, frames: int | None = None) -> Tensor:
    """Complex spectrogram (..., frames, n_fft / 2 + 1) of a waveform (..., samples), periodic Hann window.

    There are ceil((samples + n_fft) / hop) frames, hop = n_fft / 4; the first is silent, the last filled with zeros.

    Args:
        waveform: at most float32 of it is used.
        n_fft: window and transform length in samples.
        lead: whether silence of `n_fft` samples goes before; a piece from the middle of a recording has its own past.
        frames: how many to take, if not all that begin in the waveform.
    """
    hop, before = n_fft // OVERLAP, n_fft if lead else 0
    samples = waveform.shape[-1] + before
    frames = -(-samples // hop) if frames is None else frames
    padded = F.pad(waveform.float(), (before, (frames - 1) * hop + n_fft - samples))
    window = torch.hann_window(n_fft, device=waveform.device)
    return torch.fft.rfft(padded.unfold(-1, n_fft, hop) * window)


def istft(spectrogram: Tensor, n_fft: int, samples: int, *, lead: bool = True) -> Tensor:
    """Waveform (..., samples), the inverse of `stft`.

    Of a piece without `lead` the ends lack what the frames of its neighbours add to them.
    """
    hop = n_fft // OVERLAP
    window = torch.hann_window(n_fft, device=spectrogram.device) / WINDOW_SUM
    pieces = (torch.fft.irfft(spectrogram, n_fft) * window).unflatten(-1, (OVERLAP, hop))
    frames = pieces.shape[-3]
    waveform = pieces.new_zeros(*pieces.shape[:-3], frames + OVERLAP - 1, hop)
    for part in range(OVERLAP):
        waveform[..., part : part + frames, :] += pieces[..., part, :]
    before = n_fft if lead else 0
    return waveform.flatten(-2)[..., before : before + samples]


def apply_mask(mask: Tensor, spectrogram: Tensor) -> Tensor:
    """A real mask times a complex spectrogram; torch's own product makes the mask complex first."""
    return torch.view_as_complex(torch.view_as_real(spectrogram) * mask.unsqueeze(-1))


def ratio_masks(estimates: Tensor, exponent: float, bins: int, extension: str, stem: int | None) -> Tensor:
    """Masks over `bins` bins, which add up to one where there are estimates.

    Args:
        estimates: magnitudes, (batch, num_sources, channels, frames, num_bins), float32.
        exponent: power they are compared in.
        bins: how many bins the masks have.
        extension: "zeros", "average" or "stem", as in `SpleeterConfig`.
        stem: index of the stem that gets the bins above, for "stem".
    """
    above, num_sources = bins - estimates.shape[-1], estimates.shape[1]
    powers = estimates.square() if exponent == 2 else estimates**exponent
    masks = (powers + MASK_EPSILON / num_sources) / (powers.sum(dim=1, keepdim=True) + MASK_EPSILON)
    if extension == "average":
        return torch.cat([masks, masks.mean(dim=-1, keepdim=True).expand(*masks.shape[:-1], above)], dim=-1)
    masks = F.pad(masks, (0, above))
    if extension == "stem" and stem is not None:
        masks[:, stem, ..., -above:] = 1
    return masks


__all__ = ["apply_mask", "istft", "ratio_masks", "stft"]
