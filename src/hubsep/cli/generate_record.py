# SPDX-License-Identifier: Apache-2.0
"""The record of what `hubsep generate` wrote: `rain.json` beside `rain.wav`, as `separated.json` is beside stems.

Decisions: it has the fields of that file, so one reader serves both. What it lists for the same words, recording,
settings and weights is our own and need not be made again; anything else that is there is replaced only with
`--overwrite`, and so is what was changed since. It is written before the files get their names, so a killed run is
known by it.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Collection, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

from ..audio.formats import FORMATS
from ..batch.delivery import scratch_folder
from ..batch.fingerprint import model_fingerprint
from ..batch.lines import warn
from ..batch.records import (
    CHANGED,
    KEPT,
    UNLISTED,
    Listed,
    RecordFile,
    describe_output,
    describe_source,
    is_as_written,
    list_before,
)
from ..errors import AudioError
from ..hub.file_names import key_of


class Record:
    """What one command line writes.

    Args:
        output: what the command line calls it.
        source: the recording it starts from, if any.
        model: folder, Hub repository or shipped name.
        settings: what decides the content, besides the weights.
        overwrite: whether files may be replaced, and are to be made again.
    """

    def __init__(
        self, output: Path, source: Path | None, model: str, settings: Mapping[str, Any], *, overwrite: bool = False
    ):
        self.path = record_of(output)
        self._file = RecordFile(self.path, output.parent, lambda path, label: is_output(path, output))
        self._source, self._model = source, model
        self._settings: dict[str, Any] = json.loads(json.dumps(dict(settings)))  # as they are read again
        self._overwrite = overwrite
        self._targets: Sequence[Path] = ()
        self._own: dict[Path, Listed] = {}
        self._outputs: list[tuple[Path, dict[str, Any]]] = []

    @cached_property
    def settings(self) -> dict[str, Any]:
        """What decides the content.

        Raises:
            CheckpointError: if there is no such model.
        """
        return {"model": self._model, "weights": model_fingerprint(self._model), **self._settings}

    def finished(self, targets: Sequence[Path], count: int) -> list[dict[str, Any]] | None:
        """What an earlier run of the same command wrote, if all of it is there.

        Args:
            targets: every file this run may write.
            count: how many it writes; of two formats of a sound one.

        Returns:
            The facts of its outputs, each with its file as "path"; None if there is work to do.

        Raises:
            AudioError: naming a file that is there and not our own.
        """
        self._targets = targets
        there = [path for path in (*targets, self.path) if os.path.lexists(path)]
        if self._overwrite or not there:
            return None
        settings = self.settings if self.path.is_file() else {}
        for path, reason in self._file.not_ours(self._source, settings, there):
            others = "" if reason == CHANGED else "not of this command: "
            detail = "" if reason == UNLISTED else f", and {others}{reason}"
            raise AudioError(f"{path} is there already{detail}; --overwrite replaces it")
        record = self._file.read() if self.path.is_file() else {"outputs": []}
        self._own = {one.path: one for one in self._file.listed(record)}
        if self._file.why_unfinished(self._source, settings) is not None:
            return None
        outputs = [{**one, "path": self.path.parent / one["path"]} for one in record["outputs"]]
        written = {key_of(one["path"]) for one in outputs} & set(map(key_of, targets))
        return outputs if len(written) == len(outputs) == count else None

    def note(
        self, files: Sequence[tuple[Path, Path]], facts: Sequence[Mapping[str, Any]], scratch: Path
    ) -> Collection[Path]:
        """Says what is about to get its name.

        Args:
            files: names, and complete files.
            facts: what to say of each.
            scratch: a folder on the same disk.

        Returns:
            Names that may be taken, of files that are replaced.

        Raises:
            AudioError: if another run has written such a file in the meantime.
        """
        outputs = [
            (path, {**describe_output(complete), **said}) for (path, complete), said in zip(files, facts, strict=True)
        ]
        replaced: Collection[Path] = [path for path, _ in files if os.path.lexists(path)]
        if not self._outputs:
            said_of = (outputs, self._said_of_source(), scratch)
            replaced, left_alone = self._file.begin(
                self._source, self.settings, *said_of, overwrite=self._overwrite, planned=self._targets
            )
            warn(*left_alone)
        else:
            self._check_own(replaced)
            list_before(outputs)
        self._outputs += outputs
        self._write(scratch, complete=False)
        return replaced

    def finish(self) -> None:
        """Says that all files have their names."""
        with scratch_folder(self.path.parent) as scratch:
            self._write(scratch, complete=True)

    def _check_own(self, paths: Collection[Path]) -> None:
        """Refuses to replace a file that was not there as it is when the work began.

        Raises:
            AudioError: naming it.
        """
        for path in [] if self._overwrite else paths:
            own = self._own.get(Path(os.path.abspath(path)))
            if own is None or not is_as_written(own):
                raise AudioError(f"{path} was written while this was at work; {KEPT}")

    def _earlier(self) -> list[tuple[Path, dict[str, Any]]]:
        """What an earlier run of this command wrote and this one has not come to yet."""
        planned = set(map(key_of, self._targets)) - {key_of(path) for path, _ in self._outputs}
        return [
            (one.path, {name: fact for name, fact in one.facts.items() if name != "path"})
            for one in self._own.values()
            if key_of(one.path) in planned
        ]

    def _said_of_source(self) -> dict[str, Any] | None:
        return None if self._source is None else describe_source(self._source)

    def _write(self, scratch: Path, *, complete: bool) -> None:
        outputs = [*self._outputs, *([] if complete else self._earlier())]
        self._file.write(self._said_of_source(), self.settings, outputs, scratch, complete=complete)


def record_of(output: Path) -> Path:
    """Where the record of an output goes."""
    return output.with_suffix(".json")


def is_output(path: Path, output: Path) -> bool:
    """Whether a command that was given this output may call a file so: rain.wav, rain-2-1.flac, rain.png."""
    name = re.fullmatch(rf"{re.escape(output.stem)}(-[0-9]{{1,9}}){{0,2}}", path.stem)
    return (
        name is not None and path.suffix.lower() in {*FORMATS, ".png"} and key_of(path.parent) == key_of(output.parent)
    )


__all__ = ["Record", "record_of"]
