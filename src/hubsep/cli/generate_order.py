# SPDX-License-Identifier: Apache-2.0
"""What a command line of `hubsep generate` orders: how the sounds are made, with which model, from which recording."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ..batch.places import check_device
from ..errors import AudioError, CheckpointError
from ..shipped import SEPARATORS


Channel = dict[str, Any]  # of a recording, as the pipeline takes it


@dataclass(frozen=True)
class Way:
    """How a sound is made: from a prompt, or as one of the options says.

    Attributes:
        option: on the command line, "" for a prompt alone.
        method: of the pipeline.
        recording: that it starts from.
        arguments: of the method, besides prompt and recording.
    """

    option: str = ""
    method: str = "__call__"
    recording: Path | None = None
    arguments: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Order:
    """What is the same for every prompt of a command line."""

    way: Way
    sampling: dict[str, Any]
    seconds: float | None
    say: str | None
    candidates: int
    seed: int

    def settings(self) -> dict[str, Any]:
        """What decides the sound, for a record."""
        return {"way": self.way.option, "arguments": self.way.arguments, **self.sampling, "seconds": self.seconds,
                "say": self.say, "candidates": self.candidates, "seed": self.seed}  # fmt: skip

    def made(self, pipe: Any, prompt: str, recording: Channel | None) -> Any:
        """What the pipeline makes of a prompt."""
        import torch

        options = {**self.sampling, "generator": torch.Generator("cpu").manual_seed(self.seed)}
        if self.seconds is not None:
            options["seconds"] = self.seconds
        if not self.way.option:
            return pipe(prompt, transcription=self.say, num_waveforms_per_prompt=self.candidates, **options)
        method = getattr(pipe, self.way.method)
        if recording is None:
            return method(prompt, **self.way.arguments, **options)
        return method(recording, prompt=prompt, **self.way.arguments, **options)


def read_channel(path: Path, channel: int | None) -> Channel:
    """One channel of a recording, as the pipeline takes it.

    Raises:
        AudioError: if it cannot be read, has no such channel, or several and none was chosen.
    """
    from ..audio.reader import read_audio

    recording = read_audio(path, way_out="cut out the part to start from")
    channels = recording.waveform.shape[0]
    if channel is None and channels > 1:
        raise AudioError(f"{path} has {channels} channels, and one is made: choose one with --channel 1, 2, ...")
    if (channel or 1) > channels:
        raise AudioError(f"{path} has {channels} channel{'s' * (channels > 1)}, and --channel is {channel}")
    return {"array": recording.waveform[(channel or 1) - 1], "sampling_rate": recording.sampling_rate}


def checked_model(model: str) -> str:
    """The name of the model.

    Raises:
        CheckpointError: if it is one that makes no sounds.
    """
    if model in SEPARATORS and not Path(model).exists():
        raise CheckpointError(f"{model} separates recordings and makes none; --model takes an AudioLDM 2")
    return model


def load(model: str, device: str | None, dtype: str, low_memory: bool) -> Any:
    """The pipeline on its device, without the advice of transformers and diffusers."""
    import torch
    from diffusers.utils import logging as diffusers_logging
    from transformers.utils import logging

    from ..pipelines.audioldm2.loading.devices import first_device
    from ..pipelines.audioldm2.pipeline import AudioLDM2Pipeline

    logging.set_verbosity_error()
    logging.disable_progress_bar()
    diffusers_logging.set_verbosity_error()
    device = check_device(device) or first_device()
    options: dict[str, Any] = {"on_demand": True, "device_map": device} if low_memory else {}
    pipe = AudioLDM2Pipeline.from_pretrained(model, dtype=getattr(torch, dtype), **options)
    return pipe if low_memory else pipe.to(device)


__all__ = ["Order", "Channel", "Way", "checked_model", "load", "read_channel"]
