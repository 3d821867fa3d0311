# SPDX-License-Identifier: Apache-2.0
"""Adapters: what a fine-tune changed, in a folder or repository of its own, put into the model it was trained on.

A folder holds `adapter_config.json` and `adapter_model.safetensors` as peft writes them, and `adapter.json`: which
model it belongs to, and the sounds it taught. Decisions: numbers and names are read from the files, checked against
the model, and only then given to peft, which is never shown the files: it would unpickle, follow them to other
repositories and take options nobody tested here. An adapter is merged into the weights when it is loaded, so that a
model with one is as fast as without. The model's weights are told apart by the mean magnitude of some layers: they
may have been stored in another precision or in other shards since.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from .errors import CheckpointError
from .hub_bounds import bounded, shown
from .hub_checks import regular_files
from .hub_json import check_code_keys, read_json
from .hub_resolve import resolve_folder
from .hub_tensors import StoredTensor, check_finite, read_header


CONFIG, WEIGHTS, FACTS = "adapter_config.json", "adapter_model.safetensors", "adapter.json"
PREFIX = "base_model.model."
WHOLE = "query_network"  # the one module an adapter may hold as a whole
MAX_RANK, MAX_LAYERS, MAX_SOUNDS = 1_024, 4_096, 1_000
READ = {"peft_type", "r", "lora_alpha", "target_modules", "modules_to_save", "base_model_name_or_path"}
WITHOUT_EFFECT = {"peft_version", "inference_mode", "task_type", "init_lora_weights", "lora_dropout", "revision"}
EMPTY: tuple[Any, ...] = (None, False, "none", "", [], {})
PROBED, CLOSE = 16, 1e-3  # layers whose mean magnitude is compared, and how far it may differ; bfloat16 moves it 1e-5


@dataclass(frozen=True)
class Adapter:
    """An adapter that passed every check that needs no model.

    Attributes:
        folder: where it is.
        base: what the model it was trained on is called.
        rank: of its matrices.
        alpha: their scale is this over the rank.
        layers: names of the layers it changes.
        facts: of `adapter.json`: `model_type`, `base_weights`, `query_classes`, `known_sounds`.
        tensors: headers of the weights.
    """

    folder: Path
    base: str
    rank: int
    alpha: float
    layers: tuple[str, ...]
    facts: dict[str, Any]
    tensors: tuple[StoredTensor, ...]


def is_adapter(folder: Path) -> bool:
    """Whether a folder says that it holds an adapter."""
    return (folder / CONFIG).is_file()


def read_adapter(adapter: str | os.PathLike[str], **hub: Any) -> Adapter:
    """Finds the folder or repository of an adapter and checks all of it.

    Args:
        adapter: a folder, or the name of a repository.
        **hub: as `resolve_folder` takes.

    Raises:
        CheckpointError: naming the file and the reason.
    """
    folder = resolve_folder(adapter, **hub)
    files = {path.relative_to(folder).as_posix(): path for path in regular_files(folder)}
    for name in (CONFIG, WEIGHTS, FACTS):
        if name not in files:
            raise CheckpointError(f"{shown(os.fspath(adapter))} holds no {name}: it is not an adapter of hubsep.")
    config = read_json(files[CONFIG])
    check_code_keys(config, CONFIG)
    layers = _check_config(config)
    facts = _check_facts(read_json(files[FACTS]))
    tensors = read_header(files[WEIGHTS])
    check_finite(files[WEIGHTS], tensors)
    base = str(config.get("base_model_name_or_path") or "the model it was trained on")
    return Adapter(folder, base, config["r"], float(config["lora_alpha"]), layers, facts, tuple(tensors))


def _check_config(config: dict[str, Any]) -> tuple[str, ...]:
    """Rank, scale and layers; whatever else would change the result is refused."""
    if config.get("peft_type") != "LORA":
        raise CheckpointError(f"{CONFIG}: peft_type is {shown(config.get('peft_type'))}; only LORA is loaded.")
    bounded(f"{CONFIG}: r", config.get("r"), 1, MAX_RANK)
    bounded(f"{CONFIG}: lora_alpha", config.get("lora_alpha"), 1e-6, 1e6, kind=float)
    for name, value in config.items():
        if name not in READ | WITHOUT_EFFECT and value not in EMPTY:
            raise CheckpointError(f"{CONFIG}: {shown(name)} is {shown(value)}; adapters with it are not loaded.")
    layers = _names(config.get("target_modules"), f"{CONFIG}: target_modules", MAX_LAYERS)
    if (config.get("modules_to_save") or []) not in ([], [WHOLE]) or not layers:
        raise CheckpointError(
            f"{CONFIG} must name the layers in target_modules, and {WHOLE} alone in modules_to_save."
        )
    return layers


def _check_facts(facts: dict[str, Any]) -> dict[str, Any]:
    for field in ("query_classes", "known_sounds"):
        facts[field] = list(_names(facts.get(field, []), f"{FACTS}: {field}", MAX_SOUNDS))
    probe = facts.get("base_weights")
    if not isinstance(facts.get("model_type"), str) or not isinstance(probe, dict) or not 0 < len(probe) <= PROBED:
        raise CheckpointError(f"{FACTS} needs model_type and base_weights, which say what model it belongs to.")
    for name, value in probe.items():
        bounded(f"{FACTS}: base_weights of {shown(name)}", value, 0, 1e6, kind=float)
    return facts


def _names(values: Any, what: str, most: int) -> tuple[str, ...]:
    plain = isinstance(values, list) and all(isinstance(name, str) and 0 < len(name) <= 256 for name in values)
    if not plain or len(values) > most or len(set(values)) < len(values):
        raise CheckpointError(f"{what} must be a list of at most {most} different names, got {shown(values)}.")
    return tuple(values)


def fingerprint(model: nn.Module, layers: Iterable[str]) -> dict[str, float]:
    """Mean magnitude of the first layers' weights, by which a model is known again."""
    modules = dict(model.named_modules())
    return {name: modules[name].weight.detach().abs().double().mean().item() for name in sorted(layers)[:PROBED]}


