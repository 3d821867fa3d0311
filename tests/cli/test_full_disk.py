# SPDX-License-Identifier: Apache-2.0
"""A disk that is full: the error names the file that was asked for, and nothing is left of it."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
import soundfile as sf
import torch
from safetensors.torch import save_file
from tiny_conv_tasnet import tiny_conv_tasnet

from hubsep.batch.explain import explain
from hubsep.cli import main
from hubsep.errors import CheckpointError
from hubsep.hub.atomic import atomic_folder
from hubsep.hub.manifest import write_whole
from hubsep.plotting import save_figure


resource = pytest.importorskip("resource")
RATE = 8_000


@contextmanager
def room(size: int) -> Iterator[None]:
    """Within this, no file gets more bytes, as if the disk were full then."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("models") / "tiny"
    tiny_conv_tasnet()[0].save_pretrained(folder)
    return folder


@pytest.mark.parametrize(
    ("size", "options", "name"),
    [
        pytest.param(100, [], "speaker_1.wav", id="head"),
        pytest.param(5_000, [], "speaker_1.wav", id="sources"),
        pytest.param(12_000, ["--subtype", "DOUBLE"], "speaker_1.wav", id="delivery"),
        pytest.param(12_000, ["--plot"], "spectrograms.png", id="picture"),
    ],
)
def test_what_is_separated(
    size: int, options: list[str], name: str, model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    monkeypatch.chdir(tmp_path)
    sf.write("talk.wav", np.random.default_rng(0).uniform(-0.4, 0.4, RATE // 4), RATE, subtype="FLOAT")
    arguments = ["separate", "talk.wav", "--model", str(model), "--device", "cpu", "-o", "out", *options]
    with room(size):
        assert main(arguments) == 1
    said = capsys.readouterr().err
    line = next(line for line in said.splitlines() if line.startswith("failed:"))
    assert str(Path("out", "talk", name)) in line
    assert "File too large" in line
    assert "allow larger files" in line
    assert ".separating-" not in said
    assert ".rf64" not in said
    assert ".part" not in said
    assert not [path for path in Path("out").rglob("*") if path.is_file() and ".hubsep" not in path.parts]


def write_weights(folder: Path) -> None:
    save_file({"weight": torch.zeros(4_000)}, folder / "model.safetensors")


def write_text(folder: Path) -> None:
    (folder / "config.json").write_text("x" * 4_000)


def truncate(folder: Path) -> None:
    os.truncate(folder / "nothing", 3)


@pytest.mark.parametrize(
    ("fill", "way"), [(write_weights, "allow larger files"), (write_text, "allow larger files"), (truncate, "")]
)
def test_folders_that_appear_whole(fill: Callable[[Path], object], way: str, tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"model'? could not be written") as caught, room(2_000):
        fill_folder(tmp_path / "model", fill)
    assert ".tmp-" not in explain(caught.value)
    assert way in explain(caught.value)
    assert os.listdir(tmp_path) == []


def fill_folder(target: Path, fill: Callable[[Path], object]) -> None:
    with atomic_folder(target) as folder:
        fill(folder)


def test_other_errors_of_who_fills_a_folder_stay_as_they_are(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="source"):
        fill_folder(tmp_path / "model", lambda folder: (tmp_path / "source").rename(folder / "copy"))


def test_files_that_appear_whole(tmp_path: Path) -> None:
    from matplotlib.figure import Figure

    with pytest.raises(OSError, match="too large") as caught, room(100):
        write_whole(tmp_path / "figures.json", "x" * 4_000)
    assert (caught.value.errno, caught.value.filename) == (errno.EFBIG, str(tmp_path / "figures.json"))
    with pytest.raises(OSError, match="too large") as caught, room(100):
        save_figure(Figure(), tmp_path / "picture.png")
    assert (caught.value.errno, caught.value.filename) == (errno.EFBIG, str(tmp_path / "picture.png"))
    assert os.listdir(tmp_path) == []
