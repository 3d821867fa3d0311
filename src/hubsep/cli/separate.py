# SPDX-License-Identifier: Apache-2.0
"""`hubsep separate`: recordings and folders of recordings in, one file per source out.

Decisions: outputs keep the input's sampling rate, channels, container and sample format (`writing.py` has the rules).
Finished inputs are skipped when the same command is run again. An input that fails does not stop the others; the
failures are listed at the end. Under `accelerate launch -m hubsep separate ...` the processes share the inputs.
"""

from __future__ import annotations

import os
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from ..errors import HubsepError, QueryError
from ..registry import DEFAULT_MODEL, SHIPPED


if TYPE_CHECKING:
    from .jobs import Job

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
Residual = Annotated[bool, typer.Option("--residual", help="Also write what is left of the mixture.")]
OnlyActive = Annotated[
    bool, typer.Option("--only-active", help="Write no file for a speaker who is not there (score of at most 0.5).")
]
Output = Annotated[Path, typer.Option("--output", "-o", file_okay=False, metavar="FOLDER", help="For the results.")]
Model = Annotated[str, typer.Option(metavar="NAME", help=f"Folder, Hub repository, or one of {', '.join(SHIPPED)}.")]
Template = Annotated[
    str, typer.Option(metavar="TEXT", help="File names, of {name}, {file} (with its ending), {label} and {ext}.")
]
Format = Annotated[
    str | None, typer.Option("--format", metavar="EXT", help="wav, flac, mp3, ...; by default the input's, else wav.")
]
Subtype = Annotated[
    str | None, typer.Option(metavar="NAME", help="PCM_16, PCM_24, FLOAT, ...; by default the input's.")
]
Bitrate = Annotated[int | None, typer.Option(metavar="KBPS", help="Of mp3 files; by default the highest.")]
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


@dataclass(frozen=True)
class Run:
    """One command line.

    Attributes:
        model: folder, Hub repository or shipped name.
        options: what the pipeline is called with.
        loading: how the model is loaded.
        writing: how outputs are written: extension, subtype and bitrate, None for the input's own; clip; plot.
        output: folder.
        template: names in the folder.
    """

    model: str
    options: dict[str, Any]
    loading: dict[str, Any]
    writing: dict[str, Any]
    output: Path
    template: str

    @property
    def settings(self) -> dict[str, Any]:
        """What decides the content of the outputs; device and batch size do not."""
        from .jobs import describe_source

        examples = [describe_source(path) for path in self.options["query_audio"] or ()]
        kept = {name: value for name, value in self.options.items() if name not in {"query_audio", "batch_size"}}
        return {"model": self.model, "dtype": self.loading["dtype"], **kept, "examples": examples, **self.writing}


def separate(
    inputs: Inputs,
    query: Query = None,
    negative: Negative = None,
    example: Example = None,
    residual: Residual = False,
    only_active: OnlyActive = False,
    output: Output = Path("separated"),
    model: Model = DEFAULT_MODEL,
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
) -> None:
    """Separate recordings into files, with the rate, channels and length of the recording."""
    extension, subtype = format_ and format_.lower().lstrip("."), subtype and subtype.upper()
    asked = {"queries": query or None, "negative_queries": negative or None, "query_audio": example or None}
    run = Run(
        model=model,
        options={**asked, "residual": residual, "only_active": only_active, "batch_size": batch_size},
        loading={"device": device or own_device(), "dtype": dtype},
        writing={"extension": extension, "subtype": subtype, "bitrate": bitrate, "clip": clip, "plot": plot},
        output=output,
        template=template,
    )
    failures = work_through(run, own_share(find_jobs(run, inputs)), overwrite=overwrite)
    for source, error in failures:
        print(f"failed: {source}: {error}", file=sys.stderr)
    if failures:
        raise typer.Exit(1)


def own_share(jobs: list[Job]) -> list[Job]:
    """Every n-th job, for one of n processes that `accelerate launch` or `torchrun` started."""
    return jobs[int(os.environ.get("RANK", "0")) :: int(os.environ.get("WORLD_SIZE", "1"))]


def own_device() -> str | None:
    """The GPU of this process, if it is one of several; else the pipeline chooses."""
    import torch

    rank = os.environ.get("LOCAL_RANK")
    return f"cuda:{rank}" if rank is not None and torch.cuda.is_available() else None


