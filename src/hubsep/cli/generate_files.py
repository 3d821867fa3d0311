# SPDX-License-Identifier: Apache-2.0
"""The files of `hubsep generate`: what they are called, that none is replaced unasked, and how they are written."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import AudioError
from .output import warn


if TYPE_CHECKING:
    import numpy as np


def checked_places(output: Path, prompts: int, kept: int, *, plot: bool, overwrite: bool) -> list[list[Path]]:
    """Where the recordings of each prompt go; the folder is made.

    Raises:
        AudioError: if such a file cannot be written, or one is there.
    """
    from ..audio_formats import format_of

    format_of(output, None, None)
    several = [output] if prompts == 1 else numbered(output, prompts)
    places = [[path] if kept == 1 else numbered(path, kept) for path in several]
    pictures = [picture_of(paths) for paths in places if plot]
    there = [path for path in (*(path for paths in places for path in paths), *pictures) if path.exists()]
    if there and not overwrite:
        raise AudioError(f"{there[0]} is there already; --overwrite replaces it")
    output.parent.mkdir(parents=True, exist_ok=True)
    return places


def numbered(path: Path, count: int) -> list[Path]:
    """rain.wav as rain-1.wav, rain-2.wav, ..."""
    return [path.with_stem(f"{path.stem}-{number}") for number in range(1, count + 1)]


def picture_of(paths: list[Path]) -> Path:
    """Where the picture of these recordings goes."""
    return paths[0].with_suffix(".png")


def write(paths: list[Path], waveforms: np.ndarray[Any, Any], sampling_rate: int) -> list[Path]:
    """Writes recordings, all or none; what does not fit the format is written as floating point, which is said."""
    from ..audio import write_audio
    from .writing import Form, deliver, scratch_folder, sweep

    sweep(paths[0].parent)
    form, names = Form(paths[0].suffix[1:].lower(), None), {str(path): path for path in paths}
    with scratch_folder(paths[0].parent) as scratch:
        sounds = {
            str(path): write_audio(scratch / f"{number}.w64", waveform, sampling_rate, subtype="FLOAT")
            for number, (path, waveform) in enumerate(zip(paths, waveforms, strict=True))
        }

        def place(name: str, extension: str) -> Path:
            return names[name] if extension == form.extension else names[name].with_suffix(f".{extension}")

        written, remark = deliver(sounds, place, form, "float", scratch)
    if remark:
        warn(remark)
    return list(written.values())


def draw(
    picture: Path, prompt: str, waveforms: np.ndarray[Any, Any], sampling_rate: int, recording: dict[str, Any] | None
) -> None:
    """Draws what was made, below what it was made of."""
    from ..plotting import plot_recordings

    rows: dict[str, Any] = {} if recording is None else {"given": recording}
    for number, waveform in enumerate(waveforms, start=1):
        rows["made" if len(waveforms) == 1 else f"made, {number}"] = waveform
    plot_recordings(rows, picture, sampling_rate=sampling_rate, title=prompt)


__all__ = ["checked_places", "draw", "picture_of", "write"]
