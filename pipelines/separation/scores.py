# SPDX-License-Identifier: Apache-2.0
"""Whether a source is there at all: a number from 0 to 1, gathered block by block.

Decisions: what the model itself says comes first: the presence of its most certain segment, p. What comes out nearly
silent is not there whatever the model says: with the share r of the mixture's energy that the source has in its best
second, the score is p r / (r + `NEAR_SILENCE`), half of p at 30 dB below the mixture. Without such a p, a source that
was named beforehand has its share of the mixture's energy. Sources in no order are counted by their scores, so there
0.5 has to divide voices from what is left on an unused output, whatever the length of the recording. Such a score
looks at the frames of 32 ms in which the source is the loudest of all: leakage of another voice, however strong, is
never louder than that voice. Their energy in the source's best second, r, against that of the mixture's loudest one,
gives r / (r + `UNHEARD`): 0.5 at 25 dB below the mixture, 0.24 at 30, 0.03 at 40, 0 for silence. One second of speech
in an hour counts like an hour of it. Of speakers only voices count: the score is times how likely the loudest four
seconds of the source are a voice (`voices.py`).
"""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from .voices import Loudest, VoiceDetector


ACTIVE_SCORE = 0.5
UNHEARD = 10**-2.5
NEAR_SILENCE = 10**-3.0
STRETCH_S = 1.0
SILENCE = 1e-10  # mean square of a mixture, below which nothing can be said of it
FRAME_S = 0.032
STRETCH_FRAMES = 32


class Scores:
    """The scores of the sources of one recording.

    Args:
        num_sources: sources the model returns.
        sampling_rate: of the recording, in Hz.
        residual: whether the residual is one source more; it always has its share of energy.
        unordered: whether the sources come in no order.
        voices: tells whether a source is a voice; None if that does not matter.
    """

    def __init__(
        self,
        num_sources: int,
        sampling_rate: int,
        *,
        residual: bool,
        unordered: bool,
        voices: VoiceDetector | None = None,
    ):
        self.num_sources, self.sampling_rate = num_sources, sampling_rate
        self._voices, self._loudest = voices, Loudest(num_sources, sampling_rate)
        self._energies = np.zeros(1 + num_sources + residual)  # of the mixture and everything handed out
        self._presence: Tensor | None = None
        self._shares = _Shares(num_sources, max(1, round(STRETCH_S * sampling_rate)))
        self._activity = _Activity(num_sources, max(1, round(FRAME_S * sampling_rate))) if unordered else None

    def add(self, mixture: NDArray[np.floating], sources: NDArray[np.floating], presence: Tensor | None) -> None:
        """Takes in the next block.

        Args:
            mixture: (channels, samples).
            sources: (num_sources, channels, samples), the residual included.
            presence: logits of the segment, (num_sources,), of models that say so.
        """
        self._energies[0] += float(np.square(mixture, dtype=np.float64).sum())
        self._energies[1:] += np.square(sources, dtype=np.float64).sum(axis=(1, 2))
        if presence is not None:
            self._presence = presence if self._presence is None else torch.maximum(self._presence, presence)
        waveforms = np.concatenate([mixture[None], sources[: self.num_sources]])
        self._shares.add(waveforms)
        if self._activity is not None:
            self._activity.add(waveforms)
        if self._voices is not None:
            self._loudest.add(sources[: self.num_sources])

    def values(self) -> list[float]:
        """For each source, the residual last, from 0 to 1."""
        scores = np.clip(self._energies[1:] / (self._energies[0] or 1.0), 0.0, 1.0).tolist()
        if self._presence is not None:
            share = self._shares.best()
            said = torch.sigmoid(self._presence.double()).cpu().numpy()
            scores[: self.num_sources] = (said * share / (share + NEAR_SILENCE)).tolist()
        elif self._activity is not None:
            share = self._activity.shares()
            scores[: self.num_sources] = (share / (share + UNHEARD)).tolist()
        if self._voices is not None:
            chances = self._voices(self._loudest.waveforms(), self.sampling_rate)
            scores[: self.num_sources] = np.multiply(scores[: self.num_sources], chances).tolist()
        return scores


class _Shares:
    """Share of the mixture's energy that each source has in its best stretch."""

    def __init__(self, num_sources: int, stretch: int):
        self.stretch = stretch
        self._samples = np.zeros((1 + num_sources, 0))  # energies that do not fill a stretch yet
        self._best = np.zeros(num_sources)

    def add(self, waveforms: NDArray[np.float32]) -> None:
        """Takes in mixture and sources, (1 + num_sources, channels, samples)."""
        energies = np.square(waveforms, dtype=np.float64).mean(axis=1)
        stretches, self._samples = _gathered(np.concatenate([self._samples, energies], axis=1), self.stretch)
        self._best = self._better(stretches, self.stretch)

    def best(self) -> NDArray[np.float64]:
        """The shares, at most 1; what does not fill a stretch counts as one."""
        left = self._samples.shape[1]
        best = self._better(self._samples.sum(axis=1, keepdims=True), left) if left else self._best
        return np.clip(best, 0.0, 1.0)

    def _better(self, stretches: NDArray[np.float64], samples: int) -> NDArray[np.float64]:
        heard = stretches[:, stretches[0] > SILENCE * samples]
        return np.maximum(self._best, (heard[1:] / heard[0]).max(axis=1, initial=0.0))


class _Activity:
    """Energy of each source in its best stretch, counting the frames in which it is the loudest."""

    def __init__(self, num_sources: int, frame: int):
        self.frame = frame
        self._samples = np.zeros((1 + num_sources, 0))  # energies that do not fill a frame yet
        self._frames = np.zeros((1 + num_sources, 0))  # frames that do not fill a stretch yet
        self._best = np.zeros(1 + num_sources)

    def add(self, waveforms: NDArray[np.float32]) -> None:
        """Takes in mixture and sources, (1 + num_sources, channels, samples)."""
        energies = np.square(waveforms, dtype=np.float64).sum(axis=1)
        frames, self._samples = _gathered(np.concatenate([self._samples, energies], axis=1), self.frame)
        stretches, self._frames = _gathered(np.concatenate([self._frames, _loudest(frames)], axis=1), STRETCH_FRAMES)
        if stretches.shape[1]:
            self._best = np.maximum(self._best, stretches.max(axis=1))

    def shares(self) -> NDArray[np.float64]:
        """Each source's best stretch as a share of the mixture's loudest, at most 1."""
        last = self._frames.sum(axis=1) + _loudest(self._samples.sum(axis=1, keepdims=True))[:, 0]
        best = np.maximum(self._best, last)
        return np.clip(best[1:] / (best[0] or 1.0), 0.0, 1.0)


def _gathered(energies: NDArray[np.float64], size: int) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Sums of `size` neighbours, and what is left over."""
    whole = energies.shape[1] // size * size
    sums = energies[:, :whole].reshape(energies.shape[0], whole // size, size).sum(axis=2)
    return sums, energies[:, whole:].copy()


def _loudest(frames: NDArray[np.float64]) -> NDArray[np.float64]:
    """Frames of mixture and sources, with 0 where a source is not the loudest."""
    sources = frames[1:]
    first = np.arange(len(sources))[:, None] == sources.argmax(axis=0)
    return np.concatenate([frames[:1], np.where(first, sources, 0.0)])


__all__ = ["ACTIVE_SCORE", "Scores"]
