# SPDX-License-Identifier: Apache-2.0
"""The work of `hubsep generate`, once its command line is understood: made, written, recorded and said, in turn."""

from __future__ import annotations

import warnings
from collections.abc import Collection
from pathlib import Path
from textwrap import shorten
from typing import Any

from ..batch.lines import say, shown_while, taken_as
from ..batch.places import check_device
from ..texts import printable
from .generate_files import checked_places, draw, picture_of, write
from .generate_order import Channel, Order, check_order, checked_model, load, read_channel
from .generate_record import Record
from .output import finish
from .values import check_writable, refusing


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
    chosen = {"prompts": texts, "kept": kept, "channel": channel, "plot": plot, "dtype": loading["dtype"]}
    with refusing():
        check_device(loading["device"])
        places, targets = checked_places(output, len(texts), kept, plot=plot, recording=order.way.recording)
        settings = {**order.settings(), **chosen}
        record = Record(output, order.way.recording, loading["model"], settings, overwrite=overwrite)
        outputs = record.finished(targets, len(texts) * (kept + plot))
        if outputs is None:
            recording = None if order.way.recording is None else read_channel(order.way.recording, channel)
            check_order(order, texts, recording, checked_model(loading["model"]))
            check_writable(output.parent)
    if outputs is not None:
        say(*(f"{one['path']}  made already by the same command" for one in outputs))
    else:
        with shown_while(f"opening {loading['model']}"):
            pipe = load(**loading)
        outputs = make_all(pipe, order, texts, recording, places, record, plot=plot)
    finish([], {str(one.get("words", one["label"])): str(one["nearest"]) for one in outputs if one.get("nearest")})


def make_all(
    pipe: Any, order: Order, texts: list[str], recording: Channel | None, places: list[list[Path]], record: Record,
    *, plot: bool,
) -> list[dict[str, Any]]:  # fmt: skip
    """Makes the recordings of all prompts, one prompt after the other; the facts of each recording."""
    facts = []
    for text, paths in zip(texts, places, strict=True):
        facts += make_one(pipe, order, text, recording, paths, record, picture_of(paths) if plot else None)
    record.finish()
    return facts


def make_one(
    pipe: Any, order: Order, prompt: str, recording: Channel | None, paths: list[Path], record: Record,
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

    def note(files: list[tuple[Path, Path]], scratch: Path) -> Collection[Path]:
        return record.note(files, [*facts, {"label": "spectrograms"}][: len(files)], scratch)

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


__all__ = ["carry_out"]
