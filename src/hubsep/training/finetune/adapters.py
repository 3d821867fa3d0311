# SPDX-License-Identifier: Apache-2.0
"""What a fine-tune changes of a model: all of its separator, or low-rank matrices beside some of its layers.

Decisions: the query encoder is never changed, so that words mean what they meant. Statistics of batch norms stay as
they were: an adapter cannot hold them, and a few recordings would spoil those of thousands. Layers that get matrices
are ones that their model calls; filterbanks and weights that it only reads are left alone. A sound with a class of its
own in the query network trains that class alone with adapters, and all classes without.
"""

from __future__ import annotations

import json
import re
from collections.abc import Collection, Iterable, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.checkpoint import checkpoint

from ...adapters import CONFIG, FACTS, PREFIX, WEIGHTS, WHOLE
from ...errors import DataError
from ...hub.matrices import inject, magnitudes
from ...hub.models import atomic_folder


# names of the layers that get matrices; each was tried: its matrices get a gradient, and merged they do the same
LAYERS = {
    "audiosep": r"unet\..*(conv1|conv2|shift|gain)",
    "sepformer": r"masker\..*(qkv|attention\.output|linear1|linear2)",
    "conv_tasnet": r"masker\..*(expand|project|bottleneck|head)",
    "audioslots": r".*(attention\.(query|key_value|output)|feed_forward\.linear[12])",
    "spleeter": r"unets\.\d+\.encoder\.\d+\.conv",
    "meta_tasnet": r"stages\.\d+\.masker\..*bottleneck",
}
TRAINED = "trained.safetensors"


def layers_of(model: Any) -> list[str]:
    """Names of the layers of a model that get low-rank matrices.

    Raises:
        DataError: if nobody tried which those are for this system.
    """
    pattern = LAYERS.get(model.config.model_type)
    if pattern is None:
        raise DataError(f"{model.config.model_type} models have no adapters; leave out --lora")
    kinds = (nn.Linear, nn.Conv1d, nn.Conv2d)
    return [
        name for name, module in model.named_modules() if isinstance(module, kinds) and re.fullmatch(pattern, name)
    ]


def has_classes(model: Any) -> bool:
    """Whether the model hears a query through classes of its own."""
    return bool(model.config.query_classes)


def prepare_full(model: nn.Module) -> None:
    """Lets everything learn that the model itself lets learn; the query network's reading of words stays."""
    reads_words = rf"query_encoder\..*|{WHOLE}\.linear[12]\..*" if has_classes(model) else r"query_encoder\..*"
    for name, parameter in model.named_parameters():
        if re.fullmatch(reads_words, name):
            parameter.requires_grad = False


def prepare_lora(model: Any, rank: int, alpha: float, new_classes: int) -> dict[str, float]:
    """Freezes a model and puts matrices around its layers, in place.

    Args:
        model: whose layers `layers_of` knows.
        rank: of the matrices.
        alpha: their scale is this over the rank.
        new_classes: of its query network, the last ones; what they do to the separator is learnt as well.

    Returns:
        The mean magnitudes of the layers, by which `hubsep.adapters` knows the model again.
    """
    layers = layers_of(model)
    probe = magnitudes(model, layers)
    for parameter in model.parameters():
        parameter.requires_grad = False
    inject(model, layers, rank, alpha)
    for name, parameter in model.named_parameters():
        parameter.requires_grad = ".lora_" in name
    if new_classes:
        values = model.query_network.values.weight
        values.requires_grad = True
        earlier = values.shape[1] - new_classes
        values.register_hook(lambda gradient: torch.cat([0 * gradient[:, :earlier], gradient[:, earlier:]], dim=1))
    return probe


def keep_statistics(model: nn.Module) -> None:
    """Puts the norms that have running statistics into evaluation mode; to be called whenever a model is trained."""
    for module in model.modules():
        if getattr(module, "running_mean", None) is not None:
            module.eval()


def checkpoint_blocks(model: Any, kinds: Collection[str] | None = None) -> int:
    """Lets the blocks of a model keep no activations but compute them again; returns how many there are.

    Args:
        model: whose blocks are meant.
        kinds: names of their classes, of which the outermost count; by default those that transformers may not split
            over devices.
    """
    wrapped: list[str] = []
    kinds = kinds or model._no_split_modules or ()
    for name, module in model.named_modules():
        inside = any(name.startswith(f"{outer}.") for outer in wrapped)
        if type(module).__name__ in kinds and not inside:
            module.forward = _recomputed(module.forward)
            wrapped.append(name)
    return len(wrapped)


