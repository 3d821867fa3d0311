# SPDX-License-Identifier: Apache-2.0
"""The arguments of `hubsep generate`, and what `--help` says of each."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

import typer


def recording(name: str, help: str) -> Any:
    """An option that takes a recording."""
    return typer.Option(name, exists=True, dir_okay=False, metavar="FILE", help=help)


Prompts = Annotated[
    list[str] | None,
    typer.Argument(metavar="PROMPT...", help='What is to be heard, "rain on a tin roof"; several make a file each.'),
]
Output = Annotated[
    Path,
    typer.Option(
        "--output",
        "-o",
        dir_okay=False,
        metavar="FILE",
        help="wav, flac, mp3, ...; of several prompts rain-1.wav, rain-2.wav, ...",
    ),
]
Model = Annotated[
    str,
    typer.Option(
        "--model", "-m", metavar="NAME", help="Folder or Hub repository of an AudioLDM 2, such as cvssp/audioldm2."
    ),
]
Seconds = Annotated[
    float | None,
    typer.Option(
        min=0.01,
        max=3_600,
        metavar="NUMBER",
        help="How long, or with --continue how much longer; by default what the model was trained on, and 5 s longer. "
        "An hour at most.",
    ),
]
Steps = Annotated[
    int | None,
    typer.Option(min=1, max=1_000, metavar="NUMBER", help="Of the solver; 25 by default, fewer are faster."),
]
Guidance = Annotated[
    float, typer.Option(min=-1_000, max=1_000, metavar="NUMBER", help="Above 1 the prompt counts more.")
]
Negative = Annotated[str | None, typer.Option(metavar="TEXT", help="What is not to be heard.")]
Say = Annotated[str | None, typer.Option(metavar="TEXT", help="What is to be said, for models of speech.")]
Seed = Annotated[int, typer.Option(metavar="NUMBER", help="Another number makes another sound of the same prompt.")]
Candidates = Annotated[
    int, typer.Option(min=1, max=64, metavar="NUMBER", help="How many are made; the one most like the prompt is kept.")
]
All = Annotated[bool, typer.Option("--all", help="Keep every candidate: rain-1.wav is the best, then rain-2.wav, ...")]
Continue = Annotated[Path | None, recording("--continue", "Let this recording go on.")]
Variation = Annotated[Path | None, recording("--variation", "Make a sound like this recording.")]
Strength = Annotated[
    float | None,
    typer.Option(min=0, max=1, metavar="NUMBER", help="Of --variation: how much is made anew, to 1; 0.6 by default."),
]
Inpaint = Annotated[Path | None, recording("--inpaint", "Make a part of this recording anew; the rest stays.")]
Start = Annotated[
    float | None, typer.Option("--from", min=0, metavar="SECONDS", help="Of --inpaint: where the part begins.")
]
Stop = Annotated[float | None, typer.Option("--to", min=0, metavar="SECONDS", help="Of --inpaint: where it ends.")]
Interpolate = Annotated[
    str | None, typer.Option(metavar="TEXT", help="Make a sound between the prompt and this other one.")
]
Mix = Annotated[
    float | None,
    typer.Option(
        min=0, max=1, metavar="NUMBER", help="Of --interpolate: 0 is the prompt, 1 the other; 0.5 by default."
    ),
]
Channel = Annotated[
    int | None,
    typer.Option(min=1, max=1_024, metavar="NUMBER", help="Of a recording of several channels, the one to take."),
]
Plot = Annotated[bool, typer.Option("--plot", help="Also draw the spectrogram: rain.png.")]
Overwrite = Annotated[bool, typer.Option("--overwrite", help="Replace files that exist.")]
Device = Annotated[
    str | None, typer.Option(metavar="NAME", help="cpu, cuda, cuda:1, mps; by default the first accelerator.")
]
Dtype = Annotated[Literal["float32", "bfloat16", "float16"], typer.Option(help="Precision of the model.")]
LowMemory = Annotated[
    bool,
    typer.Option("--low-memory", help="Weights are in memory only while their block works: 1.2 GB for AudioLDM 2."),
]


__all__ = [
    "All", "Candidates", "Channel", "Continue", "Device", "Dtype", "Guidance", "Inpaint", "Interpolate", "LowMemory",
    "Mix", "Model", "Negative", "Output", "Overwrite", "Plot", "Prompts", "Say", "Seconds", "Seed", "Start", "Steps",
    "Stop", "Strength", "Variation",
]  # fmt: skip
