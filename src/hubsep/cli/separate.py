# SPDX-License-Identifier: Apache-2.0
"""`hubsep separate`: recordings and folders of recordings in, one file per source out.

Decisions: outputs keep the input's sampling rate, channels, container and sample format (`hubsep.batch.delivery`).
Finished inputs are skipped when the same command is run again. An input that fails does not stop the others; the
failures are listed at the end. Several processes share the inputs, however they were started (`hubsep.batch`).

Also here: the arguments of `hubsep separate`, and what `--help` says of each.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ..batch.lines import warn
from ..batch.places import Place, check_device, one_process_instead_of_many, own_device
from ..batch.run import Run
from ..errors import HubsepError
from ..shipped import DEFAULT_MODEL
from . import values
from .commercial import Commercial
from .output import finish
from .settings import parse_settings


if TYPE_CHECKING:
    from ..batch.jobs import Job

Inputs = Annotated[
    list[Path],
    typer.Argument(
        parser=values.existing(query=True), metavar="INPUT...", help="Recordings, or folders of them at any depth."
    ),
]
Query = Annotated[
    list[str] | None,
    typer.Option(
        "--query", "-q", parser=values.text("rain"), metavar="TEXT", help="What to separate; may be repeated."
    ),
]
Negative = Annotated[
    list[str] | None,
    typer.Option(
        parser=values.text("rain"), metavar="TEXT", help="What to keep out of every source; may be repeated."
    ),
]
Example = Annotated[
    list[Path] | None,
    typer.Option(
        parser=values.existing(folder=False), metavar="FILE", help="A recording that sounds like it, as a query."
    ),
]
Stems = Annotated[
    str | None,
    typer.Option(
        "--sources",
        "--stems",
        "-s",
        parser=values.text("vocals"),
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
Offset = Annotated[
    float,
    typer.Option(parser=values.seconds(), metavar="SECONDS", help="Where in a recording to begin; 1:30 is 90."),
]
OnShort = Annotated[
    str,
    typer.Option(
        parser=values.choice("raise", "warn"),
        metavar="raise|warn",
        help="When a recording is cut short: fail, or use what is there and say so.",
    ),
]
Duration = Annotated[
    float | None,
    typer.Option(
        parser=values.seconds(above=True),
        metavar="SECONDS",
        help="How much of a recording to separate; by default all, however long it is.",
    ),
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
Output = Annotated[
    Path, typer.Option("--output", "-o", parser=values.place(folder=True), metavar="FOLDER", help="For the results.")
]
Model = Annotated[
    str,
    typer.Option(
        "--model",
        "-m",
        parser=values.name("a model", DEFAULT_MODEL),
        metavar="NAME",
        help="A name that `hubsep list` or `hubsep list --published` prints, a folder, or a Hub repository.",
    ),
]
Adapter = Annotated[
    str | None,
    typer.Option(
        parser=values.name("an adapter", "runs/mine/adapter"),
        metavar="NAME",
        help="Folder or Hub repository of a fine-tune's adapter, for that model.",
    ),
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
    str | None,
    typer.Option(
        parser=values.name("a sample format", "PCM_16"),
        metavar="NAME",
        help="PCM_16, PCM_24, FLOAT, ...; by default the input's.",
    ),
]
Bitrate = Annotated[
    str | None, typer.Option(metavar="KBPS", help="Of mp3 files, such as 256k or 256; by default the highest.")
]
Clip = Annotated[
    str,
    typer.Option(
        parser=values.choice("float", "clamp", "rescale", "raise"),
        metavar="float|clamp|rescale|raise",
        help="When a peak does not fit an integer format: write that recording's sources as floating point, "
        "cut off, turn all of them down alike, or fail.",
    ),
]
Device = Annotated[
    str | None, typer.Option(metavar="NAME", help="cpu, cuda, cuda:1, mps; by default the first accelerator.")
]
Dtype = Annotated[
    str,
    typer.Option(
        parser=values.choice("auto", "float32", "bfloat16", "float16"),
        metavar="auto|float32|bfloat16|float16",
        help="Precision of the model.",
    ),
]
BatchSize = Annotated[
    int, typer.Option(parser=values.whole(1, 65_536), metavar="NUMBER", help="Segments the model works on at once.")
]
Plot = Annotated[bool, typer.Option("--plot", help="Also draw the spectrograms of mixture and sources.")]
Overwrite = Annotated[
    bool,
    typer.Option("--overwrite", help="Do finished inputs again, and replace files that have the names of results."),
]
Shard = Annotated[
    str | None,
    typer.Option(metavar="K/N", help="Work on the K-th of N parts of the inputs only, such as 2/4; for job arrays."),
]


def separate(
    inputs: Inputs,
    query: Query = None,
    negative: Negative = None,
    example: Example = None,
    stems: Stems = None,
    residual: Residual = False,
    only_active: OnlyActive = False,
    check_voices: CheckVoices = None,
    offset: Offset = 0.0,
    duration: Duration = None,
    on_short: OnShort = "raise",
    output: Output = Path("separated"),
    model: Model = DEFAULT_MODEL,
    adapter: Adapter = None,
    set_: Settings = None,
    template: Template = "{name}/{label}.{ext}",
    format_: Format = None,
    subtype: Subtype = None,
    bitrate: Bitrate = None,
    clip: Clip = "float",
    device: Device = None,
    dtype: Dtype = "auto",
    batch_size: BatchSize = 1,
    plot: Plot = False,
    overwrite: Overwrite = False,
    shard: Shard = None,
    commercial: Commercial = False,
) -> None:
    """Separate recordings into files. They have the rate, channels and length of the recording.

    Exit status: 0 done, 1 a recording failed, 2 the command line is wrong, 3 done, but a query means no known sound.
    """
    from .planning import find_jobs

    queries = {"queries": query or None, "negative_queries": negative or None, "query_audio": example or None}
    chosen = {"sources": stems, "model_options": parse_settings(set_ or []) or None, "residual": residual}
    part = {"offset_s": offset, "duration_s": duration, "on_short": on_short, "batch_size": batch_size}
    options = {**queries, **chosen, **part, "only_active": only_active, "check_voices": check_voices}
    with values.refusing():
        here, loading = own_place(shard, device, dtype=dtype, adapter=adapter)
        run = Run(model, options, loading, storage(format_, subtype, bitrate, clip=clip, plot=plot), output, template)
        jobs = find_jobs(run, inputs, here, overwrite=overwrite)
    carry_out(run, jobs, here, overwrite=overwrite)


def carry_out(run: Run, jobs: list[Job], here: Place, *, overwrite: bool) -> None:
    """Separates the recordings, and ends with what is to be said of all of them."""
    from ..batch.work import work_through

    finish(*work_through(run, jobs, here, overwrite=overwrite), effect=effect_of)


def effect_of(query: str) -> str:
    """What to expect of the file of a query that was not understood: it has no part in the recording."""
    from ..pipelines.separation.wording import read_wording

    wording = read_wording(query)
    if not wording.unwanted:
        return "; expect an almost silent file"
    return "" if wording.wanted else "; expect the recording as it was"


def own_place(shard: str | None, device: str | None, **how: Any) -> tuple[Place, dict[str, Any]]:
    """The place of this process among its siblings, and how it loads the model.

    Raises:
        HubsepError: if the part, the environment or the device is none.
    """
    if remark := one_process_instead_of_many(os.environ):
        warn(remark)
    place = Place.of(os.environ, shard)
    return place, {"device": check_device(device) or own_device(place), **how}


def storage(extension: str | None, subtype: str | None, bitrate: str | None, **others: Any) -> dict[str, Any]:
    """How files are stored, as `Form` takes it, and what else is said of writing.

    Raises:
        typer.BadParameter: if the format or the bitrate is none.
    """
    from ..audio.formats import FORMATS, bitrate_kbps

    try:
        kbps = None if bitrate is None else bitrate_kbps(bitrate)
    except HubsepError as error:
        raise typer.BadParameter(f"--bitrate: {error}") from error
    given, extension = extension, extension and extension.lower().removeprefix(".")
    if extension is not None and f".{extension}" not in FORMATS:
        raise typer.BadParameter(f"--format {given!r} cannot be written; use {', '.join(e[1:] for e in FORMATS)}")
    return {
        "extension": extension,
        "subtype": subtype and subtype.upper(),
        "bitrate": kbps,
        **others,
    }


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
    "separate",
]