def _recomputed(forward: Any) -> Any:
    def run(*args: Any, **kwargs: Any) -> Any:
        if not torch.is_grad_enabled():
            return forward(*args, **kwargs)
        kinds = _attention_kinds()  # what is computed again has to be computed the same way

        def contexts() -> tuple[Any, Any]:
            return nullcontext(), sdpa_kernel(kinds)

        return checkpoint(forward, *args, use_reentrant=False, context_fn=contexts, **kwargs)

    return run


def _attention_kinds() -> list[SDPBackend]:
    """Which of torch's kinds of attention are allowed at the moment."""
    cuda = torch.backends.cuda
    allowed = {
        SDPBackend.FLASH_ATTENTION: cuda.flash_sdp_enabled(),
        SDPBackend.EFFICIENT_ATTENTION: cuda.mem_efficient_sdp_enabled(),
        SDPBackend.MATH: cuda.math_sdp_enabled(),
        SDPBackend.CUDNN_ATTENTION: cuda.cudnn_sdp_enabled(),
    }
    return [kind for kind, enabled in allowed.items() if enabled]


def trained_state(model: nn.Module) -> dict[str, Tensor]:
    """Everything a fine-tune may have changed: what learns, and the query network."""
    learns = {name for name, parameter in model.named_parameters() if parameter.requires_grad}
    state = model.state_dict()
    return {n: t.detach().cpu().contiguous() for n, t in state.items() if n in learns or n.startswith(f"{WHOLE}.")}


def save_trained(model: nn.Module, folder: Path) -> None:
    """Writes what a fine-tune may have changed."""
    folder.mkdir(parents=True, exist_ok=True)
    save_file(trained_state(model), folder / TRAINED)


@torch.no_grad()
def load_trained(model: nn.Module, folder: Path) -> None:
    """Reads what `save_trained` wrote.

    Raises:
        DataError: if it was written by a run with other settings.
    """
    stored, held = load_file(folder / TRAINED), model.state_dict()
    if any(name not in held or held[name].shape != tensor.shape for name, tensor in stored.items()):
        raise DataError(f"{folder} is of a run with other settings; use them again, or another --output")
    for name, tensor in stored.items():
        held[name].copy_(tensor)


def save_adapter(
    model: Any, folder: Path, *, base: str, rank: int, alpha: float, probe: dict[str, float],
    new_classes: Sequence[str], sounds: Iterable[str], extra: dict[str, bytes],
) -> None:  # fmt: skip
    """Writes an adapter as `hubsep.adapters` reads it and as peft writes it, all or nothing.

    Args:
        model: with matrices around its layers.
        folder: that is written.
        base: what the model without them is called.
        rank: of the matrices.
        alpha: their scale is this over the rank.
        probe: what `prepare_lora` returned.
        new_classes: of the query network.
        sounds: that were taught.
        extra: further files, by name.
    """
    state = {
        PREFIX + name.replace(".default.", "."): tensor
        for name, tensor in trained_state(model).items()
        if ".lora_" in name or new_classes
    }
    config = {
        "peft_type": "LORA", "base_model_name_or_path": base, "r": rank, "lora_alpha": alpha, "task_type": None,
        "target_modules": layers_with_matrices(model), "modules_to_save": [WHOLE] if new_classes else None,
        "bias": "none", "inference_mode": True,
    }  # fmt: skip
    facts = {"model_type": model.config.model_type, "base_weights": probe, "query_classes": list(new_classes)}
    facts["known_sounds"] = list(sounds)
    with atomic_folder(folder) as place:
        save_file(state, place / WEIGHTS, metadata={"format": "pt"})
        for name, content in ((CONFIG, config), (FACTS, facts)):
            (place / name).write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
        for name, text in extra.items():
            (place / name).write_bytes(text)


def layers_with_matrices(model: nn.Module) -> list[str]:
    """Names of the layers that matrices stand around."""
    return sorted(name for name, module in model.named_modules() if hasattr(module, "lora_A"))


__all__ = [
    "LAYERS", "TRAINED", "checkpoint_blocks", "keep_statistics", "layers_of", "load_trained", "prepare_full",
    "prepare_lora", "save_adapter", "save_trained", "trained_state",
]  # fmt: skip
