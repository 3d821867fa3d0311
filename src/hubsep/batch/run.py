# SPDX-License-Identifier: Apache-2.0
"""One recording of a `hubsep separate`: separated, delivered, drawn, recorded."""

from __future__ import annotations

import os
import re
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import AudioError
from ..hub.naming import called
from ..shipped import SHIPPED
from ..texts import printable
from .lines import result_line, say, shown_while, warn


if TYPE_CHECKING:
    from .jobs import Job


WITHOUT_EFFECT = {"query_audio", "batch_size", "on_short"}  # on what a finished output holds
KEEPS = {"float": "; --clip rescale keeps the format, and turns all sources down alike"}
SOURCE_ENDING = ".rf64"  # of what is not delivered yet
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
        from .fingerprint import model_fingerprint
        from .records import describe_source

        examples = [describe_source(path) for path in self.options["query_audio"] or ()]
        kept = {name: value for name, value in self.options.items() if name not in WITHOUT_EFFECT}
        model: dict[str, Any] = {"model": self.model, "weights": model_fingerprint(self.model)}
        if self.loading["adapter"] is not None:
            model["adapter"] = model_fingerprint(self.loading["adapter"])
        return {**model, "dtype": self.loading["dtype"], **kept, "examples": examples, **self.writing}


def load(run: Run, *, quiet: bool = False) -> Any:
    """The pipeline, without the progress bars and advice of transformers; says so if its use is restricted."""
    from ..cards.card import licence_of, read_card

    if not quiet and run.model in SHIPPED and not (card := read_card(SHIPPED[run.model]))["commercial"]:
        warn(f"{run.model}: {licence_of(card)}, no commercial use")
    with shown_while(f"opening {run.model}"):
        from transformers.utils import logging

        from ..pipelines import pipeline

        logging.set_verbosity_error()
        logging.disable_progress_bar()
        return pipeline(model=SHIPPED.get(run.model, run.model), **run.loading)


def separate_one(
    run: Run, separator: Any, job: Job, *, overwrite: bool = False, quiet: bool = False
) -> dict[str, Any]:
    """Separates one input, draws it if asked to, and says last that it is finished; returns what it said.

    Args:
        run: the command line.
        separator: the pipeline.
        job: the input.
        overwrite: whether files of other commands may be replaced.
        quiet: whether results are not said.
    """
    from .delivery import Form, deliver, scratch_folder
    from .jobs import PICTURE
    from .records import describe_output, describe_source, move

    place = partial(job.output, run.output, run.template)
    source = describe_source(job.source)
    form = Form.of(job.source, run.writing).beginning(run.options["offset_s"])
    file = job.record(run.output, run.template)
    cut_out = labels_from_recording(separator, run.options)
    exact = form.bits is not None and (form.bits > 24 or bool(cut_out))  # float32 holds 24 bits
    with scratch_folder(run.output) as scratch, remarks(job):
        with sources_called(scratch, lambda label: place(label, form.extension)):
            results = separate_into(scratch, separator, job, run.options, exact=exact, quiet=quiet)
        waveforms = {result["label"]: result["path"] for result in results}
        clip, residual = run.writing["clip"], run.options["residual"]
        files, remark = deliver(waveforms, place, form, clip, scratch, from_recording=cut_out, residual=residual)
        written = [
            (*files[result["label"]], {name: result[name] for name in SAID if name in result}) for result in results
        ]
        if run.writing["plot"]:
            part = {name: run.options[name] for name in ("offset_s", "duration_s", "on_short")}
            complete = {label: unnamed for label, (_, unnamed) in files.items()}
            drawn = scratch / "spectrograms.png"
            with called({drawn: place(PICTURE, "png")}):
                draw(job, results, complete, drawn, part)
            written.append((place(PICTURE, "png"), drawn, {"label": PICTURE}))
        outputs = [(path, {**describe_output(complete), **facts}) for path, complete, facts in written]
        replaced, left_alone = file.begin(job.source, run.settings, outputs, source, scratch, overwrite=overwrite)
        move([(path, complete) for path, complete, _ in written], replaced=replaced)
        record = file.write(source, run.settings, outputs, scratch, complete=True)
    warn(*left_alone)
    lines = [result_line(path, facts) if "score" in facts else str(path) for path, _, facts in written]
    if not quiet:
        say(*lines, *count_of(separator.model.config, job, results))
    if remark:
        warn(f"{job.source}: {remark}{KEEPS.get(run.writing['clip'], '')}")
    return record


@contextmanager
def sources_called(scratch: Path, place: Callable[[str], Path]) -> Iterator[None]:
    """Within this, an error names the file that a source was to become, not the one in `scratch`.

    Args:
        scratch: where `separate_into` writes.
        place: from the name of a source to the file.
    """
    hidden = re.compile(re.escape(str(scratch) + os.sep) + r"(.+?)" + re.escape(SOURCE_ENDING))
    try:
        yield
    except AudioError as error:
        text = hidden.sub(lambda match: str(place(match[1])), str(error))
        raise AudioError(text) from (error.__cause__ or error)


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
    from ..pipelines.separation.scores import ACTIVE_SCORE

    if not config.unordered_sources:
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
    from ..pipelines.separation.sums import find_sums
    from ..pipelines.separation.wording import read_wording

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

        form = {"template": "{label}" + SOURCE_ENDING, "subtype": "DOUBLE" if exact else "FLOAT"}
        return separator.separate_file(job.source, scratch, on_progress=on_progress, **form, **options)


def draw(job: Job, results: list[dict[str, Any]], paths: dict[str, Path], picture: Path, part: dict[str, Any]) -> Path:
    """Draws the written files below the same part of the mixture."""
    from ..plotting.spectrograms import plot_separation

    outputs = [{**result, "audio": paths[result["label"]]} for result in results]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # it was said when the mixture was read first
        return plot_separation(job.source, outputs, picture, title=str(job.file), **part)


__all__ = [
    "KEEPS",
    "SAID",
    "WITHOUT_EFFECT",
    "Run",
    "count_of",
    "draw",
    "labels_from_recording",
    "load",
    "remarks",
    "separate_into",
    "separate_one",
]
