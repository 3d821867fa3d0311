# SPDX-License-Identifier: Apache-2.0
"""Resampling with soxr: blockwise, with memory that does not depend on the ratio of the rates.

Measured with soxr 1.1: the stream has no delay (a sine comes out in phase within 7e-7), gives the same samples however
the input is cut into blocks, and n samples become n * output_rate / input_rate, rounded. A way there and back can
therefore end one sample off; `resample(..., samples=n)` makes the length exact.
"""

from __future__ import annotations

import numpy as np
import soxr
from numpy.typing import NDArray

from .audio_limits import AudioLimits
from .errors import AudioError


Waveform = NDArray[np.float32]


class StreamResampler:
    """Resamples one recording block by block.

    Args:
        input_rate: in Hz.
        output_rate: in Hz; the same as `input_rate` passes blocks on as they are.
        channels: of every block.

    Raises:
        AudioError: if a rate or the number of channels is out of bounds.
    """

    def __init__(self, input_rate: int, output_rate: int, channels: int):
        limits = AudioLimits()
        input_rate = limits.check_sampling_rate(input_rate, "input rate")
        output_rate = limits.check_sampling_rate(output_rate, "output rate")
        if channels < 1:
            raise AudioError(f"a resampler needs at least one channel, got {channels}")
        self.channels = channels
        self._stream = None
        self._finished = False
        if input_rate != output_rate:
            self._stream = soxr.ResampleStream(input_rate, output_rate, channels, dtype="float32", quality="HQ")

    def push(self, block: Waveform) -> Waveform:
        """Takes the next (channels, samples), and gives those output samples that are ready.

        Raises:
            AudioError: if the block has another number of channels, or `finish` was called.
        """
        if block.ndim != 2 or block.shape[0] != self.channels:
            raise AudioError(f"a block must be ({self.channels}, samples), got {block.shape}")
        if self._finished:
            raise AudioError("the resampler is finished; make a new one for the next recording")
        if self._stream is None:
            return block
        return self._process(np.ascontiguousarray(block.T, dtype=np.float32), last=False)

    def finish(self) -> Waveform:
        """The output samples still due after the last block, (channels, samples)."""
        finished, self._finished = self._finished, True
        if self._stream is None or finished:
            return np.zeros((self.channels, 0), np.float32)
        return self._process(np.zeros((0, self.channels), np.float32), last=True)

    def _process(self, frames: Waveform, *, last: bool) -> Waveform:
        assert self._stream is not None
        resampled = self._stream.resample_chunk(frames, last=last).reshape(-1, self.channels)
        return np.ascontiguousarray(resampled.T)


def resample(waveform: Waveform, input_rate: int, output_rate: int, samples: int | None = None) -> Waveform:
    """Resamples a whole recording.

    Args:
        waveform: (channels, samples).
        input_rate: in Hz.
        output_rate: in Hz.
        samples: length of the result, for a way there and back; it may differ from the rounded length by one block
            edge only, so a difference above 2 samples is refused.

    Returns:
        (channels, samples) float32, of round(samples * output_rate / input_rate) samples unless told otherwise.

    Raises:
        AudioError: if a rate is out of bounds, or `samples` is not about the length.
    """
    waveform = np.asarray(waveform, dtype=np.float32)
    if waveform.ndim != 2:
        raise AudioError(f"a waveform must be (channels, samples), got {waveform.shape}")
    stream = StreamResampler(input_rate, output_rate, waveform.shape[0])
    resampled = np.concatenate([stream.push(waveform), stream.finish()], axis=1)
    if samples is None or samples == resampled.shape[1]:
        return resampled
    slack = 2 + int(np.ceil(output_rate / input_rate))
    if abs(samples - resampled.shape[1]) > slack:
        raise AudioError(f"{resampled.shape[1]} resampled samples cannot become {samples}")
    missing = max(0, samples - resampled.shape[1])
    return np.pad(resampled[:, :samples], ((0, 0), (0, missing)))


__all__ = ["StreamResampler", "Waveform", "resample"]
