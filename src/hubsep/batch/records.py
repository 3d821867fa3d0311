# SPDX-License-Identifier: Apache-2.0
"""The record of what a command wrote: a small JSON file beside it, with the recording, the settings and the sizes.

Decisions: it is written once before the files get their names, so that a killed run is known by it, and once when they
all have them. A record may have come along with a folder, so it is read like any file of a stranger: a regular file of
bounded size, each field of its type. It never decides which files are touched: no file is removed because a record
lists it, and one is believed to be ours only if this command would call it so and it lies below the folder of the
results without a link on the way. A file that was changed since it was written is the user's. What is there is looked
at when a run is planned, and again when its files get their names: another run may have been there in between.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..errors import AudioError, CheckpointError
from ..hub.bounds import shown
from ..hub.file_names import key_of
from ..hub.json_files import read_json
from ..hub.manifest import sha256


MAX_RECORD_BYTES = 32 << 20  # ten thousand outputs with their facts have 3 MB
MISSING = "an output is missing"  # and so is what is done again without being asked
ANOTHER = "the recording is another one"
CHANGED = "an output has changed since it was written"  # so it is the user's now
UNLISTED = "it is in no record of ours"
KEPT = "it was not replaced: choose another --output, or replace it with --overwrite"


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
        except FileNotFoundError:
            return ""
        except (CheckpointError, OSError) as error:
            return self._damaged(error)
        reason = self._why_of_another(record, source, settings)
        if reason:
            return reason
        if self.changed(record):
            return CHANGED
        if not record.get("complete", True):
            return ""
        listed = self.listed(record)
        is_there = all(os.path.lexists(output.path) for output in listed)
        return None if is_there and (listed or self.may_be_empty) else MISSING

    def not_ours(
        self, source: Path | None, settings: Mapping[str, Any], there: Iterable[Path]
    ) -> list[tuple[Path, str]]:
        """Which of the files that are there it does not list for the same source and settings as they are, and why.

        Args:
            source: the input, None if there is none.
            settings: of this run.
            there: the files.
        """
        try:
            record = self.read()
        except FileNotFoundError:
            return [(path, UNLISTED) for path in there]
        except (CheckpointError, OSError) as error:
            return [(path, self._damaged(error)) for path in there]
        reason = self._why_of_another(record, source, settings)
        if reason:
            return [(path, reason) for path in there]
        own = {key_of(output.path) for output in self.listed(record)} | {key_of(self.path)}
        changed = {key_of(path) for path in self.changed(record)}
        reasons = [(path, UNLISTED if key_of(path) not in own else CHANGED) for path in there]
        return [(path, why) for path, why in reasons if why == UNLISTED or key_of(path) in changed]

    def _damaged(self, error: Exception) -> str:
        return f"{self.path.name} is damaged: {error}"

    def _why_of_another(self, record: Mapping[str, Any], source: Path | None, settings: Mapping[str, Any]) -> str:
        """Why it is not of this command; "" if it is."""
        if record["source"] != (None if source is None else describe_source(source)):
            return ANOTHER
        was = record["settings"]
        names = [name for name in {**was, **settings} if name != "model" and was.get(name) != settings.get(name)]
        if names:
            return f"other settings ({', '.join(str(name)[:40] for name in sorted(names))})"
        for output in self.listed(record):
            if not self._is_believed(output):
                return f"{self.path.name} lists {shown(output.facts['path'])}, which this command does not write"
        return ""

    def changed(self, record: Mapping[str, Any]) -> list[Path]:
        """The files a record lists that are there and not as they were written.

        Of a run that was ended, what is there may be what it was about to replace: it is listed as "before".
        """
        there = [output for output in self.listed(record) if os.path.lexists(output.path)]
        return [output.path for output in there if not is_as_written(output)]

    def begin(
        self, source: Path | None, settings: Mapping[str, Any], outputs: Sequence[tuple[Path, dict[str, Any]]],
        facts: Mapping[str, Any] | None, scratch: Path, *, overwrite: bool, planned: Iterable[Path] = (),
    ) -> tuple[set[Path], list[str]]:  # fmt: skip
        """Says which files are about to get their names.

        Args:
            source: the input, None if there is none.
            settings: of this run.
            outputs: the files, and what to say of each.
            facts: what `describe_source` said of the input before it was read.
            scratch: folder on the same disk for what is not complete.
            overwrite: whether files that are not of this command may be replaced.
            planned: what this run writes later.

        Returns:
            Which of the files are there and may be replaced, and what to say of those an earlier record lists that
            are not: a line or none.

        Raises:
            AudioError: naming a file that is there now and not of this command.
        """
        paths = [path for path, _ in outputs]
        there = [path for path in (*paths, self.path) if os.path.lexists(path)]
        for path, reason in [] if overwrite else self.not_ours(source, settings, there):
            raise AudioError(f"{path} was written while this was at work: {reason}; {KEPT}")
        remarks = self._left_alone((*paths, *planned))
        list_before(outputs)
        self.write(facts, settings, outputs, scratch, complete=False, is_new=not overwrite and self.path not in there)
        return {*paths} if overwrite else {*there}, remarks

    def _left_alone(self, replaced: Iterable[Path]) -> list[str]:
        """What to say of files that are there, listed by an earlier record, and not replaced; a line or none."""
        try:
            listed = self.listed(self.read())
        except (CheckpointError, OSError):
            return []  # it is replaced, and says nothing that could be used
        names = {key_of(path) for path in replaced}
        stays = [one for one in listed if key_of(one.path) not in names and os.path.lexists(one.path)]
        if not stays:
            return []
        others = f" and {len(stays) - 1} more" if len(stays) > 1 else ""
        return [f"{self.path} listed {shown(stays[0].facts['path'])}{others}, of another command: left alone"]

    def write(
        self, source: Mapping[str, Any] | None, settings: Mapping[str, Any],
        outputs: Iterable[tuple[Path, dict[str, Any]]], scratch: Path, *, complete: bool, is_new: bool = False,
    ) -> dict[str, Any]:  # fmt: skip
        """Says what an input is written to; the record is there or not, never half.

        Args:
            source: what `describe_source` said of the input before it was read; None if there is none.
            settings: of this run.
            outputs: the files, and what to say of each, "bytes" and "label" among it.
            scratch: folder on the same disk for what is not complete.
            complete: whether the files have their names.
            is_new: whether there is none yet; of two runs that say so of one file at once, one fails.

        Returns:
            What was written.

        Raises:
            AudioError: if it is not new.
        """
        listed = [{"path": os.path.relpath(path, self.path.parent), **facts} for path, facts in outputs]
        if complete:
            listed = [{name: fact for name, fact in entry.items() if name != "before"} for entry in listed]
        record = {"source": source, "settings": settings, "complete": complete, "outputs": listed}
        self.path.parent.mkdir(parents=True, exist_ok=True)
        # a name that is no UTF-8 stands there as JSON writes such a letter: \udcff
        with open(scratch / "marker", "w", encoding="utf-8", errors="backslashreplace") as file:
            json.dump(record, file, indent=2, ensure_ascii=False)
            file.flush()
            os.fsync(file.fileno())
        move([(self.path, scratch / "marker")], replaced=() if is_new else (self.path,))
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


def move(files: Iterable[tuple[Path, Path]], *, replaced: Collection[Path]) -> None:
    """Gives complete files their names.

    Args:
        files: names, and complete files on the same disk.
        replaced: names that may be taken; of all others nobody else may have made a file in the meantime.

    Raises:
        AudioError: naming a file that somebody else has made.
    """
    for path, complete in files:
        path.parent.mkdir(parents=True, exist_ok=True)
        if path in replaced:
            os.replace(complete, path)
        else:
            _name_new(complete, path)


def _name_new(complete: Path, path: Path) -> None:
    """Gives a file a name that nothing has: a link fails where a name is taken, and replaces nothing."""
    try:
        os.link(complete, path)
        complete.unlink()
        return
    except FileExistsError:
        pass
    except OSError:  # a disk without links
        if not os.path.lexists(path):
            os.replace(complete, path)
            return
    raise AudioError(f"{path} was written while this was at work; {KEPT}")


def describe_output(path: Path) -> dict[str, Any]:
    """What tells a file that was written from what it may become: its size, its time and, if that differs, its sum."""
    facts = path.stat()
    return {"bytes": facts.st_size, "modified_ns": facts.st_mtime_ns, "sha256": sha256(path)}


def list_before(outputs: Iterable[tuple[Path, dict[str, Any]]]) -> None:
    """Adds to what is said of outputs the sums of the files that are there until the new ones have their names."""
    for path, said in outputs:
        if path.is_file():
            said["before"] = sha256(path)


def describe_source(source: Path) -> dict[str, Any]:
    """What tells a file from an earlier one of the same name."""
    facts = source.stat()
    return {"name": source.name, "bytes": facts.st_size, "modified_ns": facts.st_mtime_ns}


def _is_output(output: Any) -> bool:
    if not isinstance(output, dict) or not all(isinstance(output.get(key), str) for key in ("path", "label")):
        return False
    size = output.get("bytes")
    is_size = isinstance(size, int) and not isinstance(size, bool) and size >= 0
    return is_size and "\0" not in output["path"] and not os.path.isabs(output["path"])


def is_as_written(output: Listed) -> bool:
    """Whether a file that is there is as the record says; a record may leave out all but the size."""
    if not output.path.is_file():
        return False
    facts = output.path.stat()
    before = output.facts.get("before")
    if before is not None and sha256(output.path) == before:
        return True
    if facts.st_size != output.size:
        return False
    expected = output.facts.get("sha256")
    # a copied folder has other times: only then all of it is read
    return expected is None or output.facts.get("modified_ns") == facts.st_mtime_ns or sha256(output.path) == expected


__all__ = [
    "ANOTHER",
    "CHANGED",
    "KEPT",
    "MISSING",
    "UNLISTED",
    "Listed",
    "RecordFile",
    "describe_output",
    "describe_source",
    "is_as_written",
    "list_before",
    "move",
]
