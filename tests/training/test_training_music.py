# SPDX-License-Identifier: Apache-2.0
"""Training on songs: it learns, goes on to the same bits, judges as it says, and refuses what may not be used."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from songs import BAND, STEMS, songs
from tiny_meta_tasnet import tiny_meta_tasnet
from tiny_spleeter import tiny_spleeter

from hubsep import AutoModelForAudioSeparation
from hubsep.cli import main
from hubsep.data.music import MusicMixtureDataset, MusicSettings, song_mixtures
from hubsep.data.pairs import separate
from hubsep.data.stems import choose_songs, load_songs
from hubsep.errors import DataError
from hubsep.layers import stft
from hubsep.metrics import sdr
from hubsep.training.recipe import load_recipe
from hubsep.training.separators import music


RATE = 8_000
TINY = {
    "sampling_rate": RATE, "n_fft": 128, "num_bins": 64, "segment_frames": 64, "conv_channels": [4, 4, 4, 6, 6, 6],
    "freeze_norm": False, "decoder_dropout": 0.2, "segment_samples": 4_000, "overlap_samples": 500,
}  # fmt: skip
TINY_META = {
    "sampling_rate": RATE, "num_stages": 2, "num_filters": 16, "n_fft": 64, "hop_length": 16, "num_mels": 8,
    "bottleneck_channels": 8, "hidden_channels": 8, "num_blocks": 2, "num_repeats": 1, "segment_samples": 4_096,
    "overlap_samples": 1_024,
}  # fmt: skip


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("data")
    songs(folder / "music")
    return folder


def settings(**changes: Any) -> dict[str, Any]:
    return {
        "model": TINY, "folders": ["music"], "mixing": {"seconds": 0.24}, "batch_size": 2, "steps": 4,
        "validation_fraction": 0.2, "validation_songs": 2, "save_every": 2, "eval_every": 2, "warmup_steps": 1,
        "bf16": False, "average_decay": 0.9, "commercial_only": False, "inference": {"segment_frames": 128}, **changes,
    }  # fmt: skip


@pytest.mark.slow
def test_a_killed_run_goes_on_to_the_same_bits(data: Path, tmp_path: Path):
    whole = music.main(None, data, tmp_path / "whole", **settings())
    shutil.copytree(tmp_path / "whole", tmp_path / "resumed")
    for name in ("checkpoint-4", "model", "best"):
        shutil.rmtree(tmp_path / "resumed" / name)
    resumed = music.main(None, data, tmp_path / "resumed", **settings())
    weights = [load_file(tmp_path / n / "model" / "model.safetensors") for n in ("whole", "resumed")]
    assert all(torch.equal(weights[0][name], weights[1][name]) for name in weights[0])
    last = load_file(tmp_path / "whole" / "checkpoint-4" / "model.safetensors")
    assert not all(torch.equal(weights[0][name], last[name]) for name in last), "the mean is saved, not the last step"
    assert {**whole, "minutes": 0} == {**resumed, "minutes": 0}
    curve = json.loads((tmp_path / "resumed" / "curve.json").read_text())
    assert [point["step"] for point in curve] == [2, 4]
    assert {"sdri", "sdri_vocals", "sdri_accompaniment", "band: vocals", "karaoke: vocals"} <= curve[0].keys()
    assert (tmp_path / "resumed" / "curve.png").stat().st_size > 1_000
    config = AutoModelForAudioSeparation.from_pretrained(tmp_path / "whole" / "model").config
    assert config.segment_frames == 128
    learning = json.loads((tmp_path / "whole" / "checkpoint-4" / "config.json").read_text())
    assert learning["segment_frames"] == 64


@pytest.mark.slow
def test_training_learns_to_separate(data: Path, tmp_path: Path):
    fields = settings(
        steps=60, eval_every=30, save_every=100, batch_size=4, learning_rate=0.01, channels_last=True, bf16=True,
        corpora=[BAND],
    )  # fmt: skip
    point = music.main(None, data, tmp_path / "run", **fields)
    curve = json.loads((tmp_path / "run" / "curve.json").read_text())
    assert point["train_loss"] < 0.9 * curve[0]["train_loss"]  # means over the run; 0.82 is usual
    assert not any(":" in name for name in point), "one corpus has no row of its own"
    best = AutoModelForAudioSeparation.from_pretrained(tmp_path / "run" / "best").eval()
    recipe = load_recipe(music.MusicRecipe, None, **fields)
    _, heldout = music.load_data(recipe, data, RATE)
    fixed = song_mixtures(heldout, best.config.source_names, 2)
    again = music.validate(best, fixed)
    assert again["sdri"] == pytest.approx(max(p["sdri"] for p in curve), abs=0.1)  # bfloat16 there
    untrained = music.validate(music.build_model(recipe).eval(), fixed)
    assert again["sdri"] > untrained["sdri"] + 1


def test_each_stem_is_judged_where_it_is_heard(data: Path):
    model, _ = tiny_spleeter(sampling_rate=RATE, stems=STEMS)
    rows = song_mixtures(choose_songs(load_songs([data / "music"], RATE, corpora=[BAND]), 2), STEMS, 2)
    rows[1][1][1] *= 1e-3  # no bass in the second song
    result = music.validate(model, rows)
    for number, name in enumerate(STEMS):
        gains = []
        for _, labels in rows[: 1 if name == "bass" else 2]:
            mixture = labels.sum(dim=0)
            with torch.no_grad():
                estimate = model(mixture[None]).sources[0, number]
            before, after = (sdr(x.flatten(), labels[number].flatten()) for x in (mixture, estimate))
            gains.append((after - before).item())
        assert result[f"sdri_{name}"] == pytest.approx(sum(gains) / len(gains), abs=2e-3)
    assert result["sdri"] == pytest.approx(sum(result[f"sdri_{name}"] for name in STEMS) / 4, abs=2e-3)


def test_a_mono_model_hears_the_channels_one_by_one():
    model, _ = tiny_meta_tasnet(rescale=True)
    mixture = torch.randn(2, 4_000, generator=torch.Generator().manual_seed(0)) * 0.1
    with torch.no_grad():
        sources, _ = separate(model, mixture)
        right = model(mixture[None, 1:]).sources[0, :, 0]
    assert sources.shape == (3, 2, 4_000)
    torch.testing.assert_close(sources[:, 1], right, atol=1e-5, rtol=1e-4)


@pytest.mark.slow
def test_meta_tasnet_is_trained(data: Path, tmp_path: Path):
    fields = settings(
        model_type="meta_tasnet", model=TINY_META, corpora=[BAND], spectrogram_items=8, inference={"rescale": True}
    )
    point = music.main(None, data, tmp_path / "run", **fields)
    assert {f"sdri_{name}" for name in STEMS} <= point.keys()
    model = AutoModelForAudioSeparation.from_pretrained(tmp_path / "run" / "model")
    assert model.config.rescale
    training, _ = music.load_data(load_recipe(music.MusicRecipe, None, **fields), data, RATE)
    dataset = MusicMixtureDataset(training, MusicSettings(RATE, STEMS, 1, 0.24), 8)
    for number, stage in enumerate(model.stages):
        waves = torch.cat([model.prepare(dataset[i]["input_values"])[number] for i in range(8)])
        bank = stage.encoder.spectrogram
        power = (stft(waves, bank.n_fft, bank.hop_length).abs().square() + 1e-8).log10()
        torch.testing.assert_close(bank.mean, power.mean(dim=(0, 1)), atol=1e-3, rtol=0)
        torch.testing.assert_close(bank.std, power.std(dim=(0, 1), correction=0), atol=1e-3, rtol=0)


def test_what_cannot_be_trained(data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    with pytest.raises(DataError, match="19 of 21 songs are not for commercial use"):
        music.main(None, data, tmp_path / "run", **settings(commercial_only=True))
    with pytest.raises(DataError, match="'conv_tasnet' cannot be trained on songs; use meta_tasnet, spleeter"):
        music.main(None, data, tmp_path / "run", **settings(model_type="conv_tasnet"))
    with pytest.raises(DataError, match="accompaniment, vocals cannot teach a model of vocals, other, bass, drums"):
        music.main(None, data, tmp_path / "run", **settings(model={**TINY, "stems": list(STEMS[::-1])}))
    songs(tmp_path / "few", artists=3)
    with pytest.raises(DataError, match="songs of 6 artists; six of a corpus are needed"):
        music.main(None, tmp_path, tmp_path / "run", **settings(folders=["few"]))
    assert main(["train", "music", "--data", str(data), "--output", str(tmp_path / "new"), "--set", "no_such=1"]) != 0
    assert "unknown recipe setting 'no_such'" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("name", "megabytes"), [("spleeter-small-2stems", 8), ("spleeter-small-4stems", 8), ("meta-tasnet-small", 14)]
)
def test_shipped_recipes_can_be_read(name: str, megabytes: float):
    recipe = load_recipe(music.MusicRecipe, Path(music.__file__).parents[1] / "recipes" / f"{name}.yaml")
    assert not recipe.commercial_only, "no recording of that kind may be used commercially"
    config = music.build_model(recipe).config
    assert 2 * config.estimated_parameters() < megabytes * 1e6, "in half precision"
    for field, value in recipe.inference.items():
        setattr(config, field, value)
    config.check_fields()
