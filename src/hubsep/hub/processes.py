# SPDX-License-Identifier: Apache-2.0
"""What processes that work in the same folder need to know of each other, and the limits of those that are started."""

from __future__ import annotations

import contextlib
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
def locked(folder: Path) -> Iterator[None]:
    """Keep other processes that call this with the same folder waiting; leaves no file, and ends with the process.

    Where the system cannot lock folders (Windows, some network disks), nothing is locked.
    """
    if sys.platform == "win32":
        yield
        return
    import fcntl

    descriptor = os.open(folder, os.O_RDONLY)
    try:
        with contextlib.suppress(OSError):
            fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


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
