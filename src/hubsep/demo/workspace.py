# SPDX-License-Identifier: Apache-2.0
"""Folders for the files of one run, which are gone some time after it.

Decisions: they stand in the cache of the web framework, which serves files from there alone: no second copy is made,
and nothing depends on how soon it would have been. The framework removes by age what it served; what it did not, such
as a part of an upload that was broken off, and the folders, go here. A run that lasts longer keeps its folder. Their
names cannot be guessed, because whoever knows one can fetch what is in it.
"""

from __future__ import annotations

import atexit
import os
import re
import secrets
import shutil
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path


LEFT_BY_UPLOADS = re.compile(r"tmp[a-z0-9_]{8}|[0-9a-f]{64}")  # what is being sent, and the folder of what was sent


class Workspace:
    """Makes folders and removes them `keep_seconds` later, and all of them with the process.

    Args:
        cache: the folder they stand in.
        keep_seconds: how long the files of a run are kept.
    """

    def __init__(self, cache: Path, keep_seconds: float):
        self.folder = cache.resolve() / secrets.token_hex(16)
        self.folder.mkdir(parents=True)
        self.keep_seconds = keep_seconds
        self._in_use: set[Path] = set()
        self._closed = threading.Event()
        atexit.register(self.close)
        threading.Thread(target=self._sweep_often, daemon=True).start()

    def new(self) -> Path:
        """A folder for one run."""
        folder = self.folder / secrets.token_hex(16)
        folder.mkdir()
        return folder

    @contextmanager
    def run(self) -> Iterator[Path]:
        """A folder for one run, whose time begins when the run ends."""
        folder = self.new()
        self._in_use.add(folder)
        try:
            yield folder
        finally:
            with suppress(OSError):
                os.utime(folder)
            self._in_use.discard(folder)

    def sweep(self) -> None:
        """Removes the folders that are too old, and what broken uploads left."""
        for folder in self.folder.glob("*"):
            if folder not in self._in_use and self._is_old(folder):
                shutil.rmtree(folder, ignore_errors=True)
        for place in self.folder.parent.glob("*"):
            if LEFT_BY_UPLOADS.fullmatch(place.name) and self._is_old(place):
                with suppress(OSError):  # a folder that is not empty stays
                    _remove_left(place)

    def _is_old(self, path: Path) -> bool:
        try:
            return time.time() - path.lstat().st_mtime > self.keep_seconds
        except FileNotFoundError:
            return False

    def close(self) -> None:
        """Removes everything."""
        self._closed.set()
        shutil.rmtree(self.folder, ignore_errors=True)

    def _sweep_often(self) -> None:
        while not self._closed.wait(max(1.0, self.keep_seconds / 8)):
            self.sweep()


def _remove_left(place: Path) -> None:
    """Removes an empty folder, or a file; in the system's own folder for such files, they may be anybody's."""
    if place.is_dir() and not place.is_symlink():
        place.rmdir()
    elif place.parent != Path(tempfile.gettempdir()).resolve():
        place.unlink()


__all__ = ["Workspace"]
