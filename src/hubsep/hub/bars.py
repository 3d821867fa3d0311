# SPDX-License-Identifier: Apache-2.0
"""Loading without transformers' bar over each tensor, which of a small model is gone before anybody reads it.

Also here: its table of weights that do not fit, which waits until it is clear that loading did not fail: beside an
error that says the same in one sentence, nobody should have to read it.

Decisions: transformers has one hook for all its bars; only the bar over weights is turned off by it, whatever else
shows one goes on, and the hook of somebody else stays. diffusers, where it is there, has a switch alone, which is put
back. Threads may load at the same time, so loads are counted.
"""

from __future__ import annotations

import logging as standard
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any


BAR = "Loading weights"
REPORT = "LOAD REPORT"  # in the one line that begins the table
REPORTERS = ("transformers.modeling_utils", "diffusers.models.modeling_utils")  # loggers
_LOCK = threading.Lock()
_loads = 0
_before: Any = None
_switched: list[Any] = []
_held: ContextVar[list[standard.LogRecord] | None] = ContextVar("held", default=None)


@contextmanager
def without_bar() -> Iterator[None]:
    """Loads without the bar over the weights."""
    global _loads, _before
    from transformers.utils import logging

    with _LOCK:
        if _loads == 0:
            _before = logging.set_tqdm_hook(_silent)
            diffusers = sys.modules.get("diffusers.utils.logging")
            if diffusers is not None and diffusers.is_progress_bar_enabled():
                diffusers.disable_progress_bar()
                _switched.append(diffusers)
        _loads += 1
    try:
        yield
    finally:
        with _LOCK:
            _loads -= 1
            if _loads == 0:
                logging.set_tqdm_hook(_before)
                while _switched:
                    _switched.pop().enable_progress_bar()


def _silent(factory: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    if kwargs.get("desc") == BAR:
        kwargs = {**kwargs, "disable": True}
    return factory(*args, **kwargs) if _before is None else _before(factory, args, kwargs)


@contextmanager
def reports_if_loaded() -> Iterator[None]:
    """Holds tables of weights that do not fit back, and shows them at the end if nothing was raised."""
    for name in REPORTERS:
        standard.getLogger(name).addFilter(_goes_on)  # which keeps one of each
    records: list[standard.LogRecord] = []
    mark = _held.set(records)
    try:
        yield
    finally:
        _held.reset(mark)
    for record in records:
        standard.getLogger(record.name).handle(record)


def _goes_on(record: standard.LogRecord) -> bool:
    records = _held.get()
    if records is None or REPORT not in str(record.msg):
        return True
    records.append(record)
    return False


__all__ = ["reports_if_loaded", "without_bar"]
