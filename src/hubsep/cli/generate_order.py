# SPDX-License-Identifier: Apache-2.0
"""What a command line of `hubsep generate` orders: how the sounds are made, with which model, from which recording."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ..batch.places import check_device
from ..errors import AudioError, CheckpointError, QueryError
from ..hub.bounds import shown
from ..hub.checks import read_before_checks
from ..hub.resolve import INDEX, check_task, resolve_folder
from ..registry import TEXT_TO_AUDIO


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


def checked_model(model: str) -> Path:
    """The folder of the model.

    Raises:
        CheckpointError: if there is none of that name, or it makes no sounds.
    """
    folder = resolve_folder(model)
    check_task(folder, model, TEXT_TO_AUDIO)
    if not (folder / INDEX).is_file():
        raise CheckpointError(f"{shown(model)} holds no {INDEX}: it is no model that makes sounds")
    return folder


def check_order(order: Order, prompts: list[str], recording: Channel | None, folder: Path) -> None:
    """Refuses what this model cannot make, as far as the files of its folder say.

    Args:
        order: what is the same for all prompts.
        prompts: their words.
        recording: to start from.
        folder: of the model.

    Raises:
        QueryError: naming the option.
    """
    speaks = read_before_checks(folder, "text_encoder_2/config.json").get("model_type") == "vits"
    if order.say is not None and not speaks:
        raise QueryError("--say is for models that speak, and this one does not: leave it out")
    if speaks and order.say is None and not order.way.option:
        raise QueryError("this model speaks: say what with --say TEXT")
    if recording is not None and not all(prompts) and not (folder / "audio_mae").is_dir():
        raise QueryError(
            f"this model does not hear what is in a recording: say it in words beside {order.way.option}, as in: "
            'hubsep generate "rain on a tin roof" ...'
        )
    shortest = shortest_sound(folder)
    if order.seconds is not None and shortest is not None and order.seconds < shortest:
        raise QueryError(f"--seconds must be at least {shortest:.3g} for this model, got {order.seconds:g}")
    if recording is None:
        return
    length = recording["array"].shape[-1] / recording["sampling_rate"]
    if shortest is not None and length < shortest:
        raise QueryError(
            f"the recording of {order.way.option} is {length:.3g} s long; at least {shortest:.3g} s are needed"
        )
    stop = order.way.arguments.get("stop")
    if stop is not None and stop > length:
        raise QueryError(f"--to is {stop:g} s, and the recording ends at {length:.3f} s; the part has to lie in it")


def shortest_sound(folder: Path) -> float | None:
    """The shortest sound of a model in seconds, which is one latent frame; None if its files do not say."""
    levels = read_before_checks(folder, "vae/config.json").get("block_out_channels")
    vocoder = read_before_checks(folder, "vocoder/config.json")
    rates, rate = vocoder.get("upsample_rates"), vocoder.get("sampling_rate")
    if not (isinstance(levels, list) and isinstance(rates, list) and isinstance(rate, int) and rate > 0):
        return None
    return 2 ** (len(levels) - 1) * math.prod(rates) / rate


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


__all__ = ["Channel", "Order", "Way", "check_order", "checked_model", "load", "read_channel"]
