# SPDX-License-Identifier: Apache-2.0
"""Loading without transformers' bar over each tensor, which of a small model is gone before anybody reads it.

Decisions: transformers has one hook for all its bars; only the bar over weights is turned off by it, whatever else
shows one goes on, and the hook of somebody else stays. diffusers, where it is there, has a switch alone, which is put
back. Threads may load at the same time, so loads are counted.
"""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any


BAR = "Loading weights"
_LOCK = threading.Lock()
_loads = 0
_before: Any = None
_switched: list[Any] = []


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


__all__ = ["without_bar"]
