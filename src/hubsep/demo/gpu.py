# SPDX-License-Identifier: Apache-2.0
"""The same app on a CPU, on a GPU of its own, and on ZeroGPU, which lends one for the length of a call.

ZeroGPU runs what `spaces.GPU` decorates in another process: its arguments are pickled, so it takes no callbacks, and
models have to be on "cuda" before, when the app starts.
"""

from __future__ import annotations

import importlib
import os
from collections.abc import Callable
from contextlib import suppress
from typing import Any, TypeVar

from ..errors import CheckpointError


Function = TypeVar("Function", bound=Callable[..., Any])


def on_zero() -> bool:
    """Whether this runs on ZeroGPU."""
    return os.environ.get("SPACES_ZERO_GPU", "").lower() in ("1", "t", "true")


def on_gpu(seconds: int) -> Callable[[Function], Function]:
    """Decorates a function that needs the GPU for at most `seconds`; it does nothing off ZeroGPU.

    Raises:
        CheckpointError: on ZeroGPU without its package.
    """
    if not on_zero():
        return lambda function: function
    try:
        # a folder of this name beside the app is a package without contents
        lend: Callable[[Function], Function] = importlib.import_module("spaces").GPU(duration=seconds)
    except (ImportError, AttributeError) as error:
        raise CheckpointError("ZeroGPU needs the package spaces; add it to requirements.txt") from error
    return lend


def device() -> str:
    """Where models go."""
    if on_zero():
        return "cuda"
    import torch

    return "cuda" if torch.cuda.is_available() else "cpu"


if on_zero():  # it has to be imported before torch looks for a GPU; without it, `on_gpu` says so
    with suppress(ImportError):
        importlib.import_module("spaces")

__all__ = ["device", "on_gpu", "on_zero"]
