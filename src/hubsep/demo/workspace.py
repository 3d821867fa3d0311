# SPDX-License-Identifier: Apache-2.0
"""Folders for the files of one run, which are gone some time after it.

Decisions: they stand in the cache of the web framework, which serves files from there alone: no second copy is made,
and nothing depends on how soon it would have been. The framework removes by age what it served; what it did not, and
the folders, go here. Their names cannot be guessed, because whoever knows one can fetch what is in it.
"""

from __future__ import annotations

import atexit
import secrets
import shutil
import threading
import time
from pathlib import Path


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
        self._closed = threading.Event()
        atexit.register(self.close)
        threading.Thread(target=self._sweep_often, daemon=True).start()

    def new(self) -> Path:
        """A folder for one run."""
        folder = self.folder / secrets.token_hex(16)
        folder.mkdir()
        return folder

    def sweep(self) -> None:
        """Removes the folders that are too old."""
        for folder in self.folder.glob("*"):
            try:
                old = time.time() - folder.stat().st_mtime > self.keep_seconds
            except FileNotFoundError:
                continue
            if old:
                shutil.rmtree(folder, ignore_errors=True)

    def close(self) -> None:
        """Removes everything."""
        self._closed.set()
        shutil.rmtree(self.folder, ignore_errors=True)

    def _sweep_often(self) -> None:
        while not self._closed.wait(max(1.0, self.keep_seconds / 8)):
            self.sweep()


__all__ = ["Workspace"]
