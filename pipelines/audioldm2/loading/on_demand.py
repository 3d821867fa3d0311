# SPDX-License-Identifier: Apache-2.0
"""Components of AudioLDM 2 that are in memory only while they are at work.

A published AudioLDM 2 is used stage by stage: CLAP, T5, GPT-2, the U-Net, the autoencoder, the vocoder. Decisions:

- A component is there from the start with its class, configuration and shapes, but without weights (on the "meta"
  device). They are read when it is called, and dropped when another one needs the room: never is more loaded than the
  largest component takes by itself, which is the U-Net.
- On a CPU even that is not in memory at once: weights are mapped, from their file or from one they were converted
  into, and each block lets go of its own when it has run (`audioldm2_mapped`).
- GPT-2 reads hidden states: its table of words (154 MB at the published size) is not loaded. It is when the component
  is saved, so a saved folder is complete.
- The module stays the same object, with its hooks and attention processors. What training changes would be lost when
  the weights are dropped, so they do not require gradients; adapters go onto components that are loaded whole.
"""

from __future__ import annotations

import ctypes
import sys
from collections.abc import Callable, Iterable
from functools import wraps
from pathlib import Path
from typing import Any

import torch
from accelerate.hooks import ModelHook, add_hook_to_module
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from hubsep.errors import CheckpointError
from hubsep.hub.tensors import StoredTensor, read_header

from .components import NOT_WEIGHTS
from .mapped import KINDS, Span, converted, mapped, release_after_use


M_MMAP_THRESHOLD, AT_ONCE = -3, 4 << 20
UNUSED = {"language_model": ("wte.weight", "transformer.wte.weight", "lm_head.weight")}
Place = tuple[nn.Module, str]
FileState = tuple[int, int, int, tuple[str, ...]]  # inode, time and size of a file, and which of its tensors are read


class StoredComponent:
    """A module without weights, and the files they are in.

    Args:
        module: on the "meta" device but for its buffers.
        files: names the files; they are looked up each time, because saving to the same folder replaces them.
        whole: loads the component as its own class does, where files name their weights as older releases did.
        unused: names of weights that are loaded for saving only.
    """

    def __init__(
        self, module: nn.Module, files: Callable[[], list[Path]], whole: Callable[[], nn.Module], unused: Iterable[str]
    ):
        self.module = module.requires_grad_(False)
        self._files, self._whole, self._unused = files, whole, set(unused)
        places = dict(_places(module))
        weights = [place for place in places.values() if _is_weight(*place)]
        self._empty = [(owner, name, owner._parameters[name]) for owner, name in weights]
        same: dict[int, list[Place]] = {}
        for owner, name in places.values():
            same.setdefault(id(_tensor(owner, name)), []).append((owner, name))
        self._places = {key: same[id(_tensor(*place))] for key, place in places.items()}  # tied ones together
        self._fixed = [(owner, name) for owner, name, kept in _buffers(module) if not kept]
        self._hooks: list[RemovableHandle] = []
        self._made: dict[Path, tuple[FileState, list[tuple[Tensor, Span]]]] = {}
        self.bytes = sum(tensor.numel() * tensor.element_size() for tensor in module.parameters())
        self._by_name = self._names_fit()
        if not self._by_name:
            self._whole()  # for its errors

    def load(self, device: torch.device, *, everything: bool = False) -> None:
        """Gives the module its weights."""
        if not self._by_name:
            self._take(dict(self._whole().state_dict(keep_vars=True)), device)
        spans: dict[int, Span] = {}
        for path in self._existing() if self._by_name else ():
            entries = [entry for entry in read_header(path) if entry.name in self._places]
            wanted = [entry for entry in entries if everything or entry.name not in self._unused]
            for entry, (tensor, span) in zip(wanted, self._read(path, wanted), strict=True):
                kept = self._put(entry.name, tensor, device)
                if kept is not None and kept.data_ptr() == tensor.data_ptr():
                    spans[id(kept)] = span
                else:  # a copy was taken, to an accelerator or of a buffer
                    span.file.release(span.start, span.stop)
        for owner, name in self._fixed:
            owner._buffers[name] = _tensor(owner, name).to(device)
        self._hooks = release_after_use(self.module, spans)

    def drop(self) -> None:
        """Takes them away again."""
        for hook in self._hooks:
            hook.remove()
        self._hooks = []
        for owner, name, empty in self._empty:
            owner._parameters[name] = empty

    def _existing(self) -> list[Path]:
        files = self._files()
        if not files:
            raise CheckpointError("the weights of a component are gone: a folder loaded on demand has to stay.")
        return files

    def _names_fit(self) -> bool:
        """Whether the files hold what the module has, by the same names."""
        stored = {entry.name: entry for path in self._existing() for entry in read_header(path)}
        left = [name for name in stored if name not in self._places and not NOT_WEIGHTS.search(name)]
        groups = {id(group): group for group in self._places.values()}
        filled = {id(self._places[name]) for name in stored if name in self._places}
        shapes = all(
            entry.shape == _tensor(*self._places[name][0]).shape and entry.dtype in KINDS
            for name, entry in stored.items()
            if name in self._places
        )
        return not left and shapes and filled == groups.keys()

    def _read(self, path: Path, entries: list[StoredTensor]) -> Iterable[tuple[Tensor, Span]]:
        """The tensors of a file in the precision of the module, and where they are mapped."""
        kinds = [_tensor(*self._places[entry.name][0]).dtype for entry in entries]
        if all(KINDS[entry.dtype] == kind for entry, kind in zip(entries, kinds, strict=True)):
            return mapped(path, entries)
        return self._converted(path, entries, kinds)

    def _converted(
        self, path: Path, entries: list[StoredTensor], kinds: list[torch.dtype]
    ) -> list[tuple[Tensor, Span]]:
        """As `converted`, once for a file as long as nobody replaces it and the same of it is wanted."""
        status = path.stat()
        state = (status.st_ino, status.st_mtime_ns, status.st_size, tuple(entry.name for entry in entries))
        if path not in self._made or self._made[path][0] != state:
            self._made[path] = state, converted(path, entries, kinds)
        return self._made[path][1]

    def _take(self, state: dict[str, Tensor], device: torch.device) -> None:
        for name, tensor in state.items():
            if name in self._places:
                self._put(name, tensor.detach(), device)

    def _put(self, name: str, tensor: Tensor, device: torch.device) -> nn.Parameter | None:
        parameter = nn.Parameter(tensor.to(device), requires_grad=False) if tensor.is_floating_point() else None
        for owner, local in self._places[name]:
            if _is_weight(owner, local):
                owner._parameters[local] = parameter
            else:
                # buffers stay when weights are dropped: a mapped one would keep the whole file in memory
                owner._buffers[local] = tensor.to(device, copy=True)
        return parameter


