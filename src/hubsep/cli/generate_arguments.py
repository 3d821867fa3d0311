# SPDX-License-Identifier: Apache-2.0
"""The arguments of `hubsep generate`, and what `--help` says of each."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from ..registry import MOST_SECONDS
from ..shipped import DEFAULT_GENERATOR
from . import values


RAIN = "rain on a tin roof"


def recording(option: str, help: str) -> Any:
    """An option that takes a recording."""
    return typer.Option(option, parser=values.existing(folder=False), metavar="FILE", help=help)


Prompts = Annotated[
    list[str] | None,
    typer.Argument(
        parser=values.text(RAIN),
        metavar="PROMPT...",
        help='What is to be heard, "rain on a tin roof"; several make a file each.',
    ),
]
Output = Annotated[
    Path,
    typer.Option(
        "--output",
        "-o",
        parser=values.place(folder=False),
        metavar="FILE",
        help="wav, flac, mp3, ...; of several prompts rain-1.wav, rain-2.wav, ...",
    ),
]
Model = Annotated[
    str,
    typer.Option(
        "--model",
        "-m",
        parser=values.name("a model", DEFAULT_GENERATOR),
        metavar="NAME",
        help="Folder or Hub repository of an AudioLDM 2, such as cvssp/audioldm2.",
    ),
]
Seconds = Annotated[
    float | None,
    typer.Option(
        parser=values.seconds(0, MOST_SECONDS, above=True),
        metavar="NUMBER",
        help="How long, or with --continue how much longer; by default what the model was trained on, and 5 s longer. "
        "An hour at most.",
    ),
]
Steps = Annotated[
    int | None,
    typer.Option(
        parser=values.whole(1, 1_000), metavar="NUMBER", help="Of the solver; 25 by default, fewer are faster."
    ),
]
Guidance = Annotated[
    float, typer.Option(parser=values.number(-1_000, 1_000), metavar="NUMBER", help="Above 1 the prompt counts more.")
]
Negative = Annotated[
    str | None, typer.Option(parser=values.text("wind"), metavar="TEXT", help="What is not to be heard.")
]
Say = Annotated[
    str | None,
    typer.Option(parser=values.text("hello"), metavar="TEXT", help="What is to be said, for models of speech."),
]
Seed = Annotated[
    int,
    typer.Option(
        parser=values.whole(-(2**63), 2**64 - 1),
        metavar="NUMBER",
        help="Another number makes another sound of the same prompt.",
    ),
]
Candidates = Annotated[
    int,
    typer.Option(
        parser=values.whole(1, 64), metavar="NUMBER", help="How many are made; the one most like the prompt is kept."
    ),
]
All = Annotated[bool, typer.Option("--all", help="Keep every candidate: rain-1.wav is the best, then rain-2.wav, ...")]
Continue = Annotated[Path | None, recording("--continue", "Let this recording go on.")]
Variation = Annotated[Path | None, recording("--variation", "Make a sound like this recording.")]
Strength = Annotated[
    float | None,
    typer.Option(
        parser=values.number(0, 1, above=True),
        metavar="NUMBER",
        help="Of --variation: how much is made anew, above 0 and to 1; 0.6 by default.",
    ),
]
Inpaint = Annotated[Path | None, recording("--inpaint", "Make a part of this recording anew; the rest stays.")]
Start = Annotated[
    float | None,
    typer.Option("--from", parser=values.seconds(), metavar="SECONDS", help="Of --inpaint: where the part begins."),
]
Stop = Annotated[
    float | None,
    typer.Option("--to", parser=values.seconds(above=True), metavar="SECONDS", help="Of --inpaint: where it ends."),
]
Interpolate = Annotated[
    str | None,
    typer.Option(
        parser=values.text("wind"), metavar="TEXT", help="Make a sound between the prompt and this other one."
    ),
]
Mix = Annotated[
    float | None,
    typer.Option(
        parser=values.number(0, 1),
        metavar="NUMBER",
        help="Of --interpolate: 0 is the prompt, 1 the other; 0.5 by default.",
    ),
]
Channel = Annotated[
    int | None,
    typer.Option(
        parser=values.whole(1, 1_024), metavar="NUMBER", help="Of a recording of several channels, the one to take."
    ),
]
Plot = Annotated[bool, typer.Option("--plot", help="Also draw the spectrogram: rain.png.")]
Overwrite = Annotated[bool, typer.Option("--overwrite", help="Replace files that exist.")]
Device = Annotated[
    str | None, typer.Option(metavar="NAME", help="cpu, cuda, cuda:1, mps; by default the first accelerator.")
]
Dtype = Annotated[
    str,
    typer.Option(
        parser=values.choice("float32", "bfloat16", "float16"),
        metavar="float32|bfloat16|float16",
        help="Precision of the model.",
    ),
]
LowMemory = Annotated[
    bool,
    typer.Option("--low-memory", help="Weights are in memory only while their block works: 1.2 GB for AudioLDM 2."),
]


__all__ = [
    "All", "Candidates", "Channel", "Continue", "Device", "Dtype", "Guidance", "Inpaint", "Interpolate", "LowMemory",
    "Mix", "Model", "Negative", "Output", "Overwrite", "Plot", "Prompts", "Say", "Seconds", "Seed", "Start", "Steps",
    "Stop", "Strength", "Variation",
]  # fmt: skip
