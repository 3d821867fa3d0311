# SPDX-License-Identifier: Apache-2.0
"""Opening by name, killed at random moments of download and conversion, and by two processes at once."""

from __future__ import annotations

import os
import random
import shutil
import signal
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import published_conv_tasnet
import pytest
from children import Children
from hub_repository import Repository
from hub_server import HubServer

from hubsep.hub import verify_manifest
from hubsep.hub.opening import Kept, kept_at
from hubsep.hub.published import find_published


NAME = "JorisCos/ConvTasNet_Libri2Mix_sepclean_16k"
KILLS, TRIES = 20, 60
END_S = 60.0  # that a process takes at most to see that nobody waits for it any more


@pytest.fixture(scope="module")
def child() -> Iterator[Children]:
    children = Children("opening_child")
    yield children
    children.close()


@pytest.fixture
def place(hub: HubServer, tmp_path: Path) -> Kept:
    """Where a checkpoint is kept that the Hub has."""
    file = tmp_path / "pytorch_model.bin"
    published_conv_tasnet.write_asteroid(file, published_conv_tasnet.tensors(), facts={"licenses": []})
    hub.repositories[NAME] = Repository()
    hub.repositories[NAME].commit("main", {file.name: file.read_bytes()}, "published")
    row = find_published(NAME)
    assert row is not None
    return kept_at(row)


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


@pytest.mark.slow
@pytest.mark.timeout(3_600)
def test_twenty_kills_leave_nothing_half_and_the_next_call_goes_on(
    hub: HubServer, place: Kept, child: Children, tmp_path: Path
) -> None:
    home, moments, killed = str(tmp_path / "home"), random.Random(0), 0

    def open_it(end_after_s: float = 0) -> bool:
        """Whether it was killed."""
        status, folder, output = child.run("open_name", NAME, hub.url, home, end_after_s)
        was_killed = os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGALRM
        assert was_killed or (status, folder) == (0, str(place.model)), output[-3_000:]
        return was_killed

    start = time.monotonic()
    open_it()
    seconds, expected = time.monotonic() - start, contents(place.model)
    shutil.rmtree(tmp_path / "home")
    for _ in range(TRIES):
        # small moments too: fetching is the first part of it, and short
        killed += open_it(seconds * 10 ** moments.uniform(-1.7, 0))
        assert not place.is_complete or place.model.exists(), "a record of nothing"
        if place.model.exists():
            verify_manifest(place.model)
            assert contents(place.model) == expected
        if place.is_complete:
            shutil.rmtree(tmp_path / "home")
        if killed == KILLS:
            break
    assert killed == KILLS
    assert not open_it()
    assert contents(place.model) == expected
    assert {path.name for path in place.folder.iterdir()} == {".lock", "model", "source.json"}, "a killed run's litter"


@pytest.mark.slow
def test_who_is_killed_leaves_nobody_who_converts_on(
    hub: HubServer, place: Kept, child: Children, tmp_path: Path
) -> None:
    child.run("open_name", NAME, hub.url, str(tmp_path / "home"), 1.5)
    deadline = time.monotonic() + END_S
    while time.monotonic() < deadline and working_in(place.folder):
        time.sleep(0.1)
    assert not working_in(place.folder)
    assert not place.is_complete


def working_in(folder: Path) -> list[str]:
    """Processes whose working folder this is."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            if os.readlink(process / "cwd") == str(folder):
                found.append(process.name)
        except OSError:  # it ended, or is somebody else's
            continue
    return found


@pytest.mark.slow
def test_two_processes_at_once_fetch_and_convert_once(
    hub: HubServer, place: Kept, child: Children, tmp_path: Path
) -> None:
    second, ends = Children("opening_child"), []

    def open_it(children: Children) -> None:
        ends.append(children("open_name", NAME, hub.url, str(tmp_path / "home"), 0))

    opening = [threading.Thread(target=open_it, args=(each,)) for each in (child, second)]
    for thread in opening:
        thread.start()
    for thread in opening:
        thread.join(300)
    second.close()
    assert ends == [str(place.model)] * 2
    assert len(hub.seen("GET .*/pytorch_model.bin")) == 1
    verify_manifest(place.model)
