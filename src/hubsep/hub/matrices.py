# SPDX-License-Identifier: Apache-2.0
"""Low-rank matrices (2106.09685) around layers of any module: put in, taken out, worked into the weights.

peft's layers do the work. They get numbers and names of layers from here and nothing else: no file, no pattern, no
option by which peft would change the layers' own weights.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from ..errors import CheckpointError
from .bounds import shown


PROBED = 16  # layers whose mean magnitude is compared


def magnitudes(model: nn.Module, layers: Iterable[str]) -> dict[str, float]:
    """Mean magnitude of the first layers' weights, by which a model is known again."""
    modules = dict(model.named_modules())
    return {name: modules[name].weight.detach().abs().double().mean().item() for name in sorted(layers)[:PROBED]}


def shapes(model: nn.Module, layers: Iterable[str], rank: int) -> dict[str, tuple[int, ...]]:
    """Shapes of the matrices around layers, by the names that peft stores them under."""
    result: dict[str, tuple[int, ...]] = {}
    for name in layers:
        weight: Any = model.get_submodule(name).weight
        result[f"{name}.lora_A.weight"] = (rank, *weight.shape[1:])
        result[f"{name}.lora_B.weight"] = (weight.shape[0], rank, *[1] * (weight.ndim - 2))
    return result


def lora_layer() -> Any:
    """The class of peft's layers with matrices.

    Raises:
        CheckpointError: if peft is not installed.
    """
    try:
        from peft.tuners.lora import LoraLayer
    except ImportError as error:
        raise CheckpointError("adapters need peft; pip install 'hubsep[train]'") from error
    return LoraLayer


def inject(model: nn.Module, layers: Iterable[str], rank: int, alpha: float) -> None:
    """Puts low-rank matrices (2106.09685, by peft) around layers, in place; they change nothing yet.

    Raises:
        CheckpointError: if peft has no matrices for one of the layers, or its name is the end of another's.
    """
    kind = lora_layer()
    from peft import LoraConfig, inject_adapter_in_model

    settings: dict[str, Any] = {"r": rank, "lora_alpha": alpha, "target_modules": sorted(layers)}
    learns = [(parameter, parameter.requires_grad) for parameter in model.parameters()]
    try:
        inject_adapter_in_model(LoraConfig(**settings), model)
    except (ValueError, RuntimeError, TypeError, NotImplementedError) as error:  # some convolutions with groups
        take_out(model)
        raise CheckpointError(f"these layers take no matrices: {shown(' '.join(str(error).split()), 200)}") from error
    finally:
        for parameter, flag in learns:  # peft freezes them
            parameter.requires_grad = flag
    around = {name for name, module in model.named_modules() if isinstance(module, kind)}
    if around != set(settings["target_modules"]):
        take_out(model)
        raise CheckpointError(f"{shown(sorted(around ^ set(settings['target_modules'])))}: layers with the same end.")


@torch.no_grad()
def fill(model: nn.Module, layers: Iterable[str], matrices: Mapping[str, Tensor]) -> None:
    """Gives the matrices around layers their values; they do not learn.

    Raises:
        CheckpointError: if what they add is beyond the range of a layer's numbers. All are taken away then.
    """
    for name in layers:
        layer: Any = model.get_submodule(name)
        layer.lora_A.default.weight.copy_(matrices[f"{name}.lora_A.weight"])
        layer.lora_B.default.weight.copy_(matrices[f"{name}.lora_B.weight"])
        added = layer.get_delta_weight("default")
        if not torch.isfinite(layer.get_base_layer().weight + added).all():
            take_out(model)
            raise CheckpointError(f"what the adapter adds to {shown(name)} is beyond the range of {added.dtype}.")
        for part in (layer.lora_A, layer.lora_B):
            part.requires_grad_(False)
        layer.eval()


def take_out(model: nn.Module) -> dict[str, nn.Module]:
    """Takes all matrices away, so that the model is as it was; returns the layers with them, by name."""
    kind, layers = lora_layer(), {}
    for name, module in list(model.named_modules()):
        if isinstance(module, kind):
            layers[name] = module
            model.set_submodule(name, module.get_base_layer())
    if hasattr(model, "peft_config"):
        del model.peft_config
    return layers


@torch.no_grad()
def merge(model: nn.Module) -> None:
    """Adds the matrices to the weights of their layers, and takes them away."""
    for layer in take_out(model).values():
        layer.merge()  # type: ignore[operator]


__all__ = ["PROBED", "fill", "magnitudes", "inject", "lora_layer", "merge", "shapes", "take_out"]
