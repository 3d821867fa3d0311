# SPDX-License-Identifier: Apache-2.0
"""Folders of AudioLDM 2 as diffusers lays them out: checked before anything is loaded, saved all or nothing.

Decisions:

- The classes `model_index.json` may name are those of `COMPONENTS`; a folder cannot ask for any other, and no code in
  it is run.
  Weights are `.safetensors`, and each component's have to fit its configuration to the last tensor.
- The published U-Nets were converted with eight attention heads everywhere, where the original has heads of width 32:
  the same weights, another result. The folder's configuration is followed unless `attention_heads="original"`.
- Components are loaded one by one, so that each can be put on its device at once, and be given or left out; or, with
  `on_demand`, when they are needed.
- What is saved loads with `diffusers.AudioLDM2Pipeline` too, as far as that runs; `audio_mae` is ours alone.
"""

from __future__ import annotations

import json
import os
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import torch

from hubsep.cards.card import sounds_of
from hubsep.errors import CheckpointError
from hubsep.hub.arguments import check_place, check_precision, check_saving
from hubsep.hub.bounds import shown, true_or_false
from hubsep.hub.cards import carry_card
from hubsep.hub.copies import is_named
from hubsep.hub.files import is_weights
from hubsep.hub.json_files import read_json
from hubsep.hub.models import HUB_OPTIONS, MAX_SHARD_SIZE, atomic_folder, check_folder, check_task
from hubsep.hub.push import README, push_folder
from hubsep.hub.resolve import resolve_folder
from hubsep.hub.tensors import read_header
from hubsep.models.audioldm2.configuration_audioldm2 import write_config
from hubsep.registry import TEXT_TO_AUDIO

from .components import COMPONENTS, OPTIONAL, class_of, empty_component, load_component, original_heads, weight_files
from .devices import Devices, devices_of, placed
from .on_demand import UNUSED, Shelf, StoredComponent


if TYPE_CHECKING:
    from typing_extensions import Self

AttentionHeads = Literal["config", "original"]
INDEX = "model_index.json"
ONE_DEVICE = 'on_demand=True works on one device with all weights: leave out device_map="balanced", strict=False'
SHORT_CARD = """---
library_name: hubsep
pipeline_tag: text-to-audio
tags:
- text-to-audio
---

# {name}

An AudioLDM 2 saved by hubsep. Its licence, training data and results are not described yet.
"""


