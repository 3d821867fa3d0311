# SPDX-License-Identifier: Apache-2.0
"""What every test file may use: the folder of reference material, skips for hardware that is not there, processes.

The markers themselves are declared in pyproject.toml, because `--strict-markers` reads them there.

The whole suite runs in several processes where there are several cores (`-n 0`: in one); a few files run in one, as
each process pays for its imports. Tests are tiny: one thread each is faster than many that wait for each other.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest


if TYPE_CHECKING:
    from hub_server import HubServer


MAX_PROCESSES = 4  # more gain little: each takes as long to import and collect as all its tests then take
PROCESS_BYTES = 3 << 30
MANY_FILES = 10

if "PYTEST_XDIST_WORKER" in os.environ:
    os.environ.setdefault("OMP_NUM_THREADS", "1")


@pytest.hookimpl(tryfirst=True)
def pytest_cmdline_main(config: pytest.Config) -> None:
    """Asks pytest-xdist, where it is installed, for a process a core, unless the command says how many."""
    options = config.option
    unsaid = getattr(options, "numprocesses", 0) is None and not options.usepdb and not options.collectonly
    whole = config.args_source is pytest.Config.ArgsSource.TESTPATHS or len(config.args) > MANY_FILES
    if unsaid and whole and "PYTEST_XDIST_WORKER" not in os.environ:
        count = min(cores(), free_bytes() // PROCESS_BYTES, MAX_PROCESSES)
        options.numprocesses = count if count > 1 else 0
        options.dist = "worksteal"  # neighbours share their fixtures, so each process begins with a row of them
        if count > 1:
            print(f"{count} processes find the tests: about half a minute until the first dots", flush=True)


def cores() -> int:
    """Cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def free_bytes() -> int:
    """Memory that can be had without swapping; where the system does not say, enough for two processes."""
    try:
        lines = Path("/proc/meminfo").read_text(encoding="ascii").splitlines()
        return next(int(line.split()[1]) for line in lines if line.startswith("MemAvailable")) * 1_024
    except (OSError, StopIteration):
        return 2 * PROCESS_BYTES


@pytest.fixture(scope="session")
def shared() -> Path:
    """Golden vectors, reference notes and recordings, which are not part of the repository."""
    folder = Path(os.environ.get("HUBSEP_SHARED") or Path(__file__).resolve().parents[2] / "shared")
    if not folder.is_dir():
        pytest.skip(f"no reference material at {folder}; set HUBSEP_SHARED to its folder")
    return folder


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[HubServer]:
    """A Hub of its own on this computer, which this process is pointed at, with the right to write."""
    from hub_client import point_at
    from hub_server import WRITER, HubServer
    from huggingface_hub.utils import close_session

    server = HubServer()
    point_at(monkeypatch, server.url, tmp_path / "home", WRITER)
    monkeypatch.chdir(tmp_path)
    yield server
    server.stop()
    close_session()


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Skips tests marked `gpu` where torch sees no accelerator."""
    marked = [item for item in items if item.get_closest_marker("gpu")]
    if not marked:
        return
    import torch

    if not torch.accelerator.is_available():
        for item in marked:
            item.add_marker(pytest.mark.skip(reason="no accelerator"))
