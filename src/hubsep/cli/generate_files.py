# SPDX-License-Identifier: Apache-2.0
"""The files of `hubsep generate`: what they are called, and how they are written; `generate_record.py` has the rule
of what may be replaced."""

from __future__ import annotations

import os
from collections.abc import Callable, Collection
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..audio.formats import format_of
from ..audio.reader import write_audio
from ..batch.delivery import Form, deliver, scratch_folder, sweep
from ..batch.lines import warn
from ..batch.records import move
from ..errors import AudioError
from ..hub.file_names import LONGEST_NAME, key_of
from ..plotting.spectrograms import plot_recordings
from .generate_record import record_of


if TYPE_CHECKING:
    import numpy as np


def checked_places(
    output: Path, prompts: int, kept: int, *, plot: bool, recording: Path | None = None
) -> tuple[list[list[Path]], list[Path]]:
    """Where the recordings of each prompt go.

    Args:
        output: what the command line calls them.
        prompts: how many there are.
        kept: recordings of each.
        plot: whether pictures are drawn.
        recording: that is read, and never replaced.

    Returns:
        The places, and every file that may be written, besides the record.

    Raises:
        AudioError: if such a file cannot be written.
    """
    format_of(output, None, None)
    several = [output] if prompts == 1 else numbered(output, prompts)
    places = [[path] if kept == 1 else numbered(path, kept) for path in several]
    targets = [path for paths in places for path in paths]
    form = form_of(output)
    if form.limit != float("inf"):  # what does not fit is written as floating point
        targets += [path.with_suffix(f".{form.as_float().extension}") for path in targets]
    targets += [picture_of(paths) for paths in places if plot]
    for path in (*targets, record_of(output)):
        if len(os.fsencode(path.name)) > LONGEST_NAME:
            raise AudioError(f"{path.name[:60]}... is longer than a name may be; choose a shorter --output")
        if recording is not None and (key_of(path) == key_of(recording) or is_same(path, recording)):
            raise AudioError(f"{path} is the recording itself; choose another --output")
    return places, targets


def is_same(first: Path, second: Path) -> bool:
    """Whether both are names of one file."""
    return first.exists() and first.samefile(second)


def form_of(path: Path) -> Form:
    """How a file of this name is stored."""
    return Form(path.suffix[1:].lower(), None)


def numbered(path: Path, count: int) -> list[Path]:
    """rain.wav as rain-1.wav, rain-2.wav, ..."""
    return [path.with_stem(f"{path.stem}-{number}") for number in range(1, count + 1)]


def picture_of(paths: list[Path]) -> Path:
    """Where the picture of these recordings goes."""
    return paths[0].with_suffix(".png")


Note = Callable[[list[tuple[Path, Path]], Path], Collection[Path]]


def write(
    paths: list[Path],
    waveforms: np.ndarray[Any, Any],
    sampling_rate: int,
    *,
    picture: tuple[Path, Callable[[Path], None]] | None = None,
    note: Note | None = None,
) -> list[Path]:
    """Writes recordings, all or none; what does not fit the format is written as floating point, which is said.

    Args:
        paths: of the recordings.
        waveforms: (recordings, samples).
        sampling_rate: in Hz.
        picture: a file, and what draws it.
        note: is told the files and their complete copies in a folder, before they get their names; says which of
            them may be replaced, without it none.

    Returns:
        The files of the recordings.
    """
    sweep(paths[0].parent)
    form, names = form_of(paths[0]), {str(path): path for path in paths}
    with scratch_folder(paths[0].parent) as scratch:
        sounds = {
            str(path): write_audio(scratch / f"{number}.w64", waveform, sampling_rate, subtype="FLOAT")
            for number, (path, waveform) in enumerate(zip(paths, waveforms, strict=True))
        }

        def place(name: str, extension: str) -> Path:
            return names[name] if extension == form.extension else names[name].with_suffix(f".{extension}")

        delivered, remark = deliver(sounds, place, form, "float", scratch)
        files = list(delivered.values())
        if picture is not None:
            picture[1](scratch / "picture.png")
            files.append((picture[0], scratch / "picture.png"))
        move(files, replaced=() if note is None else note(files, scratch))
    if remark:
        warn(remark)
    return [path for path, _ in delivered.values()]


def draw(
    picture: Path, prompt: str, waveforms: np.ndarray[Any, Any], sampling_rate: int, recording: dict[str, Any] | None
) -> None:
    """Draws what was made, below what it was made of."""
    rows: dict[str, Any] = {} if recording is None else {"given": recording}
    for number, waveform in enumerate(waveforms, start=1):
        rows["made" if len(waveforms) == 1 else f"made, {number}"] = waveform
    plot_recordings(rows, picture, sampling_rate=sampling_rate, title=prompt)


__all__ = ["checked_places", "draw", "picture_of", "write"]
