# SPDX-License-Identifier: Apache-2.0
"""A worker that separates one recording of a corpus after the other, wherever recordings and sources are kept.

Decisions: a recording is downloaded to the worker's disk, separated in bounded memory, and its sources are uploaded.
`separated.json`, written last, says that it is finished, from which file and with which fingerprint of model and
options; what it says is checked against what is there before a recording is skipped.
"""

from __future__ import annotations

import hashlib
import json
import os
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np

from ..errors import AudioError, CheckpointError, DataError, HubsepError, QueryError
from ..hub.processes import host
from ..pipelines import pipeline
from ..pipelines.separation.options import SeparationOptions
from ..pipelines.separation.targets import labels_of
from ..shipped import DEFAULT_MODEL
from .fingerprint import fingerprint, model_fingerprint
from .jobs import Job, check_template
from .storage import COPIED_AT_ONCE, Store, find_filesystem


TEMPLATE = "{file}/{label}.{ext}"
MARKER = "separated"


@dataclass(frozen=True)
class Task:
    """What to do with every recording; the fields are arguments of `hubsep.data.ray.separate_dataset`."""

    model: str = DEFAULT_MODEL
    options: Mapping[str, Any] = field(default_factory=dict)
    output: str | None = None
    root: str | None = None
    template: str = TEMPLATE
    format: str = "wav"
    subtype: str | None = None
    filesystem: Any = None
    path_column: str = "path"
    bytes_column: str = "bytes"
    overwrite: bool = False

    def check(self) -> None:
        """Refuses what no recording could be separated with.

        Raises:
            DataError: if the template or the location of the results is none.
        """
        if self.output is not None:
            find_filesystem(self.output, self.filesystem)
        try:
            check_template(self.template)
        except HubsepError as error:
            raise DataError(str(error)) from error

    def settings(self) -> dict[str, Any]:
        """What decides the content of the files."""
        form = {"format": self.format, "subtype": self.subtype}
        options = {name: _plain(value) for name, value in self.options.items() if name != "batch_size"}
        return {"weights": model_fingerprint(self.model), "options": fingerprint({**options, **form})}