class Shelf:
    """The components of a pipeline that are loaded on demand.

    Args:
        device: where they work.
    """

    def __init__(self, device: torch.device):
        self.device = device
        hand_back_at_once()
        self._stored: dict[str, StoredComponent] = {}
        self.loaded: list[str] = []  # the one used last is the last

    def put(self, name: str, component: StoredComponent) -> Any:
        """Adds a component; it loads itself from now on."""
        self._stored[name] = component
        module: Any = component.module
        add_hook_to_module(module, OnDemandHook(self, name))
        save = module.save_pretrained

        @wraps(save)
        def save_pretrained(*arguments: Any, **options: Any) -> Any:
            self.clear()
            component.load(torch.device("cpu"), everything=True)
            try:
                return save(*arguments, **options)
            finally:
                component.drop()

        module.save_pretrained = save_pretrained
        return module

    def bring(self, name: str) -> None:
        """Loads a component, if it is not, after dropping what there is no room for beside it."""
        if name in self.loaded:
            self.loaded.remove(name)
        else:
            room = max(component.bytes for component in self._stored.values()) - self._stored[name].bytes
            while sum(self._stored[other].bytes for other in self.loaded) > room:
                self._stored[self.loaded.pop(0)].drop()
            give_back()
            self._stored[name].load(self.device)
            give_back()  # what conversion to another precision took
        self.loaded.append(name)

    def clear(self) -> None:
        """Drops all of them."""
        for name in self.loaded:
            self._stored[name].drop()
        self.loaded = []


def give_back() -> None:
    """Hands what was freed back to the system, where the allocator (glibc's) would keep it for itself."""
    trim = _of_glibc("malloc_trim")
    if trim is not None:
        trim(0)


def hand_back_at_once() -> None:
    """Has the allocator (glibc's), in this process, hand tensors of 4 MB and more back as soon as they are freed.

    It would learn from the first of them to keep up to 32 MB each for what comes next, and could not use much of that:
    0.2 GB at the published size.
    """
    option = _of_glibc("mallopt")
    if option is not None:
        option(M_MMAP_THRESHOLD, AT_ONCE)


def _of_glibc(name: str) -> Any:
    return getattr(ctypes.CDLL(None), name, None) if sys.platform == "linux" else None


class OnDemandHook(ModelHook):
    """Loads a component before it is called, by `forward` or after `ready`."""

    def __init__(self, shelf: Shelf, name: str):
        self._shelf, self._name = shelf, name

    @property
    def execution_device(self) -> torch.device:
        """Where diffusers looks up the device a pipeline works on."""
        return self._shelf.device

    def pre_forward(self, module: nn.Module, *args: Any, **kwargs: Any) -> tuple[Any, Any]:
        """As accelerate calls it."""
        del module
        self._shelf.bring(self._name)
        return args, kwargs


def _places(module: nn.Module) -> Iterable[tuple[str, Place]]:
    """Which attribute of which module each name of its state stands for."""
    for prefix, owner in module.named_modules(remove_duplicate=False):
        lead = f"{prefix}." if prefix else ""
        yield from ((lead + name, (owner, name)) for name, weight in owner._parameters.items() if weight is not None)
        kept = owner._non_persistent_buffers_set
        yield from (
            (lead + name, (owner, name)) for name, b in owner._buffers.items() if b is not None and name not in kept
        )


def _buffers(module: nn.Module) -> Iterable[tuple[nn.Module, str, bool]]:
    """Every buffer, and whether it is stored."""
    for owner in module.modules():
        for name, buffer in owner._buffers.items():
            if buffer is not None:
                yield owner, name, name not in owner._non_persistent_buffers_set


def _is_weight(owner: nn.Module, name: str) -> bool:
    return name in owner._parameters


def _tensor(owner: nn.Module, name: str) -> Any:
    return owner._parameters[name] if _is_weight(owner, name) else owner._buffers[name]


__all__ = ["OnDemandHook", "Shelf", "StoredComponent", "UNUSED", "give_back"]
