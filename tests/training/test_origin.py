# SPDX-License-Identifier: Apache-2.0
"""A run that goes on does so with the model, the recordings and the settings that it began with."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import soundfile as sf
from bells import BRIEF
from speakers import speakers
from tiny_conv_tasnet import tiny_conv_tasnet

from hubsep.errors import DataError
from hubsep.training.finetune import run as finetune
from hubsep.training.origin import ORIGIN
from hubsep.training.separators import speech


TINY = {"num_filters": 32, "bottleneck_channels": 16, "hidden_channels": 24, "skip_channels": 12, "num_blocks": 2}
SETTINGS: dict[str, Any] = {
    **BRIEF, "mixing": {"seconds": 0.1}, "batch_size": 1, "validation_mixtures": 1, "validation_seconds": 0.1,
    "final_mixtures": 1, "non_commercial": True, "eval_every": 1,
}  # fmt: skip


def other_data(place: Path) -> dict[str, Any]:
    shutil.copytree(place / "data", place / "other")
    waveform, rate = sf.read(place / "other" / "3_0.wav")
    sf.write(place / "other" / "3_0.wav", waveform * 0.9, rate)
    return {"data": place / "other"}


def other_model(place: Path) -> dict[str, Any]:
    tiny_conv_tasnet(num_blocks=2)[0].save_pretrained(place / "other-model")
    return {"model": str(place / "other-model")}


def other_speaker(place: Path) -> dict[str, Any]:
    shutil.copytree(place / "data", place / "renamed")
    table = place / "renamed" / "metadata.csv"
    table.write_text(table.read_text().replace("speaker-2", "speaker-20"))
    return {"data": place / "renamed"}


OTHERS: list[tuple[Callable[[Path], dict[str, Any]], str]] = [
    (other_data, "other recordings of --data"),
    (other_speaker, "other recordings of --data"),
    (other_model, "another model than other-model"),
    (lambda place: {"seed": 1}, "seed 0, not 1"),
    (lambda place: {"validation_fraction": 0.4}, "validation_fraction 0.2, not 0.4"),
    (lambda place: {"learning_rate": 0.5}, "learning_rate 0.0001, not 0.5"),
    (lambda place: {"lora": True}, "lora False, not True"),
]


@pytest.fixture(scope="module")
def begun(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of one step, with its model and its data beside it."""
    folder = tmp_path_factory.mktemp("begun")
    tiny_conv_tasnet()[0].save_pretrained(folder / "base")
    speakers(folder / "data", count=8, clips=1, seconds=0.5)
    finetune.main(str(folder / "base"), folder / "data", folder / "run", **SETTINGS, steps=1)
    return folder


@pytest.mark.parametrize(("change", "told"), OTHERS, ids=[told for _, told in OTHERS])
def test_a_run_goes_on_with_what_it_began_with_alone(
    change: Callable[[Path], dict[str, Any]], told: str, begun: Path, tmp_path: Path
) -> None:
    shutil.copytree(begun, tmp_path, dirs_exist_ok=True)
    files = {path: path.read_bytes() for path in (tmp_path / "run").rglob("*") if path.is_file()}
    arguments: dict[str, Any] = {"model": str(begun / "base"), "data": begun / "data", **SETTINGS, "steps": 2}
    with pytest.raises(DataError, match=rf"holds a run that began with .*{told}.*choose another --output"):
        finetune.main(output=tmp_path / "run", **{**arguments, **change(tmp_path)})
    assert {path: path.read_bytes() for path in (tmp_path / "run").rglob("*") if path.is_file()} == files


@pytest.mark.slow
def test_a_run_goes_on_for_longer_with_the_same_recordings_in_another_place(begun: Path, tmp_path: Path) -> None:
    shutil.copytree(begun, tmp_path, dirs_exist_ok=True)
    table = tmp_path / "data" / "metadata.csv"
    table.write_text(table.read_text().replace("made up", "made up anew"))  # of no weight for what is learnt
    before = json.loads((tmp_path / "run" / "before.json").read_text())
    given = str(tmp_path / "base"), tmp_path / "data", tmp_path / "run"
    result = finetune.main(*given, **{**SETTINGS, "steps": 2, "patience": 3})
    assert result["before"] == before
    assert [point["step"] for point in json.loads((tmp_path / "run" / "curve.json").read_text())] == [1, 2]


def test_what_was_measured_of_unknown_recordings_is_measured_again(begun: Path, tmp_path: Path) -> None:
    shutil.copytree(begun, tmp_path, dirs_exist_ok=True)
    (tmp_path / "run" / "before.json").write_text('{"si_snri": -99.0}')
    (tmp_path / "run" / ORIGIN).unlink()  # as of a run that an earlier version began
    given = str(tmp_path / "base"), tmp_path / "data", tmp_path / "run"
    assert finetune.main(*given, **SETTINGS, steps=1)["before"]["si_snri"] > -99


@pytest.mark.slow
def test_a_recipe_goes_on_with_what_it_began_with_alone(tmp_path: Path) -> None:
    speakers(tmp_path / "data", count=16, clips=1, seconds=0.5)
    settings: dict[str, Any] = {
        "model_type": "conv_tasnet", "model": TINY, "mixing": {"seconds": 0.1}, "batch_size": 1, "steps": 1,
        "validation_mixtures": 1, "validation_seconds": 0.1, "eval_every": 1, "bf16": False,
    }  # fmt: skip
    given = None, tmp_path / "data", tmp_path / "run"
    speech.main(*given, **settings)
    with pytest.raises(DataError, match=r"holds a run that began with learning_rate 0.001, not 0.1"):
        speech.main(*given, **settings, learning_rate=0.1)
    assert speech.main(*given, **{**settings, "steps": 2})["step"] == 2
    table = tmp_path / "data" / "metadata.csv"
    table.write_text(table.read_text().replace("speaker-2", "speaker-20"))
    with pytest.raises(DataError, match=r"holds a run that began with another metadata.csv in the folders of --data"):
        speech.main(*given, **{**settings, "steps": 3})
