# SPDX-License-Identifier: Apache-2.0
"""How much a model may ask for while it is built: in proportion to the weights that lie beside its configuration.

A configuration is a few bytes, and may describe a model of any size. Whoever stored the weights had to store each
number, so a model that asks for many times what is stored is a mistake or an attack. Parameters and buffers are
counted when a module registers them, whatever class it is of: the first one too many ends the building, after
milliseconds where a thousand layers would take a minute. Layers without parameters are bounded by the checks of
configurations.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from torch import Tensor, nn
from torch.nn.modules import module as torch_module

from ..errors import CheckpointError
from .config import memory_errors


# built once, and once more when weights take their places; some are shared, some made and not stored
PER_STORED = 4
# what small models have beside their weights: masks and tables of positions, 64 MB in float32
ALLOWANCE, ALLOWED_TENSORS = 1 << 24, 100


@contextmanager
def budget(label: str, tensors: int, elements: int) -> Iterator[None]:
    """Ends the building of a model that asks for much more than is stored, in this thread.

    Args:
        label: what errors call the model.
        tensors: how many are stored.
        elements: how many numbers they hold.

    Raises:
        CheckpointError: when there are too many tensors or numbers, or too little memory.
    """
    thread, counts = threading.get_ident(), [0, 0]

    def count(owner: nn.Module, name: str, tensor: Tensor | None) -> None:
        if tensor is None or threading.get_ident() != thread:
            return
        counts[0] += 1
        counts[1] += tensor.numel()
        if counts[0] > PER_STORED * tensors + ALLOWED_TENSORS or counts[1] > PER_STORED * elements + ALLOWANCE:
            raise CheckpointError(
                f"{label}: its configuration describes {counts[0]} tensors with {counts[1]} numbers, or more; the "
                f"weights beside it hold {tensors} with {elements}: they do not belong together."
            )

    hooks: list[Any] = [
        torch_module.register_module_parameter_registration_hook(count),
        torch_module.register_module_buffer_registration_hook(count),
    ]
    try:
        with memory_errors(label):
            yield
    finally:
        for hook in hooks:
            hook.remove()


__all__ = ["budget"]
