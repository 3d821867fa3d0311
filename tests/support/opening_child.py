# SPDX-License-Identifier: Apache-2.0
"""Opening published checkpoints by name, in processes that end at a moment of the clock or run at the same time."""

from __future__ import annotations

import signal
from pathlib import Path

import pytest
from hub_client import point_at

from hubsep.hub.opening import open_published
from hubsep.hub.published import find_published


def open_name(name: str, hub: str, home: str, end_after_s: float) -> str:
    """The folder of a name; with `end_after_s` the process ends then, and nothing in it can tidy up."""
    point_at(pytest.MonkeyPatch(), hub, Path(home), None)
    row = find_published(name)
    assert row is not None
    signal.setitimer(signal.ITIMER_REAL, float(end_after_s))  # nobody catches it: it ends the process as SIGKILL does
    folder = open_published(row)
    signal.setitimer(signal.ITIMER_REAL, 0)
    return str(folder)
