# SPDX-License-Identifier: Apache-2.0
"""The work of `hubsep generate`, once its command line is understood: made, written, recorded and said, in turn."""

from __future__ import annotations

import warnings
from dataclasses import dataclass, field
from pathlib import Path
from textwrap import shorten
from typing import Any

from ..batch.lines import say, taken_as
from ..batch.places import check_device
from ..errors import AudioError, CheckpointError
from ..shipped import DEFAULT_GENERATOR, SEPARATORS, SHIPPED
from ..texts import printable
from .generate_files import checked_places, draw, picture_of, write
from .generate_record import Record
from .output import finish


Recording = dict[str, Any]


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

    def made(self, pipe: Any, prompt: str, recording: Recording | None) -> Any:
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


def read_channel(path: Path, channel: int | None) -> Recording:
    """One channel of a recording, as the pipeline takes it.

    Raises:
        AudioError: if it cannot be read, has no such channel, or several and none was chosen.
    """
    from ..audio.reader import read_audio

    found = read_audio(path, way_out="cut out the part to start from")
    channels = found.waveform.shape[0]
    if channel is None and channels > 1:
        raise AudioError(f"{path} has {channels} channels, and one is made: choose one with --channel 1, 2, ...")
    if (channel or 1) > channels:
        raise AudioError(f"{path} has {channels} channel{'s' * (channels > 1)}, and --channel is {channel}")
    return {"array": found.waveform[(channel or 1) - 1], "sampling_rate": found.sampling_rate}


def checked_model(model: str) -> str:
    """The name of the model.

    Raises:
        CheckpointError: if it is the default and not there, or one that makes no sounds.
    """
    if model in SEPARATORS and not Path(model).exists():
        raise CheckpointError(f"{model} separates recordings and makes none; --model takes an AudioLDM 2")
    if model == DEFAULT_GENERATOR and model not in SHIPPED and not Path(model).exists():
        raise CheckpointError(
            "no model that makes sounds is shipped yet: pass --model with a folder or Hub repository, for instance "
            "--model cvssp/audioldm2"
        )
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


def carry_out(
    order: Order, texts: list[str], output: Path, loading: dict[str, Any], *, kept: int, plot: bool, overwrite: bool,
    channel: int | None,
) -> None:  # fmt: skip
    """Makes what a command line asks for, if it is not there already, and says what its words were taken for.

    Args:
        order: what is the same for all prompts.
        texts: the prompts.
        output: what the command line calls the files.
        loading: how the model is loaded, and its name.
        kept: recordings of each prompt.
        plot: whether pictures are drawn.
        overwrite: whether files may be replaced.
        channel: of the recording to start from.
    """
    places, targets = checked_places(output, len(texts), kept, plot=plot, recording=order.way.recording)
    model = checked_model(loading["model"])
    chosen = {"prompts": texts, "kept": kept, "channel": channel, "plot": plot, "dtype": loading["dtype"]}
    record = Record(output, order.way.recording, model, {**order.settings(), **chosen})
    outputs = record.finished(targets, overwrite=overwrite)
    if outputs is not None:
        say(*(f"{one['path']}  made already by the same command" for one in outputs))
    else:
        recording = None if order.way.recording is None else read_channel(order.way.recording, channel)
        outputs = make_all(load(**loading), order, texts, recording, places, record, plot=plot)
    finish([], {str(one.get("words", one["label"])): str(one["nearest"]) for one in outputs if one.get("nearest")})


def make_all(
    pipe: Any, order: Order, texts: list[str], recording: Recording | None, places: list[list[Path]], record: Record,
    *, plot: bool,
) -> list[dict[str, Any]]:  # fmt: skip
    """Makes the recordings of all prompts, one prompt after the other; the facts of each recording."""
    facts = []
    for text, paths in zip(texts, places, strict=True):
        facts += make_one(pipe, order, text, recording, paths, record, picture_of(paths) if plot else None)
    record.finish()
    return facts


def make_one(
    pipe: Any, order: Order, prompt: str, recording: Recording | None, paths: list[Path], record: Record,
    picture: Path | None,
) -> list[dict[str, Any]]:  # fmt: skip
    """Makes the recordings of one prompt, with its steps as a bar, and writes and names them."""
    pipe.set_progress_bar_config(
        desc=shorten(printable(prompt), 40, placeholder="...") or "steps", leave=False, disable=None
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # what is not understood is said in the lines below
        result = order.made(pipe, prompt, recording)
    rate, waveforms = result.sampling_rate, result.audios[: len(paths)]
    meaning = meaning_facts(pipe, order, prompt)
    facts = [{"label": prompt, "seconds": round(len(waveform) / rate, 3), **meaning} for waveform in waveforms]
    if result.scores is not None:
        for said, score in zip(facts, result.scores[0].tolist(), strict=False):
            said["score"] = score

    def note(files: list[tuple[Path, Path]], scratch: Path) -> None:
        record.note(files, [*facts, {"label": "spectrograms"}][: len(files)], scratch)

    drawn = None if picture is None else (picture, lambda path: draw(path, prompt, waveforms, rate, recording))
    for path, said in zip(write(paths, waveforms, rate, picture=drawn, note=note), facts, strict=True):
        score = f"  score {said['score']:.2f}" if "score" in said else ""
        say(f"{path}  {said['seconds']:.2f} s{score}{taken_as(said)}")
    if picture is not None:
        say(picture)
    return facts


def meaning_facts(pipe: Any, order: Order, prompt: str) -> dict[str, Any]:
    """What the words were taken for, if the model knows a list of sounds; of two sounds the one it does not know."""
    texts = [text for text in (prompt, order.way.arguments.get("second")) if text]
    meanings = pipe.understand(texts) if texts else None
    if not meanings:
        return {}
    for text, meaning in zip(texts, meanings, strict=True):
        if meaning.understood_as is None:
            words = {} if text == prompt else {"words": text}
            return {"understood_as": None, "nearest": meaning.nearest, **words}
    return {"understood_as": " and ".join(str(meaning.understood_as) for meaning in meanings)}


__all__ = ["Order", "Recording", "Way", "carry_out", "checked_model", "load", "read_channel"]
