# SPDX-License-Identifier: Apache-2.0
"""`AutoModelForAudioSeparation`: from a folder or a configuration to the right separation model."""

from __future__ import annotations

from collections import OrderedDict
from typing import Any

from transformers.models.auto.auto_factory import _BaseAutoModelClass, _LazyAutoMapping

from .registry import SYSTEMS, TASK, locate


class AutoModelForAudioSeparation(_BaseAutoModelClass):
    """Finds the model class that belongs to a configuration; use `from_pretrained` or `from_config`."""

    _model_mapping: Any = _LazyAutoMapping(OrderedDict(), OrderedDict())

    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path: Any, *args: Any, **kwargs: Any) -> Any:
        _fill(cls)
        return super().from_pretrained(pretrained_model_name_or_path, *args, **kwargs)

    @classmethod
    def from_config(cls, config: Any, **kwargs: Any) -> Any:
        _fill(cls)
        return super().from_config(config, **kwargs)


def _fill(auto: type[_BaseAutoModelClass]) -> None:
    """Registers the separation models; at import time this could run into the middle of their own imports."""
    for system in SYSTEMS.values():
        if system.task == TASK and system.model is not None:
            auto.register(locate(system.config), locate(system.model), exist_ok=True)


__all__ = ["AutoModelForAudioSeparation"]
