# SPDX-License-Identifier: Apache-2.0
"""Where the pipeline works, and what it keeps in memory: beside diffusers' ways of offloading, loading on demand.

diffusers offloads from an accelerator to main memory. On a machine without one that saves nothing; there,
`from_pretrained(..., on_demand=True)` does. The ways exclude each other, and every one of them is refused with the one
to take instead where it would do nothing or fail.
"""

from __future__ import annotations

from typing import Any

import torch

from hubsep.errors import CheckpointError
from hubsep.pipelines.audioldm2_devices import check_device
from hubsep.pipelines.audioldm2_on_demand import Shelf


class OffloadingMixin:
    """The part of the pipeline that knows devices; a base before `DiffusionPipeline`."""

    _shelf: Shelf | None = None

    @property
    def device(self) -> torch.device:
        """Where the components are, or will be when they are loaded."""
        base: Any = super()
        found: torch.device = base.device if self._shelf is None else self._shelf.device
        return found

    def to(self, *arguments: Any, **options: Any) -> Any:
        """As diffusers' `to`; of components that are loaded on demand it sets where they will be.

        Raises:
            CheckpointError: if there is no such device here, or another precision is asked for of components that are
                loaded on demand.
        """
        base: Any = super()
        for place in (*arguments, options.get("device")):
            if isinstance(place, str | torch.device):
                check_device(place)
        if self._shelf is None:
            return base.to(*arguments, **options)
        options.pop("silence_dtype_warnings", None)
        device, dtype, *_ = torch._C._nn._parse_to(*arguments, **options)
        if dtype is not None:
            raise CheckpointError("components are loaded on demand: pass dtype= to from_pretrained")
        if device is not None and device != self._shelf.device:
            self._shelf.clear()
            self._shelf.device = device
        return self

    def enable_model_cpu_offload(self, gpu_id: int | None = None, device: Any = None) -> None:
        """As diffusers': whole components are moved to an accelerator one after the other.

        Raises:
            CheckpointError: if there is no accelerator.
        """
        self._refuse_on_demand()
        if str(device).partition(":")[0] != "cpu":  # to the processor itself it changes nothing
            check_accelerator("enable_model_cpu_offload", device)
        base: Any = super()
        base.enable_model_cpu_offload(gpu_id=gpu_id, device=device)

    def enable_sequential_cpu_offload(self, gpu_id: int | None = None, device: Any = None) -> None:
        """As diffusers': layers are moved to an accelerator one by one, which is slow and takes the least memory.

        Raises:
            CheckpointError: if there is no accelerator.
        """
        self._refuse_on_demand()
        check_accelerator("enable_sequential_cpu_offload", device)
        base: Any = super()
        base.enable_sequential_cpu_offload(gpu_id=gpu_id, device=device)

    def enable_group_offload(self, onload_device: Any, *arguments: Any, **options: Any) -> None:
        """As diffusers': groups of layers are moved to a device when they work.

        Raises:
            CheckpointError: if components are loaded on demand.
        """
        self._refuse_on_demand()
        base: Any = super()
        base.enable_group_offload(torch.device(onload_device), *arguments, **options)

    def remove_all_hooks(self) -> None:
        """As diffusers': what was offloaded stays where it is from now on.

        Raises:
            CheckpointError: if components are loaded on demand: what loads them are hooks.
        """
        self._refuse_on_demand()
        base: Any = super()
        base.remove_all_hooks()

    def maybe_free_model_hooks(self) -> None:
        """What diffusers calls at the end of a call: what is offloaded or loaded on demand leaves its place."""
        if self._shelf is not None:
            self._shelf.clear()
            return
        base: Any = super()
        base.maybe_free_model_hooks()

    def _refuse_on_demand(self) -> None:
        if self._shelf is not None:
            raise CheckpointError(
                "components are loaded on demand, and dropped after their work: there is nothing to offload. Load "
                "without on_demand=True to offload"
            )


def check_accelerator(method: str, device: Any) -> None:
    """Refuses to offload where there is nothing to offload from.

    Raises:
        CheckpointError: naming the method.
    """
    if device is not None:
        check_device(device)
    kind = None if device is None else torch.device(device).type
    if not torch.accelerator.is_available() or kind == "cpu":
        raise CheckpointError(
            f"{method} moves weights from main memory to an accelerator, and here is none; to save main memory, load "
            "with AudioLDM2Pipeline.from_pretrained(folder, on_demand=True)"
        )


__all__ = ["OffloadingMixin"]
