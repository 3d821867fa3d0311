# SPDX-License-Identifier: Apache-2.0
"""The one thing about accelerate's hooks that all stages of AudioLDM 2 need."""

from __future__ import annotations

from typing import Any


def ready(module: Any) -> None:
    """Brings an offloaded model to its device, where a method other than `forward` is about to be called."""
    hook = getattr(module, "_hf_hook", None)
    if hook is not None and hasattr(hook, "pre_forward"):
        hook.pre_forward(module)


__all__ = ["ready"]
