# SPDX-License-Identifier: Apache-2.0
"""Adapters: what a fine-tune changed, in a folder or repository of its own, put into the model it was trained on.

A folder holds `adapter_config.json` and `adapter_model.safetensors` as peft writes them. One of a separation model
holds `adapter.json` as well: which model it belongs to, and the sounds it taught. Decisions:

- This is the one reader of such folders, for every module. Numbers and names are read from the files, checked against
  the module, every tensor accounted for, and only then are matrices of these sizes put around these layers. peft is
  never shown a folder: it would unpickle, follow it to other repositories, run its patterns, rewrite the module's own
  weights, and take options nobody tested here.
- Every field that is read is named below. Others are refused unless they are empty, which is how peft writes an option
  that is not used.
- An adapter of a separation model is merged into the weights when it is loaded, so that a model with one is as fast as
  without. The model's weights are told apart by the mean magnitude of some layers: they may have been stored in
  another precision or in other shards since.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from .errors import CheckpointError
from .hub.bounds import bounded, shown, true_or_false
from .hub.checks import regular_files
from .hub.json_files import check_code_keys, read_json
from .hub.matrices import PROBED, fill, inject, magnitudes, merge, shapes, take_out
from .hub.resolve import resolve_folder
from .hub.tensors import EXPONENT_BITS, StoredTensor, check_finite, read_header
from .models.audiosep.classes_audiosep import add_query_classes


CONFIG, WEIGHTS, FACTS = "adapter_config.json", "adapter_model.safetensors", "adapter.json"
PREFIX = "base_model.model."
WHOLE = "query_network"  # the one module that an adapter of a separation model may hold as a whole
MAX_RANK, MAX_LAYERS, MAX_SOUNDS = 1_024, 4_096, 1_000
READ = {
    "peft_type", "r", "lora_alpha", "target_modules", "modules_to_save", "base_model_name_or_path",
    "init_lora_weights", "use_rslora", "auto_mapping",
}  # fmt: skip
WITHOUT_EFFECT = {
    "peft_version", "inference_mode", "task_type", "lora_dropout", "revision", "megatron_core", "qalora_group_size",
}  # fmt: skip
EMPTY: tuple[Any, ...] = (None, False, "none", "", [], {})
# how matrices began, where the module's own weights were left alone
BEGINNINGS = (None, True, False, "gaussian", "eva", "orthogonal")
CLOSE = 1e-3  # how far the mean magnitude of a layer may differ; bfloat16 moves it 1e-5


@dataclass(frozen=True)
class Adapter:
    """An adapter that passed every check that needs no model.

    Attributes:
        folder: where it is.
        base: what the model it was trained on is called.
        base_class: name of that model's class, "" where the folder does not say.
        rank: of its matrices.
        alpha: their scale is this over the rank.
        targets: names of the layers it changes, or ends of names, from a dot on.
        facts: of `adapter.json`: `model_type`, `base_weights`, `query_classes`, `known_sounds`; empty where it is not
            asked for.
        tensors: headers of the weights.
    """

    folder: Path
    base: str
    base_class: str
    rank: int
    alpha: float
    targets: tuple[str, ...]
    facts: dict[str, Any]
    tensors: tuple[StoredTensor, ...]

    @property
    def complaint(self) -> str:
        """How a message begins that says that this is the adapter of another model."""
        return f"the adapter was trained on {shown(self.base)}, and does not fit this model"


def read_adapter(
    adapter: str | os.PathLike[str], *, whole: str | None = None, with_facts: bool = True, **hub: Any
) -> Adapter:
    """Finds the folder or repository of an adapter and checks all of it.

    Args:
        adapter: a folder, or the name of a repository.
        whole: the module that it may hold as a whole, none if None.
        with_facts: whether `adapter.json` is needed.
        **hub: as `resolve_folder` takes.

    Raises:
        CheckpointError: naming the file and the reason.
    """
    folder = resolve_folder(adapter, **hub)
    files = {path.relative_to(folder).as_posix(): path for path in regular_files(folder)}
    for name in (CONFIG, WEIGHTS, FACTS)[: 3 if with_facts else 2]:
        if name not in files:
            raise CheckpointError(f"{shown(os.fspath(adapter))} holds no {name}: it is not an adapter of hubsep.")
    config = read_json(files[CONFIG])
    check_code_keys(config, CONFIG)
    targets = _check_config(config, whole)
    facts = _check_facts(read_json(files[FACTS])) if with_facts else {}
    tensors = read_header(files[WEIGHTS])
    for tensor in tensors:
        if tensor.dtype not in EXPONENT_BITS:
            raise CheckpointError(
                f"{WEIGHTS}: {shown(tensor.name)} is stored as {tensor.dtype}, which has no fractions."
            )
    check_finite(files[WEIGHTS], tensors)
    base = str(config.get("base_model_name_or_path") or "the model it was trained on")
    mapping = config.get("auto_mapping") or {}
    rank, alpha = config["r"], float(config["lora_alpha"])
    if config.get("use_rslora"):  # 2312.03732: the scale is over the root of the rank
        alpha *= rank**0.5
    base_class = mapping.get("base_model_class") or ""
    return Adapter(folder, base, base_class, rank, alpha, targets, facts, tuple(tensors))


def _check_config(config: dict[str, Any], whole: str | None) -> tuple[str, ...]:
    """Rank, scale and layers; whatever else would change the result is refused."""
    if config.get("peft_type") != "LORA":
        raise CheckpointError(f"{CONFIG}: peft_type is {shown(config.get('peft_type'))}; only LORA is loaded.")
    bounded(f"{CONFIG}: r", config.get("r"), 1, MAX_RANK)
    bounded(f"{CONFIG}: lora_alpha", config.get("lora_alpha"), 1e-6, 1e6, kind=float)
    true_or_false(f"{CONFIG}: use_rslora", config.get("use_rslora") or False)
    for name, value in config.items():
        if name not in READ | WITHOUT_EFFECT and value not in EMPTY:
            raise CheckpointError(f"{CONFIG}: {shown(name)} is {shown(value)}; adapters with it are not loaded.")
    beginning = config.get("init_lora_weights")
    if not any(type(beginning) is type(value) and beginning == value for value in BEGINNINGS):
        raise CheckpointError(
            f"{CONFIG}: init_lora_weights is {shown(beginning)}; peft rewrites the model's own weights for it, so "
            "that these matrices fit no other. Train with one of true, gaussian, eva, orthogonal."
        )
    mapping = config.get("auto_mapping") or {}
    names = mapping.values() if isinstance(mapping, dict) else [mapping]
    if not isinstance(mapping, dict) or not all(isinstance(name, str | None) for name in names):
        raise CheckpointError(f"{CONFIG}: auto_mapping is {shown(mapping)}; it names the class of a model.")
    targets = _names(config.get("target_modules"), f"{CONFIG}: target_modules", MAX_LAYERS)
    if (config.get("modules_to_save") or []) not in ([], [whole]) or not targets:
        only = f"{whole} alone" if whole else "nothing"
        raise CheckpointError(f"{CONFIG} must name the layers in target_modules, and {only} in modules_to_save.")
    return targets


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


def layers_of(module: nn.Module, adapter: Adapter) -> list[str]:
    """Names of the layers of a module that the adapter changes.

    Raises:
        CheckpointError: if the module has none of a name, or one that is no linear layer or convolution, or is of
            another class than the one the adapter was trained on.
    """
    if adapter.base_class not in ("", type(module).__name__):
        raise CheckpointError(
            f"{adapter.complaint}: auto_mapping in {CONFIG} names {shown(adapter.base_class)}, this is a "
            f"{type(module).__name__}."
        )
    modules, missing = dict(module.named_modules()), set(adapter.targets)
    layers = []
    for name, layer in modules.items():
        parts = name.split(".")
        ends = {".".join(parts[start:]) for start in range(len(parts))} & set(adapter.targets)
        missing -= ends
        if ends and not isinstance(layer, nn.Linear | nn.Conv1d | nn.Conv2d):
            raise CheckpointError(f"{CONFIG}: target_modules names {shown(name)}, no linear layer or convolution.")
        layers += [name] * bool(ends)
    for name in sorted(missing):
        raise CheckpointError(f"{adapter.complaint}: that has a layer {shown(name)}, which this model has not.")
    return layers


def matrices_of(module: nn.Module, adapter: Adapter, others: Mapping[str, tuple[int, ...]]) -> dict[str, Tensor]:
    """The tensors by the module's names, after their names and shapes were found to be those that belong there.

    Args:
        module: that the adapter is for.
        adapter: for it.
        others: shapes of what else has to be there, by name.

    Raises:
        CheckpointError: naming the first tensor that is missing, too many, or of another shape.
    """
    from safetensors.torch import load_file

    wanted = {**others, **shapes(module, layers_of(module, adapter), adapter.rank)}
    held = {tensor.name.removeprefix(PREFIX): tensor.shape for tensor in adapter.tensors}
    for name in sorted(wanted.keys() | held.keys()):
        if held.get(name) != wanted.get(name):
            raise CheckpointError(
                f"{WEIGHTS}: {shown(name)} has the shape {held.get(name)}; the model takes {wanted.get(name)}."
            )
    if len(held) < len(adapter.tensors):
        raise CheckpointError(f"{WEIGHTS} holds a tensor twice, with and without {PREFIX} before its name.")
    return {name.removeprefix(PREFIX): tensor for name, tensor in load_file(adapter.folder / WEIGHTS).items()}


def put_in(module: nn.Module, adapter: Adapter, matrices: Mapping[str, Tensor]) -> None:
    """Puts the matrices of an adapter around the layers of a module, in place; `matrices_of` read them.

    Raises:
        CheckpointError: if that cannot be; the module is then as before.
    """
    layers = layers_of(module, adapter)
    inject(module, layers, adapter.rank, adapter.alpha)
    fill(module, layers, matrices)


def load_adapter(model: Any, adapter: str | os.PathLike[str], **hub: Any) -> Any:
    """Merges an adapter into a model, in place, and returns the model.

    Args:
        model: the separation model it was trained on.
        adapter: a folder, or the name of a repository.
        **hub: `revision`, `token`, `cache_dir`, `local_files_only` for the Hub.

    Raises:
        CheckpointError: if the adapter is broken or hostile, or belongs to another model. The model is then as before.
    """
    lora = read_adapter(adapter, whole=WHOLE, **hub)
    _check_base(model, lora)
    state = matrices_of(model, lora, _whole_shapes(model, lora))
    put_in(model, lora, state)
    try:
        if lora.facts["query_classes"]:
            add_query_classes(model, lora.facts["query_classes"])
            network = {n[len(WHOLE) + 1 :]: t for n, t in state.items() if n.startswith(f"{WHOLE}.")}
            model.query_network.load_state_dict(network)
    except CheckpointError:
        take_out(model)
        raise
    merge(model)
    sounds = list(model.config.known_sounds)
    if lora.facts["known_sounds"]:
        model.config.known_sounds = [*sounds, *(n for n in lora.facts["known_sounds"] if n not in sounds)]
    return model


def _check_base(model: Any, adapter: Adapter) -> None:
    """Whether this is the model the adapter was trained on."""
    mine, wanted = model.config.model_type, adapter.facts["model_type"]
    complaint = f"{adapter.complaint}, {shown(model.config.name_or_path)}"
    if mine != wanted:
        raise CheckpointError(f"{complaint}: it is for {shown(wanted)}, this is a model of {mine}.")
    layers = layers_of(model, adapter)
    probe = adapter.facts["base_weights"]
    if not probe.keys() <= set(layers):
        raise CheckpointError(f"{FACTS}: base_weights names layers that the adapter does not change.")
    here = magnitudes(model, probe)
    for name, value in probe.items():
        if abs(here[name] - value) > CLOSE * max(value, 1e-9):
            raise CheckpointError(
                f"{complaint}: the weights of {shown(name)} are others. Load the adapter's own model."
            )


def _whole_shapes(model: Any, adapter: Adapter) -> dict[str, tuple[int, ...]]:
    """Shapes of the query network with the classes that the adapter adds; none if it adds none."""
    added = len(adapter.facts["query_classes"])
    if not added:
        return {}
    if not model.config.query_classes:
        raise CheckpointError("the adapter adds query classes to a model that has none.")
    shapes = {}
    for name, tensor in model.query_network.state_dict().items():
        rows = {"linear2.weight": 0, "linear2.bias": 0, "values.weight": 1}.get(name)
        shape = [size + added * (place == rows) for place, size in enumerate(tensor.shape)]
        shapes[f"{WHOLE}.{name}"] = tuple(shape)
    return shapes


__all__ = [
    "CONFIG", "FACTS", "PREFIX", "WEIGHTS", "WHOLE", "Adapter", "inject", "layers_of", "load_adapter",
    "matrices_of", "merge", "put_in", "read_adapter", "take_out",
]  # fmt: skip
