# SPDX-License-Identifier: Apache-2.0
"""Adapters for an AudioLDM 2: trained, pushed with a card that says what they are, loaded from the Hub, taken out."""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hub_server import HubServer
from huggingface_hub import ModelCard
from safetensors.torch import load_file, save_file
from sounds import corpus
from stages_audioldm2 import run
from tiny_audioldm2 import CLOSE, tiny_components

from hubsep import AudioLDM2Pipeline
from hubsep.adapters import CONFIG, WEIGHTS
from hubsep.errors import CheckpointError, DataError, QueryError
from hubsep.training.generators import lora


BASE, ADAPTERS = "org/audioldm2-base", "org/barking"
Change = Callable[[Path, Path], None]  # of a folder, and a place outside it


def made(pipe: Any) -> np.ndarray:
    pipe.set_progress_bar_config(disable=True)
    waveforms: np.ndarray = pipe("rain", num_inference_steps=2, generator=torch.Generator().manual_seed(0)).audios
    return waveforms


@pytest.mark.slow
def test_adapters_go_over_the_wire_and_come_back(hub: HubServer, tmp_path: Path) -> None:
    base = AudioLDM2Pipeline(**tiny_components())
    base.save_pretrained("base")
    Path("base/README.md").write_text("---\nlicense: cc-by-nc-sa-4.0\nlibrary_name: hubsep\n---\n# base\n")
    AudioLDM2Pipeline.from_pretrained("base").push_to_hub(BASE)
    data = corpus(tmp_path / "data")
    # without a mean of weights what the U-Net holds after training is what is saved
    fields: dict[str, Any] = {"seconds": 0.08, "views": 1, "learning_rate": 0.05, "average_decay": 0.0}
    run(lora, lora.LoraRecipe, data, tmp_path / "run", pipeline=BASE, push_to=ADAPTERS, **fields)
    repository = hub.repositories[ADAPTERS]
    assert set(repository.files()) >= {"README.md", "adapter_config.json", "adapter_model.safetensors"}
    assert not [name for name in repository.files() if name.endswith((".bin", ".pt"))]
    assert repository.messages == ["first", "Upload model"]
    for name, content in repository.files().items():
        assert str(tmp_path).encode() not in content, name
    assert json.loads(repository.files()["adapter_config.json"])["base_model_name_or_path"] == BASE
    card = ModelCard.load(ADAPTERS)
    assert (card.data.base_model, card.data.license, card.data.library_name) == (BASE, "cc-by-nc-sa-4.0", "peft")
    assert card.data.pipeline_tag == "text-to-audio"
    assert {"lora", "audioldm2"} <= set(card.data.tags)
    assert "- made up: 21 recordings; licence not stated" in card.text
    assert f'pipe.load_lora_weights("{ADAPTERS}")' in card.text

    pipe = AudioLDM2Pipeline.from_pretrained(BASE)
    before = made(pipe)
    assert np.abs(before - made(base)).max() < CLOSE
    pipe.load_lora_weights(ADAPTERS)
    adapted = made(pipe)
    assert np.abs(adapted - before).max() > 1e-3
    local = AudioLDM2Pipeline.from_pretrained("base")
    local.load_lora_weights(tmp_path / "run" / "model")
    assert np.abs(made(local) - adapted).max() < CLOSE
    with pytest.raises(CheckpointError, match="call fuse_lora"):
        pipe.save_pretrained("with")
    pipe.load_lora_weights(ADAPTERS, scale=0.0)  # in place of what was there
    assert np.abs(made(pipe) - before).max() < CLOSE
    pipe.unload_lora_weights()
    assert np.abs(made(pipe) - before).max() < CLOSE
    assert not [name for name in pipe.unet.state_dict() if "lora" in name]
    local.fuse_lora()
    local.save_pretrained("fused")
    assert np.abs(made(AudioLDM2Pipeline.from_pretrained("fused")) - adapted).max() < CLOSE
    with pytest.raises(QueryError, match="there are no adapters"):
        local.fuse_lora()


@pytest.fixture(scope="module")
def pipe() -> Any:
    return AudioLDM2Pipeline(**tiny_components())


