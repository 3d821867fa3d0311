# SPDX-License-Identifier: Apache-2.0
"""What a Python caller says of loading, looked at before anything is read: places, precisions, devices, revisions.

Decisions: a value that would be passed over in silence is refused like one that is wrong, since whoever wrote it meant
something. Errors name the argument as the caller wrote it. The command line asks here too whether a device is there.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from typing import Any

from ..errors import CheckpointError, HubsepError
from ..shipped import DEFAULT_MODEL
from ..texts import did_you_mean, near
from .bounds import is_whole, shown, true_or_false
from .json_files import DTYPE_NAMES


STRATEGIES = ("auto", "balanced", "balanced_low_0", "sequential")  # of accelerate, in place of a device
VARIANT = re.compile(r"[\w-]+")
SIZE = re.compile(r"\s*\d+(\.\d+)?\s*[KMGT]i?B\s*", re.IGNORECASE)
NEWEST = (None, "main")  # revisions that every folder is at; transformers asks for "main" where nobody named one


def check_place(what: str, value: Any, kind: type[HubsepError] = CheckpointError) -> str:
    """The path or name that a caller gives.

    Args:
        what: the argument, for the error.
        value: of it.
        kind: of the error.

    Raises:
        HubsepError: of that kind, if it is neither a text nor a path.
    """
    text = os.fspath(value) if isinstance(value, str | os.PathLike) else None
    if not isinstance(text, str):
        raise kind(
            f"{what} must be a folder, or a name such as {DEFAULT_MODEL!r}, got {shown(value)} "
            f"({type(value).__name__})."
        )
    return text


def check_hub_options(*, revision: Any = None, token: Any = None, cache_dir: Any = None, **switches: Any) -> None:
    """Refuses options of the Hub that are of another kind than they have to be.

    Raises:
        CheckpointError: naming the option, its value and what it may be.
    """
    if revision is not None and not isinstance(revision, str):
        raise CheckpointError(f"revision must be a text, the name of a commit, branch or tag; got {shown(revision)}")
    if token is not None and not isinstance(token, str | bool):
        raise CheckpointError(f"token must be a text, True, False or None; got the {type(token).__name__}")
    if cache_dir is not None and not isinstance(cache_dir, str | os.PathLike):
        raise CheckpointError(f"cache_dir must be a folder, got {shown(cache_dir)}")
    for name, value in switches.items():
        if value is not None:
            true_or_false(name, value)


def check_revision(revision: str | None, name: str, what: str = "revision") -> None:
    """Refuses the revision of a folder on this computer, which has none.

    Args:
        revision: as the caller gives it.
        name: of the folder, or of the shipped model.
        what: the argument, for the error.

    Raises:
        CheckpointError: naming both.
    """
    if revision not in NEWEST:
        raise CheckpointError(
            f"{what}={shown(revision)} is of a repository of the Hub, and {shown(name)} is a folder on this computer: "
            f"leave {what} out, or name the repository (org/name)."
        )


def check_precision(value: Any, what: str = "dtype") -> Any:
    """A precision as torch has it: a name becomes its `torch.dtype`; None, "auto" and None in a dict stay.

    Args:
        value: a `torch.dtype`, its name, "auto", None, or a dict of these for the parts of a model.
        what: the argument, for the error.

    Raises:
        CheckpointError: if weights cannot have it; with the ones that they can have.
    """
    import torch

    if isinstance(value, Mapping):
        return {part: check_precision(each, f"{what}[{shown(part)}]") for part, each in value.items()}
    if value is None or (isinstance(value, str) and value == "auto"):
        return value
    name = str(value).removeprefix("torch.") if isinstance(value, str | torch.dtype) else ""
    if name not in DTYPE_NAMES:
        hint = did_you_mean(name, DTYPE_NAMES, {"half": "float16", "fp16": "float16", "bf16": "bfloat16"})
        raise CheckpointError(
            f"{what} is {shown(value)}; weights may have {', '.join(DTYPE_NAMES)}, as texts or as of torch, or "
            f'"auto" for what they were saved in.{hint}'
        )
    return getattr(torch, name)


def check_device(device: Any, what: str = "device=") -> None:
    """Refuses a device that this computer does not have.

    Args:
        device: a name, a number of a GPU as transformers counts them (-1 is the processor), a `torch.device` or None.
        what: how the caller wrote it, for the error.

    Raises:
        CheckpointError: naming those it has.
    """
    import torch

    if device is None:
        return
    names = device_names()
    gpu = names[1] if len(names) > 1 else "cuda"
    if isinstance(device, int) and not isinstance(device, bool):
        name = "cpu" if device < 0 else f"{gpu}:{device}"
    else:
        name = str(device) if isinstance(device, str | torch.device) else ""
    if name in (*names, "cpu:0"):
        return
    meant = near(name, names, {"gpu": gpu, "nvidia": "cuda", "gpu:0": f"{gpu}:0", "processor": "cpu"}) if name else ""
    hint = f" Did you mean {meant}?" if meant else " A GPU is called cuda, or mps on a Mac." if "gpu" in name else ""
    value = repr(name[:80]) if isinstance(device, str | torch.device) else shown(device)
    raise CheckpointError(
        f"{what}{value} is not there: this computer has {', '.join(names)}.{hint} `hubsep env` says why"
    )


def device_names() -> list[str]:
    """The devices of this computer that torch can use, as torch calls them; the processor is the first."""
    import torch

    kind = torch.accelerator.current_accelerator() if torch.accelerator.is_available() else None
    count = torch.accelerator.device_count() if kind is not None else 0
    return ["cpu"] if kind is None else ["cpu", kind.type, *(f"{kind.type}:{index}" for index in range(count))]


def check_device_map(value: Any) -> None:
    """Refuses a `device_map` that names no device of this computer, and no way to share a model out among them.

    Raises:
        CheckpointError: naming what is wrong, and what there is.
    """
    if isinstance(value, Mapping):
        for part, device in value.items():
            if not isinstance(part, str):
                raise CheckpointError(f"device_map must name parts of the model by texts, got {shown(part)}")
            if device != "disk":
                check_device(device, f"device_map[{part!r}]=")
    elif isinstance(value, int) and not isinstance(value, bool) and value < 0:
        raise CheckpointError(f'device_map={value} is no GPU; pass device_map="cpu" for the processor')
    elif not (isinstance(value, str) and value in STRATEGIES):
        check_device(value, "device_map=")


def check_saving(place: Any, max_shard_size: Any, variant: Any = None) -> None:
    """Refuses what no folder with weights can be written from.

    Args:
        place: of the folder.
        max_shard_size: of one file of weights.
        variant: part of the names of these files.

    Raises:
        CheckpointError: naming the argument and its value.
    """
    if "\0" in check_place("save_directory", place):
        raise CheckpointError(f"save_directory is {shown(place)}; no folder can have that name.")
    check_shard_size(max_shard_size)
    if variant is not None and not (isinstance(variant, str) and VARIANT.fullmatch(variant)):
        raise CheckpointError(
            f"variant must be a word that goes into names of files, such as fp16; got {shown(variant)}"
        )


def check_shard_size(size: Any) -> None:
    """Refuses what is no size of a file.

    Raises:
        CheckpointError: naming it.
    """
    if not (is_whole(size) or (isinstance(size, str) and SIZE.fullmatch(size))):
        raise CheckpointError(f'max_shard_size must be bytes, or a text such as "15MB" or "2GB"; got {shown(size)}')


def check_options(what: str, value: Any) -> dict[str, Any]:
    """Several arguments by their names; none for None.

    Raises:
        CheckpointError: if they are no dict of names.
    """
    if value is None:
        return {}
    if not isinstance(value, Mapping) or not all(isinstance(name, str) for name in value):
        raise CheckpointError(f"{what} must be a dict of arguments by their names, got {shown(value)}")
    return dict(value)


__all__ = [
    "check_device",
    "check_device_map",
    "check_hub_options",
    "check_options",
    "check_place",
    "check_precision",
    "check_revision",
    "check_saving",
    "check_shard_size",
    "device_names",
]
