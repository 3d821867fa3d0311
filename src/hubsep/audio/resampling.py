# SPDX-License-Identifier: Apache-2.0
"""Resampling with soxr: blockwise, with memory that does not grow with the length of the recording.

Measured with soxr 1.1: the stream has no delay (a sine comes out in phase within 7e-7), gives the same samples however
the input is cut into blocks, and n samples become n * output_rate / input_rate, rounded. A way there and back can
therefore end some samples off, half the ratio of the rates at most; the caller knows the length and says it at the
end.
"""

from __future__ import annotations

import numpy as np
import soxr
from numpy.typing import NDArray

from ..errors import AudioError
from .arrays import plain_array
from .limits import AudioLimits


Waveform = NDArray[np.float32]


class StreamResampler:
    """Resamples one recording block by block.

    Args:
        input_rate: in Hz.
        output_rate: in Hz; the same as `input_rate` passes blocks on as they are.
        channels: of every block.

    Raises:
        AudioError: if a rate is out of bounds, or there is no channel.
    """

    def __init__(self, input_rate: int, output_rate: int, channels: int):
        limits = AudioLimits()
        input_rate = limits.check_sampling_rate(input_rate, "input")
        output_rate = limits.check_sampling_rate(output_rate, "output")
        if channels < 1:
            raise AudioError(f"a resampler needs at least one channel, got {channels}")
        self.channels = channels
        self._ratio = output_rate / input_rate
        self._taken = self._given = 0
        self._finished = False
        self._stream = None
        if input_rate != output_rate:
            self._stream = soxr.ResampleStream(input_rate, output_rate, channels, dtype="float32", quality="HQ")

    def push(self, block: Waveform) -> Waveform:
        """Takes the next (channels, samples), and gives those output samples that are ready.

        Raises:
            AudioError: if the block has another number of channels, or `finish` was called.
        """
        if block.ndim != 2 or block.shape[0] != self.channels:
            raise AudioError(f"a block must be ({self.channels}, samples), got {block.shape}")
        self._check_unfinished()
        self._taken += block.shape[1]
        return self._process(block, last=False)

    def finish(self, samples: int | None = None) -> Waveform:
        """The output samples still due after the last block, (channels, samples).

        Args:
            samples: of the whole output, where that is known: a recording that goes to a model's rate and back is as
                long as before. What is missing then is resampled from silence, what is too much is cut off.

        Raises:
            AudioError: if the output is further from `samples` than rounding explains, or `finish` was called before.
        """
        self._check_unfinished()
        self._finished = True
        silence = np.zeros((self.channels, 0), np.float32)
        position, natural = self._given, self._taken * self._ratio
        if samples is None or (self._stream is None and samples == self._taken):
            return self._process(silence, last=True)
        if self._stream is None or samples < 0 or abs(samples - natural) > self._ratio + 1:
            raise AudioError(f"{self._taken} samples are {natural:g} at {self._ratio:g} times the rate, not {samples}")
        silence = np.zeros((self.channels, 2 + int(2 / self._ratio)), np.float32)
        return self._process(silence, last=True)[:, : max(0, samples - position)]

    def _check_unfinished(self) -> None:
        if self._finished:
            raise AudioError("the resampler is finished; make a new one for the next recording")

    def _process(self, block: Waveform, *, last: bool) -> Waveform:
        if self._stream is None:
            return block
        frames = np.ascontiguousarray(block.T, dtype=np.float32)
        resampled = self._stream.resample_chunk(frames, last=last).reshape(-1, self.channels)
        self._given += len(resampled)
        return np.ascontiguousarray(resampled.T)


def resample(waveform: Waveform, input_rate: int, output_rate: int, samples: int | None = None) -> Waveform:
    """Resamples a whole recording.

    Args:
        waveform: (channels, samples).
        input_rate: in Hz.
        output_rate: in Hz.
        samples: of the result, for the way back, as in `StreamResampler.finish`.

    Returns:
        (channels, samples) float32; a copy, also where the rates are the same.

    Raises:
        AudioError: if a rate is out of bounds, the shape is not that of a recording, or `samples` is not about right.
    """
    waveform = np.asarray(plain_array(waveform), dtype=np.float32)
    if waveform.ndim != 2:
        raise AudioError(f"a waveform must be (channels, samples), got {waveform.shape}")
    stream = StreamResampler(input_rate, output_rate, waveform.shape[0])
    return np.concatenate([stream.push(waveform), stream.finish(samples)], axis=1)


__all__ = ["StreamResampler", "Waveform", "resample"]
