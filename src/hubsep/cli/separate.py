# SPDX-License-Identifier: Apache-2.0
"""`hubsep separate`: recordings and folders of recordings in, one file per source out.

Decisions: outputs keep the input's sampling rate, channels, container and sample format (`writing.py` has the rules).
Finished inputs are skipped when the same command is run again. An input that fails does not stop the others; the
failures are listed at the end. Under `accelerate launch -m hubsep separate ...` the processes share the inputs.
"""

from __future__ import annotations

import os
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from ..errors import HubsepError, QueryError
from ..registry import DEFAULT_MODEL, SHIPPED
from . import arguments as given
from .settings import parse_settings


if TYPE_CHECKING:
    from .jobs import Job


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
    inputs: given.Inputs,
    query: given.Query = None,
    negative: given.Negative = None,
    example: given.Example = None,
    stems: given.Stems = None,
    residual: given.Residual = False,
    only_active: given.OnlyActive = False,
    offset: given.Offset = 0.0,
    duration: given.Duration = None,
    output: given.Output = Path("separated"),
    model: given.Model = DEFAULT_MODEL,
    set_: given.Settings = None,
    template: given.Template = "{name}/{label}.{ext}",
    format_: given.Format = None,
    subtype: given.Subtype = None,
    bitrate: given.Bitrate = None,
    clip: given.Clip = "float",
    device: given.Device = None,
    dtype: given.Dtype = "auto",
    batch_size: given.BatchSize = 1,
    plot: given.Plot = False,
    overwrite: given.Overwrite = False,
) -> None:
    """Separate recordings into files, with the rate, channels and length of the recording."""
    asked = {"queries": query or None, "negative_queries": negative or None, "query_audio": example or None}
    chosen = {"sources": stems, "model_options": parse_settings(set_ or []) or None, "residual": residual}
    part = {"offset_s": offset, "duration_s": duration}
    run = Run(
        model=model,
        options={**asked, **chosen, **part, "only_active": only_active, "batch_size": batch_size},
        loading={"device": device or own_device(), "dtype": dtype},
        writing={**storage(format_, subtype, bitrate), "clip": clip, "plot": plot},
        output=output,
        template=template,
    )
    finish(work_through(run, own_share(find_jobs(run, inputs)), overwrite=overwrite))


def storage(extension: str | None, subtype: str | None, bitrate: str | None) -> dict[str, Any]:
    """How files are stored, as `Form` takes it.

    Raises:
        typer.BadParameter: if the bitrate is none.
    """
    from ..audio_formats import bitrate_kbps

    try:
        kbps = None if bitrate is None else bitrate_kbps(bitrate)
    except HubsepError as error:
        raise typer.BadParameter(f"--bitrate: {error}") from error
    return {
        "extension": extension and extension.lower().lstrip("."),
        "subtype": subtype and subtype.upper(),
        "bitrate": kbps,
    }


def finish(failures: list[tuple[Path, Exception]]) -> None:
    """Lists what failed.

    Raises:
        typer.Exit: if anything did.
    """
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
    """The pipeline, without the progress bars and advice of transformers; says so if its use is restricted."""
    from transformers.utils import logging

    from ..cards import licence_of, read_card
    from ..pipelines import pipeline

    logging.set_verbosity_error()
    logging.disable_progress_bar()
    if run.model in SHIPPED and not (card := read_card(SHIPPED[run.model]))["commercial"]:
        print(f"{run.model}: {licence_of(card)}, no commercial use", file=sys.stderr)
    return pipeline(model=SHIPPED.get(run.model, run.model), **run.loading)


def separate_one(run: Run, separator: Any, job: Job) -> None:
    """Separates one input, draws it if asked to, and says last that it is finished."""
    from .jobs import write_marker
    from .writing import Form, deliver, scratch_folder

    def place(label: str, extension: str) -> Path:
        return job.output(run.output, run.template, label, extension)

    form = Form.of(job.source, run.writing)
    with scratch_folder(run.output) as scratch, remarks(job):
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
        part = {name: run.options[name] for name in ("offset_s", "duration_s")}
        picture = draw(job, results, paths, place("spectrograms", "png"), part)
        outputs.append((picture, {"label": "spectrograms"}))
        print(picture)
    write_marker(place("separated", "json"), job.source, run.settings, outputs)


@contextmanager
def remarks(job: Job) -> Iterator[None]:
    """Says what there is to warn of in a line of its own."""
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always", UserWarning)
        yield
    for text in dict.fromkeys(str(warning.message) for warning in said):
        print(f"{job.source}: {text}", file=sys.stderr)


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


def draw(job: Job, results: list[dict[str, Any]], paths: dict[str, Path], picture: Path, part: dict[str, Any]) -> Path:
    """Draws the written files below the same part of the mixture."""
    from ..plotting import plot_separation

    picture.parent.mkdir(parents=True, exist_ok=True)
    outputs = [{**result, "audio": paths[result["label"]]} for result in results]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # it was said when the mixture was read first
        return plot_separation(job.source, outputs, picture, title=str(job.file), **part)


__all__ = ["separate"]