def load_adapter(model: Any, adapter: str | os.PathLike[str], **hub: Any) -> Any:
    """Merges an adapter into a model, in place, and returns the model.

    Args:
        model: the separation model it was trained on.
        adapter: a folder, or the name of a repository.
        **hub: `revision`, `token`, `cache_dir`, `local_files_only` for the Hub.

    Raises:
        CheckpointError: if the adapter is broken or hostile, or belongs to another model. The model is then as before.
    """
    found = read_adapter(adapter, **hub)
    _check_base(model, found)
    state = _read_state(model, found)
    lora = _lora()
    if found.facts["query_classes"]:
        from .models.audiosep.classes_audiosep import add_query_classes

        add_query_classes(model, found.facts["query_classes"])
    own = {name: tensor for name, tensor in state.items() if name.startswith(f"{WHOLE}.")}
    if own:
        model.query_network.load_state_dict({name[len(WHOLE) + 1 :]: tensor for name, tensor in own.items()})
    inject(model, found.layers, found.rank, found.alpha)
    names = {name.replace(".default.", "."): tensor for name, tensor in model.state_dict(keep_vars=True).items()}
    with torch.no_grad():
        for name, tensor in state.items():
            if name not in own:
                names[name].copy_(tensor)
    merge(model, lora)
    known = list(getattr(model.config, "known_sounds", ()))
    if found.facts["known_sounds"]:
        model.config.known_sounds = [*known, *(n for n in found.facts["known_sounds"] if n not in known)]
    return model


