# SPDX-License-Identifier: Apache-2.0
"""A recording as a picture for a web page: its waveform above its spectrogram.

Decisions: all pictures of a page share one scale, full height for the mixture's peak and 0 dB for its loudest point,
so that they can be compared. The background is transparent and the letters grey, which suits a light page and a dark
one. Letters are large enough to be read when the picture is as wide as a telephone.
"""

from __future__ import annotations

import base64
from dataclasses import dataclass
from io import BytesIO
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..audio.reader import open_audio
from ..plotting.spectrograms import FLOOR_DB, LOWEST_HZ, Picture


WIDTH, HEIGHT, DPI = 5.4, 1.9, 200
GREY, WAVE = "#808895", "#6d6af0"
MAX_PAIRS = 900
PEAK_SAMPLES = 256


@dataclass
class Portrait:
    """What is drawn of a recording.

    Attributes:
        picture: its spectrogram and level.
        lows: smallest sample of each `PEAK_SAMPLES` samples, over all channels.
        highs: largest sample of the same.
    """

    picture: Picture
    lows: NDArray[np.float32]
    highs: NDArray[np.float32]

    @property
    def peak(self) -> float:
        """Largest magnitude."""
        return float(max(self.highs.max(initial=0.0), -self.lows.min(initial=0.0)))


def portrait_of(source: Any, sampling_rate: int | None = None) -> Portrait:
    """Reads a recording, anything `open_audio` takes, block by block."""
    lows, highs = [], []
    with open_audio(source, sampling_rate=sampling_rate) as reader:
        picture = Picture(reader.sampling_rate)
        for block in reader.blocks(64 * PEAK_SAMPLES):
            picture.push(block)
            full = block.shape[1] // PEAK_SAMPLES * PEAK_SAMPLES
            for part in (block[:, :full].reshape(len(block), -1, PEAK_SAMPLES), block[:, None, full:]):
                if part.size:
                    lows.append(part.min(axis=(0, 2)))
                    highs.append(part.max(axis=(0, 2)))
    picture.finish()
    return Portrait(picture, np.concatenate(lows), np.concatenate(highs))


def draw(portrait: Portrait, reference: Portrait) -> str:
    """The picture as a `data:` address of a PNG.

    Args:
        portrait: what is drawn.
        reference: what sets the scale, such as the mixture.
    """
    from matplotlib.figure import Figure
    from matplotlib.layout_engine import ConstrainedLayoutEngine

    layout = ConstrainedLayoutEngine(w_pad=0.02, h_pad=0.015, hspace=0.02)
    figure = Figure(figsize=(WIDTH, HEIGHT), layout=layout)
    figure.patch.set_alpha(0.0)
    above, below = figure.subplots(2, 1, sharex=True, height_ratios=(2, 5))
    seconds = portrait.picture.samples / portrait.picture.sampling_rate
    _draw_waveform(above, portrait, max(reference.peak, 1e-6), seconds)
    _draw_spectrogram(below, portrait.picture, max(float(reference.picture.power.max()), 1e-12), seconds)
    buffer = BytesIO()
    figure.savefig(buffer, format="png", dpi=DPI)
    return "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode()


def _draw_waveform(axis: Any, portrait: Portrait, peak: float, seconds: float) -> None:
    lows, highs = portrait.lows, portrait.highs
    size = -(-len(lows) // MAX_PAIRS)
    starts = np.arange(0, len(lows), size)
    lows, highs = np.minimum.reduceat(lows, starts), np.maximum.reduceat(highs, starts)
    thinnest = 0.006 * peak  # silence shows as a line
    times = np.linspace(0, seconds, len(lows)) if len(lows) > 1 else np.array([0.0, seconds])
    lows, highs = (values if len(values) > 1 else np.repeat(values, 2) for values in (lows, highs))
    axis.fill_between(times, np.minimum(lows, -thinnest), np.maximum(highs, thinnest), color=WAVE, linewidth=0)
    axis.set_ylim(-peak, peak)
    axis.set_xlim(0, seconds)
    axis.axis("off")


def _draw_spectrogram(axis: Any, picture: Picture, loudest: float, seconds: float) -> None:
    decibels = 10 * np.log10(np.maximum(picture.power / loudest, 10 ** (FLOOR_DB / 10)))
    place = {"origin": "lower", "aspect": "auto", "extent": (0, seconds, 0, 1), "interpolation": "antialiased"}
    axis.imshow(decibels, cmap="magma", vmin=FLOOR_DB, vmax=0, **place)
    span = np.log(picture.sampling_rate / 2 / LOWEST_HZ)
    ticks = [hertz for hertz in (100, 1_000, 10_000) if hertz < picture.sampling_rate / 2]
    axis.set_yticks(
        [float(np.log(hertz / LOWEST_HZ) / span) for hertz in ticks],
        [f"{hertz // 1000} kHz" if hertz >= 1000 else f"{hertz} Hz" for hertz in ticks],
    )
    axis.xaxis.set_major_locator(_even_seconds())
    axis.xaxis.set_major_formatter(lambda value, _: f"{value:g} s")
    axis.tick_params(colors=GREY, labelsize=11, length=2, width=0.6, pad=2)
    for spine in axis.spines.values():
        spine.set_visible(False)


def _even_seconds() -> Any:
    from matplotlib.ticker import MaxNLocator

    return MaxNLocator(nbins=7, steps=[1, 2, 5, 10], prune="upper")


__all__ = ["Portrait", "draw", "portrait_of"]
