# SPDX-License-Identifier: Apache-2.0
"""The files a run is going to write, all of them known and checked before a model is loaded or a sample is read.

Decisions: two names are one if a disk of another system could take them for one, so letters are compared without
case and in one normal form. What is there already is replaced only if our own record lists it for the same recording
and settings (`records.py`), or if the user says `--overwrite`; an input is never replaced. Where a peak may turn the
files of a recording into floating point, the names these would have are checked as well.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..audio.formats import check_written
from ..errors import AudioError, HubsepError
from ..hub.file_names import LONGEST_NAME, key_of
from .delivery import Form, open_for_form
from .jobs import MARKER, PICTURE, Job
from .records import ANOTHER, CHANGED


@dataclass(frozen=True)
class Naming:
    """How the files of a run are called.

    Attributes:
        folder: of the results.
        template: names in it.
        labels: of everything that is written for a recording.
        writing: as `Form` takes it, with `clip` and `plot`.
    """

    folder: Path
    template: str
    labels: tuple[str, ...]
    writing: Mapping[str, Any]

    def files(self, job: Job, form: Form | None) -> dict[str, list[Path]]:
        """What may be written for an input: names by the label; of an input that cannot be read only the record."""
        files = {MARKER: [job.record(self.folder, self.template).path]}
        if form is not None:
            extensions = [form.extension]
            if self.writing["clip"] == "float" and form.limit != float("inf"):
                extensions.append(form.as_float().extension)
            for label in self.labels:
                names = [job.output(self.folder, self.template, label, one) for one in dict.fromkeys(extensions)]
                files[f"source {label}"] = names
            if self.writing["plot"]:
                files[PICTURE] = [job.output(self.folder, self.template, PICTURE, "png")]
        return files


def find_forms(jobs: Sequence[Job], writing: Mapping[str, Any]) -> dict[Job, Form | None]:
    """How the files of each input are stored; None for one that cannot be read, which is said in its turn.

    Raises:
        AudioError: naming the input and the option, if what is asked for cannot be stored.
    """
    forms: dict[Job, Form | None] = {}
    for job in jobs:
        try:
            with open_for_form(job.source) as reader:
                rate, channels = reader.sampling_rate, reader.channels
                form = Form.of_reader(reader, job.source, writing)
        except (AudioError, OSError):
            forms[job] = None
            continue
        try:
            check_written(form.extension, rate, channels, form.subtype, form.bitrate, form.layout)
        except AudioError as error:
            raise AudioError(f"{job.source}: {error}") from error
        forms[job] = form
    return forms


def check_apart(naming: Naming, forms: Mapping[Job, Form | None], examples: Sequence[Path] = ()) -> None:
    """Refuses a run in which two files would have one name, or one the name of an input.

    Args:
        naming: of its files.
        forms: of its inputs.
        examples: other recordings that are read.

    Raises:
        HubsepError: naming both.
    """
    sources = [*(job.source for job in forms), *examples]
    inputs = {key_of(source): source for source in sources}
    numbers = {_number(source): source for source in sources}
    taken: dict[str, tuple[Job, str]] = {}
    for job, form in forms.items():
        # the ending is left open: a.wav and a.flac would share the file that says they are finished
        for what, paths in naming.files(job, form).items():
            for path in paths:
                if any(len(os.fsencode(part)) > LONGEST_NAME for part in path.parts):
                    raise HubsepError(f"{path.name[:60]}... is longer than a name may be; choose a shorter --template")
                other, name = taken.setdefault(key_of(path), (job, what))
                if other is not job:
                    raise HubsepError(
                        f"{other.source} and {job.source} would be written to the same files in {path.parent}; rename "
                        "one, or tell them apart with --template '{file}/{label}.{ext}'"
                    )
                if name != what:
                    raise HubsepError(f"{name} and {what} of {job.source} would both be {path}; ask in other words")
                source = inputs.get(key_of(path)) or (numbers.get(_number(path)) if path.exists() else None)
                if source is not None:
                    raise HubsepError(
                        f"{what} of {job.source} could be written over {source}, an input; choose another --output"
                    )


def check_kept(naming: Naming, forms: Mapping[Job, Form | None], settings: Mapping[str, Any]) -> None:
    """Refuses a run that would replace what is there and not its own.

    Args:
        naming: of its files.
        forms: of its inputs.
        settings: of the run.

    Raises:
        HubsepError: naming the first such file, why it is not the run's own, and the ways out.
    """
    foreign: list[tuple[Path, str]] = []
    for job, form in forms.items():
        there = [path for paths in naming.files(job, form).values() for path in paths if os.path.lexists(path)]
        if there:  # asked before the record is read: it is written first
            kept = job.record(naming.folder, naming.template).not_ours(job.source, settings, there)
            foreign += [(path, reason) for path, reason in kept if reason != CHANGED]  # which is left alone, and said
    if foreign:
        path, reason = foreign[0]
        others = f" (and {len(foreign) - 1} more)" if len(foreign) > 1 else ""
        apart = ", tell the two apart with --template '{file}/{label}.{ext}'" if reason == ANOTHER else ""
        raise HubsepError(
            f"{path}{others} is there and was not written by this command: {reason}; choose another --output{apart}, "
            "or replace it with --overwrite"
        )


def _number(path: Path) -> tuple[int, int] | None:
    """What a disk knows a file by, whatever it is called."""
    try:
        facts = path.stat()
    except OSError:
        return None
    return facts.st_dev, facts.st_ino


__all__ = ["MARKER", "PICTURE", "Naming", "check_apart", "check_kept", "find_forms"]
