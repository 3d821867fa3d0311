# SPDX-License-Identifier: Apache-2.0
"""`hubsep separate`: recordings and folders of recordings in, one file per source out.

Decisions: outputs keep the input's sampling rate, channels, container and sample format (`writing.py` has the rules).
Finished inputs are skipped when the same command is run again. An input that fails does not stop the others; the
failures are listed at the end. Several processes share the inputs, however they were started (`batch.py`).
"""

from __future__ import annotations

import os
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from ..errors import HubsepError
from ..registry import DEFAULT_MODEL, SHIPPED
from ..texts import as_text, printable
from . import arguments as given
from .output import finish, result_line, say, warn
from .places import Place, check_device, one_process_instead_of_many, own_device
from .settings import parse_settings


if TYPE_CHECKING:
    from .jobs import Job


WITHOUT_EFFECT = {"query_audio", "batch_size", "on_short"}  # on what a finished output holds
KEEPS = {"float": "; --clip rescale keeps the format, and turns all sources down alike"}
SAID = ("label", "score", "understood_as", "nearest")


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

    @cached_property
    def settings(self) -> dict[str, Any]:
        """What decides the content of the outputs; device and batch size do not.

        Raises:
            CheckpointError: if there is no such model.
        """
        from ..fingerprint import model_fingerprint
        from .jobs import describe_source

        examples = [describe_source(path) for path in self.options["query_audio"] or ()]
        kept = {name: value for name, value in self.options.items() if name not in WITHOUT_EFFECT}
        model: dict[str, Any] = {"model": self.model, "weights": model_fingerprint(self.model)}
        if self.loading["adapter"] is not None:
            model["adapter"] = model_fingerprint(self.loading["adapter"])
        return {**model, "dtype": self.loading["dtype"], **kept, "examples": examples, **self.writing}


def separate(
    inputs: given.Inputs,
    query: given.Query = None,
    negative: given.Negative = None,
    example: given.Example = None,
    stems: given.Stems = None,
    residual: given.Residual = False,
    only_active: given.OnlyActive = False,
    check_voices: given.CheckVoices = None,
    offset: given.Offset = 0.0,
    duration: given.Duration = None,
    on_short: given.OnShort = "raise",
    output: given.Output = Path("separated"),
    model: given.Model = DEFAULT_MODEL,
    adapter: given.Adapter = None,
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
    shard: given.Shard = None,
) -> None:
    """Separate recordings into files, with the rate, channels and length of the recording.

    Exit status: 0 done, 1 a recording failed, 2 the command line is wrong, 3 done, but a query means no sound the
    model knows.
    """
    from .batch import work_through
    from .planning import find_jobs

    place = find_place(shard)
    asked = {"queries": as_texts(query), "negative_queries": as_texts(negative), "query_audio": example or None}
    chosen = {"sources": stems, "model_options": parse_settings(set_ or []) or None, "residual": residual}
    part = {"offset_s": offset, "duration_s": duration, "on_short": on_short, "batch_size": batch_size}
    options = {**asked, **chosen, **part, "only_active": only_active, "check_voices": check_voices}
    loading = {"device": check_device(device) or own_device(place), "dtype": dtype, "adapter": adapter}
    run = Run(model, options, loading, storage(format_, subtype, bitrate, clip=clip, plot=plot), output, template)
    jobs = find_jobs(run, inputs, overwrite=overwrite, quiet=not place.leader)
    finish(*work_through(run, jobs, place, overwrite=overwrite))


def as_texts(words: list[str] | None) -> list[str] | None:
    """Words of a command line as texts, None if there are none."""
    return [as_text(word) for word in words or ()] or None


def storage(extension: str | None, subtype: str | None, bitrate: str | None, **others: Any) -> dict[str, Any]:
    """How files are stored, as `Form` takes it, and what else is said of writing.

    Raises:
        typer.BadParameter: if the format or the bitrate is none.
    """
    from ..audio_formats import FORMATS, bitrate_kbps

    try:
        kbps = None if bitrate is None else bitrate_kbps(bitrate)
    except HubsepError as error:
        raise typer.BadParameter(f"--bitrate: {error}") from error
    extension = extension and extension.lower().lstrip(".")
    if extension is not None and f".{extension}" not in FORMATS:
        raise typer.BadParameter(f"--format {extension!r} cannot be written; use {', '.join(e[1:] for e in FORMATS)}")
    return {
        "extension": extension,
        "subtype": subtype and subtype.upper(),
        "bitrate": kbps,
        **others,
    }


def find_place(shard: str | None) -> Place:
    """The place of this process among its siblings.

    Raises:
        typer.BadParameter: if the part or the environment is none.
    """
    if remark := one_process_instead_of_many(os.environ):
        warn(remark)
    try:
        return Place.of(os.environ, shard)
    except HubsepError as error:
        raise typer.BadParameter(str(error)) from error


def load(run: Run, *, quiet: bool = False) -> Any:
    """The pipeline, without the progress bars and advice of transformers; says so if its use is restricted."""
    from transformers.utils import logging

    from ..cards import licence_of, read_card
    from ..pipelines import pipeline

    logging.set_verbosity_error()
    logging.disable_progress_bar()
    if not quiet and run.model in SHIPPED and not (card := read_card(SHIPPED[run.model]))["commercial"]:
        warn(f"{run.model}: {licence_of(card)}, no commercial use")
    return pipeline(model=SHIPPED.get(run.model, run.model), **run.loading)


