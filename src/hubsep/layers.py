# SPDX-License-Identifier: Apache-2.0
"""What several models share: the Fourier transform pair, and attention with its weights laid out.

Both directions of the transform run in float32 whatever the model's dtype: the power of a full-scale tone at 1024
points is 65536, more than float16 holds. The window is made in the call, because models are built on the meta device
and a buffer that is not saved would come back empty.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn


def stft(waveform: Tensor, n_fft: int, hop_length: int) -> Tensor:
    """Short-time Fourier transform with a periodic Hann window, centred frames and reflected edges.

    Args:
        waveform: (..., samples), more than `n_fft / 2` samples long.
        n_fft: window and transform length in samples.
        hop_length: samples between frames.

    Returns:
        Complex spectrogram (..., frames, n_fft / 2 + 1), frames = 1 + samples // hop_length.
    """
    window = torch.hann_window(n_fft, device=waveform.device)
    flat = waveform.float().reshape(-1, waveform.shape[-1])
    spectrogram = torch.stft(flat, n_fft, hop_length, window=window, pad_mode="reflect", return_complex=True)
    return spectrogram.transpose(1, 2).unflatten(0, waveform.shape[:-1])


def istft(spectrogram: Tensor, n_fft: int, hop_length: int, samples: int) -> Tensor:
    """Inverse of `stft`: overlap-add divided by the summed squared window, cut to `samples`.

    Args:
        spectrogram: complex (..., frames, n_fft / 2 + 1).
        n_fft: window and transform length in samples.
        hop_length: samples between frames.
        samples: length of the waveform to return.

    Returns:
        Waveform (..., samples), float32.
    """
    window = torch.hann_window(n_fft, device=spectrogram.device)
    flat = spectrogram.flatten(0, -3).transpose(1, 2)
    waveform = torch.istft(flat, n_fft, hop_length, window=window, length=samples)
    return waveform.unflatten(0, spectrogram.shape[:-2])


def eager_attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    scaling: float,
    dropout: float = 0.0,
    **kwargs: object,
) -> tuple[Tensor, Tensor]:
    """Attention with its weights laid out, for `attn_implementation="eager"`; no mask is applied."""
    weights = torch.softmax(query @ key.transpose(2, 3) * scaling, dim=-1, dtype=torch.float32).to(query.dtype)
    return (weights @ value).transpose(1, 2).contiguous(), weights


__all__ = ["eager_attention", "istft", "stft"]
