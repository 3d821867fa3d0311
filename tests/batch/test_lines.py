# SPDX-License-Identifier: Apache-2.0
"""What a command prints beside its results."""

from __future__ import annotations

import os
import pty
import sys

import pytest

from hubsep.batch.lines import shown_while


def test_work_is_named_on_a_terminal_until_it_is_done(monkeypatch: pytest.MonkeyPatch) -> None:
    ours, terminal = pty.openpty()
    with os.fdopen(ours, "rb", buffering=0) as screen, os.fdopen(terminal, "w") as stderr:
        monkeypatch.setattr(sys, "stderr", stderr)
        with shown_while("opening a\x1b[2Jmodel"):
            seen = screen.read(1_000)
        assert seen.startswith(b"opening a")
        assert b"\x1b" not in seen, "a name does not reach the terminal as a command"
        assert screen.read(1_000) == b" " * (len(seen) - 1) + b"\r"


def test_nothing_is_said_where_nobody_watches(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(OSError, match="gone"), shown_while("opening it"):
        raise OSError("gone")
    assert capsys.readouterr() == ("", "")
