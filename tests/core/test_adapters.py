# SPDX-License-Identifier: Apache-2.0
"""Adapters: they reach what a model computes, are merged to the same result, and are checked before they are used."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from bells import RATE, save_listener
from rounding import TINY_MODEL, assert_same, rounding
from safetensors.torch import load_file, save_file
from saved_adapters import saved
from tiny_audiosep import tiny_audiosep
from tiny_audioslots import tiny_audioslots
from tiny_conv_tasnet import tiny_conv_tasnet
from tiny_meta_tasnet import tiny_meta_tasnet
from tiny_sepformer import tiny_sepformer
from tiny_spleeter import tiny_spleeter
from torch import nn
from transformers import AutoProcessor

from hubsep import AutoModelForAudioSeparation
from hubsep.adapters import CONFIG, FACTS, WEIGHTS, load_adapter
from hubsep.errors import CheckpointError
from hubsep.training.finetune.adapters import (
    checkpoint_blocks,
    keep_statistics,
    layers_with_matrices,
)
from hubsep.training.separators.new_classes import teach_new_classes


Build = Callable[[], tuple[Any, Any]]
SYSTEMS: list[Build] = [
    tiny_audiosep, tiny_audioslots, tiny_conv_tasnet, tiny_meta_tasnet, tiny_sepformer, tiny_spleeter,
]  # fmt: skip


def inputs_of(model: Any) -> dict[str, Any]:
    generator = torch.Generator().manual_seed(0)
    config = model.config
    samples = max(RATE // 2, getattr(config, "segment_samples", 0) if config.model_type == "audioslots" else 0)
    given = {"input_values": 0.1 * torch.randn(2, config.num_channels, samples, generator=generator)}
    sources = 2 if config.is_text_queried else config.num_sources
    if config.is_text_queried:
        queries = torch.randn(2, 2, config.condition_size, generator=generator)
        given["query_embeds"] = nn.functional.normalize(queries, dim=-1)
    labels = 0.1 * torch.randn(2, sources, config.num_channels, samples, generator=generator)
    return {**given, "labels": labels}


@pytest.mark.slow
@pytest.mark.parametrize("build", SYSTEMS)
def test_every_matrix_learns_and_merging_changes_nothing(build: Build, tmp_path: Path) -> None:
    model, _ = build()
    given = inputs_of(model)
    saved(model, tmp_path / "adapter")
    model.train()
    keep_statistics(model)
    before = {name: buffer.clone() for name, buffer in model.named_buffers()}
    model(**given).loss.backward()
    still = [n for n, p in model.named_parameters() if ".lora_" in n and (p.grad is None or not p.grad.any())]
    assert not still, "matrices the model never calls"
    assert all(torch.equal(buffer, before[name]) for name, buffer in model.named_buffers())
    assert not any(p.requires_grad for n, p in model.named_parameters() if ".lora_" not in n)
    plain, _ = build()
    labels = given.pop("labels")
    with torch.no_grad():
        expected, without = model.eval()(**given).sources, plain(**given).sources
        found = load_adapter(plain, tmp_path / "adapter")(**given).sources
    assert (expected - without).abs().max() > 100 * rounding(expected.abs().max().item(), **TINY_MODEL)
    assert_same(found, expected, **TINY_MODEL)
    assert not layers_with_matrices(plain)
    assert labels.shape == found.shape


@pytest.mark.parametrize("build", [tiny_audiosep, tiny_conv_tasnet, tiny_sepformer])
def test_computing_activations_again_gives_the_same_gradients(build: Build) -> None:
    gradients = []
    for again in (False, True):
        model, _ = build()
        model.train()
        keep_statistics(model)
        if again:
            assert checkpoint_blocks(model) > 0
        torch.manual_seed(0)
        model(**inputs_of(model)).loss.backward()
        gradients.append({name: p.grad for name, p in model.named_parameters() if p.grad is not None})
    first, second = gradients
    assert first.keys() == second.keys()
    for name, gradient in first.items():
        torch.testing.assert_close(second[name], gradient, atol=1e-7, rtol=1e-5)


@pytest.mark.slow
def test_a_new_class_takes_its_words_and_leaves_the_others_alone(tmp_path: Path) -> None:
    folder = save_listener(tmp_path / "base")
    model: Any = AutoModelForAudioSeparation.from_pretrained(folder)
    processor = AutoProcessor.from_pretrained(folder)
    tokens = processor(text=["rain", "dog barking", "bell"], return_tensors="pt")
    with torch.no_grad():
        embeds = model.encode_text(tokens["input_ids"], tokens["attention_mask"])
        before = model.query_network.classify(embeds)
        effect = model.query_network(embeds)
    share = teach_new_classes(model, processor, ["bell"], steps=200)
    after = model.query_network.classify(embeds).detach()
    assert share > 0.9
    assert_same(after[:, :3], before, **TINY_MODEL)  # sums in another order
    assert after[2].argmax() == 3
    assert list(model.config.query_classes) == ["dog barking", "rain", "anything else", "bell"]
    changed = (model.query_network(embeds) - effect).detach().norm(dim=1)
    assert changed[2] > 0.01  # a random tower hears little difference between words
    saved(model, tmp_path / "adapter", classes=["bell"])
    loaded = load_adapter(AutoModelForAudioSeparation.from_pretrained(folder), tmp_path / "adapter")
    torch.testing.assert_close(loaded.query_network(embeds), model.query_network(embeds), atol=0, rtol=0)
    assert loaded.config.known_sounds[-1] == "bell"


@pytest.fixture(scope="module")
def adapter(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return saved(tiny_conv_tasnet()[0], tmp_path_factory.mktemp("adapter") / "adapter")


def change_json(name: str, **fields: Any) -> Callable[[Path], None]:
    def change(folder: Path) -> None:
        content = {**json.loads((folder / name).read_text()), **fields}
        (folder / name).write_text(json.dumps(content))

    return change


def change_weights(change: Callable[[dict[str, Any]], object]) -> Callable[[Path], None]:
    def apply(folder: Path) -> None:
        state = load_file(folder / WEIGHTS)
        change(state)
        save_file(state, folder / WEIGHTS)

    return apply


def lose(folder: Path) -> None:
    (folder / FACTS).unlink()


def first(state: dict[str, Any]) -> str:
    return sorted(state)[0]


WRONG: list[tuple[Callable[[Path], None], str]] = [
    (lose, "not an adapter"),
    (change_json(CONFIG, peft_type="LOHA"), "LOHA"),
    (change_json(CONFIG, r=10**9), "outside the accepted range"),
    (change_json(CONFIG, lora_alpha="nan"), "must be a number"),
    (change_json(CONFIG, use_dora=True), "use_dora"),
    (change_json(CONFIG, lora_alpha=float("nan")), "lora_alpha is nan"),
    (change_json(CONFIG, init_lora_weights="pissa"), "init_lora_weights is 'pissa'"),
    (change_weights(lambda state: state.update({first(state): state[first(state)].int()})), "no fractions"),
    (change_json(CONFIG, auto_mapping={"base_model_class": "os"}), "auto_mapping"),
    (change_json(CONFIG, target_modules="all-linear"), "target_modules"),
    (change_json(CONFIG, target_modules=["masker.nothing"]), "has a layer 'masker.nothing'"),
    (change_json(CONFIG, modules_to_save=["masker"]), "modules_to_save"),
    (change_json(CONFIG, trust_remote_code=True), "trust_remote_code"),
    (change_json(FACTS, model_type="spleeter"), "this is a model of conv_tasnet"),
    (change_json(FACTS, base_weights={}), "base_weights"),
    (change_json(FACTS, query_classes=["bell"]), "a model that has none"),
    (change_json(FACTS, query_classes=["bell"] * 2), "different names"),
    (change_weights(lambda state: state.pop(first(state))), "has the shape None"),
    (change_weights(lambda state: state.update({first(state): torch.zeros(3, 3)})), "the model takes"),
    (change_weights(lambda state: state.update(more=torch.zeros(1))), "'more'"),
    (change_weights(lambda state: state[first(state)].fill_(float("nan"))), "NaN"),
    (change_weights(lambda state: [tensor.fill_(1e30) for tensor in state.values()]), "beyond the range"),
]


@pytest.mark.parametrize(("change", "told"), WRONG, ids=[told for _, told in WRONG])
def test_a_wrong_adapter_is_refused_and_the_model_stays_as_it_was(
    adapter: Path, tmp_path: Path, change: Callable[[Path], None], told: str
) -> None:
    import shutil

    folder = Path(shutil.copytree(adapter, tmp_path / "copy"))
    change(folder)
    model, _ = tiny_conv_tasnet()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    with pytest.raises(CheckpointError, match=told):
        load_adapter(model, folder)
    after = model.state_dict()
    assert after.keys() == before.keys()
    assert all(torch.equal(after[name], tensor) for name, tensor in before.items())


def test_no_class_is_added_by_an_adapter_whose_matrices_are_refused(tmp_path: Path) -> None:
    folder = save_listener(tmp_path / "base")
    model = AutoModelForAudioSeparation.from_pretrained(folder)
    teach_new_classes(model, AutoProcessor.from_pretrained(folder), ["bell"], steps=1)
    saved(model, tmp_path / "adapter", classes=["bell"])
    change_weights(lambda state: [state[name].fill_(1e30) for name in state if ".lora_" in name])(tmp_path / "adapter")
    fresh = AutoModelForAudioSeparation.from_pretrained(folder)
    before = {name: tensor.clone() for name, tensor in fresh.state_dict().items()}
    with pytest.raises(CheckpointError, match="beyond the range"):
        load_adapter(fresh, tmp_path / "adapter")
    assert "bell" not in fresh.config.query_classes
    assert {name: tensor.shape for name, tensor in fresh.state_dict().items()} == {
        name: tensor.shape for name, tensor in before.items()
    }
    assert all(torch.equal(before[name], tensor) for name, tensor in fresh.state_dict().items())


def test_another_model_of_the_same_shape_is_refused(adapter: Path) -> None:
    model, _ = tiny_conv_tasnet()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(1.01)
    with pytest.raises(CheckpointError, match=r"trained on 'org/base'.*Load the adapter's own model"):
        load_adapter(model, adapter)
    load_adapter(tiny_conv_tasnet()[0].bfloat16(), adapter)  # less precise, but the same