class Folder(Devices):
    """The rung that loads, saves and pushes.

    Attributes:
        known_sounds: what its card says it was taught; empty if that is not said.
    """

    known_sounds: tuple[str, ...] = ()

    @classmethod
    def from_pretrained(
        cls,
        pretrained_model_name_or_path: str | os.PathLike[str],
        *,
        dtype: torch.dtype | dict[str, torch.dtype] | None = None,
        torch_dtype: torch.dtype | None = None,
        device_map: str | None = None,
        variant: str | None = None,
        attention_heads: AttentionHeads = "config",
        strict: bool = True,
        on_demand: bool = False,
        **kwargs: Any,
    ) -> Self:
        """Loads a folder or repository in diffusers' layout, after checking all of it.

        Args:
            pretrained_model_name_or_path: the folder or repository.
            dtype: precision of all components, or of each by name, with "default" for the others; float32 if None.
            torch_dtype: the same by its older name.
            device_map: a device, or "balanced" to spread components over the GPUs.
            variant: for instance "fp16": load `*.fp16.safetensors` where there are any.
            attention_heads: "config", or "original" for heads of width 32 whatever the U-Net's configuration says.
            strict: whether weights that are missing or left over are an error.
            on_demand: whether components are in memory only while they work. The folder has to stay where it is.
            **kwargs: components by name, used instead of the folder's, None for one that is left out; and
                `revision`, `token`, `cache_dir`, `force_download`, `local_files_only`, `commercial`.

        Raises:
            CheckpointError: naming the file, component or tensor and the reason.
        """
        hub = {name: kwargs.pop(name) for name in HUB_OPTIONS if name in kwargs}
        components = {name: kwargs.pop(name) for name in COMPONENTS if name in kwargs}
        _refuse(kwargs, attention_heads)
        precision = check_precision(dtype if dtype is not None else torch_dtype)
        _check_told(pretrained_model_name_or_path, strict, on_demand, device_map, variant, components)
        folder = checked_folder(pretrained_model_name_or_path, hub)
        listed = {name: entry for name, entry in read_index(folder).items() if name not in components}
        devices = devices_of(device_map, {name: _stored_bytes(folder / name) for name in listed})
        shelf = Shelf(torch.device(device_map or "cpu")) if on_demand else None
        for name, (library, class_name) in listed.items():
            options = _heads(folder, name, attention_heads)
            source, stored_as = (folder / name, library, class_name), precision_of(name, precision)
            if shelf is not None and issubclass(class_of(*source), torch.nn.Module):
                components[name] = shelved(shelf, name, source, variant, stored_as, options)
                continue
            options |= {"variant": variant} if _has_variant(folder / name, variant) else {}
            components[name] = load_component(*source, dtype=stored_as, strict=strict, **options)
            if name in devices:
                components[name] = placed(components[name], devices[name])
        pipe: Any = cls(**components)
        pipe.register_to_config(_name_or_path=os.fspath(pretrained_model_name_or_path))
        pipe._shelf = shelf
        pipe.known_sounds = sounds_of(folder)
        if devices and shelf is None:
            pipe.hf_device_map = devices
        return pipe

    def save_pretrained(
        self,
        save_directory: str | os.PathLike[str],
        *,
        max_shard_size: int | str = MAX_SHARD_SIZE,
        variant: str | None = None,
        push_to_hub: bool = False,
        **hub: Any,
    ) -> None:
        """Writes all components, all or nothing; what else the folder holds (a card) stays.

        Args:
            save_directory: folder, made if missing.
            max_shard_size: of one weight file.
            variant: part of the names of the weight files.
            push_to_hub: whether to push afterwards, to `repo_id` or a repository named like the folder.
            **hub: those of `push_to_hub`.

        Raises:
            CheckpointError: if the folder cannot be written, or loading would refuse it.
        """
        check_saving(save_directory, max_shard_size, variant)
        with atomic_folder(save_directory, keep=lambda name: name not in (*COMPONENTS, INDEX)) as folder:
            self.write_into(folder, max_shard_size, variant)
            carry_card(folder, self.config.get("_name_or_path"))
        if push_to_hub:
            self.push_to_hub(hub.pop("repo_id", Path(save_directory).resolve().name), **hub)

    def write_into(self, folder: Path, max_shard_size: int | str = MAX_SHARD_SIZE, variant: str | None = None) -> None:
        """Writes all components to a folder that is not in its place yet, and checks that it would load."""
        super().save_pretrained(folder, safe_serialization=True, max_shard_size=max_shard_size, variant=variant)
        write_stable_index(folder / INDEX)
        check_folder(folder)

    def push_to_hub(self, repo_id: str, *, max_shard_size: int | str = MAX_SHARD_SIZE, **options: Any) -> str:
        """Pushes all components and the card in one commit; takes what `push_to_hub` of a model takes."""
        origin = self.config.get("_name_or_path")
        card = Path(origin) / README if origin else None

        def save(folder: Path) -> None:
            self.save_pretrained(folder, max_shard_size=max_shard_size)

        fallback = card if card is not None and is_named(card) else None
        return push_folder(repo_id, save, fallback=fallback, short_card=SHORT_CARD, **options)


def checked_folder(model: str | os.PathLike[str], hub: dict[str, Any]) -> Path:
    """The folder of a model that makes sounds, after all of it was checked.

    Raises:
        CheckpointError: if there is none of that name, it is broken, or it separates recordings.
    """
    folder = resolve_folder(model, **hub)
    check_task(folder, model, TEXT_TO_AUDIO)
    check_folder(folder)
    return folder


def read_index(folder: Path) -> dict[str, tuple[str, str]]:
    """The components a folder holds, with the library and class of each.

    Raises:
        CheckpointError: if it is no AudioLDM 2, lacks a component, or names a class that is not one of its own.
    """
    if not (folder / INDEX).is_file():
        raise CheckpointError(f"{shown(folder.name)} holds no {INDEX}: it is not the folder of a diffusion pipeline.")
    index = read_json(folder / INDEX)
    if index.get("_class_name") != "AudioLDM2Pipeline":
        raise CheckpointError(f"{INDEX} is of {shown(index.get('_class_name'))}; this class loads AudioLDM2Pipeline.")
    components: dict[str, tuple[str, str]] = {}
    for name, (libraries, classes) in COMPONENTS.items():
        entry = index.get(name, [None, None])
        if not isinstance(entry, list) or len(entry) != 2:
            raise CheckpointError(f"{INDEX}: {name} must be a library and a class, got {shown(entry)}.")
        if entry[0] is None and name in OPTIONAL:
            continue
        if entry[0] not in libraries or entry[1] not in classes:
            raise CheckpointError(
                f"{INDEX}: {name} is {shown(entry)}; accepted are {', '.join(classes)} of {libraries[0]}."
            )
        if not (folder / name).is_dir():
            raise CheckpointError(f"{INDEX} names {name}, but there is no such folder.")
        components[name] = (entry[0], entry[1])
    return components


