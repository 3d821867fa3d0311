# SPDX-License-Identifier: Apache-2.0
"""The manifest of a run: what became of every input, in lines of JSON.

Decisions: every process writes a file of its own in `.hubsep/` in the output folder, one line after the other, each on
the disk before the next input is begun; nobody ever writes to another's file. A reader merges them: what was said last
of an input holds. A line that a killed process left half written is no line. What decides whether an input is finished
is the record beside its outputs (`records.py`); the manifest tells people and the sibling processes about it, and
about failures, which leave no record. A folder may have come with a manifest: a line that is none of ours is passed
over, and nothing is written through a link.
"""

from __future__ import annotations

import json
import os
import stat
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from ..errors import CheckpointError, HubsepError
from ..hub.json_files import parse_json
from ..hub.manifest import fsync
from ..hub.processes import host


FOLDER = ".hubsep"
PATTERN = "manifest-*.jsonl"
LATEST = 1e12  # seconds since 1970: no clock says more


class Manifest:
    """The own file of a process, and what stands in those of all.

    Args:
        output: folder of the results.
        name: of this process among its siblings, `Place.name`.

    Attributes:
        entries: the last line about each input, by the path of its marker.
        sessions: for each file, the failures since its process was started last.
    """

    def __init__(self, output: Path, name: str):
        self.folder = output / FOLDER
        make_folder(self.folder)
        self.path = self.folder / f"manifest-{name}-{host()}.jsonl"
        self.process = f"{host()}-{os.getpid()}"
        self.entries: dict[str, dict[str, Any]] = {}
        self.sessions: dict[Path, dict[str, dict[str, Any]]] = {}
        self._read: dict[Path, int] = {}
        self._descriptor = open_regular(self.path, os.O_WRONLY | os.O_APPEND)
        if _is_torn(self.path):
            os.write(self._descriptor, b"\n")  # the end of a line that a killed process left half written
        fsync(self.folder)

    def begin(self, **facts: Any) -> None:
        """Says that this process starts, and with which settings."""
        self._write({"started": facts})

    def add(self, marker: str, ok: bool, **facts: Any) -> None:
        """Says what became of an input.

        Args:
            marker: its path in the output folder, with forward slashes.
            ok: whether its outputs are there.
            **facts: about it, such as "error" or "outputs".
        """
        self._write({"marker": marker, "ok": ok, **facts})

    def refresh(self) -> None:
        """Reads what was added to all files since the last time."""
        for path in sorted(self.folder.glob(PATTERN)):
            for line in _new_lines(path, self._read):
                if "started" in line:
                    self.sessions[path] = {}
                elif _is_entry(line):
                    self._merge(path, line)

    def is_there(self, name: str) -> bool:
        """Whether a process of that name ever worked in this folder, so that it can be seen from here."""
        return any(self.folder.glob(f"manifest-{name}-*.jsonl"))

    def failures(self, names: Iterable[str]) -> dict[str, dict[str, Any]]:
        """What processes on this computer failed at and nobody has done since, by marker."""
        failed: dict[str, dict[str, Any]] = {}
        for name in names:
            failed |= self.sessions.get(self.folder / f"manifest-{name}-{host()}.jsonl", {})
        return {marker: entry for marker, entry in failed.items() if not self.entries[marker].get("ok")}

    def close(self) -> None:
        """Closes the own file."""
        os.close(self._descriptor)

    def _merge(self, path: Path, line: dict[str, Any]) -> None:
        entry = self.entries.get(line["marker"])
        if entry is None or line.get("time", 0) >= entry.get("time", 0):
            self.entries[line["marker"]] = line
        if not line.get("ok"):
            self.sessions.setdefault(path, {})[line["marker"]] = line

    def _write(self, entry: dict[str, Any]) -> None:
        line = {**entry, "process": self.process, "time": round(time.time(), 3)}
        os.write(
            self._descriptor,
            (json.dumps(line, ensure_ascii=False, default=str) + "\n").encode(errors="backslashreplace"),
        )
        os.fsync(self._descriptor)


def read_manifest(output: Path) -> dict[str, dict[str, Any]]:
    """What became of each input of a folder of results, by the path of its marker there."""
    merged: dict[str, dict[str, Any]] = {}
    for path in sorted((output / FOLDER).glob(PATTERN)):
        for line in _new_lines(path, {}):
            if _is_entry(line) and line.get("time", 0) >= merged.get(line["marker"], {}).get("time", 0):
                merged[line["marker"]] = line
    return merged


def _is_torn(path: Path) -> bool:
    with path.open("rb") as file:
        size = file.seek(0, os.SEEK_END)
        file.seek(max(0, size - 1))
        return file.read(1) not in (b"", b"\n")


def _new_lines(path: Path, positions: dict[Path, int]) -> Iterator[dict[str, Any]]:
    """The whole lines after a position, which moves behind them."""
    start = positions.get(path, 0)
    if not path.is_file() or path.stat().st_size <= start:
        return
    with path.open("rb") as file:
        file.seek(start)
        whole, newline, _ = file.read().rpartition(b"\n")
    positions[path] = start + len(whole) + len(newline)
    for text in whole.split(b"\n"):
        try:
            yield parse_json(text, path.name)
        except CheckpointError:
            continue  # what a killed process left of a line, or none of ours


def _is_entry(line: dict[str, Any]) -> bool:
    """Whether a line says what became of an input, in fields of their types."""
    said = (line.get("time", 0), line.get("ok", False), line.get("input", ""), line.get("error", ""))
    kinds: tuple[Any, ...] = ((int, float), bool, str, str)
    return (
        isinstance(line.get("marker"), str)
        and all(isinstance(value, kind) for value, kind in zip(said, kinds, strict=True))
        and -LATEST < said[0] < LATEST  # false for NaN as well
    )


def make_folder(folder: Path) -> None:
    """Makes a folder for notes about a run.

    Raises:
        HubsepError: if something else is there, a link to another folder for instance.
    """
    if folder.is_symlink() or (folder.exists() and not folder.is_dir()):
        raise HubsepError(f"{folder} is no folder of its own, and nothing is written through a link; delete it")
    folder.mkdir(parents=True, exist_ok=True)


def open_regular(path: Path, flags: int) -> int:
    """Opens a file for notes about a run, which is made if it is missing.

    Args:
        path: of the file.
        flags: of `os.open`.

    Returns:
        The descriptor.

    Raises:
        HubsepError: if something else is there: a link would be written through, a pipe would wait for a reader.
    """
    if os.path.lexists(path) and not stat.S_ISREG(os.lstat(path).st_mode):
        raise HubsepError(f"{path} is no regular file, and nothing is written through a link; delete it")
    return os.open(path, flags | os.O_CREAT | getattr(os, "O_NOFOLLOW", 0), 0o666)


__all__ = ["FOLDER", "Manifest", "make_folder", "open_regular", "read_manifest"]
