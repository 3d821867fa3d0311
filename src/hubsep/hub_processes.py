# SPDX-License-Identifier: Apache-2.0
"""Whether the process that made a temporary folder is still there."""

from __future__ import annotations

import hashlib
import os
import socket
import time
import uuid
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


__all__ = ["host", "in_use"]
