# SPDX-License-Identifier: Apache-2.0
"""What a recording may be: bounds on rates, channels, peaks, sizes and downloads, checked before memory is spent.

Lossy codecs get a peak limit of their own. What they decode from damaged bytes can be far beyond full scale (an MP3
with 200 flipped bytes gave 117.6), while a floating point recording may honestly be that loud.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ..errors import AudioError


LOSSLESS_FLOATS = frozenset({"FLOAT", "DOUBLE"})


@dataclass(frozen=True)
class AudioLimits:
    """Bounds on what is read.

    Args:
        min_sampling_rate: in Hz.
        max_sampling_rate: in Hz.
        max_channels: channels of a recording.
        max_peak: largest magnitude of a floating point sample; full scale is 1.
        max_lossy_peak: the same for what a lossy codec decoded.
        max_download_bytes: size of what a URL gives, and of a stream that cannot seek.
        download_timeout_s: from the question to the name server to the last byte of a URL, in seconds.
        max_values: samples times channels of a recording that is read as a whole; 2**27 are 512 MiB, 25 minutes of
            stereo at 44.1 kHz. What is read block by block may be of any length.
    """

    min_sampling_rate: int = 1_000
    max_sampling_rate: int = 768_000
    max_channels: int = 64
    max_peak: float = 10_000.0
    max_lossy_peak: float = 4.0
    max_download_bytes: int = 512 * 2**20
    download_timeout_s: float = 300.0
    max_values: int = 2**27

    def check_sampling_rate(self, sampling_rate: object, name: str) -> int:
        """The rate as an int.

        Raises:
            AudioError: if it is not a whole number of Hz within the limits.
        """
        low, high = self.min_sampling_rate, self.max_sampling_rate
        try:
            rate = int(sampling_rate)  # type: ignore[call-overload]
            whole = not isinstance(sampling_rate, str | bytes | bool) and rate == sampling_rate
        except Exception:  # what a tensor or any other object raises that is no number
            whole = False
        if not whole or not low <= rate <= high:
            raise AudioError(f"{name}: the sampling rate must be {low} to {high} Hz, got {sampling_rate!r}")
        return rate

    def check_channels(self, channels: int, name: str) -> None:
        """Refuses too many channels, or none."""
        if not 1 <= channels <= self.max_channels:
            raise AudioError(f"{name}: a recording may have 1 to {self.max_channels} channels, got {channels}")

    def check_whole(self, samples: int, channels: int, name: str, way_out: str) -> None:
        """Refuses more than may be held in memory as a whole.

        Args:
            samples: how many there are, or at least.
            channels: of the recording.
            name: of the recording.
            way_out: what to do instead.
        """
        if samples * channels > self.max_values:
            raise AudioError(
                f"{name}: the recording has more than {self.max_values // channels} samples in each of {channels} "
                f"channel{'s' * (channels > 1)}, the limit for one that is held in memory as a whole; {way_out}"
            )

    def check_samples(self, block: NDArray[np.floating], start: int, name: str, *, lossy: bool) -> None:
        """Refuses NaN, infinity and absurd peaks in (channels, samples), naming the first bad sample.

        Args:
            block: any floating point type, so that what overflows float32 is still seen.
            start: sample number of the start of the block in the recording.
            name: of the recording.
            lossy: whether a lossy codec decoded it.
        """
        limit = self.max_lossy_peak if lossy else self.max_peak
        if block.size == 0 or (float(block.max()) <= limit and float(block.min()) >= -limit):
            return
        bad = ~(np.abs(block) <= limit)
        sample = int(np.argmax(bad.any(axis=0)))
        value = float(block[int(np.argmax(bad[:, sample])), sample])
        what = f"{value:.4g}, above the limit of {limit:g}" if np.isfinite(value) else str(value)
        hint = "it looks damaged" if lossy else "full scale is 1; rescale it"
        if not np.isfinite(value) and not lossy:
            hint = "that is no sound; replace such samples, with silence for instance, or export the recording again"
        raise AudioError(f"{name}: sample {start + sample} is {what}; {hint}")


__all__ = ["LOSSLESS_FLOATS", "AudioLimits"]
