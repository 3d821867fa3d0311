# SPDX-License-Identifier: Apache-2.0
"""The arguments of `hubsep separate`, and what `--help` says of each."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from ..registry import SEPARATORS


Inputs = Annotated[
    list[Path], typer.Argument(exists=True, metavar="INPUT...", help="Recordings, or folders of them at any depth.")
]
Query = Annotated[
    list[str] | None, typer.Option("--query", "-q", metavar="TEXT", help="What to separate; may be repeated.")
]
Negative = Annotated[
    list[str] | None, typer.Option(metavar="TEXT", help="What to keep out of every source; may be repeated.")
]
Example = Annotated[
    list[Path] | None,
    typer.Option(exists=True, dir_okay=False, metavar="FILE", help="A recording that sounds like it, as a query."),
]
Stems = Annotated[
    str | None,
    typer.Option(
        "--sources",
        "--stems",
        metavar="NAMES",
        help="Which of a model's sources to write, alone or added up: vocals,drums+bass,karaoke=mixture-vocals; by "
        "default each of them.",
    ),
]
Settings = Annotated[
    list[str] | None,
    typer.Option(
        "--set",
        metavar="FIELD=VALUE",
        help="An option of the model for this run, such as wiener_filter=true; may be repeated.",
    ),
]
Offset = Annotated[float, typer.Option(min=0, metavar="SECONDS", help="Where in a recording to begin.")]
OnShort = Annotated[
    Literal["raise", "warn"],
    typer.Option(help="When a recording is cut short: fail, or use what is there and say so."),
]
Duration = Annotated[
    float | None,
    typer.Option(metavar="SECONDS", help="How much of a recording to separate; by default all, however long it is."),
]
Residual = Annotated[bool, typer.Option("--residual", help="Also write what is left of the mixture.")]
OnlyActive = Annotated[
    bool, typer.Option("--only-active", help="Write no file for a speaker who is not there (score of at most 0.5).")
]
CheckVoices = Annotated[
    bool | None,
    typer.Option(
        "--check-voices/--no-check-voices",
        help="Count as a speaker only what a voice is heard in, as is done by default, or every sound.",
    ),
]
Output = Annotated[Path, typer.Option("--output", "-o", file_okay=False, metavar="FOLDER", help="For the results.")]
Model = Annotated[
    str,
    typer.Option("--model", "-m", metavar="NAME", help=f"Folder, Hub repository, or one of {', '.join(SEPARATORS)}."),
]
Adapter = Annotated[
    str | None, typer.Option(metavar="NAME", help="Folder or Hub repository of a fine-tune's adapter, for that model.")
]
Template = Annotated[
    str,
    typer.Option(metavar="TEXT", help="File names, of {name}, {file} (with its ending), {label} or {stem}, {ext}."),
]
Format = Annotated[
    str | None,
    typer.Option("--format", "-f", metavar="EXT", help="wav, flac, mp3, ...; by default the input's, else wav."),
]
Subtype = Annotated[
    str | None, typer.Option(metavar="NAME", help="PCM_16, PCM_24, FLOAT, ...; by default the input's.")
]
Bitrate = Annotated[
    str | None, typer.Option(metavar="KBPS", help="Of mp3 files, such as 256k or 256; by default the highest.")
]
Clip = Annotated[
    Literal["float", "clamp", "rescale", "raise"],
    typer.Option(
        help="When a peak does not fit an integer format: write that recording's sources as floating point, "
        "cut off, turn all of them down alike, or fail."
    ),
]
Device = Annotated[
    str | None, typer.Option(metavar="NAME", help="cpu, cuda, cuda:1, mps; by default the first accelerator.")
]
Dtype = Annotated[Literal["auto", "float32", "bfloat16", "float16"], typer.Option(help="Precision of the model.")]
BatchSize = Annotated[int, typer.Option(min=1, metavar="NUMBER", help="Segments the model works on at once.")]
Plot = Annotated[bool, typer.Option("--plot", help="Also draw the spectrograms of mixture and sources.")]
Overwrite = Annotated[bool, typer.Option("--overwrite", help="Do finished inputs again.")]
Shard = Annotated[
    str | None,
    typer.Option(metavar="K/N", help="Work on the K-th of N parts of the inputs only, such as 2/4; for job arrays."),
]


__all__ = [
    "Adapter",
    "BatchSize",
    "Bitrate",
    "CheckVoices",
    "Clip",
    "Device",
    "Dtype",
    "Duration",
    "Example",
    "Format",
    "Inputs",
    "Model",
    "Negative",
    "Offset",
    "OnShort",
    "OnlyActive",
    "Output",
    "Overwrite",
    "Plot",
    "Query",
    "Residual",
    "Settings",
    "Shard",
    "Stems",
    "Subtype",
    "Template",
]
