# SPDX-License-Identifier: Apache-2.0
"""Adapters for an AudioLDM 2: trained, pushed with a card that says what they are, loaded from the Hub, taken out."""

from __future__ import annotations

import json
import shutil
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
from tiny_audioldm2 import tiny_components

from hubsep import AudioLDM2Pipeline
from hubsep.errors import CheckpointError, DataError, QueryError
from hubsep.training import lora


BASE, ADAPTERS = "org/audioldm2-base", "org/barking"
CLOSE = 1e-5  # where weights lie in memory decides the order of a sum


def made(pipe: Any) -> np.ndarray:
    pipe.set_progress_bar_config(disable=True)
    waveforms: np.ndarray = pipe("rain", num_inference_steps=2, generator=torch.Generator().manual_seed(0)).audios
    return waveforms


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
    assert np.abs(made(AudioLDM2Pipeline.from_pretrained("fused")) - adapted).max() < 1e-4
    with pytest.raises(QueryError, match="there are no adapters"):
        local.fuse_lora()


def test_what_is_refused(tmp_path: Path) -> None:
    pipe = AudioLDM2Pipeline(**tiny_components())
    pipe.save_pretrained(tmp_path / "base")
    recipe = lora.LoraRecipe(pipeline=str(tmp_path / "base"), push_to=ADAPTERS)
    with pytest.raises(DataError, match="push_to needs licence"):
        lora.checked_licence(recipe)
    assert lora.base_name(recipe) == "base"
    with pytest.raises(CheckpointError, match="no folder of adapters"):
        pipe.load_lora_weights(tmp_path / "base")
    lora.add_adapters(pipe.unet, lora.LoraRecipe(rank=2)).save_pretrained(tmp_path / "good")
    fresh = AudioLDM2Pipeline(**tiny_components())
    with pytest.raises(QueryError, match="scale must be a number"):
        fresh.load_lora_weights(tmp_path / "good", scale="much")  # type: ignore[arg-type]
    bad = Path(shutil.copytree(tmp_path / "good", tmp_path / "bad"))
    tensors = load_file(bad / "adapter_model.safetensors")
    name = next(iter(tensors))
    save_file({**tensors, name: torch.full_like(tensors[name], torch.nan)}, bad / "adapter_model.safetensors")
    with pytest.raises(CheckpointError, match="NaN"):
        fresh.load_lora_weights(bad)
    config = json.loads((bad / "adapter_config.json").read_text())
    (bad / "adapter_config.json").write_text(json.dumps({**config, "peft_type": "IA3"}))
    with pytest.raises(CheckpointError, match="peft_type is 'IA3'"):
        fresh.load_lora_weights(bad)
    (bad / "adapter_model.safetensors").unlink()
    torch.save(tensors, bad / "adapter_model.bin")
    with pytest.raises(CheckpointError, match=r"holds no adapter_model\.safetensors"):
        fresh.load_lora_weights(bad)
