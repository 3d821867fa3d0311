# SPDX-License-Identifier: Apache-2.0
"""What pipelines hand out, as types an editor knows: dicts whose keys are fixed."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any, TypedDict

import numpy as np
from numpy.typing import NDArray
from torch.utils.data import Dataset

from hubsep.audio.layouts import Layout


Many = list[Any] | tuple[Any, ...]  # recordings, whose results come in a list
Endless = Dataset[Any] | Iterator[Any]  # those whose results come one after the other


class Channels(TypedDict, total=False):
    """Of recordings that say so.

    Attributes:
        layout: which channel is which loudspeaker.
    """

    layout: Layout


class SourceBlock(Channels):
    """A part of a source in time, as `stream` gives it.

    Attributes:
        label: which source it is.
        audio: (channels, samples), float32.
        sampling_rate: in Hz.
    """

    label: str
    audio: NDArray[np.float32]
    sampling_rate: int


class Understanding(TypedDict, total=False):
    """What a query was taken for, of models that know sounds by name.

    Attributes:
        understood_as: the sound; None if the model knows no such sound.
        nearest: where that is None, the sound it knows that comes nearest, if any does.
    """

    understood_as: str | None
    nearest: str | None


class SourceFacts(Understanding):
    """What is said of a source beside its samples.

    Attributes:
        label: which source it is.
        score: from 0 to 1, whether it is in the recording at all.
    """

    label: str
    score: float


class SeparatedSource(SourceFacts, Channels):
    """A source of a recording.

    Attributes:
        audio: (channels, samples), float32.
        sampling_rate: in Hz.
    """

    audio: NDArray[np.float32]
    sampling_rate: int


class SourceFile(SourceFacts):
    """A source of a recording in a file.

    Attributes:
        path: of the file.
        sampling_rate: in Hz.
    """

    path: Path
    sampling_rate: int


class GeneratedSound(TypedDict):
    """A sound made of a prompt.

    Attributes:
        audio: (samples,), float32.
        sampling_rate: in Hz.
    """

    audio: NDArray[np.float32]
    sampling_rate: int


__all__ = ["Endless", "GeneratedSound", "Many", "SeparatedSource", "SourceBlock", "SourceFacts", "SourceFile"]
