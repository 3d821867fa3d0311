# SPDX-License-Identifier: Apache-2.0
"""Stages of AudioLDM 2's training that are killed while they write a checkpoint go on from the one before.

What comes out is, bit by bit, what a run makes that nobody disturbed: weights, and the curve but for the minutes.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from children import Children
from safetensors.torch import load_file
from sounds import corpus
from stages_audioldm2 import earlier_stages
from tiny_audioldm2 import published_folder


# the weights of the last checkpoint are there by then, what the optimiser knows as well
HALF_WRITTEN = "checkpoint-4/trainer_state.json"


@pytest.fixture(scope="module")
def child() -> Iterator[Children]:
    children = Children("training_child")
    yield children
    children.close()


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return corpus(tmp_path_factory.mktemp("data"))


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = earlier_stages(tmp_path_factory.mktemp("runs"))
    published_folder(folder / "pipeline")
    return folder


def weights(folder: Path) -> dict[str, Any]:
    found = {path.relative_to(folder).as_posix(): load_file(path) for path in folder.rglob("*.safetensors")}
    assert found
    return found


def check(child: Children, stage: str, data: Path, place: Path) -> None:
    whole, killed = place / f"{stage}-whole", place / f"{stage}-killed"
    expected = child("train", stage, data, whole)
    status, _, output = child.run("train", stage, str(data), str(killed), HALF_WRITTEN)
    assert os.WIFSIGNALED(status), output
    assert os.WTERMSIG(status) == signal.SIGKILL
    assert list((killed / "checkpoint-4").glob("model*.safetensors"))
    assert not (killed / HALF_WRITTEN).exists()
    assert not (killed / "model").exists()
    found = child("train", stage, data, killed)
    assert {**found, "minutes": 0} == {**expected, "minutes": 0}
    curves = [json.loads((folder / "curve.json").read_text()) for folder in (whole, killed)]
    assert [{**point, "minutes": 0} for point in curves[0]] == [{**point, "minutes": 0} for point in curves[1]]
    ours, theirs = weights(killed / "model"), weights(whole / "model")
    assert ours.keys() == theirs.keys()
    for name, tensors in theirs.items():
        assert all(torch.equal(tensor, ours[name][key]) for key, tensor in tensors.items()), name
    for folder in (whole, killed):
        shutil.rmtree(folder)


@pytest.mark.slow
def test_a_killed_autoencoder_goes_on_to_the_same_bits(child: Children, data: Path, place: Path) -> None:
    check(child, "autoencoder", data, place)


@pytest.mark.slow
@pytest.mark.parametrize("stage", ["vocoder", "diffusion", "loa", "joint", "lora"])
def test_a_killed_stage_goes_on_to_the_same_bits(stage: str, child: Children, data: Path, place: Path) -> None:
    check(child, stage, data, place)