def find_jobs(run: Run, inputs: list[Path]) -> list[Job]:
    """The inputs, checked against each other.

    Raises:
        typer.BadParameter: if names would collide or the template is wrong.
    """
    from .jobs import check_collisions, check_template, collect_jobs

    try:
        check_template(run.template)
        jobs = collect_jobs(inputs, run.output)
        check_collisions(jobs, run.output, run.template)
    except HubsepError as error:
        raise typer.BadParameter(str(error)) from error
    return jobs


def work_through(run: Run, jobs: list[Job], *, overwrite: bool) -> list[tuple[Path, Exception]]:
    """Separates every input that is not finished; returns those that failed, with the reason.

    Raises:
        QueryError: if the queries do not suit the model; no input could succeed.
        CheckpointError: if the model cannot be loaded.
    """
    from .jobs import is_finished

    def finished(job: Job) -> bool:
        return is_finished(job.output(run.output, run.template, "separated", "json"), job.source, run.settings)

    pending = jobs if overwrite else [job for job in jobs if not finished(job)]
    if len(pending) < len(jobs):
        print(f"{len(jobs) - len(pending)} of {len(jobs)} inputs are finished already; --overwrite does them again")
    if not pending:
        return []

    separator = load(run)
    failures: list[tuple[Path, Exception]] = []
    for job in pending:
        try:
            separate_one(run, separator, job)
        except QueryError:
            raise  # the same for every input
        except (HubsepError, OSError) as error:
            failures.append((job.source, error))
    return failures


def load(run: Run) -> Any:
    """The pipeline, without the progress bars and advice of transformers."""
    from transformers.utils import logging

    from ..pipelines import pipeline

    logging.set_verbosity_error()
    logging.disable_progress_bar()
    return pipeline(model=SHIPPED.get(run.model, run.model), **run.loading)


def separate_one(run: Run, separator: Any, job: Job) -> None:
    """Separates one input, draws it if asked to, and says last that it is finished."""
    from .jobs import write_marker
    from .writing import Form, deliver, scratch_folder

    def place(label: str, extension: str) -> Path:
        return job.output(run.output, run.template, label, extension)

    form = Form.of(job.source, run.writing)
    with scratch_folder(run.output) as scratch:
        results = separate_into(scratch, separator, job, run.options)
        paths, remark = deliver(
            {result["label"]: result["path"] for result in results}, place, form, run.writing["clip"]
        )
    outputs = [(paths[result["label"]], {"label": result["label"], "score": result["score"]}) for result in results]
    for path, facts in outputs:
        print(f"{path}  score {facts['score']:.2f}")
    report_count(separator.model.config, job, results)
    if remark:
        print(f"{job.source}: {remark}", file=sys.stderr)
    if run.writing["plot"]:
        picture = draw(job, results, paths, place("spectrograms", "png"))
        outputs.append((picture, {"label": "spectrograms"}))
        print(picture)
    write_marker(place("separated", "json"), job.source, run.settings, outputs)


def report_count(config: Any, job: Job, results: list[dict[str, Any]]) -> None:
    """Says how many speakers there are, and which files were not written, for models that find that out."""
    from ..pipelines.scores import ACTIVE_SCORE
    from ..pipelines.unordered import is_unordered

    if not is_unordered(config):
        return
    scores = {result["label"]: result["score"] for result in results}
    names = config.source_names
    active = sum(scores.get(name, 0.0) > ACTIVE_SCORE for name in names)
    silent = [name for name in names if name not in scores]
    kind = names[0].rstrip("0123456789 ") or "source"
    left_out = f"; no file for {', '.join(silent)}, silent" if silent else ""
    print(f"{job.source}: {active} {kind}{'' if active == 1 else 's'}{left_out}")


def separate_into(scratch: Path, separator: Any, job: Job, options: dict[str, Any]) -> list[dict[str, Any]]:
    """The sources as floating point files in `scratch`, with a progress bar."""
    from tqdm import tqdm

    with tqdm(desc=job.source.name, unit=" samples", unit_scale=True, disable=None, leave=False) as bar:

        def on_progress(done: int, total: int | None) -> None:
            bar.total = total
            bar.update(done - bar.n)

        return separator.separate_file(
            job.source, scratch, template="{label}.w64", subtype="FLOAT", on_progress=on_progress, **options
        )


def draw(job: Job, results: list[dict[str, Any]], paths: dict[str, Path], picture: Path) -> Path:
    """Draws the written files below the mixture."""
    from ..plotting import plot_separation

    picture.parent.mkdir(parents=True, exist_ok=True)
    outputs = [{**result, "audio": paths[result["label"]]} for result in results]
    return plot_separation(job.source, outputs, picture, title=str(job.file))


__all__ = ["separate"]
