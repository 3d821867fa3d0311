# SPDX-License-Identifier: Apache-2.0
"""What every test file may use: the folder of reference material, and skips for hardware that is not there.

The markers themselves are declared in pyproject.toml, because `--strict-markers` reads them there.
"""

from __future__ import annotations

import os
from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def shared() -> Path:
    """Golden vectors, reference notes and recordings, which are not part of the repository."""
    folder = Path(os.environ.get("HUBSEP_SHARED") or Path(__file__).resolve().parents[2] / "shared")
    if not folder.is_dir():
        pytest.skip(f"no reference material at {folder}; set HUBSEP_SHARED to its folder")
    return folder


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Skips tests marked `gpu` where torch sees no accelerator."""
    marked = [item for item in items if item.get_closest_marker("gpu")]
    if not marked:
        return
    import torch

    if not torch.accelerator.is_available():
        for item in marked:
            item.add_marker(pytest.mark.skip(reason="no accelerator"))
