# SPDX-License-Identifier: Apache-2.0
"""The button "Stop": whose runs are going on, and which of them shall end.

Decisions: nothing is remembered of who runs nothing, so what visitors send is not kept; what is kept of a run goes
with it.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager


class Runs:
    """The runs that are going on, by the page that asked for them."""

    def __init__(self) -> None:
        self._stopped: list[tuple[str, threading.Event]] = []
        self._lock = threading.Lock()

    def __len__(self) -> int:
        """How many are going on."""
        return len(self._stopped)

    @contextmanager
    def of(self, page: str | None) -> Iterator[Callable[[], bool]]:
        """A run of a page; gives a function that says whether it shall end."""
        run = (page or "", threading.Event())
        with self._lock:
            self._stopped.append(run)
        try:
            yield run[1].is_set
        finally:
            with self._lock:
                self._stopped.remove(run)

    def stop(self, page: str | None) -> None:
        """Asks the runs of a page to end; does nothing where there is none."""
        with self._lock:
            for name, event in self._stopped:
                if name == (page or ""):
                    event.set()


__all__ = ["Runs"]
