# SPDX-License-Identifier: Apache-2.0
"""A running mean of the weights of a training run: what a long run at a constant rate settles to without decaying it.

The mean is kept with every checkpoint, so that a resumed run has the mean an uninterrupted one would have had.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn


FILE = "averaged.safetensors"


class AveragedWeights:
    """Exponential mean of a model's parameters; with `decay` 0 it is the parameters and costs nothing."""

    def __init__(self, model: nn.Module, decay: float):
        self.decay, self.steps = decay, 0
        self.parameters = {name: p for name, p in model.named_parameters() if p.requires_grad} if decay else {}
        self.means = {name: p.detach().clone() for name, p in self.parameters.items()}

    @torch.no_grad()
    def update(self) -> None:
        """Takes in the parameters of one more step; the first steps count more, so that the start is forgotten."""
        if not self.decay:
            return
        self.steps += 1
        decay = min(self.decay, self.steps / (self.steps + 10))
        torch._foreach_lerp_(list(self.means.values()), list(self.parameters.values()), 1 - decay)

    @contextmanager
    def applied(self) -> Iterator[None]:
        """Within this the model has the mean weights."""
        self._swap()
        try:
            yield
        finally:
            self._swap()

    @torch.no_grad()
    def _swap(self) -> None:
        for name, parameter in self.parameters.items():
            kept = parameter.detach().clone()
            parameter.copy_(self.means[name])
            self.means[name].copy_(kept)

    def save(self, folder: Path) -> None:
        """Writes the mean next to a checkpoint."""
        if self.decay:
            state: dict[str, Tensor] = {name: mean.contiguous() for name, mean in self.means.items()}
            save_file(state, folder / FILE, metadata={"steps": str(self.steps)})

    def load(self, folder: Path, steps: int) -> None:
        """Reads what `save` wrote after `steps`; a checkpoint without it starts from its own weights."""
        if not self.decay:
            return
        self.steps = steps
        state = load_file(folder / FILE) if (folder / FILE).is_file() else self.parameters
        for name, mean in self.means.items():
            mean.copy_(state[name].detach())


__all__ = ["AveragedWeights"]