def precision_of(name: str, wanted: Any) -> torch.dtype:
    """The precision that is asked for of a component, as `check_precision` gives it; "auto" is float32."""
    if isinstance(wanted, dict):
        wanted = wanted.get(name, wanted.get("default"))
    return wanted if isinstance(wanted, torch.dtype) else torch.float32


def shelved(
    shelf: Shelf,
    name: str,
    source: tuple[Path, str, str],
    variant: str | None,
    dtype: torch.dtype,
    options: dict[str, Any],
) -> Any:
    """A component that loads itself when it is called.

    Raises:
        CheckpointError: if it cannot be built, or its weights do not fit.
    """
    folder = source[0]
    variants = {"variant": variant} if _has_variant(folder, variant) else {}
    whole: Any = partial(load_component, *source, dtype=dtype, strict=True, **options, **variants)  # type: ignore[misc, arg-type]
    module = empty_component(*source, dtype=dtype, **options)
    files = partial(weight_files, folder, variant)
    return shelf.put(name, StoredComponent(module, files, whole, UNUSED.get(name, ())))


def _heads(folder: Path, name: str, attention_heads: AttentionHeads) -> dict[str, Any]:
    if name != "unet" or attention_heads != "original":
        return {}
    return {"attention_head_dim": original_heads(folder / name)}


def _refuse(kwargs: dict[str, Any], attention_heads: str) -> None:
    if kwargs.get("trust_remote_code"):
        raise CheckpointError("trust_remote_code is refused: nothing in a folder is run.")
    kwargs.pop("trust_remote_code", None)
    if kwargs.pop("use_safetensors", True) not in (True, None):
        raise CheckpointError("use_safetensors=False is refused: only .safetensors are loaded.")
    if kwargs:
        raise CheckpointError(
            f"{sorted(kwargs)[0]} is not an argument of from_pretrained; load a component by its own class with it "
            "and pass that by name, for instance unet="
        )
    if attention_heads not in ("config", "original"):
        raise CheckpointError(f'attention_heads must be "config" or "original", got {attention_heads!r}')


def _check_told(
    place: Any, strict: Any, on_demand: Any, device_map: Any, variant: Any, components: dict[str, Any]
) -> None:
    """Refuses arguments of another kind than they have to be."""
    check_place("pretrained_model_name_or_path", place)
    for name, switch in (("strict", strict), ("on_demand", on_demand)):
        true_or_false(name, switch)
    if on_demand and (not strict or (isinstance(device_map, str) and device_map == "balanced")):
        raise CheckpointError(ONE_DEVICE)
    if variant is not None and not isinstance(variant, str):
        raise CheckpointError(f"variant must be a text such as fp16, got {shown(variant)}")
    for name, part in components.items():
        if part is not None and (isinstance(part, str | bytes | int | float) or type(part).__module__ == "builtins"):
            raise CheckpointError(f"{name} must be a loaded component, or None to leave it out; got {shown(part)}")


def _has_variant(folder: Path, variant: str | None) -> bool:
    return variant is not None and any(f".{variant}." in name for name in os.listdir(folder))


def _stored_bytes(folder: Path) -> int:
    weights = [path for path in folder.glob("*.safetensors") if is_weights(path.name)]
    return sum(tensor.stop - tensor.start for path in weights for tensor in read_header(path))


def write_stable_index(path: Path) -> None:
    """No path of this computer, and our own components under the name of the package, not of a module in it."""
    index = read_json(path)
    index.pop("_name_or_path", None)
    for entry in (index.get(name) or [None] for name in ("audio_mae", "vocoder")):
        if str(entry[0]).partition(".")[0] == "hubsep":
            entry[0] = "hubsep"
    if index.get("audio_mae", [None])[0] is None:
        index.pop("audio_mae", None)
    path.write_text(json.dumps(index, indent=2, sort_keys=True) + "\n", encoding="utf-8")
    for config in path.parent.glob("*/config.json"):  # diffusers writes where each component came from
        fields = read_json(config)
        if fields.pop("_name_or_path", None) is not None:
            config.write_text(json.dumps(fields, indent=2, sort_keys=True) + "\n", encoding="utf-8")
    write_config(path.parent)


__all__ = [
    "AttentionHeads",
    "COMPONENTS",
    "Folder",
    "load_component",
    "read_index",
    "shelved",
    "write_stable_index",
]
