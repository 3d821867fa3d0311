# SPDX-License-Identifier: Apache-2.0
"""AudioLDM 2 with components in memory only while they work, offloaded, and with the text part of CLAP alone."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file
from tiny_audioldm2 import CLOSE, SECONDS, published_folder, tiny_audio_mae, tiny_components

from hubsep import AudioLDM2Pipeline, onednn
from hubsep.errors import CheckpointError, QueryError
from hubsep.pipelines.audioldm2.bfloat16.vocoder import runs_here, vocoded
from hubsep.pipelines.audioldm2.loading import mapped as audioldm2_mapped
from hubsep.pipelines.audioldm2.loading.mapped import Release


GIVEN: dict[str, Any] = {"num_inference_steps": 2, "solver": "scheduler", "seconds": SECONDS}


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def loaded(place: Path, **options: Any) -> Any:
    pipe = AudioLDM2Pipeline.from_pretrained(place, **options)
    pipe.set_progress_bar_config(disable=True)
    return pipe


def held(pipe: Any) -> set[str]:
    """Components with a weight in memory."""
    models = {name: part for name, part in pipe.components.items() if isinstance(part, torch.nn.Module)}
    return {name for name, model in models.items() if any(not weight.is_meta for weight in model.parameters())}


@pytest.fixture(scope="module")
def published(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return published_folder(tmp_path_factory.mktemp("published") / "audioldm2")


@pytest.fixture(scope="module")
def pipe(published: Path) -> Any:
    return loaded(published)


@pytest.fixture
def lazy(published: Path) -> Any:
    return loaded(published, on_demand=True)


@pytest.mark.slow
def test_on_demand_makes_the_same_and_keeps_nothing(pipe: Any, lazy: Any) -> None:
    seen: list[set[str]] = []

    def look(*given: Any) -> None:
        seen.append(held(lazy))

    for _ in range(2):
        made = lazy(
            ["rain", "hail"],
            negative_prompt="hum",
            num_waveforms_per_prompt=2,
            generator=seeded(),
            callback_on_step_end=look,
            **GIVEN,
        )
        assert held(lazy) == set()
    told = pipe(["rain", "hail"], negative_prompt="hum", num_waveforms_per_prompt=2, generator=seeded(), **GIVEN)
    assert np.abs(made.audios - told.audios).max() < CLOSE
    assert np.abs(made.scores - told.scores).max() < CLOSE
    assert all("unet" in names for names in seen)
    assert lazy.device == torch.device("cpu")
    blocks = [torch.cat(list(each.stream("rain", seconds=0.15, generator=seeded()))) for each in (lazy, pipe)]
    assert (blocks[0] - blocks[1]).abs().max() < CLOSE


def test_never_more_is_loaded_than_the_largest_component_takes(lazy: Any) -> None:
    sizes = {name: part.bytes for name, part in lazy._shelf._stored.items()}
    for name in [*sizes, *reversed(sizes)]:
        lazy._shelf.bring(name)
        assert held(lazy) == set(lazy._shelf.loaded)
        assert name in held(lazy)
        assert sum(sizes[other] for other in held(lazy)) <= max(sizes.values())


@pytest.mark.slow
def test_the_table_of_words_is_loaded_for_saving_only(pipe: Any, lazy: Any, tmp_path: Path) -> None:
    lazy._shelf.bring("language_model")
    assert lazy.language_model.wte.weight.is_meta
    lazy.save_pretrained(tmp_path / "saved")
    assert held(lazy) == set()
    again = loaded(tmp_path / "saved")
    for name in ("language_model", "text_encoder", "text_encoder_2", "unet", "vae", "vocoder"):
        mine, own = getattr(again, name).state_dict(), getattr(pipe, name).state_dict()
        assert mine.keys() == own.keys()
        assert all(torch.equal(mine[key], own[key]) for key in own)
    assert transformers.GPT2Model.from_pretrained(tmp_path / "saved/language_model").wte.weight.any()
    replaced = loaded(tmp_path / "saved", on_demand=True, dtype=torch.bfloat16)
    replaced.save_pretrained(tmp_path / "saved")  # to where it is loaded from, in another precision
    assert replaced("rain", **GIVEN).audios.shape == (1, 1_280)


@pytest.mark.slow
@pytest.mark.parametrize("stored", [torch.float32, torch.bfloat16])
def test_precisions(stored: torch.dtype, tmp_path: Path) -> None:
    folder = tmp_path / "saved"
    AudioLDM2Pipeline(**tiny_components(), audio_mae=tiny_audio_mae()).to(stored).save_pretrained(folder)
    for wanted in (torch.float32, torch.bfloat16):
        made, told = (
            loaded(folder, dtype=wanted, on_demand=on_demand)("rain", generator=seeded(), **GIVEN).audios
            for on_demand in (True, False)
        )
        assert np.abs(made - told).max() < CLOSE


@pytest.mark.slow
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_every_weight_has_the_precision_it_has_when_loaded_at_once(published: Path, dtype: torch.dtype) -> None:
    kinds = []
    for on_demand in (True, False):
        components = loaded(published, dtype=dtype, on_demand=on_demand).components
        models = {name: part for name, part in components.items() if isinstance(part, torch.nn.Module)}
        kinds.append({(name, key): part.dtype for name, m in models.items() for key, part in m.named_parameters()})
    assert kinds[0] == kinds[1]


@pytest.mark.slow
def test_files_of_variants_and_of_older_names(published: Path, pipe: Any, tmp_path: Path) -> None:
    folder = shutil.copytree(published, tmp_path / "audioldm2")
    pipe.save_pretrained(folder, variant="fp16", max_shard_size=20_000)
    assert len(list((folder / "unet").glob("*.fp16*.safetensors"))) > 1
    shutil.copytree(published, folder, dirs_exist_ok=True)  # now there are both
    told = pipe("rain", generator=seeded(), **GIVEN).audios
    for variant in ("fp16", None):
        made = loaded(folder, variant=variant, on_demand=True)("rain", generator=seeded(), **GIVEN).audios
        assert np.abs(made - told).max() < CLOSE
    older = shutil.copytree(published, tmp_path / "older")
    weights = load_file(older / "language_model/model.safetensors")
    renamed = {f"transformer.{name}": tensor for name, tensor in weights.items()}
    save_file(renamed, older / "language_model/model.safetensors", metadata={"format": "pt"})
    made = loaded(older, on_demand=True)("rain", generator=seeded(), **GIVEN).audios
    assert np.abs(made - told).max() < CLOSE


@pytest.mark.skipif(not onednn.available(torch.bfloat16), reason="oneDNN has no bfloat16 on this processor")
def test_blocks_that_let_go_run_as_fast(published: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(audioldm2_mapped, "BLOCK_BYTES", 10_000)  # blocks of the vocoder are hooked one by one
    lazy, told = (loaded(published, on_demand=on, dtype=torch.bfloat16) for on in (True, False))
    states = torch.zeros(1, 64, 4, dtype=torch.bfloat16)
    with torch.no_grad():
        lazy._shelf.bring("vocoder")
        released: list[int] = []
        for block in lazy.vocoder.resblocks:
            hooks = list(block._forward_hooks.values())
            assert all(isinstance(hook, Release) for hook in hooks)
            released += [len(hook.spans) for hook in hooks]
        assert sum(released) > 0
        assert runs_here(lazy.vocoder, states)
        mel = torch.randn(1, 64, 8, generator=seeded())
        assert torch.equal(vocoded(lazy.vocoder, mel), vocoded(told.vocoder, mel))
        lazy.vocoder.resblocks[0].register_forward_hook(lambda *_: None)
        assert not runs_here(lazy.vocoder, states)


@pytest.mark.slow
def test_what_does_not_go_with_on_demand(published: Path, lazy: Any, tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="works on one device"):
        AudioLDM2Pipeline.from_pretrained(published, on_demand=True, strict=False)
    for method in (lazy.enable_model_cpu_offload, lazy.enable_sequential_cpu_offload):
        with pytest.raises(CheckpointError, match="nothing to offload"):
            method(device="cpu")
    assert lazy.to("cpu") is lazy
    with pytest.raises(CheckpointError, match="pass dtype="):
        lazy.to(torch.bfloat16)
    folder = shutil.copytree(published, tmp_path / "audioldm2")
    weights = load_file(folder / "projection_model/diffusion_pytorch_model.safetensors")
    save_file(
        {**weights, "stray": torch.zeros(1)},
        folder / "projection_model/diffusion_pytorch_model.safetensors",
        metadata={"format": "pt"},
    )
    with pytest.raises(CheckpointError, match=r"projection_model.*unexpected"):
        AudioLDM2Pipeline.from_pretrained(folder, on_demand=True)
    gone = loaded(shutil.copytree(published, tmp_path / "gone"), on_demand=True)
    shutil.rmtree(tmp_path / "gone")
    with pytest.raises(CheckpointError, match="has to stay"):
        gone("rain", **GIVEN)


@pytest.mark.slow
def test_clap_without_the_part_that_hears(pipe: Any, tmp_path: Path) -> None:
    whole = pipe.text_encoder
    config = whole.config.text_config
    config.projection_dim = whole.config.projection_dim
    reading = transformers.ClapTextModelWithProjection(config).eval()
    reading.load_state_dict({name: part for name, part in whole.state_dict().items() if name.startswith("text_")})
    AudioLDM2Pipeline(**{**pipe.components, "text_encoder": reading}).save_pretrained(tmp_path / "saved")
    told = pipe("rain", generator=seeded(), **GIVEN).audios
    for on_demand in (False, True):
        read = loaded(tmp_path / "saved", on_demand=on_demand)
        assert type(read.text_encoder).__name__ == "ClapTextModelWithProjection"
        made = read("rain", generator=seeded(), **GIVEN).audios
        assert np.abs(made - told).max() < CLOSE
        with pytest.raises(QueryError, match="cannot be ranked"):
            read("rain", num_waveforms_per_prompt=2, **GIVEN)


def test_sequential_offloading_without_an_accelerator() -> None:
    pipe = AudioLDM2Pipeline(**tiny_components())
    with pytest.raises(CheckpointError, match="on_demand=True"):
        pipe.enable_sequential_cpu_offload(device="cpu")
