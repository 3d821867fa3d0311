# SPDX-License-Identifier: Apache-2.0
"""What a run of `hubsep separate` is going to do, worked out and refused before a model is loaded."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from ..adapters import WHOLE, read_adapter
from ..audio.reader import open_audio
from ..auto import separator_config
from ..batch.jobs import Job, check_template, collect_jobs
from ..batch.lines import warn
from ..batch.places import Place
from ..batch.targets import Naming, check_apart, check_kept, find_forms
from ..errors import AudioError, HubsepError, QueryError
from ..pipelines.separation.options import SeparationOptions, chosen_config
from ..pipelines.separation.targets import check_active, labels_of
from .values import check_writable


if TYPE_CHECKING:
    from collections.abc import Mapping

    from ..batch.delivery import Form
    from ..batch.run import Run


SLACK_SECONDS = 1  # a header may claim a little less than there is


def find_jobs(run: Run, inputs: list[Path], place: Place, *, overwrite: bool) -> list[Job]:
    """The inputs, and with them every file of the run, checked against each other and what is there.

    Raises:
        HubsepError: if names would collide, a file cannot be written, or would replace what is not ours; if there is
            no such model, or the queries do not suit it.
    """
    try:
        check_template(run.template)
    except HubsepError as error:
        raise typer.BadParameter(str(error).removeprefix("template "), param_hint="--template") from error
    examples = [Path(example) for example in run.options["query_audio"] or ()]
    for example in examples:
        try:
            open_audio(example).close()
        except AudioError as error:
            raise QueryError(f"--example {example}: {error}") from error
    jobs, left_out = collect_jobs(inputs, run.output)
    if place.leader:
        warn(*left_out)
    check_apart(Naming(run.output, run.template, (), run.writing), dict.fromkeys(jobs), examples)
    forms = find_forms(jobs, run.writing)
    check_part(run, forms)
    naming = Naming(run.output, run.template, planned_labels(run), run.writing)
    check_apart(naming, forms, examples)
    if not overwrite:
        check_kept(naming, forms, run.settings)
    check_writable(run.output)
    if jobs and not place.part(jobs):
        warn(f"part {place.shard + 1} of {place.shards} holds none of the {len(jobs)} inputs: there is nothing to do")
    return jobs


def planned_labels(run: Run) -> tuple[str, ...]:
    """Labels of everything that is written for a recording: the configuration and the options say them.

    Raises:
        QueryError: if the queries do not suit the model.
        CheckpointError: if there is no such model.
    """
    config: Any = separator_config(run.model)
    options = SeparationOptions.of(run.options)
    if options.model_options:
        chosen_config(config, options.model_options)
    labels = labels_of(config, options)
    check_active(config, options)
    if run.loading["adapter"] is not None:
        read_adapter(run.loading["adapter"], whole=WHOLE)
    return labels


def check_part(run: Run, forms: Mapping[Job, Form | None]) -> None:
    """Refuses a part of recordings that none of them has; where some have it, each of the others is told in its turn.

    Raises:
        AudioError: naming the first recording, and what is wrong with the part.
    """
    part = {name: run.options[name] for name in ("offset_s", "duration_s")}
    refused: list[AudioError] = []
    for job in [job for job, form in forms.items() if form is not None] if any(part.values()) else ():
        try:
            with open_audio(job.source, duration_s=part["duration_s"]) as reader:
                samples, rate = reader.claimed_samples, reader.sampling_rate
        except AudioError as error:
            if "duration_s" not in str(error):
                return
            refused.append(error)
            continue
        if samples is None or part["offset_s"] * rate < samples + SLACK_SECONDS * rate:
            return
        refused.append(
            AudioError(
                f"offset_s is {part['offset_s']:g} s, but {job.source} is {samples / rate:.2f} s long; take less"
            )
        )
    if refused:
        raise refused[0]


__all__ = ["find_jobs", "planned_labels"]
