# SPDX-License-Identifier: Apache-2.0
"""A picture of recordings: their spectrograms, or a mixture's above those of its sources.

Decisions: one dB scale for all rows, 0 dB being the loudest point of the mixture, so that rows can be compared; log
frequency; recordings are read block by block and neighbouring frames are averaged as the recording gets longer, so
that hours need no more memory than seconds. matplotlib is imported when a picture is drawn.
"""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from textwrap import shorten
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..audio.reader import open_audio
from ..errors import DataError
from ..hub.manifest import write_whole
from ..texts import printable


FLOOR_DB = -70.0
MAX_COLUMNS = 1_200
ROWS = 200
LOWEST_HZ = 40.0
# formats, and what to leave out of each: the moment of writing
PICTURES: dict[str, dict[str, None]] = {"png": {}, "pdf": {"CreationDate": None}, "svg": {"Date": None}}


class Picture:
    """Averaged power spectrogram of a recording of any length, with its level.

    Attributes:
        columns: power at log-spaced frequencies, one array of `ROWS` values per column.
        samples: how many have been pushed.
    """

    def __init__(self, sampling_rate: int) -> None:
        self.sampling_rate = sampling_rate
        self.window_samples = 2 ** round(np.log2(0.046 * sampling_rate))
        self.samples = 0
        self.columns: list[NDArray[np.float64]] = []
        self._energy = 0.0
        self._channels = 1
        self._frames_per_column = 1
        self._waiting: list[NDArray[np.float64]] = []
        self._tail: NDArray[np.float32] | None = None
        frequencies = np.geomspace(LOWEST_HZ, sampling_rate / 2, ROWS)
        self._bins = np.round(frequencies / sampling_rate * self.window_samples).astype(int)

    @property
    def level(self) -> float:
        """RMS level in dB relative to full scale."""
        return 10 * float(np.log10(max(self._energy / max(self.samples * self._channels, 1), 1e-12)))

    @property
    def power(self) -> NDArray[np.float64]:
        """The picture, (ROWS, columns)."""
        return np.stack(self.columns or [np.zeros(ROWS)], axis=1)

    def push(self, block: NDArray[np.float32]) -> None:
        """Adds the next block, (channels, samples)."""
        self.samples += block.shape[1]
        self._channels = block.shape[0]
        self._energy += float(np.sum(np.square(block, dtype=np.float64)))
        if self._tail is not None:
            block = np.concatenate([self._tail, block], axis=1)
        hop = self.window_samples // 2
        count = max(0, (block.shape[1] - self.window_samples) // hop + 1)
        if count:
            frames = np.lib.stride_tricks.sliding_window_view(block, self.window_samples, axis=1)[:, ::hop]
            self._add(frames[:, :count])
        self._tail = block[:, count * hop :]

    def finish(self) -> None:
        """Adds what is left at the end, padded with silence."""
        if self._tail is not None and (self._tail.shape[1] > self.window_samples // 2 or not self.columns):
            missing = max(0, self.window_samples - self._tail.shape[1])
            self._add(np.pad(self._tail, ((0, 0), (0, missing)))[:, None, : self.window_samples])

    def _add(self, frames: NDArray[np.float32]) -> None:
        """Takes frames (channels, frames, window samples) into the columns."""
        spectrum = np.fft.rfft(frames * np.hanning(self.window_samples), axis=-1)[..., self._bins]
        self._waiting += list(np.mean(np.abs(spectrum) ** 2, axis=0))
        size = self._frames_per_column
        full = len(self._waiting) // size * size
        self.columns += [np.mean(self._waiting[start : start + size], axis=0) for start in range(0, full, size)]
        self._waiting = self._waiting[full:]
        while len(self.columns) >= 2 * MAX_COLUMNS:
            paired = self.columns[: len(self.columns) // 2 * 2]
            self.columns = [(a + b) / 2 for a, b in zip(paired[::2], paired[1::2], strict=True)]
            self._frames_per_column *= 2


def picture_of(source: Any, sampling_rate: int | None = None, **part: Any) -> Picture:
    """Reads a recording, or the part of it that `open_audio` is told, into a picture."""
    with open_audio(source, sampling_rate=sampling_rate, **part) as reader:
        picture = Picture(reader.sampling_rate)
        for block in reader.blocks():
            picture.push(block)
    picture.finish()
    return picture


def plot_separation(
    mixture: Any, outputs: Sequence[Mapping[str, Any]], path: str | Path, *, title: str = "", **part: Any
) -> Path:
    """Draws the mixture and its sources below each other.

    Args:
        mixture: anything `open_audio` takes; an array needs the `sampling_rate` of the outputs.
        outputs: what the pipeline returns: `label`, `audio` (array or path), `sampling_rate`, for queries `score`.
        path: where the picture goes; its suffix is the format (png, pdf, svg).
        title: above everything.
        **part: `offset_s` and `duration_s`, if the outputs are from a part of the mixture.

    Returns:
        `path`.
    """
    rate = None if _knows_its_rate(mixture) else outputs[0]["sampling_rate"]
    rows = [("mixture", picture_of(mixture, rate, **part))]
    for output in outputs:
        audio = output["audio"]
        picture = picture_of(audio, None if isinstance(audio, (str, Path)) else output["sampling_rate"])
        score = output.get("score")
        label = shorten(output["label"], 80, placeholder=" ...")
        rows.append((label if score is None else f"{label}, score {score:.2f}", picture))
    return _draw(rows, Path(path), title, float(rows[0][1].power.max()))


def plot_recordings(
    recordings: Mapping[str, Any], path: str | Path, *, sampling_rate: int | None = None, title: str = ""
) -> Path:
    """Draws recordings below each other, in dB below the loudest point of all of them.

    Args:
        recordings: anything `open_audio` takes, by what to call it.
        path: where the picture goes; its suffix is the format (png, pdf, svg).
        sampling_rate: of bare arrays, in Hz.
        title: above everything.

    Returns:
        `path`.
    """
    rows = [
        (shorten(name, 80, placeholder=" ..."), picture_of(audio, None if _knows_its_rate(audio) else sampling_rate))
        for name, audio in recordings.items()
    ]
    loudest = max(float(picture.power.max()) for _, picture in rows)
    return _draw(rows, Path(path), title, loudest, "dB relative to the loudest point")


def _knows_its_rate(audio: Any) -> bool:
    return isinstance(audio, (str, Path, bytes, dict))


def _draw(
    rows: list[tuple[str, Picture]],
    path: Path,
    title: str,
    loudest: float,
    scale: str = "dB relative to the mixture's loudest point",
) -> Path:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(10, 0.9 + 1.9 * len(rows)), layout="constrained")
    axes = figure.subplots(len(rows), 1, sharex=True, squeeze=False)[:, 0]
    for axis, (name, picture) in zip(axes, rows, strict=True):
        image = _draw_row(axis, picture, max(loudest, 1e-12))
        axis.set_title(f"{printable(name)}, {picture.level:.1f} dBFS", loc="left", fontsize=10, parse_math=False)
    axes[-1].set_xlabel("time in seconds")
    figure.supylabel("frequency in Hz", fontsize=10)
    figure.colorbar(image, ax=list(axes), label=scale, pad=0.01)
    if title:
        figure.suptitle(printable(title), fontsize=11, parse_math=False)
    return save_figure(figure, path)


def picture_format(path: Path) -> str:
    """The format of a picture, by its name.

    Raises:
        DataError: if there is no such format of pictures.
    """
    kind = path.suffix.lstrip(".").lower() or "png"
    if kind not in PICTURES:
        raise DataError(f"{path}: a picture is written as {', '.join(PICTURES)}, not {kind!r}")
    return kind


def save_figure(figure: Any, path: Path, *, dpi: float = 110) -> Path:
    """Writes a picture whole or not at all; its name says the format, and the moment is not written into it.

    Raises:
        DataError: if there is no such format of pictures.
    """
    kind, content = picture_format(path), io.BytesIO()
    from matplotlib import rc_context

    with rc_context({"svg.hashsalt": "hubsep"}):  # names inside of an SVG are drawn at random otherwise
        figure.savefig(content, format=kind, dpi=dpi, metadata=PICTURES[kind])
    write_whole(path, content.getvalue())
    return path


def _draw_row(axis: Any, picture: Picture, loudest: float) -> Any:
    decibels = 10 * np.log10(np.maximum(picture.power / loudest, 10 ** (FLOOR_DB / 10)))
    seconds = picture.samples / picture.sampling_rate
    nyquist = picture.sampling_rate / 2
    image = axis.imshow(
        decibels, origin="lower", aspect="auto", extent=(0, seconds, 0, 1), cmap="magma", vmin=FLOOR_DB, vmax=0
    )
    ticks = [hertz for hertz in (100, 300, 1_000, 3_000, 10_000) if hertz < nyquist]
    span = np.log(nyquist / LOWEST_HZ)
    axis.set_yticks([float(np.log(hertz / LOWEST_HZ) / span) for hertz in ticks])
    axis.set_yticklabels([f"{hertz // 1000}k" if hertz >= 1000 else str(hertz) for hertz in ticks])
    return image


__all__ = ["Picture", "picture_format", "picture_of", "plot_recordings", "plot_separation", "save_figure"]