class SeparateRecordings:
    """Takes a row, returns a row for each source; Ray Data builds one per worker.

    Args:
        task: what to do with every recording.
    """

    def __init__(self, task: Task):
        self.task = task
        self._store = None if task.output is None else Store(task.output, task.filesystem)
        self._settings = task.settings()
        self._pipeline: Any = None

    def __call__(self, row: Mapping[str, Any]) -> list[dict[str, Any]]:
        """Separates one recording, or says why it could not be, or that it was finished before.

        Raises:
            QueryError: if the queries do not suit the model; no recording could succeed.
            CheckpointError: if the model cannot be loaded.
            DataError: if the row has neither path nor content, or its path lies outside of `root`.
        """
        kept = {name: value for name, value in row.items() if name != self.task.bytes_column}
        path, content = row.get(self.task.path_column), row.get(self.task.bytes_column)
        if path is None and content is None:
            wanted = f"{self.task.path_column!r} or {self.task.bytes_column!r}"
            raise DataError(f"a row needs {wanted}, got {', '.join(row)}")
        try:
            results = list(self._results(path, content))
        except (QueryError, CheckpointError, DataError):
            raise
        except (AudioError, OSError) as error:
            results = [{"label": "", "score": 0.0, "ok": False, "skipped": False, "error": str(error), **self._none()}]
        return [{**kept, **result} for result in results]

    def _results(self, path: str | None, content: bytes | None) -> Iterator[dict[str, Any]]:
        said = {"ok": True, "skipped": False, "error": ""}
        if self._store is None:
            with _at_hand(path, content, self.task.filesystem) as source:
                for result in self._loaded()(source, **self.task.options):
                    yield {**said, **result}
            return
        facts, name = self._facts(path, content), self._name(path, content)
        record = self._record(self._store, name)
        if self._is_finished(self._store, record, facts):
            said["skipped"] = True
        else:
            self._check_kept(self._store, record, facts, name)
            record = self._separate(self._store, path, content, name, facts)
        for output in record["outputs"]:
            place = f"{self._store.root}/{output['path']}"
            yield {"label": output["label"], "score": float(output["score"]), **said, "output": place}

    def _record(self, store: Store, name: str) -> Any:
        """What a record says, None if there is none, {} if it lists anything but what is written for the recording."""
        record = store.read_json(self._place(name, MARKER, "json"))
        if record is None:
            return None
        outputs = record.get("outputs") if isinstance(record, dict) else None
        if not isinstance(outputs, list) or not (outputs or self.task.options.get("only_active")):
            return {}
        return record if all(self._is_own(output, name) for output in outputs) else {}

    def _is_own(self, output: Any, name: str) -> bool:
        if not isinstance(output, dict) or not isinstance(output.get("label"), str):
            return False
        is_own = output.get("path") == self._place(name, output["label"], self.task.format)
        return is_own and isinstance(output.get("bytes"), int) and isinstance(output.get("score"), int | float)

    def _separate(
        self, store: Store, path: str | None, content: bytes | None, name: str, facts: dict[str, Any]
    ) -> dict[str, Any]:
        store.forget(name)
        with (
            tempfile.TemporaryDirectory(prefix="hubsep-") as folder,
            _at_hand(path, content, self.task.filesystem) as source,
        ):
            form = {"template": "{label}." + self.task.format, "subtype": self.task.subtype}
            results = self._loaded().separate_file(source, folder, **form, **self.task.options)
            files = {self._place(name, result["label"], self.task.format): result["path"] for result in results}
            about = [{"bytes": r["path"].stat().st_size, "label": r["label"], "score": r["score"]} for r in results]
            outputs = [{"path": place, **said} for place, said in zip(files, about, strict=True)]
            process = f"{host()}-{os.getpid()}"
            record = {"source": facts, "settings": self._settings, "outputs": outputs, "process": process}
            marker = self._place(name, MARKER, "json")
            # before the files are there as well, so that what a killed process leaves is known as ours
            store.put({marker: _encoded({**record, "complete": False})}, about=name)
            store.put({**files, marker: _encoded({**record, "complete": True})}, about=name)
        return record

    def _check_kept(self, store: Store, record: Any, facts: dict[str, Any], name: str) -> None:
        """Refuses to replace what is there, unless our own record lists it for the same recording and settings.

        Raises:
            AudioError: naming the file and the ways out.
        """
        if self.task.overwrite:
            return
        labels = labels_of(self._loaded().model.config, SeparationOptions.of(self.task.options))
        places = [self._place(name, label, self.task.format) for label in labels]
        is_own = (
            isinstance(record, dict) and record.get("source") == facts and record.get("settings") == self._settings
        )
        listed = {output["path"]: output["bytes"] for output in record["outputs"]} if is_own else {}
        if is_own and not record.get("complete", True):  # what is there may be of the worker before the one that ended
            listed = dict.fromkeys(listed)
        there = [(place, size) for place, size in zip(places, store.sizes(places), strict=True) if size is not None]
        foreign = [place for place, size in there if place not in listed or listed[place] not in (None, size)]
        if foreign or (record is not None and not is_own):
            place = (foreign or [self._place(name, MARKER, "json")])[0]
            raise AudioError(
                f"{store.root}/{place} is there and was not written like this from this recording with these "
                "settings; choose another output, or pass overwrite=True"
            )

    def _is_finished(self, store: Store, record: Any, facts: dict[str, Any]) -> bool:
        try:
            same = record["source"] == facts and record["settings"] == self._settings
            outputs = [(output["path"], output["bytes"]) for output in record["outputs"]]
        except (KeyError, TypeError):
            return False
        sizes = store.sizes([path for path, _ in outputs])
        return same and record.get("complete", True) and sizes == [size for _, size in outputs]

    def _facts(self, path: str | None, content: bytes | None) -> dict[str, Any]:
        """What tells a recording from an earlier one of the same name."""
        if content is not None:
            return {"bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()}
        filesystem, place = find_filesystem(str(path), self.task.filesystem)
        info = filesystem.get_file_info(place)
        if not info.is_file:
            raise AudioError(f"{path} does not exist")
        return {"bytes": info.size, "modified_ns": info.mtime_ns}

    def _name(self, path: str | None, content: bytes | None) -> str:
        """The name of a recording among the results."""
        if path is None:
            return hashlib.sha256(content or b"").hexdigest()[:16]
        file = _without_scheme(path)
        if self.task.root is not None:
            top = _without_scheme(self.task.root)
            if not file.is_relative_to(top):
                raise DataError(f"{path} is not below root {self.task.root}")
            file = file.relative_to(top)
        if ".." in file.parts or not file.name:
            raise DataError(f"{path!r} is not a path results can be named after")
        return file.as_posix()

    def _place(self, name: str, label: str, extension: str) -> str:
        return Job(Path(name), PurePosixPath(name)).output(Path(), self.task.template, label, extension).as_posix()

    def _loaded(self) -> Any:
        if self._pipeline is None:
            from transformers.utils import logging

            logging.disable_progress_bar()
            self._pipeline = pipeline(model=self.task.model)
        return self._pipeline

    def _none(self) -> dict[str, Any]:
        if self._store is not None:
            return {"output": ""}
        return {"audio": np.zeros((0, 0), np.float32), "sampling_rate": 0}


def _encoded(record: dict[str, Any]) -> bytes:
    return json.dumps(record, indent=2, ensure_ascii=False).encode(errors="backslashreplace")


@contextmanager
def _at_hand(path: str | None, content: bytes | None, filesystem: Any) -> Iterator[bytes | Path]:
    """A recording as the pipeline takes it: its content, or a path on this computer."""
    if content is not None:
        yield bytes(content)
        return
    system, place = find_filesystem(str(path), filesystem)
    if system.type_name == "local":
        yield Path(place)
        return
    with tempfile.TemporaryDirectory(prefix="hubsep-") as folder:
        copy = Path(folder, PurePosixPath(place).name)
        with system.open_input_stream(place) as stream, copy.open("wb") as file:
            while block := stream.read(COPIED_AT_ONCE):
                file.write(block)
        yield copy


def _plain(value: Any) -> Any:
    """An option as it counts for the fingerprint: arrays by their content."""
    if isinstance(value, Mapping):
        return {str(name): _plain(item) for name, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    if hasattr(value, "__array__"):
        return hashlib.sha256(np.asarray(value).tobytes()).hexdigest()
    return value if isinstance(value, bool | int | float | None) else str(value)


def _without_scheme(path: str) -> PurePosixPath:
    """`s3://bucket/a.wav?region=x` and `bucket/a.wav` name the same results."""
    uri = path.partition("://")[2].partition("?")[0]
    return PurePosixPath((uri or path).strip("/"))


__all__ = ["TEMPLATE", "SeparateRecordings", "Task"]