@pytest.fixture(scope="module")
def good(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What `hubsep train lora` saves, with matrices that change something."""
    folder = tmp_path_factory.mktemp("adapters") / "good"
    adapted = lora.add_adapters(tiny_components()["unet"], lora.LoraRecipe(rank=2))
    generator = torch.Generator().manual_seed(0)
    for name, parameter in adapted.named_parameters():
        if "lora_" in name:
            parameter.data = 0.1 * torch.randn(parameter.shape, generator=generator)
    adapted.save_pretrained(folder, save_embedding_layers=False)
    return folder


def weights(pipe: Any) -> dict[str, torch.Tensor]:
    return {name: tensor.clone() for name, tensor in pipe.unet.state_dict().items()}


def same(pipe: Any, before: dict[str, torch.Tensor]) -> bool:
    after = pipe.unet.state_dict()
    return after.keys() == before.keys() and all(torch.equal(after[name], before[name]) for name in before)


def config(**fields: Any) -> Change:
    def change(folder: Path, _: Path) -> None:
        content = {**json.loads((folder / CONFIG).read_text()), **fields}
        (folder / CONFIG).write_text(json.dumps(content))

    return change


def tensors(change: Callable[[dict[str, Any]], Any]) -> Change:
    def apply(folder: Path, _: Path) -> None:
        state = load_file(folder / WEIGHTS)
        change(state)
        save_file(state, folder / WEIGHTS)

    return apply


def lose_all_but_two(state: dict[str, Any]) -> None:
    for name in sorted(state)[2:]:
        del state[name]


def link_out(folder: Path, outside: Path) -> None:
    (folder / WEIGHTS).rename(outside)
    (folder / WEIGHTS).symlink_to(outside)


def pickle_instead(folder: Path, _: Path) -> None:
    torch.save(load_file(folder / WEIGHTS), folder / "adapter_model.bin")
    (folder / WEIGHTS).unlink()


def first(state: dict[str, Any]) -> str:
    return sorted(state)[0]


WRONG: dict[str, tuple[Change, str]] = {
    "options that rewrite weights: pissa": (config(init_lora_weights="pissa"), "init_lora_weights is 'pissa'"),
    "pissa with a number": (config(init_lora_weights="pissa_niter_4"), "init_lora_weights"),
    "olora": (config(init_lora_weights="olora"), "init_lora_weights is 'olora'"),
    "loftq": (config(init_lora_weights="loftq", loftq_config={"loftq_bits": 4}), "loftq"),
    "corda": (config(init_lora_weights="corda"), "init_lora_weights"),
    "a number for a beginning": (config(init_lora_weights=1), "init_lora_weights"),
    "a pattern that never ends": (config(target_modules="(.|.)+!"), "must be a list"),
    "all layers": (config(target_modules="all-linear"), "must be a list"),
    "no layers": (config(target_modules=[]), "must name the layers"),
    "too many layers": (config(target_modules=[f"l{n}" for n in range(5_000)]), "at most 4096"),
    "a layer that is not there": (config(target_modules=["to_q", "nothing"]), "a layer 'nothing'"),
    "a layer that is a list": (config(target_modules=["to_out"]), "no linear layer"),
    "fewer layers than tensors": (config(target_modules=["to_q"]), "has the shape"),
    "a rank of 200000": (config(r=200_000), "outside the accepted range"),
    "another rank": (config(r=3), "the model takes"),
    "a rank of a bool": (config(r=True), "must be a whole number"),
    "alpha NaN": (config(lora_alpha=float("nan")), "lora_alpha is nan"),
    "alpha infinite": (config(lora_alpha=float("inf")), "lora_alpha is inf"),
    "alpha of 1e30": (config(lora_alpha=1e30), "outside the accepted range"),
    "dora": (config(use_dora=True), "'use_dora' is True"),
    "ranks by pattern": (config(rank_pattern={"(.|.)+!": 4}), "rank_pattern"),
    "alphas by pattern": (config(alpha_pattern={"to_q": 1e9}), "alpha_pattern"),
    "layers by pattern": (config(layers_pattern="(.|.)+!"), "layers_pattern"),
    "layers left out": (config(exclude_modules="(.|.)+!"), "exclude_modules"),
    "layers again": (config(layer_replication=[[0, 1_000_000]]), "layer_replication"),
    "a bias": (config(bias="all"), "'bias' is 'all'"),
    "a whole module": (config(modules_to_save=["conv_out"]), "nothing in modules_to_save"),
    "parameters": (config(target_parameters=["conv_in.weight"]), "target_parameters"),
    "an unknown field": (config(surprise=1), "'surprise' is 1"),
    "code": (config(auto_map={"AutoModel": "evil.Evil"}), "auto_map"),
    "another class": (config(auto_mapping={"base_model_class": "os"}), "auto_mapping"),
    "another kind": (config(peft_type="IA3"), "peft_type is 'IA3'"),
    "two tensors": (tensors(lose_all_but_two), "has the shape None"),
    "one tensor missing": (tensors(lambda state: state.pop(first(state))), "has the shape None"),
    "one tensor too many": (tensors(lambda state: state.update(more=torch.zeros(1))), "'more'"),
    "a tensor twice": (
        tensors(lambda state: state.update({first(state).removeprefix("base_model.model."): state[first(state)] + 1})),
        "twice",
    ),
    "another shape": (tensors(lambda state: state.update({first(state): torch.zeros(3, 3)})), "the model takes"),
    "whole numbers": (
        tensors(lambda state: state.update({first(state): state[first(state)].to(torch.int32)})),
        "which has no fractions",
    ),
    "NaN": (tensors(lambda state: state[first(state)].fill_(torch.nan)), "NaN"),
    "matrices that make infinities": (
        tensors(lambda state: [tensor.fill_(1e30) for tensor in state.values()]),
        "beyond the range",
    ),
    "a link out of the folder": (link_out, "is a link to a place outside"),
    "a pickle": (pickle_instead, r"holds no adapter_model\.safetensors"),
}


@pytest.mark.parametrize("name", WRONG)
def test_wrong_adapters_are_refused_at_once_and_the_unet_stays_as_it_was(
    pipe: Any, good: Path, tmp_path: Path, name: str
) -> None:
    change, words = WRONG[name]
    folder = Path(shutil.copytree(good, tmp_path / "adapter"))
    change(folder, tmp_path / "outside")
    before, start = weights(pipe), time.process_time()
    with pytest.raises(CheckpointError, match=words):
        pipe.load_lora_weights(folder)
    assert time.process_time() - start < 30, "a hang is what is looked for"
    assert same(pipe, before)


@pytest.mark.slow
@pytest.mark.parametrize("fields", [{}, {"use_rslora": True}, {"init_lora_weights": "gaussian", "lora_dropout": 0.5}])
def test_adapters_count_as_peft_says_and_leave_nothing_behind(good: Path, tmp_path: Path, fields: Any) -> None:
    """Compared with the layers' weights, to which the product of the matrices is added by hand."""
    folder = Path(shutil.copytree(good, tmp_path / "adapter"))
    config(lora_alpha=3.0, **fields)(folder, tmp_path)
    alpha = 3.0 / (2**0.5 if "use_rslora" in fields else 2)
    pipe = AudioLDM2Pipeline(**tiny_components())
    pipe.unet.requires_grad_(True)
    before = weights(pipe)
    pipe.load_lora_weights(folder, scale=0.5)
    own = {name.replace(".base_layer.", "."): tensor for name, tensor in pipe.unet.state_dict().items()}
    assert all(torch.equal(own[name], before[name]) for name in before), "the U-Net's own weights were written"
    pipe.unload_lora_weights()
    assert same(pipe, before)
    assert all(parameter.requires_grad for parameter in pipe.unet.parameters())
    assert not hasattr(pipe.unet, "peft_config")
    pipe.load_lora_weights(folder, scale=0.5)
    pipe.fuse_lora()
    after = weights(pipe)
    state = load_file(folder / WEIGHTS)
    changed = 0
    for name, tensor in before.items():
        stem = f"base_model.model.{name.removesuffix('.weight')}.lora"
        if f"{stem}_A.weight" in state:
            tensor = tensor + 0.5 * alpha * state[f"{stem}_B.weight"] @ state[f"{stem}_A.weight"]
            changed += 1
        torch.testing.assert_close(after[name], tensor, atol=1e-6, rtol=0)
    assert changed == len(state) // 2


def test_a_refused_adapter_leaves_the_one_that_is_there(good: Path, tmp_path: Path) -> None:
    pipe = AudioLDM2Pipeline(**tiny_components())
    pipe.load_lora_weights(good)
    before, layer = weights(pipe), pipe.unet.down_blocks[1].attentions[0].transformer_blocks[0].attn1.to_q
    bad = Path(shutil.copytree(good, tmp_path / "bad"))
    config(r=3)(bad, tmp_path)
    with pytest.raises(CheckpointError, match="the model takes"):
        pipe.load_lora_weights(bad)
    assert same(pipe, before)
    assert pipe.unet.down_blocks[1].attentions[0].transformer_blocks[0].attn1.to_q is layer
    pipe.unload_lora_weights()
    assert same(pipe, weights(AudioLDM2Pipeline(**tiny_components())))


def test_what_is_refused(pipe: Any, good: Path, tmp_path: Path) -> None:
    pipe.save_pretrained(tmp_path / "base")
    recipe = lora.LoraRecipe(pipeline=str(tmp_path / "base"), push_to=ADAPTERS)
    with pytest.raises(DataError, match="push_to needs licence"):
        lora.checked_licence(recipe)
    assert lora.base_name(recipe) == "base"
    with pytest.raises(CheckpointError, match=r"holds no adapter_config\.json"):
        pipe.load_lora_weights(tmp_path / "base")
    for scale in ("much", True, float("nan"), float("inf")):
        with pytest.raises(QueryError, match="scale must be a finite number"):
            pipe.load_lora_weights(good, scale=scale)
