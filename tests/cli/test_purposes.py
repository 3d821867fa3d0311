# SPDX-License-Identifier: Apache-2.0
"""A model that makes sounds where one that separates is wanted, and the other way round: each is told the way out."""

from __future__ import annotations

import re
import shlex
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile as sf
from tiny_audioldm2 import published_folder, tiny_components
from tiny_conv_tasnet import tiny_conv_tasnet

import hubsep
from hubsep.cli import main
from hubsep.demo.limits import chosen_model
from hubsep.errors import CheckpointError


MAKES, SEPARATES = "makes sounds and separates none", "separates recordings and makes none"
TO_GENERATE, TO_SEPARATE = "`hubsep generate --model` takes it", "`hubsep separate --model` takes it"


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("purposes")
    published_folder(folder / "maker")
    tiny_conv_tasnet()[0].save_pretrained(folder / "separator")
    (folder / "data").mkdir()
    sf.write(folder / "talk.wav", np.zeros(8_000), 8_000)
    return folder


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("separate talk.wav -m audioldm2-tiny", f"{MAKES}: {TO_GENERATE}"),
        ("separate talk.wav -m audioldm2-tiny -q rain", f"{MAKES}: {TO_GENERATE}"),
        ("separate talk.wav -m maker", f"{MAKES}: {TO_GENERATE}"),
        ("generate rain -o x.wav -m audiosep-small", f"{SEPARATES}: {TO_SEPARATE}"),
        ("generate rain -o x.wav -m separator", f"{SEPARATES}: {TO_SEPARATE}"),
        ("evaluate audioldm2-tiny --data data", f"{MAKES}; measure it with --dataset prompts"),
        ("evaluate maker --data data --dataset musdb", f"{MAKES}; measure it with --dataset prompts"),
        ("evaluate separator --data data --dataset prompts", f"{SEPARATES}; leave out --dataset prompts"),
        ("train audioldm2-tiny --data data", "hubsep train lora --set pipeline=audioldm2-tiny"),
        ("train maker --data data", "hubsep train lora --set pipeline=maker"),
        ("merge audioldm2-tiny separator out", f"{MAKES}: {TO_GENERATE}"),
    ],
)
def test_a_command_for_the_other_purpose(
    line: str, words: str, place: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    monkeypatch.chdir(place)
    assert main(shlex.split(line)) == 2
    said = re.sub(r"[\s│╭╮╰╯─]+", " ", capsys.readouterr().err)
    assert words in said, said
    assert sorted(path.name for path in place.iterdir()) == ["data", "maker", "separator", "talk.wav"]


@pytest.mark.parametrize("model", ["audioldm2-tiny", "maker", "a pipeline"])
def test_a_pipeline_that_separates_of_a_model_that_makes_sounds(
    model: str, place: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.chdir(place)
    taken: Any = hubsep.AudioLDM2Pipeline(**tiny_components()) if model == "a pipeline" else model
    with pytest.raises(CheckpointError, match=f'{MAKES}: .*pipeline\\("text-to-audio"'):
        hubsep.pipeline("audio-separation", model=taken)


@pytest.mark.parametrize("model", ["audiosep-small", "separator", "a model"])
def test_a_pipeline_that_makes_sounds_of_a_model_that_separates(
    model: str, place: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.chdir(place)
    taken: Any = tiny_conv_tasnet()[0] if model == "a model" else model
    with pytest.raises(CheckpointError, match=f'{SEPARATES}: .*pipeline\\("audio-separation"'):
        hubsep.pipeline("text-to-audio", model=taken)


def test_classes_of_the_other_purpose(place: Path):
    with pytest.raises(CheckpointError, match=SEPARATES):
        hubsep.AudioLDM2Pipeline.from_pretrained(place / "separator")
    with pytest.raises(CheckpointError, match=MAKES):
        hubsep.AutoModelForAudioSeparation.from_pretrained(place / "maker")


def test_a_page_of_the_other_purpose(place: Path):
    assert chosen_model("audiosep-small", "audio-separation").name == "audiosep-small"
    with pytest.raises(CheckpointError, match=r"HUBSEP_MODEL is 'audioldm2-tiny', .* set it for spaces/text-to-audio"):
        chosen_model("audioldm2-tiny", "audio-separation")
    with pytest.raises(CheckpointError, match=r"HUBSEP_MODEL is .*separator', .* set it for spaces/separation"):
        chosen_model(str(place / "separator"), "text-to-audio")
