# SPDX-License-Identifier: Apache-2.0
"""A part of a recording: from some second on, for some seconds.

Decisions: what comes before is decoded and dropped block by block, because decoders of lossy formats answer a seek
with other samples. To ask for what lies behind the end is an error; to ask for more than there is gives what there is,
and a warning that says so.
"""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .audio_files import Source
from .errors import AudioError


SKIPPED_AT_ONCE = 65_536
LONGEST_SECONDS = 10**9  # 30 years


class Excerpt:
    """A part of a recording, read like a whole one.

    Args:
        source: the recording, not yet read.
        offset_s: where the part begins, in seconds.
        duration_s: how long it is at most, in seconds; None for all that follows.

    Raises:
        AudioError: if these are no lengths of time; when it is read, if it begins behind the end.
    """

    def __init__(self, source: Source, offset_s: float, duration_s: float | None):
        self._source, self._offset_s, self._duration_s = source, offset_s, duration_s
        self.name, self.format, self.subtype = source.name, source.format, source.subtype
        self.sampling_rate, self.channels, self.layout = source.sampling_rate, source.channels, source.layout
        self.slack_samples, self.cut, self.lossy = source.slack_samples, source.cut, source.lossy
        self._to_skip = self._samples("offset_s", offset_s)
        self.notes = source.notes.later(self._to_skip)
        self._left = None if duration_s is None else self._samples("duration_s", duration_s)
        if self._left == 0:
            raise AudioError(f"duration_s is {duration_s}, which is not one sample at {self.sampling_rate} Hz")
        self.claimed_samples = self._claimed()
        self._empty = True

    def _samples(self, name: str, seconds: Any) -> int:
        number = isinstance(seconds, int | float) and not isinstance(seconds, bool)
        if not number or not 0 <= seconds <= LONGEST_SECONDS:
            raise AudioError(f"{name} must be a number of seconds, 0 to {LONGEST_SECONDS}, got {seconds!r}")
        return round(seconds * self.sampling_rate)

    def _claimed(self) -> int | None:
        claimed = self._source.claimed_samples
        if claimed is None or claimed <= self._to_skip:
            return None
        return claimed - self._to_skip if self._left is None else min(self._left, claimed - self._to_skip)

    def read(self, samples: int) -> NDArray[np.floating]:
        """The next (channels, at most `samples`) of the part."""
        if self._left == 0:
            return np.zeros((self.channels, 0), np.float32)
        if self._to_skip:
            self._skip()
        block = self._source.read(samples if self._left is None else min(samples, self._left))
        if self._empty and self._offset_s and block.shape[1] == 0:
            self._beyond(self._samples("offset_s", self._offset_s))
        self._empty = False
        if self._left is not None:
            if block.shape[1] == 0 and self._left > 0:
                self._warn(self._left)
                self._left = 0
            self._left -= block.shape[1]
        return block

    def _skip(self) -> None:
        skipped = 0
        while skipped < self._to_skip:
            block = self._source.read(min(SKIPPED_AT_ONCE, self._to_skip - skipped))
            if block.shape[1] == 0:
                self._beyond(skipped)
            skipped += block.shape[1]
        self._to_skip = 0

    def _warn(self, missing: int) -> None:
        seconds = missing / self.sampling_rate
        said = f"{self.name}: the recording ends {seconds:.2f} s before the {self._duration_s:g} s that were asked for"
        warnings.warn(said, UserWarning, stacklevel=4)

    def _beyond(self, samples: int) -> None:
        there = f"the recording is {samples / self.sampling_rate:.2f} s long"
        raise AudioError(f"{self.name}: offset_s is {self._offset_s:g} s, but {there}; pass a smaller one")

    def close(self) -> None:
        """Closes the recording."""
        self._source.close()


__all__ = ["Excerpt"]
