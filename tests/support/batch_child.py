# SPDX-License-Identifier: Apache-2.0
"""Several `hubsep separate` at once, as a launcher starts them, some of which are killed on the way."""

from __future__ import annotations

import json
import os
import signal
import sys
import time
from pathlib import Path

import torchaudio  # noqa: F401  (what a run imports is imported once, before the processes fork)
from tqdm import tqdm  # noqa: F401

from hubsep import ConvTasNetForAudioSeparation, pipeline  # noqa: F401
from hubsep.batch.claims import Claims
from hubsep.cli import main  # noqa: F401


def together(arguments: list[str], world: int, doomed: list[int], after: int) -> list[int]:
    """Runs one command in `world` processes and kills some once `after` inputs are finished; how each ended."""
    output = Path(arguments[arguments.index("-o") + 1])
    start = finished(output)
    processes = [_start(arguments, rank, world) for rank in range(world)]
    while doomed and finished(output) < start + after:
        assert all(os.waitpid(process, os.WNOHANG)[0] == 0 for process in processes), "ended before it was killed"
        time.sleep(0.001)
    for rank in doomed:
        os.kill(processes[rank], signal.SIGKILL)
    return [os.waitstatus_to_exitcode(os.waitpid(process, 0)[1]) for process in processes]


def finished(output: Path) -> int:
    """How many inputs are finished by what their markers say."""
    return sum(json.loads(marker.read_text())["complete"] for marker in output.glob("*/separated.json"))


def take_claim(path: str, name: str) -> bool:
    """Whether a process of its own can have a claim."""
    return Claims(Path(path)).take(name)


def _start(arguments: list[str], rank: int, world: int) -> int:
    process = os.fork()
    if process:
        return process
    os.environ.update(RANK=str(rank), LOCAL_RANK=str(rank), WORLD_SIZE=str(world), LOCAL_WORLD_SIZE=str(world))
    status = main(arguments)
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)
