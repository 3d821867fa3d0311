# SPDX-License-Identifier: Apache-2.0
"""What a run of `hubsep separate` reads, where its results go, and which of them are finished.

Decisions: a folder's tree is mirrored, recordings of one name are filed under their folders' names; two inputs that
would write the same file are an error before any work starts (`targets.py`). A record says what an input was written
to (`records.py`). What no such record lists for the same recording and settings is not ours. The settings hold a
fingerprint of the model (`fingerprint.py`); its name may change.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath

from ..audio.formats import FORMATS
from ..audio.reader import open_audio
from ..errors import HubsepError
from ..hub.file_names import DOUBTFUL, SUFFIXES
from ..pipelines.names import check_fields, file_name, portable
from .records import RecordFile


MARKER, PICTURE = "separated", "spectrograms"
FIELDS = ("name", "file", "label", "stem", "ext")  # the stem is the label


@dataclass(frozen=True)
class Job:
    """One input, and the name its outputs are filed under: its path inside the folder that was given."""

    source: Path
    file: PurePosixPath

    def template(self, template: str, extension: str) -> str:
        """The template with everything but the label filled in."""
        names = {"name": self.file.with_suffix(""), "file": self.file, "ext": extension}
        fixed = {field: str(name).replace("{", "{{").replace("}", "}}") for field, name in names.items()}
        return template.format(**fixed, label="{label}", stem="{label}")

    def output(self, folder: Path, template: str, label: str, extension: str) -> Path:
        """Where the output with this label goes."""
        return folder / portable(self.template(template, extension).format(label=file_name(label)))

    def record(self, folder: Path, template: str, *, may_be_empty: bool = False) -> RecordFile:
        """The record of what is written for this input."""

        def is_own(path: Path, label: str) -> bool:
            endings = {ending[1:] for ending in FORMATS} | {"png"}
            extension = path.suffix[1:]
            expected = self.output(folder, template, label, extension)
            return extension in endings and str(path) == os.path.abspath(expected)

        return RecordFile(self.output(folder, template, MARKER, "json"), folder, is_own, may_be_empty)


def collect_jobs(inputs: Sequence[Path], output: Path) -> tuple[list[Job], list[str]]:
    """Files as they are named, folders with all recordings below them; hidden files and earlier results are left out.

    Args:
        inputs: files and folders.
        output: where results go.

    Returns:
        The jobs, and what was left out and why, a line each.

    Raises:
        HubsepError: if an input does not exist, a folder holds no recording, or is part of the output folder.
    """
    jobs: list[Job] = []
    left_out: list[str] = []
    results = output.resolve()
    for path in inputs:
        if path.is_dir():
            if path.resolve().is_relative_to(results):
                raise HubsepError(f"the results would go among the recordings of {path}; choose another --output")
            entries = sorted(path.rglob("*"))
            files = [file for file in entries if not _is_result(file, path, results)]
            sources = [file for file in files if _is_recording(file)]
            if not sources:
                raise HubsepError(f"{path} holds no recording ({' '.join(sorted(SUFFIXES))})")
            left_out += [*_describe_others(path, set(files) - set(sources)), *_describe_no_files(path, entries)]
            jobs += [Job(file, PurePosixPath(file.relative_to(path).as_posix())) for file in sources]
        elif path.exists():
            jobs.append(Job(path, PurePosixPath(path.name)))
        else:
            raise HubsepError(f"{path} does not exist")
    once: dict[str, Job] = {}
    for job in jobs:
        if once.setdefault(os.path.abspath(job.source), job) is not job:
            left_out.append(f"{job.source} is named twice; it is separated once")
    return _apart(list(once.values())), left_out


def _apart(jobs: list[Job]) -> list[Job]:
    """Recordings that were named one by one and have one name, filed under the names of their folders."""
    names = Counter(str(job.file).casefold() for job in jobs)

    def filed(job: Job) -> Job:
        folder = job.source.absolute().parent.name
        alone = len(job.file.parts) == 1 and names[str(job.file).casefold()] == 1
        return job if alone or len(job.file.parts) > 1 or not folder else replace(job, file=folder / job.file)

    return [filed(job) for job in jobs]


def _is_result(path: Path, top: Path, results: Path) -> bool:
    """Whether it is no file, hidden, or below the results."""
    hidden = any(part.startswith(".") for part in path.relative_to(top).parts)
    return hidden or not path.is_file() or path.resolve().is_relative_to(results)


def _is_recording(path: Path) -> bool:
    suffix = path.suffix.lower()
    if suffix not in DOUBTFUL:
        return suffix in SUFFIXES
    try:
        open_audio(path).close()
    except (HubsepError, OSError):
        return False
    return True


def _describe_no_files(top: Path, entries: Iterable[Path]) -> list[str]:
    """What looks like recordings and is not read, a line each: hidden files by their number, links, pipes."""
    lines, hidden = [], 0
    for path in entries:
        is_named_so = path.suffix.lower() in SUFFIXES
        if any(part.startswith(".") for part in path.relative_to(top).parts):
            hidden += is_named_so and path.is_file()
        elif path.is_symlink() and path.is_dir():
            lines.append(f"left out: {path}: a link to a folder; name it itself")
        elif is_named_so and not path.is_file() and not path.is_dir():
            lines.append(f"left out: {path}: a {'link that leads nowhere' if path.is_symlink() else 'pipe or device'}")
    if hidden:
        lines.append(f"left out of {top}: hidden recordings ({hidden}); name such a file itself to separate it")
    return lines


def _describe_others(top: Path, others: Iterable[Path]) -> list[str]:
    """How many files of which endings are no recordings; those that may be some are named."""
    listed = sorted(others)
    doubtful = [path for path in listed if path.suffix.lower() in DOUBTFUL]
    lines = [f"left out: {path}: what it holds cannot be read; convert it to wav or flac" for path in doubtful]
    endings = Counter(path.suffix.lower() or "no ending" for path in listed if path not in set(doubtful))
    if endings:
        counts = ", ".join(f"{count} {ending}" for ending, count in sorted(endings.items()))
        lines.append(f"left out of {top}: {counts}: not the ending of a recording; name such a file itself to try it")
    return lines


def check_template(template: str) -> None:
    """Refuses a template that cannot tell two outputs apart, leaves the output folder or names the format itself.

    Raises:
        HubsepError: naming what the template needs.
    """
    check_fields(template, FIELDS)
    if not template.endswith(".{ext}"):
        raise HubsepError(f"template {template!r} must end in .{{ext}}, the ending of the format")


__all__ = ["FIELDS", "MARKER", "PICTURE", "Job", "check_template", "collect_jobs"]