def separate_one(run: Run, separator: Any, job: Job, *, quiet: bool = False) -> dict[str, Any]:
    """Separates one input, draws it if asked to, and says last that it is finished; returns what it said."""
    from .jobs import describe_source, remove_listed, write_marker
    from .targets import MARKER, PICTURE
    from .writing import Form, deliver, move, scratch_folder

    def place(label: str, extension: str) -> Path:
        return job.output(run.output, run.template, label, extension)

    source = describe_source(job.source)
    form = Form.of(job.source, run.writing).beginning(run.options["offset_s"])
    marker = place(MARKER, "json")
    cut_out = labels_from_recording(separator, run.options)
    exact = form.bits is not None and (form.bits > 24 or bool(cut_out))  # float32 holds 24 bits
    with scratch_folder(run.output) as scratch, remarks(job):
        results = separate_into(scratch, separator, job, run.options, exact=exact, quiet=quiet)
        waveforms = {result["label"]: result["path"] for result in results}
        together = {"from_recording": cut_out, "residual": run.options["residual"]}
        files, remark = deliver(waveforms, place, form, run.writing["clip"], scratch, **together)
        written = [
            (*files[result["label"]], {name: result[name] for name in SAID if name in result}) for result in results
        ]
        if run.writing["plot"]:
            part = {name: run.options[name] for name in ("offset_s", "duration_s", "on_short")}
            complete = {label: file for label, (_, file) in files.items()}
            drawn = draw(job, results, complete, scratch / "spectrograms.png", part)
            written.append((place(PICTURE, "png"), drawn, {"label": PICTURE}))
        outputs = [(path, {"bytes": file.stat().st_size, **facts}) for path, file, facts in written]
        remove_listed(marker, run.output, [path for path, _ in outputs])
        write_marker(marker, source, run.settings, outputs, scratch, complete=False)
        move((path, file) for path, file, _ in written)
        record = write_marker(marker, source, run.settings, outputs, scratch, complete=True)
    lines = [result_line(path, facts) if "score" in facts else str(path) for path, _, facts in written]
    if not quiet:
        say(*lines, *count_of(separator.model.config, job, results))
    if remark:
        warn(f"{job.source}: {remark}{KEEPS.get(run.writing['clip'], '')}")
    return record


@contextmanager
def remarks(job: Job) -> Iterator[None]:
    """Says what there is to warn of in a line of its own."""
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always", UserWarning)
        yield
    for text in dict.fromkeys(str(warning.message) for warning in said):
        warn(f"{job.source}: {text}")


def count_of(config: Any, job: Job, results: list[dict[str, Any]]) -> list[str]:
    """How many speakers there are, and which files were not written, for models that find that out; a line or none."""
    from ..pipelines.scores import ACTIVE_SCORE
    from ..pipelines.unordered import is_unordered

    if not is_unordered(config):
        return []
    scores = {result["label"]: result["score"] for result in results}
    names = config.source_names
    active = sum(scores.get(name, 0.0) > ACTIVE_SCORE for name in names)
    silent = [name for name in names if name not in scores]
    kind = names[0].rstrip("0123456789 ") or "source"
    left_out = f"; no file for {', '.join(silent)}, silent" if silent else ""
    return [f"{job.source}: {active} {kind}{'' if active == 1 else 's'}{left_out}"]


def labels_from_recording(separator: Any, options: dict[str, Any]) -> tuple[str, ...]:
    """Which outputs hold the recording itself, less something, as `mixture-vocals` does."""
    from ..pipelines.stems import find_sums
    from ..pipelines.wording import read_wording

    if separator.model.config.is_text_queried:
        return tuple(query for query in options["queries"] or () if not read_wording(query).wanted)
    if options["sources"] is None:
        return ()
    return find_sums(separator.model.config, options["sources"]).from_recording


def separate_into(
    scratch: Path, separator: Any, job: Job, options: dict[str, Any], *, exact: bool, quiet: bool
) -> list[dict[str, Any]]:
    """The sources as floating point files in `scratch`, `exact` ones of 64 bits, with a progress bar."""
    from tqdm import tqdm

    with tqdm(
        desc=printable(job.source.name), unit=" samples", unit_scale=True, disable=quiet or None, leave=False
    ) as bar:

        def on_progress(done: int, total: int | None) -> None:
            bar.total = total
            bar.update(done - bar.n)

        form = {"template": "{label}.rf64", "subtype": "DOUBLE" if exact else "FLOAT"}
        return separator.separate_file(job.source, scratch, on_progress=on_progress, **form, **options)


def draw(job: Job, results: list[dict[str, Any]], paths: dict[str, Path], picture: Path, part: dict[str, Any]) -> Path:
    """Draws the written files below the same part of the mixture."""
    from ..plotting import plot_separation

    outputs = [{**result, "audio": paths[result["label"]]} for result in results]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # it was said when the mixture was read first
        return plot_separation(job.source, outputs, picture, title=str(job.file), **part)


__all__ = ["separate"]
