# SPDX-License-Identifier: Apache-2.0
"""What every test file may use: the folder of reference material, and skips for hardware that is not there.

The markers themselves are declared in pyproject.toml, because `--strict-markers` reads them there.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest


if TYPE_CHECKING:
    from hub_server import HubServer


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
