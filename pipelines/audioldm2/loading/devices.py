# SPDX-License-Identifier: Apache-2.0
"""Where the pipeline works, and what it keeps in memory: beside diffusers' ways of offloading, loading on demand.

diffusers offloads from an accelerator to main memory. On a machine without one that saves nothing; there,
`from_pretrained(..., on_demand=True)` does. The ways exclude each other, and every one of them is refused with the one
to take instead where it would do nothing or fail.

Also here: where the components of AudioLDM 2 are put while they are loaded: whole components, never parts of one.

Also here: the one thing about accelerate's hooks that all stages of AudioLDM 2 need.
"""

from __future__ import annotations

from typing import Any

import torch

from hubsep.errors import CheckpointError
from hubsep.hub.arguments import check_device
from hubsep.hub.bounds import shown

from ..parts import Components
from .on_demand import Shelf


def ready(module: Any) -> None:
    """Brings an offloaded model to its device, where a method other than `forward` is about to be called."""
    hook = getattr(module, "_hf_hook", None)
    if hook is not None and hasattr(hook, "pre_forward"):
        hook.pre_forward(module)


def devices_of(device_map: str | None, sizes: dict[str, int]) -> dict[str, str]:
    """A device for each component with weights: the one that is asked for, or the GPU with the most room left.

    Args:
        device_map: a device, "balanced", or None for no choice.
        sizes: bytes of the weights of each component.

    Raises:
        CheckpointError: if there is nothing to balance over.
    """
    sizes = {name: size for name, size in sizes.items() if size}
    if device_map is None:
        return {}
    if device_map != "balanced":
        if not isinstance(device_map, str | torch.device):
            raise CheckpointError(f'device_map must be a device, or "balanced"; got {shown(device_map)}')
        check_device(device_map, "device_map=")
        return dict.fromkeys(sizes, str(torch.device(device_map)))
    if not torch.cuda.is_available():
        raise CheckpointError('device_map="balanced" needs GPUs; there are none.')
    room = {f"cuda:{index}": torch.cuda.mem_get_info(index)[0] for index in range(torch.cuda.device_count())}
    devices = {}
    for name, size in sorted(sizes.items(), key=lambda item: -item[1]):
        device = max(room, key=lambda key: room[key])
        devices[name], room[device] = device, room[device] - size
    return devices


def first_device() -> str:
    """The first accelerator, or the processor where there is none."""
    accelerator = torch.accelerator.current_accelerator() if torch.accelerator.is_available() else None
    return str(accelerator or "cpu")


def placed(model: Any, device: str) -> Any:
    """The model on a device, with what it is given brought there and what it returns left there."""
    from accelerate import dispatch_model

    return dispatch_model(model, device_map={"": device}, force_hooks=True)


class Devices(Components):
    """The rung that knows where components are; it stands before `DiffusionPipeline`, whose methods it calls."""

    _shelf: Shelf | None = None

    @property
    def device(self) -> torch.device:
        """Where the components are, or will be when they are loaded."""
        place: torch.device = super().device if self._shelf is None else self._shelf.device
        return place

    def to(self, *arguments: Any, **options: Any) -> Any:
        """As diffusers' `to`; of components that are loaded on demand it sets where they will be.

        Raises:
            CheckpointError: if there is no such device here, or another precision is asked for of components that are
                loaded on demand.
        """
        for place in (*arguments, options.get("device")):
            if isinstance(place, str | torch.device) and str(place) != "meta":
                check_device(place, "device ")
        if self._shelf is None:
            return super().to(*arguments, **options)
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
        super().enable_model_cpu_offload(gpu_id=gpu_id, device=device)

    def enable_sequential_cpu_offload(self, gpu_id: int | None = None, device: Any = None) -> None:
        """As diffusers': layers are moved to an accelerator one by one, which is slow and takes the least memory.

        Raises:
            CheckpointError: if there is no accelerator.
        """
        self._refuse_on_demand()
        check_accelerator("enable_sequential_cpu_offload", device)
        super().enable_sequential_cpu_offload(gpu_id=gpu_id, device=device)

    def enable_group_offload(self, onload_device: Any, *arguments: Any, **options: Any) -> None:
        """As diffusers': groups of layers are moved to a device when they work.

        Raises:
            CheckpointError: if components are loaded on demand.
        """
        self._refuse_on_demand()
        super().enable_group_offload(torch.device(onload_device), *arguments, **options)

    def remove_all_hooks(self) -> None:
        """As diffusers': what was offloaded stays where it is from now on.

        Raises:
            CheckpointError: if components are loaded on demand: what loads them are hooks.
        """
        self._refuse_on_demand()
        super().remove_all_hooks()

    def maybe_free_model_hooks(self) -> None:
        """What diffusers calls at the end of a call: what is offloaded or loaded on demand leaves its place."""
        if self._shelf is not None:
            self._shelf.clear()
            return
        super().maybe_free_model_hooks()

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


__all__ = ["Devices", "devices_of", "first_device", "placed", "ready"]
