# SPDX-License-Identifier: Apache-2.0
"""A recipe that contradicts its model is refused, with both values, before any data is read: there is none here."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from tiny_audioldm2 import tiny_components
from tiny_audiosep import tiny_audiosep
from tiny_conv_tasnet import tiny_conv_tasnet
from tiny_sepformer import tiny_sepformer
from tiny_spleeter import tiny_spleeter

from hubsep import AudioLDM2Pipeline
from hubsep.errors import DataError
from hubsep.training.bounds import check_length
from hubsep.training.finetune import run as finetune
from hubsep.training.generators.lora import LoraRecipe, settings_of
from hubsep.training.separators import audiosep, music, speech


RATE = 8_000
DECIDES = r"in the recipe, but {} for this model, which decides it; leave {} out of (?:mixing|scenes), or train"


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("models")
    text, processor = tiny_audiosep()
    networks = {
        "text": text,
        "two speakers": tiny_conv_tasnet(sampling_rate=RATE)[0],
        "out of noise": tiny_conv_tasnet(sampling_rate=RATE, num_sources=1)[0],
        "song": tiny_spleeter()[0],
        "chunks": tiny_sepformer()[0],
    }
    for name, network in networks.items():
        network.save_pretrained(folder / name)
    processor.save_pretrained(folder / "text")
    return folder


def contradicts(setting: str, value: Any, fact: Any) -> str:
    return rf"setting {setting} is {value} " + DECIDES.format(fact, setting)


@pytest.mark.parametrize(
    ("model", "mixing", "error"),
    [
        ("text", {"sampling_rate": 16_000}, contradicts("sampling_rate", 16_000, RATE)),
        ("two speakers", {"sampling_rate": 16_000}, contradicts("sampling_rate", 16_000, RATE)),
        ("two speakers", {"num_sources": 3}, contradicts("num_sources", 3, 2)),
        ("two speakers", {"num_sources": 1}, contradicts("num_sources", 1, 2)),
        ("two speakers", {"num_outputs": 5}, contradicts("num_outputs", 5, 2)),
        ("two speakers", {"num_outputs": 1}, contradicts("num_outputs", 1, 2)),
        ("song", {"sampling_rate": RATE}, contradicts("sampling_rate", RATE, 44_100)),
        ("song", {"channels": 1}, contradicts("channels", 1, 2)),
        ("song", {"stems": ["vocals", "drums"]}, r"setting stems is .* which decides it; leave stems out"),
        (
            "two speakers",
            {"noise_probability": 1.0},
            r"and there is no noise; .* --background",
        ),
        ("out of noise", {}, "noises with --background"),
    ],
)
def test_a_fine_tune_against_its_model(model: str, mixing: dict[str, Any], error: str, models: Path, tmp_path: Path):
    with pytest.raises(DataError, match=error):
        finetune.main(str(models / model), tmp_path / "no data", tmp_path / "run", mixing=mixing)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("recipe", "model", "settings", "error"),
    [
        (speech, "two speakers", {"mixing": {"sampling_rate": 16_000}}, contradicts("sampling_rate", 16_000, RATE)),
        (speech, "two speakers", {"mixing": {"num_sources": 3}}, contradicts("num_sources", 3, 2)),
        (speech, "two speakers", {"mixing": {"num_outputs": 1}}, contradicts("num_outputs", 1, 2)),
        (speech, "two speakers", {"mixing": {"mixit": True}}, contradicts("mixit", True, False)),
        (
            speech,
            "two speakers",
            {"mixing": {"noise_probability": 0.5}},
            "no noise; name folders .* noise_folders",
        ),
        (music, "song", {"mixing": {"channels": 1}}, contradicts("channels", 1, 2)),
        (audiosep, "text", {"mixing": {"sampling_rate": 44_100}}, contradicts("sampling_rate", 44_100, RATE)),
    ],
)
def test_a_recipe_against_its_model(
    recipe: Any, model: str, settings: dict[str, Any], error: str, models: Path, tmp_path: Path
):
    kind = {"two speakers": "conv_tasnet", "song": "spleeter", "text": "audiosep"}[model]
    with pytest.raises(DataError, match=error):
        recipe.main(
            None,
            tmp_path / "no data",
            tmp_path / "run",
            initial_model=str(models / model),
            model_type=kind,
            **settings,
        )


def test_scenes_against_the_model(models: Path):
    recipe = audiosep.AudioSepRecipe(scenes={"sampling_rate": 44_100})
    with pytest.raises(DataError, match=contradicts("sampling_rate", 44_100, RATE)):
        audiosep.mixing_settings(recipe, tiny_audiosep()[0].config)


def test_what_agrees_with_the_model_may_be_said(models: Path, tmp_path: Path):
    mixing = {"sampling_rate": RATE, "num_sources": 2, "num_outputs": 2, "seconds": 1}
    with pytest.raises(DataError, match="no data"):
        finetune.main(str(models / "two speakers"), tmp_path / "no data", tmp_path / "run", mixing=mixing)
    stems = {"stems": ["vocals", "accompaniment"], "channels": 2}
    with pytest.raises(DataError, match="no data"):
        finetune.main(str(models / "song"), tmp_path / "no data", tmp_path / "run", mixing=stems)


def test_pieces_that_are_too_short_for_the_model():
    config = tiny_conv_tasnet(sampling_rate=RATE)[0].config
    least = config.minimum_samples / RATE
    check_length("mixing setting seconds", least, config)
    with pytest.raises(DataError, match=rf"seconds is {least / 2:g}, which is \d+ .* set it to at least 0\.\d+"):
        check_length("mixing setting seconds", least / 2, config)


def test_adapters_of_a_generator_against_its_pipeline():
    pipe = AudioLDM2Pipeline(**tiny_components())
    mels = pipe.vocoder.config.model_in_dim
    with pytest.raises(DataError, match=rf"num_mels is {mels + 1}, but {mels} for this pipeline.* leave num_mels out"):
        settings_of(pipe, LoraRecipe(num_mels=mels + 1))