def _check_base(model: Any, adapter: Adapter) -> None:
    """Whether this is the model the adapter was trained on."""
    mine, wanted = model.config.model_type, adapter.facts["model_type"]
    told = f"the adapter was trained on {shown(adapter.base)}, and does not fit {shown(model.config.name_or_path)}"
    if mine != wanted:
        raise CheckpointError(f"{told}: it is for {shown(wanted)}, this is a model of {mine}.")
    modules = dict(model.named_modules())
    for name in adapter.layers:
        if not isinstance(modules.get(name), nn.Linear | nn.Conv1d | nn.Conv2d):
            raise CheckpointError(f"{told}: that has a layer {shown(name)}, which this model has not.")
    probe = adapter.facts["base_weights"]
    if not probe.keys() <= set(adapter.layers):
        raise CheckpointError(f"{FACTS}: base_weights names layers that the adapter does not change.")
    here = fingerprint(model, probe)
    for name, value in probe.items():
        if abs(here[name] - value) > CLOSE * max(value, 1e-9):
            raise CheckpointError(f"{told}: the weights of {shown(name)} are others. Load the adapter's own model.")


def _read_state(model: Any, adapter: Adapter) -> dict[str, Tensor]:
    """The tensors by the model's names, after their names and shapes were found to be those that belong there."""
    from safetensors.torch import load_file

    modules, wanted = dict(model.named_modules()), {}
    for name in adapter.layers:
        weight: Tensor = modules[name].weight
        pointwise = [1] * (weight.ndim - 2)
        wanted[f"{name}.lora_A.weight"] = (adapter.rank, *weight.shape[1:])
        wanted[f"{name}.lora_B.weight"] = (weight.shape[0], adapter.rank, *pointwise)
    added = len(adapter.facts["query_classes"])
    if added and not getattr(model.config, "query_classes", ()):
        raise CheckpointError("the adapter adds query classes to a model that has none.")
    if added:
        for name, tensor in model.query_network.state_dict().items():
            rows = {"linear2.weight": 0, "linear2.bias": 0, "values.weight": 1}.get(name)
            shape = [size + added * (place == rows) for place, size in enumerate(tensor.shape)]
            wanted[f"{WHOLE}.{name}"] = tuple(shape)
    held = {tensor.name.removeprefix(PREFIX): tensor.shape for tensor in adapter.tensors}
    for name in sorted(wanted.keys() | held.keys()):
        if held.get(name) != wanted.get(name):
            raise CheckpointError(
                f"{WEIGHTS}: {shown(name)} has the shape {held.get(name)}; the model takes {wanted.get(name)}."
            )
    return {name.removeprefix(PREFIX): tensor for name, tensor in load_file(adapter.folder / WEIGHTS).items()}


def _lora() -> Any:
    try:
        from peft.tuners.lora import LoraLayer
    except ImportError as error:
        raise CheckpointError("adapters need peft; pip install 'hubsep[train]'") from error
    return LoraLayer


def inject(model: nn.Module, layers: Iterable[str], rank: int, alpha: float) -> None:
    """Puts low-rank matrices (2106.09685, by peft) around layers, in place; they change nothing yet."""
    _lora()
    from peft import LoraConfig, inject_adapter_in_model

    settings: dict[str, Any] = {"r": rank, "lora_alpha": alpha, "target_modules": sorted(layers)}
    inject_adapter_in_model(LoraConfig(**settings), model)


def merge(model: nn.Module, kind: Any) -> None:
    """Adds the matrices to the weights of their layers, and takes them away."""
    for name, module in list(model.named_modules()):
        if isinstance(module, kind):
            module.merge()
            parent, _, child = name.rpartition(".")
            setattr(model.get_submodule(parent), child, module.get_base_layer())
    if hasattr(model, "peft_config"):
        del model.peft_config


__all__ = [
    "CONFIG", "FACTS", "PREFIX", "WEIGHTS", "WHOLE", "Adapter", "fingerprint", "inject", "is_adapter", "load_adapter",
    "merge", "read_adapter",
]  # fmt: skip
