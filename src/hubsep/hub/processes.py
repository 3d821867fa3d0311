# SPDX-License-Identifier: Apache-2.0
"""What processes that work in the same folder need to know of each other, and the limits of those that are started."""

from __future__ import annotations

import hashlib
import os
import socket
import sys
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


FOREIGN_LITTER_SECONDS = 86_400


def host() -> str:
    """Four digits that tell computers and containers on one disk apart: a process number means nothing elsewhere."""
    return hashlib.sha256(f"{socket.gethostname()}{uuid.getnode()}".encode()).hexdigest()[:4]


def in_use(path: Path, process: int, made_on: str) -> bool:
    """Whether the folder `path`, made by `process` on the computer `made_on`, may still be written to."""
    if made_on != host() or os.name != "posix":  # Windows has no signal 0: os.kill would end the process
        return time.time() - path.stat().st_mtime < FOREIGN_LITTER_SECONDS
    try:
        os.kill(process, 0)
    except (ProcessLookupError, OverflowError):
        return False
    except PermissionError:
        return True
    return True


@contextmanager
def locked(folder: Path, *, make: bool = False, wait: bool = True) -> Iterator[bool]:
    """Keep other processes that call this with the same folder waiting; leaves no file, and ends with the process.

    Gives whether it is locked now. Where the system cannot lock folders (Windows, some network disks), nothing is
    locked, and the answer is yes.

    Args:
        folder: that is locked.
        make: whether it is made if it is not there, also if another process takes it away before it is locked.
        wait: whether to wait for another process, and not to give False.
    """
    if make:
        folder.mkdir(parents=True, exist_ok=True)
    if sys.platform == "win32":
        yield True
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        is_ours = _lock(descriptor, wait=wait)
        while make and is_ours and not _is_still(folder, descriptor):
            folder.mkdir(parents=True, exist_ok=True)
            os.close(descriptor)
            descriptor = os.open(folder, os.O_RDONLY)
            is_ours = _lock(descriptor, wait=wait)
        yield is_ours
    finally:
        os.close(descriptor)


def _lock(descriptor: int, *, wait: bool) -> bool:
    import fcntl

    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX if wait else fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:  # this disk knows no locks
        return True
    return True


def _is_still(folder: Path, descriptor: int) -> bool:
    """Whether a folder that was opened has that name still."""
    try:
        return os.path.samestat(folder.stat(), os.fstat(descriptor))
    except FileNotFoundError:
        return False


def confine(*, memory_bytes: int, cpu_seconds: int, file_bytes: int) -> None:
    """Bounds this process: address space, processor time, size of a file it writes, no core file.

    Where the system knows no such limits (Windows), nothing is bounded.
    """
    if sys.platform == "win32":
        return
    import resource

    bounds = {
        resource.RLIMIT_AS: memory_bytes,
        resource.RLIMIT_CPU: cpu_seconds,
        resource.RLIMIT_FSIZE: file_bytes,
        resource.RLIMIT_CORE: 0,
    }
    for kind, bound in bounds.items():
        hard = resource.getrlimit(kind)[1]
        bound = bound if hard == resource.RLIM_INFINITY else min(bound, hard)
        resource.setrlimit(kind, (bound, bound))


__all__ = ["confine", "host", "in_use", "locked"]
