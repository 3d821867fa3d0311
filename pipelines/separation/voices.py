# SPDX-License-Identifier: Apache-2.0
"""Whether what came out as a speaker is a voice.

A separator of speakers was never taught that there are other sounds: of a man beside a dog it makes two speakers, and
both are loud. The listener of the shipped text-queried model knows a voice from other sounds, and hears the loudest
four seconds of each output. Decisions: it is read alone, without the separator; it is asked where the sources are
called speakers; where the package lacks the model, nobody is asked and loudness alone counts.
"""

from __future__ import annotations

import threading
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import safe_open

from hubsep.audio.reader import resample
from hubsep.models.audiosep.configuration_audiosep import AudioSepConfig
from hubsep.models.audiosep.listener_audiosep import Listener, smooth_maximum
from hubsep.shipped import DEFAULT_MODEL, SHIPPED


STRETCH_S = 4.0
VOICES = ("speech", "a man talking", "a woman talking", "a child talking")
SPEAKER = "speaker"
PREFIX = "listener."
# Of logits: where an output is as likely a voice as not, and by how much the odds grow with each more. Chosen on the
# mixtures of docs/speakers.md, where outputs with a voice had 1.6 to 8.0 and rain without one -6 to 1.2.
MIDDLE, SLOPE = 1.0, 2.0
_LOADING = threading.Lock()


class VoiceDetector:
    """Says of waveforms how likely each is a voice.

    Args:
        listener: a network from waveforms to logits of classes.
        voices: the numbers of the classes that are voices.
        sampling_rate: that the listener takes, in Hz.
    """

    def __init__(self, listener: Listener, voices: list[int], sampling_rate: int):
        self._listener, self._voices, self._rate = listener.eval(), voices, sampling_rate

    @torch.no_grad()
    def __call__(self, waveforms: NDArray[np.float32], sampling_rate: int) -> NDArray[np.float64]:
        """Probabilities (outputs,), 0 of silence.

        Args:
            waveforms: (outputs, samples).
            sampling_rate: in Hz.
        """
        heard = torch.from_numpy(resample(waveforms, sampling_rate, self._rate))
        logits = smooth_maximum(self._listener(heard).mT)[:, self._voices].amax(dim=1).double().numpy()
        chances: NDArray[np.float64] = 1 / (1 + np.exp(-SLOPE * (logits - MIDDLE)))
        return np.where(np.abs(waveforms).max(axis=1, initial=0) > 0, chances, 0.0)


class Loudest:
    """The loudest stretch of each source of a recording, gathered block by block.

    Args:
        num_sources: sources the model returns.
        sampling_rate: of the recording, in Hz.
    """

    def __init__(self, num_sources: int, sampling_rate: int):
        self._stretch = max(1, round(STRETCH_S * sampling_rate))
        self._energies = np.full(num_sources, -1.0)
        self._best: list[NDArray[np.float32]] = [np.zeros(0, np.float32)] * num_sources
        self._waiting: list[NDArray[np.float32]] = []
        self._samples = 0

    def add(self, sources: NDArray[np.float32]) -> None:
        """Takes in the next block, (num_sources, channels, samples)."""
        self._waiting.append(sources.copy())
        self._samples += sources.shape[-1]
        if self._samples >= self._stretch:
            joined = np.concatenate(self._waiting, axis=-1)
            whole = self._samples // self._stretch * self._stretch
            for start in range(0, whole, self._stretch):
                self._energies, self._best = self._better(joined[..., start : start + self._stretch])
            self._waiting, self._samples = [joined[..., whole:].copy()], self._samples - whole

    def waveforms(self) -> NDArray[np.float32]:
        """(num_sources, samples): of a recording of several channels the loudest one."""
        best = self._better(np.concatenate(self._waiting, axis=-1))[1] if self._samples else self._best
        length = max((len(stretch) for stretch in best), default=0)
        return np.stack([np.pad(stretch, (0, length - len(stretch))) for stretch in best])

    def _better(self, stretch: NDArray[np.float32]) -> tuple[NDArray[np.float64], list[NDArray[np.float32]]]:
        """The energies of the loudest stretches with this one, and the stretches, (samples,) each."""
        energies = np.square(stretch, dtype=np.float64).sum(axis=-1)  # (num_sources, channels)
        louder = energies.sum(axis=-1) > self._energies
        best = [
            stretch[number, energies[number].argmax()].copy() if louder[number] else self._best[number]
            for number in range(len(stretch))
        ]
        return np.where(louder, energies.sum(axis=-1), self._energies), best


def voice_detector(config: Any) -> VoiceDetector | None:
    """The detector for a separator whose sources are called speakers; None for others, and where none is shipped.

    Args:
        config: of the separator.
    """
    folder = SHIPPED.get(DEFAULT_MODEL)
    names = tuple(config.source_names)
    if folder is None or not folder.is_dir() or not names or not names[0].startswith(SPEAKER):
        return None
    with _LOADING:
        return _load(folder)


@lru_cache(maxsize=1)
def _load(folder: Path) -> VoiceDetector | None:
    config = AudioSepConfig.from_pretrained(folder)
    voices = [number for number, name in enumerate(config.query_classes) if name in VOICES]
    if not config.listener_channels or not voices:
        return None
    weights: dict[str, torch.Tensor] = {}
    for path in sorted(folder.glob("*.safetensors")):
        with safe_open(path, "pt") as file:
            names = [*file.keys()]
            weights |= {name[len(PREFIX) :]: file.get_tensor(name) for name in names if name.startswith(PREFIX)}
    listener = Listener(config)
    listener.load_state_dict(weights)
    return VoiceDetector(listener, voices, config.sampling_rate)


__all__ = ["Loudest", "VoiceDetector", "voice_detector"]
