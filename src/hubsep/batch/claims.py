# SPDX-License-Identifier: Apache-2.0
"""Claims on inputs: which process works on what at the moment.

Decisions: a claim is a lock on one byte of an empty file, at a place computed from the name of what is claimed. The
system takes it back when the process ends, however it ends, so there is no lease to renew and no lock file that a dead
process left: files made with O_EXCL would need both. POSIX record locks work between processes and, on NFS 4, Lustre
and GPFS that are mounted with them, between computers. Where they are not to be had, `available` is false: then every
process keeps to its own share, which needs no claims.
"""

from __future__ import annotations

import hashlib
import os
import sys
from pathlib import Path

from .manifest import open_regular


FIRST_NAME = 1 << 32  # bytes below it are for whoever wants to be known as alive


class Claims:
    """Takes and gives back claims; one per file and process, because closing any copy of the file drops all of them.

    Args:
        path: of the empty file; made if missing.

    Raises:
        HubsepError: if something else is there.
    """

    def __init__(self, path: Path):
        self.available = sys.platform != "win32"
        self._descriptor = open_regular(path, os.O_RDWR)
        if self.available:
            import fcntl

            try:
                fcntl.lockf(self._descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB, 1, 0)
            except OSError:
                self.available = False

    def take(self, name: str | int) -> bool:
        """Claims something; False if another process has it.

        Args:
            name: of an input, or the number of a process.
        """
        if sys.platform == "win32" or not self.available:
            return True
        import fcntl

        try:
            fcntl.lockf(self._descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB, 1, _byte(name))
        except (BlockingIOError, PermissionError):  # POSIX allows either
            return False
        return True

    def release(self, name: str | int) -> None:
        """Gives a claim back."""
        if sys.platform == "win32" or not self.available:
            return
        import fcntl

        fcntl.lockf(self._descriptor, fcntl.LOCK_UN, 1, _byte(name))

    def close(self) -> None:
        """Gives all of them back."""
        os.close(self._descriptor)


def _byte(name: str | int) -> int:
    if isinstance(name, int):
        return 1 + name
    return FIRST_NAME + int.from_bytes(hashlib.sha256(name.encode(errors="surrogateescape")).digest()[:7], "big")


__all__ = ["Claims"]
