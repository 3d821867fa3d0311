# SPDX-License-Identifier: Apache-2.0
"""Pre-training of AudioMAE: items that depend on their number alone, runs that go on to the same bits."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from sounds import corpus
from speakers import speakers
from tiny_audiomae import tiny_config
from transformers import AutoFeatureExtractor, AutoModel

from hubsep.cli import main
from hubsep.data.mixing import ClipSampler, rms
from hubsep.data.recordings import load_clips
from hubsep.errors import DataError
from hubsep.models.audiomae.modeling_audiomae import AudioMAEModel
from hubsep.training.generators import audiomae
from hubsep.training.recipe import load_recipe


TINY = {
    name: value
    for name, value in tiny_config().to_diff_dict().items()
    if name in tiny_config().__class__.__annotations__
}


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("data")
    corpus(folder / "events")
    speakers(folder / "speech")
    return folder


def run_settings(**changes: Any) -> dict[str, Any]:
    return {
        "model": TINY, "folders": ["events", "speech"], "batch_size": 2, "validation_fraction": 0.3,
        "validation_clips": 4, "steps": 4, "save_every": 2, "eval_every": 2, "warmup_steps": 1, "bf16": False,
        "average_decay": 0.9, **changes,
    }  # fmt: skip


def dataset(data: Path, **fields: Any) -> audiomae.SpectrogramDataset:
    clips = load_clips([data / "events"], 16_000)
    return audiomae.SpectrogramDataset(ClipSampler(clips, {}), tiny_config(**fields), 20)


@pytest.mark.parametrize(("masking", "places"), [("random", 96), ("time_frequency", 20)])
def test_an_item_depends_on_its_number_alone(data: Path, masking: str, places: int):
    first, again = dataset(data, masking=masking), dataset(data, masking=masking)
    items = [first[i] for i in range(6)]
    for i in reversed(range(6)):
        item = again[i]
        assert all(torch.equal(item[name], items[i][name]) for name in ("input_features", "noise"))
    assert items[0]["input_features"].shape == (1, 96, 64)
    assert items[0]["noise"].shape == (places,)
    assert not torch.equal(items[0]["noise"], items[1]["noise"])
    with pytest.raises(IndexError):
        first[20]


def test_levels_are_drawn(data: Path, monkeypatch: pytest.MonkeyPatch):
    items = dataset(data)
    assert items.samples == 400 + 95 * 160

    def waveform_itself(waveform: torch.Tensor, sampling_rate: int) -> dict[str, torch.Tensor]:
        return {"input_features": waveform[None]}

    monkeypatch.setattr(items, "extractor", waveform_itself)
    heard = [items[i]["input_features"].numpy() for i in range(20)]
    levels = [20 * np.log10(rms(waveform)) for waveform in heard]
    assert -40.1 < min(levels) < -33
    assert -22 < max(levels) < -14.9
    assert max(np.abs(waveform).max() for waveform in heard) <= 0.951


@pytest.mark.slow
def test_a_killed_run_goes_on_to_the_same_bits(data: Path, tmp_path: Path):
    whole = audiomae.main(None, data, tmp_path / "whole", **run_settings())
    shutil.copytree(tmp_path / "whole", tmp_path / "resumed")
    for name in ("checkpoint-4", "model", "best"):
        shutil.rmtree(tmp_path / "resumed" / name)
    resumed = audiomae.main(None, data, tmp_path / "resumed", **run_settings())
    weights = [load_file(tmp_path / n / "model" / "model.safetensors") for n in ("whole", "resumed")]
    assert all(torch.equal(weights[0][name], weights[1][name]) for name in weights[0])
    assert {**whole, "minutes": 0} == {**resumed, "minutes": 0}
    curve = json.loads((tmp_path / "resumed" / "curve.json").read_text())
    assert [point["step"] for point in curve] == [2, 4]
    assert {"explained_db", "loss", "train_loss", "minutes"} <= curve[0].keys()
    encoder = AutoModel.from_pretrained(tmp_path / "resumed" / "model")
    assert type(encoder) is AudioMAEModel
    assert AutoFeatureExtractor.from_pretrained(tmp_path / "resumed" / "best").num_frames == 96


@pytest.mark.slow
def test_it_learns_from_another_model_on(data: Path, tmp_path: Path):
    settings = run_settings(steps=12, eval_every=12, batch_size=8, learning_rate=0.01, average_decay=0.0)
    recipe = load_recipe(audiomae.AudioMAERecipe, None, **settings)
    before = audiomae.build_model(recipe).eval()
    before.save_pretrained(tmp_path / "start")
    clips, heldout = audiomae.load_recordings(recipe, data, 16_000)
    items = audiomae.SpectrogramDataset(ClipSampler(clips, {}), before.config, 1, loudness_db=recipe.loudness_db)
    start = audiomae.validate(before, audiomae.validation_items(items, heldout))
    point = audiomae.main(None, data, tmp_path / "run", **{**settings, "initial_model": str(tmp_path / "start")})
    assert point["explained_db"] > start["explained_db"] + 0.5
    settings |= {"initial_model": str(tmp_path / "run" / "model"), "model": {"masking": "time_frequency"}}
    again = audiomae.build_model(load_recipe(audiomae.AudioMAERecipe, None, **settings))
    assert again.config.masking == "time_frequency"
    saved = load_file(tmp_path / "run" / "model" / "model.safetensors")
    assert all(torch.equal(tensor, saved[name]) for name, tensor in again.state_dict().items())


def test_what_cannot_be_trained_on_is_refused(data: Path, tmp_path: Path):
    with pytest.raises(DataError, match="model_type 'spleeter' cannot be pre-trained on spectrograms"):
        audiomae.main(None, data, tmp_path / "run", **run_settings(model_type="spleeter"))
    few = corpus(tmp_path / "few", clips=3)
    with pytest.raises(DataError, match="6 recordings of 6 sources that may be used; six sources of a label"):
        audiomae.main(None, few, tmp_path / "run", **run_settings(folders=["."]))


def test_the_command_line_knows_the_recipe(data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    assert main(["train", "audiomae", "--data", str(data), "--output", str(tmp_path), "--set", "no_such=1"]) != 0
    assert "unknown recipe setting 'no_such'" in capsys.readouterr().err


def test_the_shipped_recipe_can_be_read():
    path = Path(audiomae.__file__).parents[1] / "recipes" / "audiomae-small.yaml"
    model = audiomae.build_model(load_recipe(audiomae.AudioMAERecipe, path, minutes=1.0))
    assert model.config.grid == (32, 8)
    assert model.audiomae.num_parameters() == pytest.approx(4.8e6, abs=5e4)
    assert model.num_parameters() == pytest.approx(5.4e6, abs=5e4)
