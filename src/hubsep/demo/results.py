# SPDX-License-Identifier: Apache-2.0
"""Cards of results: a name, a badge, a picture, a player that also downloads; and all of them in one zip.

Decisions: a page has a fixed number of cards, hidden while they are empty. Files are FLAC of 24 bits, which every
browser plays and which is small enough for a telephone; what peaks above full scale stays 32-bit WAV, because nothing
may be turned down unasked.
"""

from __future__ import annotations

import zipfile
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import Any

import gradio as gr

from ..audio.integers import in_steps
from ..audio.reader import AudioWriter, open_audio
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

    def emptied(self) -> list[Any]:
        """Updates that show no result."""
        count = len(self.rows)
        hidden = [gr.update(visible=False)] * count
        return [*hidden, *[""] * count, *[gr.update(value=None)] * count, gr.update(value=None, visible=False)]

    def filled(self, results: Sequence[Result], archive: Path | None) -> list[Any]:
        """Updates that show the results; all pictures are scaled by the first."""
        reference = results[0].portrait
        missing = len(self.rows) - len(results)
        rows = [gr.update(visible=number < len(results)) for number in range(len(self.rows))]
        pictures = [_card(result, reference) for result in results] + [""] * missing
        players = [gr.update(value=str(result.path), label=result.label) for result in results]
        players += [gr.update(value=None)] * missing
        return [*rows, *pictures, *players, gr.update(value=archive and str(archive), visible=archive is not None)]


def answer(label: str, score: float | None, path: Path, **more: Any) -> dict[str, Any]:
    """One sound as a program gets it: {"label", "score", "file"}, and what else there is to say.

    Args:
        label: what it is.
        score: of it, from 0 to 1; None where there is none.
        path: of the file, which gradio hands out.
        **more: further fields.
    """
    file = gr.FileData(path=str(path), orig_name=path.name, size=path.stat().st_size).model_dump()
    return {"label": label, "score": score, **more, "file": file}


def _card(result: Result, reference: Portrait) -> str:
    text, kind = result.badge
    badge = f"<span class='badge {kind}'>{escape(text)}</span>" if text else ""
    label, level = escape(result.label), result.portrait.picture.level
    loudness = f"{level:.0f} dBFS" if level > -110 else "silent"
    return (
        f"<div class='card'><div class='card-head'><h3>{label}</h3>{badge}<span class='level'>{loudness}</span></div>"
        f"<img alt='Waveform and spectrogram: {label}' src='{draw(result.portrait, reference)}'></div>"
    )


def delivered(paths: Sequence[Path], *, residual: bool = False) -> list[tuple[Path, Portrait]]:
    """WAVs as FLAC beside them, or as they are where one peaks above full scale; and what is drawn of each.

    Args:
        paths: of sounds of one length, which are removed where they become FLAC.
        residual: whether the last one is the recording less all others: then they add up to it to the last bit.
    """
    portraits = [portrait_of(path) for path in paths]
    with ExitStack() as files:
        readers = [files.enter_context(open_audio(path)) for path in paths]
        fits = [
            portrait.peak <= 1 and reader.channels <= 8 for portrait, reader in zip(portraits, readers, strict=True)
        ]
        targets = [path.with_suffix(".flac") if fit else path for path, fit in zip(paths, fits, strict=True)]
        writers = [
            files.enter_context(
                AudioWriter(target, reader.sampling_rate, reader.channels, clip="clamp", layout=reader.layout)
            )
            if fit
            else None
            for target, reader, fit in zip(targets, readers, fits, strict=True)
        ]
        bits = [None if writer is None else writer.bits for writer in writers]
        for blocks in zip(*(reader.blocks() for reader in readers), strict=True):
            for writer, block in zip(writers, in_steps(blocks, bits, residual=residual), strict=True):
                if writer is not None:
                    writer.write(block)
    for path, target in zip(paths, targets, strict=True):
        if path != target:
            path.unlink()
    return list(zip(targets, portraits, strict=True))


def archive_of(paths: Sequence[Path], target: Path) -> Path:
    """All files in one zip, as they are: they are compressed already."""
    with zipfile.ZipFile(target, "w", zipfile.ZIP_STORED) as archive:
        for path in paths:
            archive.write(path, path.name)
    return target


__all__ = ["BADGE_NO", "BADGE_PLAIN", "BADGE_YES", "Result", "ResultCards", "answer", "archive_of", "delivered"]
