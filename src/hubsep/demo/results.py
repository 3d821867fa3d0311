# SPDX-License-Identifier: Apache-2.0
"""Cards of results: a name, a badge, a picture, a player that also downloads; and all of them in one zip.

Decisions: a page has a fixed number of cards, hidden while they are empty. Files are FLAC of 24 bits, which every
browser plays and which is small enough for a telephone; what peaks above full scale stays 32-bit WAV, because nothing
may be turned down unasked.
"""

from __future__ import annotations

import zipfile
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import Any

import gradio as gr

from ..audio import AudioWriter, open_audio
from .pictures import Portrait, draw, portrait_of


BADGE_YES, BADGE_NO, BADGE_PLAIN = "yes", "no", "plain"


@dataclass(frozen=True)
class Result:
    """One sound to show.

    Attributes:
        label: what it is.
        path: of the file to play.
        portrait: what is drawn.
        badge: what is said about it, and in which colour; empty for nothing.
    """

    label: str
    path: Path
    portrait: Portrait
    badge: tuple[str, str] = ("", BADGE_PLAIN)


class ResultCards:
    """The places for results on a page; to be made inside of `gr.Blocks`.

    Args:
        most: how many sounds there may be.
    """

    def __init__(self, most: int):
        self.rows: list[gr.Row] = []
        self.pictures: list[gr.HTML] = []
        self.players: list[gr.Audio] = []
        for number in range(most):
            with gr.Row(visible=False, elem_classes="result", elem_id=f"result-{number}") as row:
                with gr.Column(scale=3, min_width=300):
                    self.pictures.append(gr.HTML(padding=False))
                with gr.Column(scale=2, min_width=260):
                    self.players.append(gr.Audio(type="filepath", interactive=False, buttons=["download"]))
            self.rows.append(row)
        self.archive = gr.DownloadButton("Download all as zip", visible=False, elem_id="archive")

    @property
    def outputs(self) -> list[Any]:
        """What `filled` gives values for."""
        return [*self.rows, *self.pictures, *self.players, self.archive]

    def filled(self, results: Sequence[Result], archive: Path | None) -> list[Any]:
        """Updates that show the results; all pictures are scaled by the first."""
        reference = results[0].portrait
        missing = len(self.rows) - len(results)
        rows = [gr.update(visible=number < len(results)) for number in range(len(self.rows))]
        pictures = [_card(result, reference) for result in results] + [""] * missing
        players = [gr.update(value=str(result.path), label=result.label) for result in results]
        players += [gr.update(value=None)] * missing
        return [*rows, *pictures, *players, gr.update(value=archive and str(archive), visible=archive is not None)]


def _card(result: Result, reference: Portrait) -> str:
    text, kind = result.badge
    badge = f"<span class='badge {kind}'>{escape(text)}</span>" if text else ""
    label, level = escape(result.label), result.portrait.picture.level
    loudness = f"{level:.0f} dBFS" if level > -110 else "silent"
    return (
        f"<div class='card'><div class='card-head'><h3>{label}</h3>{badge}<span class='level'>{loudness}</span></div>"
        f"<img alt='Waveform and spectrogram: {label}' src='{draw(result.portrait, reference)}'></div>"
    )


def delivered(path: Path) -> tuple[Path, Portrait]:
    """A WAV as FLAC beside it, or as it is where it peaks above full scale; and what is drawn of it."""
    portrait = portrait_of(path)
    with open_audio(path) as reader:
        if portrait.peak > 1 or reader.channels > 8:
            return path, portrait
        target = path.with_suffix(".flac")
        with AudioWriter(target, reader.sampling_rate, reader.channels) as writer:
            for block in reader.blocks():
                writer.write(block)
    path.unlink()
    return target, portrait


def archive_of(paths: Sequence[Path], target: Path) -> Path:
    """All files in one zip, as they are: they are compressed already."""
    with zipfile.ZipFile(target, "w", zipfile.ZIP_STORED) as archive:
        for path in paths:
            archive.write(path, path.name)
    return target


__all__ = ["BADGE_NO", "BADGE_PLAIN", "BADGE_YES", "Result", "ResultCards", "archive_of", "delivered"]
