# SPDX-License-Identifier: Apache-2.0
"""The record of what a command wrote: a small JSON file beside it, with the recording, the settings and the sizes.

Decisions: it is written once before the files get their names, so that a killed run is known by it, and once when they
all have them. A record may have come along with a folder, so it is read like any file of a stranger: a regular file of
bounded size, each field of its type. It never decides which files are touched. A file it lists is believed or removed
only if this command would call it so, it lies below the folder of the results without a link on the way, and it is no
input.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..errors import CheckpointError
from ..hub.bounds import shown
from ..hub.json_files import read_json
from .overwriting import key_of


MAX_RECORD_BYTES = 32 << 20  # ten thousand outputs with their facts have 3 MB
CHANGED = "an output is missing or has changed"  # and so is what is done again without being asked
UNLISTED = "it is in no record of ours"


@dataclass(frozen=True)
class Listed:
    """A file that a record says was written."""

    path: Path
    size: int
    facts: Mapping[str, Any]


@dataclass(frozen=True)
class RecordFile:
    """The place of a record, and what the command that writes it could list there.

    Attributes:
        path: of the record.
        folder: of the results: what lies outside it is never touched.
        is_own: whether this command would give a file of this label this path, which is absolute.
        may_be_empty: whether there are inputs for which nothing is written.
    """

    path: Path
    folder: Path
    is_own: Callable[[Path, str], bool]
    may_be_empty: bool = False

    def read(self) -> dict[str, Any]:
        """What it says.

        Raises:
            FileNotFoundError: there is none.
            CheckpointError: it is no record; what is wrong.
        """
        record = read_json(self.path, MAX_RECORD_BYTES)
        if not isinstance(record.get("source"), dict | None) or not isinstance(record.get("settings"), dict):
            raise CheckpointError(f"{self.path.name} does not say of which recording and settings it is")
        if not isinstance(record.get("complete", True), bool):
            raise CheckpointError(f"{self.path.name}: complete is {shown(record['complete'])}, not true or false")
        outputs = record.get("outputs")
        if not isinstance(outputs, list) or not all(_is_output(output) for output in outputs):
            raise CheckpointError(f"{self.path.name} needs a list of outputs, each with a path, its bytes and a label")
        return record

    def listed(self, record: Mapping[str, Any]) -> list[Listed]:
        """The files a record says were written, wherever they are."""
        top = self.path.parent
        return [Listed(Path(os.path.abspath(top / one["path"])), one["bytes"], one) for one in record["outputs"]]

    def why_unfinished(self, source: Path | None, settings: Mapping[str, Any]) -> str | None:
        """Why there is work to do for an input.

        Args:
            source: the input; None for a sound that is made of words alone.
            settings: of this run.

        Returns:
            None if an earlier run wrote everything this one would write, from the same file with the same settings;
            "" if none ever finished it; else what is not the same.
        """
        try:
            record = self.read()
            was = record["settings"]
            if record["source"] != (None if source is None else describe_source(source)):
                return "the recording is another one"
        except FileNotFoundError:
            return ""
        except (CheckpointError, OSError) as error:
            return f"{self.path.name} is damaged: {error}"
        names = [name for name in {**was, **settings} if name != "model" and was.get(name) != settings.get(name)]
        if names:
            return f"other settings ({', '.join(map(shown_name, sorted(names)))})"
        listed = self.listed(record)
        for output in listed:
            if not self._is_believed(output):
                return f"{self.path.name} lists {shown(output.facts['path'])}, which this command does not write"
        if not record.get("complete", True):
            return ""
        return None if (listed or self.may_be_empty) and all(map(_is_whole, listed)) else CHANGED

    def not_ours(
        self, source: Path | None, settings: Mapping[str, Any], there: Iterable[Path]
    ) -> list[tuple[Path, str]]:
        """Which of the files that are there it does not list for the same source and settings, and why.

        Args:
            source: the input, None if there is none.
            settings: of this run.
            there: the files.
        """
        reason = self.why_unfinished(source, settings)
        if reason in (None, "", CHANGED) and self.path.is_file():
            own_keys = {key_of(output.path) for output in self.listed(self.read())} | {key_of(self.path)}
            return [(path, UNLISTED) for path in there if key_of(path) not in own_keys]
        return [(path, reason or UNLISTED) for path in there]

    def remove_listed(self, kept: Iterable[Path], inputs: Iterable[Path]) -> list[Path]:
        """Removes the files it lists, as they were written, but for those that are kept.

        Args:
            kept: files that are about to be replaced.
            inputs: of the run, none of which is ever removed.

        Returns:
            Files that are there and stay, because this command would not have written them.
        """
        try:
            listed = self.listed(self.read())
        except (CheckpointError, OSError):
            return []  # it is replaced, and says nothing that could be used
        names = {key_of(path) for path in kept}
        left = [output for output in listed if key_of(output.path) not in names and os.path.lexists(output.path)]
        stays = [output.path for output in left if not self._is_believed(output) or _is_among(output.path, inputs)]
        for output in left:
            if output.path not in stays and _is_whole(output):
                output.path.unlink(missing_ok=True)
        return stays

    def remarks(self, stays: list[Path]) -> list[str]:
        """What to say of listed files that stay; a line or none."""
        if not stays:
            return []
        others = f" and {len(stays) - 1} more" if len(stays) > 1 else ""
        return [f"{self.path} lists {shown(str(stays[0]))}{others}, which this command does not write: left alone"]

    def write(
        self, source: Mapping[str, Any] | None, settings: Mapping[str, Any],
        outputs: Iterable[tuple[Path, dict[str, Any]]], scratch: Path, *, complete: bool,
    ) -> dict[str, Any]:  # fmt: skip
        """Says what an input is written to; the record is there or not, never half.

        Args:
            source: what `describe_source` said of the input before it was read; None if there is none.
            settings: of this run.
            outputs: the files, and what to say of each, "bytes" and "label" among it.
            scratch: folder on the same disk for what is not complete.
            complete: whether the files have their names.

        Returns:
            What was written.
        """
        listed = [{"path": os.path.relpath(path, self.path.parent), **facts} for path, facts in outputs]
        record = {"source": source, "settings": settings, "complete": complete, "outputs": listed}
        self.path.parent.mkdir(parents=True, exist_ok=True)
        # a name that is no UTF-8 stands there as JSON writes such a letter: \udcff
        with open(scratch / "marker", "w", encoding="utf-8", errors="backslashreplace") as file:
            json.dump(record, file, indent=2, ensure_ascii=False)
            file.flush()
            os.fsync(file.fileno())
        os.replace(scratch / "marker", self.path)
        return record

    def _is_believed(self, output: Listed) -> bool:
        """Whether this command would have written a file there: its name, in the folder, and no link on the way."""
        top = self.folder.absolute()
        if not output.path.is_relative_to(os.path.normpath(top)) or not self.is_own(
            output.path, output.facts["label"]
        ):
            return False
        inside = output.path.relative_to(os.path.normpath(top))
        return not any(os.path.islink(top / part) for part in (inside, *inside.parents) if part != Path())


def describe_source(source: Path) -> dict[str, Any]:
    """What tells a file from an earlier one of the same name."""
    facts = source.stat()
    return {"name": source.name, "bytes": facts.st_size, "modified_ns": facts.st_mtime_ns}


def shown_name(name: object) -> str:
    """The name of a setting, which a record may have invented."""
    return str(name)[:40]


def _is_output(output: Any) -> bool:
    if not isinstance(output, dict) or not all(isinstance(output.get(key), str) for key in ("path", "label")):
        return False
    size = output.get("bytes")
    return isinstance(size, int) and size >= 0 and "\0" not in output["path"] and not os.path.isabs(output["path"])


def _is_whole(output: Listed) -> bool:
    return output.path.is_file() and output.path.stat().st_size == output.size


def _is_among(path: Path, inputs: Iterable[Path]) -> bool:
    """Whether a file is one of them, by name or on the disk."""
    return any(
        key_of(path) == key_of(one) or (one.exists() and path.exists() and path.samefile(one)) for one in inputs
    )


__all__ = ["CHANGED", "UNLISTED", "Listed", "RecordFile", "describe_source"]
