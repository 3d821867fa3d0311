# SPDX-License-Identifier: Apache-2.0
"""What a run of `hubsep separate` reads, where its results go, and which of them are finished.

Decisions: a folder's tree is mirrored; two inputs that would write the same file are an error before any work starts;
a small JSON file written last says that an input is finished, with the settings and the size of everything it wrote.
The settings hold a fingerprint of the model (`fingerprint.py`); its name may change.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from ..errors import HubsepError
from ..pipelines.names import check_fields, file_name


SUFFIXES = frozenset(
    (
        ".aif .aifc .aiff .au .caf .flac .mp3 .oga .ogg .opus .rf64 .snd .w64 .wav "
        ".avi .m4a .m4v .mka .mkv .mov .mp4 .webm"
    ).split()
)
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
        return folder / self.template(template, extension).format(label=file_name(label))


def collect_jobs(inputs: Sequence[Path], output: Path) -> list[Job]:
    """Files as they are named, folders with all recordings below them; hidden files and earlier results are left out.

    Raises:
        HubsepError: if an input does not exist, a folder holds no recording, or is part of the output folder.
    """
    jobs: list[Job] = []
    results = output.resolve()
    for path in inputs:
        if path.is_dir():
            if path.resolve().is_relative_to(results):
                raise HubsepError(f"the results would go among the recordings of {path}; choose another --output")
            files = [file for file in sorted(path.rglob("*")) if _is_recording(file, path)]
            found = [file for file in files if not file.resolve().is_relative_to(results)]
            if not found:
                raise HubsepError(f"{path} holds no recording ({' '.join(sorted(SUFFIXES))})")
            jobs += [Job(file, PurePosixPath(file.relative_to(path).as_posix())) for file in found]
        elif path.exists():
            jobs.append(Job(path, PurePosixPath(path.name)))
        else:
            raise HubsepError(f"{path} does not exist")
    return jobs


def _is_recording(path: Path, top: Path) -> bool:
    hidden = any(part.startswith(".") for part in path.relative_to(top).parts)
    return path.suffix.lower() in SUFFIXES and not hidden and path.is_file()


def check_template(template: str) -> None:
    """Refuses a template that cannot tell two outputs apart or leaves the output folder.

    Raises:
        HubsepError: naming what the template needs.
    """
    check_fields(template, FIELDS)
    if Path(template).is_absolute() or ".." in Path(template).parts:
        raise HubsepError(f"template {template!r} leaves the output folder")


def check_collisions(jobs: Sequence[Job], folder: Path, template: str) -> None:
    """Refuses a run in which two inputs would write the same files, or one would write over another.

    Raises:
        HubsepError: naming both inputs.
    """
    taken: dict[Path, Path] = {}
    inside = [job.source.resolve() for job in jobs if job.source.resolve().is_relative_to(folder.resolve())]
    for job in jobs:
        # the ending is left open: a.wav and a.flac would share the file that says they are finished
        path = job.output(folder, template, "any", "any")
        if path in taken:
            raise HubsepError(
                f"{taken[path]} and {job.source} would be written to the same files in {path.parent}; rename one, or "
                "tell them apart with --template '{file}/{label}.{ext}'"
            )
        taken[path] = job.source
        for source in inside:
            if job.output(folder, template, source.stem, source.suffix[1:]).resolve() == source:
                raise HubsepError(f"a source of {job.source} could be written over {source}; choose another --output")


def why_unfinished(marker: Path, source: Path, settings: Mapping[str, Any]) -> str | None:
    """Why there is work to do for an input.

    Args:
        marker: the file that says it is finished.
        source: the input.
        settings: of this run.

    Returns:
        None if an earlier run wrote everything this one would write, from the same file with the same settings; ""
        if none ever finished it; else what is not the same.
    """
    try:
        record = json.loads(marker.read_text(encoding="utf-8"))
        was, outputs = record["settings"], [(marker.parent / out["path"], out["bytes"]) for out in record["outputs"]]
        if record["source"] != describe_source(source):
            return "the recording is another one"
        names = [name for name in {**was, **settings} if name != "model" and was.get(name) != settings.get(name)]
        if names:
            return f"other settings ({', '.join(sorted(names))})"
        whole = all(path.is_file() and path.stat().st_size == size for path, size in outputs)
        return None if whole else "an output is missing or has changed"
    except FileNotFoundError:
        return ""
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return f"{marker.name} is damaged"


def write_marker(
    marker: Path,
    source: dict[str, Any],
    settings: dict[str, Any],
    outputs: Iterable[tuple[Path, dict[str, Any]]],
    scratch: Path,
) -> dict[str, Any]:
    """Says that an input is finished; written last, and complete or absent.

    Args:
        marker: the file to write.
        source: what `describe_source` said of the input before it was read.
        settings: of this run.
        outputs: the files written, and what else to say of each.
        scratch: folder on the same disk for what is not complete.

    Returns:
        What was written.
    """
    record = {
        "source": source,
        "settings": settings,
        "outputs": [
            {"path": os.path.relpath(path, marker.parent), "bytes": path.stat().st_size, **facts}
            for path, facts in outputs
        ],
    }
    marker.parent.mkdir(parents=True, exist_ok=True)
    # a name that is no UTF-8 stands there as JSON writes such a letter: \udcff
    with open(scratch / "marker", "w", encoding="utf-8", errors="backslashreplace") as file:
        json.dump(record, file, indent=2, ensure_ascii=False)
        file.flush()
        os.fsync(file.fileno())
    os.replace(scratch / "marker", marker)
    return record


def describe_source(source: Path) -> dict[str, Any]:
    """What tells a file from an earlier one of the same name."""
    facts = source.stat()
    return {"name": source.name, "bytes": facts.st_size, "modified_ns": facts.st_mtime_ns}


__all__ = [
    "FIELDS",
    "SUFFIXES",
    "Job",
    "check_collisions",
    "check_template",
    "collect_jobs",
    "describe_source",
    "why_unfinished",
    "write_marker",
]
