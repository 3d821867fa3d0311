# SPDX-License-Identifier: Apache-2.0
"""Where the components of AudioLDM 2 are put while they are loaded: whole components, never parts of one."""

from __future__ import annotations

from typing import Any

import torch

from hubsep.errors import CheckpointError


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
        check_device(device_map)
        return dict.fromkeys(sizes, str(torch.device(device_map)))
    if not torch.cuda.is_available():
        raise CheckpointError('device_map="balanced" needs GPUs; there are none.')
    room = {f"cuda:{index}": torch.cuda.mem_get_info(index)[0] for index in range(torch.cuda.device_count())}
    devices = {}
    for name, size in sorted(sizes.items(), key=lambda item: -item[1]):
        device = max(room, key=lambda key: room[key])
        devices[name], room[device] = device, room[device] - size
    return devices


def check_device(device: str | torch.device) -> None:
    """Refuses a device that is not there, in place of what its driver would say.

    Raises:
        CheckpointError: naming it.
    """
    try:
        kind = torch.device(device).type
    except RuntimeError as error:
        raise CheckpointError(f'{device!r} is no device; devices are "cpu", "cuda", "cuda:1", "mps", ...') from error
    there = getattr(torch, kind).is_available() if kind in ("cuda", "mps", "xpu") else True
    if not there:
        raise CheckpointError(f'PyTorch finds no {kind} device here; pass "{first_device()}", or run `hubsep env`')


def first_device() -> str:
    """The first accelerator, or the processor where there is none."""
    found = torch.accelerator.current_accelerator() if torch.accelerator.is_available() else None
    return str(found or "cpu")


def placed(model: Any, device: str) -> Any:
    """The model on a device, with what it is given brought there and what it returns left there."""
    from accelerate import dispatch_model

    return dispatch_model(model, device_map={"": device}, force_hooks=True)


__all__ = ["check_device", "devices_of", "first_device", "placed"]
