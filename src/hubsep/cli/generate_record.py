# SPDX-License-Identifier: Apache-2.0
"""The record of what `hubsep generate` wrote: `rain.json` beside `rain.wav`, as `separated.json` is beside stems.

Decisions: it has the fields of that file, so one reader serves both. What it lists for the same words, recording,
settings and weights is our own and need not be made again; anything else that is there is replaced only with
`--overwrite`. It is written before the files get their names, so a killed run is known by it.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

from ..batch.delivery import scratch_folder
from ..batch.fingerprint import model_fingerprint
from ..batch.jobs import describe_source, listed_files, remove_listed, why_unfinished, write_marker
from ..batch.targets import UNLISTED, not_ours
from ..errors import AudioError


class Record:
    """What one command line writes.

    Args:
        output: what the command line calls it.
        source: the recording it starts from, if any.
        model: folder, Hub repository or shipped name.
        settings: what decides the content, besides the weights.
    """

    def __init__(self, output: Path, source: Path | None, model: str, settings: Mapping[str, Any]):
        self.path = record_of(output)
        self._source, self._model = source, model
        self._settings: dict[str, Any] = json.loads(json.dumps(dict(settings)))  # as they are read again
        self._outputs: list[tuple[Path, dict[str, Any]]] = []

    @cached_property
    def settings(self) -> dict[str, Any]:
        """What decides the content.

        Raises:
            CheckpointError: if there is no such model.
        """
        return {"model": self._model, "weights": model_fingerprint(self._model), **self._settings}

    def finished(self, targets: Sequence[Path], *, overwrite: bool) -> list[dict[str, Any]] | None:
        """What an earlier run of the same command wrote, if all of it is there.

        Args:
            targets: every file this run may write.
            overwrite: whether files may be replaced, and are to be made again.

        Returns:
            The facts of its outputs, each with its file as "path"; None if there is work to do.

        Raises:
            AudioError: naming a file that is there and not our own.
        """
        there = [path for path in (*targets, self.path) if os.path.lexists(path)]
        if overwrite or not there:
            return None
        settings = self.settings if self.path.is_file() else {}
        for path, reason in not_ours(self.path, self._source, settings, there):
            told = "" if reason == UNLISTED else f", and not of this command: {reason}"
            raise AudioError(f"{path} is there already{told}; --overwrite replaces it")
        if why_unfinished(self.path, self._source, settings) is not None:
            return None
        return read_outputs(self.path)

    def note(self, files: Sequence[tuple[Path, Path]], facts: Sequence[Mapping[str, Any]], scratch: Path) -> None:
        """Says what is about to get its name.

        Args:
            files: names, and complete files.
            facts: what to say of each.
            scratch: a folder on the same disk.
        """
        if not self._outputs:
            remove_listed(self.path, self.path.parent, [path for path, _ in files])
        for (path, complete), said in zip(files, facts, strict=True):
            self._outputs.append((path, {"bytes": complete.stat().st_size, **said}))
        self._write(scratch, complete=False)

    def finish(self) -> None:
        """Says that all files have their names."""
        with scratch_folder(self.path.parent) as scratch:
            self._write(scratch, complete=True)

    def _write(self, scratch: Path, *, complete: bool) -> None:
        source = None if self._source is None else describe_source(self._source)
        write_marker(self.path, source, self.settings, self._outputs, scratch, complete=complete)


def record_of(output: Path) -> Path:
    """Where the record of an output goes."""
    return output.with_suffix(".json")


def read_outputs(record: Path) -> list[dict[str, Any]]:
    """The outputs a complete record lists, with their paths from here."""
    content = json.loads(record.read_text(encoding="utf-8"))
    paths = [path for path, _ in listed_files(record, content)]
    return [{**output, "path": path} for path, output in zip(paths, content["outputs"], strict=True)]


__all__ = ["Record", "record_of"]
