# SPDX-License-Identifier: Apache-2.0
"""Folders on any file system pyarrow knows: a disk, S3, GCS, Azure, HDFS, or one of fsspec.

Decisions: a file appears complete or not at all. Stores of objects show an object once all of it has arrived, so it is
sent to its name at once; everywhere else it is written under `.unfinished/` first and then moved, which on a disk is a
rename after an fsync. What a killed process leaves under `.unfinished/` is filed by what it was working on, and is
removed when that is begun again.
"""

from __future__ import annotations

import hashlib
import secrets
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import Any

from ..errors import DataError
from ..hub.json_files import MAX_INDEX_BYTES, parse_json_value
from ..hub.manifest import fsync


OBJECT_STORES = frozenset({"s3", "gcs", "abfs", "py::fsspec+s3", "py::fsspec+gs", "py::fsspec+gcs", "py::fsspec+abfs"})
UNFINISHED = ".unfinished"
COPIED_AT_ONCE = 1 << 20


def find_filesystem(location: str, filesystem: Any = None) -> tuple[Any, str]:
    """The pyarrow file system of a location, and the path there.

    Args:
        location: URI such as `s3://bucket/folder`, or a path.
        filesystem: of pyarrow or fsspec, if it needs more than the URI says; `location` is then a path of it.

    Raises:
        DataError: if there is no such file system.
    """
    from pyarrow import fs

    if filesystem is not None:
        is_pyarrow = isinstance(filesystem, fs.FileSystem)
        system = filesystem if is_pyarrow else fs.PyFileSystem(fs.FSSpecHandler(filesystem))
        return system, location.rstrip("/")
    try:
        uri = location if "://" in location else Path(location).absolute().as_posix()
        system, path = fs.FileSystem.from_uri(uri)
    except (ValueError, OSError) as error:
        raise DataError(f"{location!r} cannot be opened: {error}; pass filesystem=") from error
    return system, path.rstrip("/")


class Store:
    """A folder of results.

    Args:
        location: as for `find_filesystem`.
        filesystem: as there.

    Raises:
        DataError: if there is no such file system.
    """

    def __init__(self, location: str, filesystem: Any = None):
        self.filesystem, self.root = find_filesystem(location, filesystem)
        self._at_once = self.filesystem.type_name in OBJECT_STORES

    def sizes(self, names: Sequence[str]) -> list[int | None]:
        """Bytes of files, None for those that are not there."""
        infos = self.filesystem.get_file_info([self._path(name) for name in names])
        return [info.size if info.is_file else None for info in infos]

    def read_json(self, name: str) -> Any:
        """What a file holds, None if it is not there or is no JSON that we may have written."""
        try:
            with self.filesystem.open_input_file(self._path(name)) as file:
                if file.size() > MAX_INDEX_BYTES:
                    return None
                return parse_json_value(file.read(), name)
        except (FileNotFoundError, ValueError):  # an error of ours is a ValueError as well
            return None

    def put(self, files: Mapping[str, Path | bytes], about: str) -> None:
        """Writes files, the last of them last.

        Args:
            files: names and local files, or what they hold.
            about: what they belong to.
        """
        for name, content in files.items():
            path = self._path(name)
            if self._at_once:
                self._write(content, path)
                continue
            unfinished = f"{self._unfinished(about)}/{secrets.token_hex(8)}"
            self.filesystem.create_dir(self._unfinished(about), recursive=True)
            self.filesystem.create_dir(str(PurePosixPath(path).parent), recursive=True)
            self._write(content, unfinished)
            if self.filesystem.type_name == "local":
                fsync(Path(unfinished))
            self.filesystem.move(unfinished, path)
        self.forget(about)

    def forget(self, about: str) -> None:
        """Removes what a process left that was killed while it worked on the same."""
        if not self._at_once and self.filesystem.get_file_info(self._unfinished(about)).type.name == "Directory":
            self.filesystem.delete_dir(self._unfinished(about))

    def _write(self, content: Path | bytes, path: str) -> None:
        try:
            with self.filesystem.open_output_stream(path) as sink:
                if isinstance(content, bytes):
                    sink.write(content)
                    return
                with content.open("rb") as file:
                    shutil.copyfileobj(file, sink, COPIED_AT_ONCE)
        except BaseException:
            if self.filesystem.get_file_info(path).is_file:  # pyarrow finishes an object even if the block raises
                self.filesystem.delete_file(path)
            raise

    def _unfinished(self, about: str) -> str:
        return self._path(f"{UNFINISHED}/{hashlib.sha256(about.encode()).hexdigest()[:16]}")

    def _path(self, name: str) -> str:
        return f"{self.root}/{name}"


__all__ = ["Store", "find_filesystem"]
