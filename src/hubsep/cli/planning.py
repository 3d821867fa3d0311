# SPDX-License-Identifier: Apache-2.0
"""What a run of `hubsep separate` is going to do, worked out and refused before a model is loaded."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import typer
from transformers import AutoConfig

from ..batch.jobs import Job, check_template, collect_jobs
from ..batch.lines import warn
from ..batch.targets import Naming, check_apart, check_kept, find_forms
from ..errors import HubsepError
from ..hub.models import checked_folder
from ..pipelines.separation.options import SeparationOptions
from ..pipelines.separation.targets import labels_of


if TYPE_CHECKING:
    from ..batch.run import Run


def find_jobs(run: Run, inputs: list[Path], *, overwrite: bool, quiet: bool) -> list[Job]:
    """The inputs, and with them every file of the run, checked against each other and what is there.

    Raises:
        typer.BadParameter: if names would collide, a file cannot be written, or would replace what is not ours.
        QueryError: if the queries do not suit the model.
        CheckpointError: if there is no such model.
    """
    try:
        check_template(run.template)
    except HubsepError as error:
        raise typer.BadParameter(str(error).removeprefix("template "), param_hint="--template") from error
    try:
        jobs, left_out = collect_jobs(inputs, run.output)
        if not quiet:
            warn(*left_out)
        check_apart(Naming(run.output, run.template, (), run.writing), dict.fromkeys(jobs))
        forms = find_forms(jobs, run.writing)
    except HubsepError as error:
        raise typer.BadParameter(str(error)) from error
    naming = Naming(run.output, run.template, planned_labels(run), run.writing)
    try:
        check_apart(naming, forms)
        if not overwrite:
            check_kept(naming, forms, run.settings)
    except HubsepError as error:
        raise typer.BadParameter(str(error)) from error
    return jobs


def planned_labels(run: Run) -> tuple[str, ...]:
    """Labels of everything that is written for a recording: the configuration and the options say them.

    Raises:
        QueryError: if the queries do not suit the model.
        CheckpointError: if there is no such model.
    """
    config = AutoConfig.from_pretrained(checked_folder(run.model, finite=False))
    return labels_of(config, SeparationOptions.of(run.options))


__all__ = ["find_jobs", "planned_labels"]
