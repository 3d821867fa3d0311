# SPDX-License-Identifier: Apache-2.0
"""Adapters of separation models, and low-rank adapters of AudioLDM 2's U-Net.

What is asked: a refusal that leaves the model as it was, or an adapter that reaches what is computed and leaves only
finite weights; of AudioLDM 2, the U-Net is afterwards what it was before.
"""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import torch
from tiny_audioldm2 import tiny_components
from tiny_audiosep import tiny_audiosep
from tiny_conv_tasnet import tiny_conv_tasnet

from fuzz.cases import Action, Case, Kind, expect
from fuzz.folders import change_json_file, copied, link, spoiled, try_to
from fuzz.hostile_keys import REDIRECTIONS
from fuzz.tensors import change_weights
from hubsep.adapters import FACTS, load_adapter
from hubsep.errors import HubsepError
from hubsep.pipelines.audioldm2 import AudioLDM2Pipeline
from hubsep.training.finetune.adapters import prepare_lora, save_adapter
from hubsep.training.generators.lora import LoraRecipe, add_adapters


CONFIG, WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
BUILDS = {"audiosep": tiny_audiosep, "conv_tasnet": tiny_conv_tasnet}
KEYS: dict[str, list[Any]] = {
    **REDIRECTIONS,
    "init_lora_weights": [
        "pissa",
        "olora",
        "gaussian",
        "loftq",
        "eva",
        "corda",
        "pissa_niter_4",
        3,
        "orthogonal",
        True,
    ],
    "use_dora": [True],
    "use_rslora": [True],
    "target_modules": ["all-linear", "(.|.)+!", "(a+)+$", ".*", [], [""], ["x"] * 5_000, None, 3, ["to_q", "to_q"]],
    "exclude_modules": ["(a+)+$"],
    "modules_to_save": [["unet"], ["conv_in"], ["query_network"], "x"],
    "r": [0, -1, 200_000, 2**31, 1.5, "4", True],
    "lora_alpha": [0, -1, float("nan"), float("inf"), 1e30, "x"],
    "lora_dropout": [2, -1, float("nan")],
    "rank_pattern": [{".*": 200_000}, {"(a+)+$": 4}],
    "alpha_pattern": [{".*": 1e30}],
    "layers_to_transform": [[0]],
    "layers_pattern": ["(a+)+$"],
    "layer_replication": [[[0, 10**6]]],
    "bias": ["all", "lora_only", "x"],
    "fan_in_fan_out": [True],
    "peft_type": ["IA3", "PROMPT_TUNING", "lora", None],
    "auto_mapping": [{"base_model_class": "Evil", "parent_library": "evil"}],
    "loftq_config": [{"loftq_bits": 4}],
    "eva_config": [{}],
    "corda_config": [{}],
    "megatron_config": [{"x": 1}],
    "megatron_core": ["evil"],
    "trainable_token_indices": [[0]],
    "base_model_name_or_path": ["{outside}", "evil/x", None],
    "revision": ["../.."],
    "runtime_config": [{"ephemeral_gpu_offload": True}],
    "lora_bias": [True],
    "target_parameters": [["x"]],
    "arrow_config": [{}],
    "qalora_group_size": [0],
    "use_qalora": [True],
    "ensure_weight_tying": [True],
    "inference_mode": [False],
    "task_type": ["CAUSAL_LM", "x"],
    "query_classes": [["dog"], ["new"] * 2, [""], ["x" * 5_000], 3],
    "known_sounds": [["a\nfailed: b"], [3], "x"],
    "base_weights": [{}, {"x": 1}, 3],
    "nonsense": [1],
}


def prepare(place: Path) -> None:
    """An adapter of each system, its matrices with values as after training."""
    for name, build in BUILDS.items():
        model, _ = build()
        probe = prepare_lora(model, 2, 4.0, 0)
        fill(model)
        save_adapter(
            model, place / name, base="org/base", rank=2, alpha=4.0, probe=probe, new_classes=[], sounds=[], extra={}
        )
        load_adapter(build()[0], place / name)


def prepare_unet(place: Path) -> None:
    """The same for a U-Net, as training saves it."""
    global _pipe
    adapted: Any = add_adapters(tiny_components()["unet"], LoraRecipe(rank=2))
    fill(adapted)
    adapted.save_pretrained(place / "unet", save_embedding_layers=False)
    _pipe = AudioLDM2Pipeline(**tiny_components())
    _pipe.load_lora_weights(place / "unet")
    _pipe.unload_lora_weights()


_pipe: Any = None


def fill(model: torch.nn.Module) -> None:
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if ".lora_" in name:
                parameter.copy_(0.1 * torch.randn(parameter.shape, generator=generator))


def changed_folder(case: Case, name: str) -> Path:
    """A folder of an adapter with one or two things changed."""
    folder = copied(case, name)
    for _ in range(case.random.choice([1, 1, 2])):
        roll = case.random.random()
        if roll < 0.15:
            case.note("as it was")
        elif roll < 0.5:
            change_json_file(folder / CONFIG, case, KEYS)
        elif roll < 0.6:
            change_json_file(folder / FACTS, case, KEYS)
        elif roll < 0.85:
            try_to(case, change_weights, folder / WEIGHTS)
        else:
            try_to(case, case.random.choice([link, spoiled]), folder)
    return folder


def make(case: Case) -> Action:
    """An adapter, put into the model it belongs to."""
    name = case.choose({name: name for name in BUILDS})
    folder = changed_folder(case, name)
    model, _ = BUILDS[name]()
    before = copy.deepcopy(model.state_dict())

    def act() -> str:
        try:
            load_adapter(model, folder)
        except HubsepError:
            expect(same(model.state_dict(), before), "an adapter was refused and the weights are others")
            raise
        expect(
            all(tensor.isfinite().all() for tensor in model.state_dict().values()),
            "the weights hold NaN or infinities",
        )
        expect(not any("lora" in key for key in model.state_dict()), "matrices were left in the model")
        return "merged"

    return act


def make_unet(case: Case) -> Action:
    """Low-rank adapters, put into the U-Net and taken out again."""
    folder = changed_folder(case, "unet")
    unet = _pipe.unet
    before = copy.deepcopy(unet.state_dict())
    scale = case.random.choice([1.0, 0.5, 0, -1, 1e30, float("nan"), "x", None]) if case.chance(0.3) else 1.0
    case.note(f"scale {scale}")

    def act() -> str:
        try:
            _pipe.load_lora_weights(folder, scale=scale)
        except HubsepError:
            _pipe.unload_lora_weights()
            expect(same(unet.state_dict(), before), "adapters were refused and the weights are others")
            raise
        expect(
            all(tensor.isfinite().all() for tensor in _pipe.unet.state_dict().values()),
            "NaN or infinities in the U-Net",
        )
        _pipe.unload_lora_weights()
        expect(same(_pipe.unet.state_dict(), before), "the U-Net is not what it was when the adapters are out again")
        return "put in"

    return act


def same(state: dict[str, torch.Tensor], before: dict[str, torch.Tensor]) -> bool:
    return state.keys() == before.keys() and all(torch.equal(state[name], tensor) for name, tensor in before.items())


ADAPTERS, LORA = Kind(prepare, make), Kind(prepare_unet, make_unet)


__all__ = ["ADAPTERS", "LORA"]
