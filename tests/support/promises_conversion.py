# SPDX-License-Identifier: Apache-2.0
"""What every conversion promises.

A system's test file says `class TestX(ConversionPromises)` and gives the four attributes: a file laid out as its
authors publish theirs is written, converted, damaged and refused.
"""

from __future__ import annotations

import os
import pickle
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from children import KILLED, Children
from safetensors.torch import save_file
from torch import Tensor

from hubsep.auto import AutoModelForAudioSeparation
from hubsep.conversion import convert
from hubsep.conversion.writing import ORIGINS
from hubsep.errors import ConversionError
from hubsep.hub import verify_manifest
from hubsep.hub.atomic import recover
from hubsep.hub.manifest import sha256
from hubsep.registry import SYSTEMS


Tensors = dict[str, Tensor]


class Canary:
    """An object whose unpickling writes a file."""

    def __init__(self, path: Path):
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return os.system, (f"touch '{self.path}'",)


def missing(tensors: Tensors, name: str) -> None:
    del tensors[name]


def added(tensors: Tensors, name: str) -> None:
    tensors[f"{name}_new"] = tensors[name].clone()


def reshaped(tensors: Tensors, name: str) -> None:
    tensors[name] = torch.cat([tensors[name], tensors[name]])


def not_finite(tensors: Tensors, name: str) -> None:
    tensors[name] = torch.full_like(tensors[name], torch.nan)


def of_another_kind(tensors: Tensors, name: str) -> None:
    tensors[name] = torch.ones_like(tensors[name], dtype=torch.int64)


def named_like_a_path(tensors: Tensors, name: str) -> None:
    tensors[f"../{name}"] = tensors[name].clone()


def larger_than_its_data(tensors: Tensors, name: str) -> None:
    tensors[name] = torch.zeros(1).expand(1 << 40)


def no_tensor(tensors: Any, name: str) -> None:
    tensors[name] = 1.0


DAMAGES = [
    missing,
    added,
    reshaped,
    not_finite,
    of_another_kind,
    named_like_a_path,
    larger_than_its_data,
    no_tensor,
]


def digests(folder: Path) -> dict[str, str]:
    return {path.relative_to(folder).as_posix(): sha256(path) for path in folder.rglob("*") if path.is_file()}


class ConversionPromises:
    """Inherit, and set the attributes."""

    model_type: Any  # a literal in each test, which `convert` wants
    tensors: Callable[[], Tensors]  # by the authors' names
    write: Callable[[Path, Tensors], Path]  # as the authors publish it
    damaged: tuple[str, str]  # a tensor that the model needs: its names in the source and in the model

    @pytest.fixture(scope="class")
    @classmethod
    def overrides(cls, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
        """What the file does not hold."""
        return {}

    @pytest.fixture(scope="class")
    @classmethod
    def source(cls, tmp_path_factory: pytest.TempPathFactory) -> Path:
        return cls.write(tmp_path_factory.mktemp("source") / "published.ckpt", cls.tensors())

    @pytest.fixture(scope="class")
    @classmethod
    def converted(cls, tmp_path_factory: pytest.TempPathFactory, source: Path, overrides: dict[str, Any]) -> Path:
        output = tmp_path_factory.mktemp("converted") / "model"
        convert(cls.model_type, source, output, licence="MIT", **overrides)
        return output

    def test_the_folder_loads_and_holds_the_converted_weights(
        self, source: Path, converted: Path, overrides: dict[str, Any]
    ):
        expected = convert(self.model_type, source, **overrides).state_dict()
        loaded = AutoModelForAudioSeparation.from_pretrained(converted).state_dict()
        assert loaded.keys() == expected.keys()
        for name, tensor in expected.items():
            assert torch.equal(loaded[name], tensor), name

    def test_the_folder_is_complete_and_says_where_it_comes_from(self, source: Path, converted: Path):
        verify_manifest(converted)
        text = (converted / "README.md").read_text(encoding="utf-8")
        assert "\nlicense: mit\n" in text
        assert sha256(source) in text
        assert SYSTEMS[self.model_type].paper in text
        assert ORIGINS[self.model_type].authors in text
        for path in converted.glob("*.json"):
            assert str(source.parents[1]) not in path.read_text(encoding="utf-8"), f"{path.name} holds a path"

    def test_the_same_input_gives_the_same_bytes(
        self, tmp_path: Path, source: Path, converted: Path, overrides: dict[str, Any]
    ):
        convert(self.model_type, source, tmp_path / "again", licence="MIT", **overrides)
        assert digests(tmp_path / "again") == digests(converted)

    def test_safetensors_of_the_same_keys_give_the_same_weights(
        self, tmp_path: Path, source: Path, overrides: dict[str, Any]
    ):
        save_file(self.tensors(), tmp_path / "same.safetensors")
        expected = convert(self.model_type, source, **overrides).state_dict()
        state = convert(self.model_type, tmp_path / "same.safetensors", **overrides).state_dict()
        assert state.keys() == expected.keys()
        assert all(torch.equal(state[name], tensor) for name, tensor in expected.items())

    @pytest.mark.parametrize("damage", DAMAGES, ids=lambda damage: damage.__name__)
    def test_what_does_not_fit_is_refused_by_name(
        self, damage: Callable[[Any, str], None], tmp_path: Path, overrides: dict[str, Any]
    ):
        tensors = self.tensors()
        damage(tensors, self.damaged[0])
        source = self.write(tmp_path / "damaged.ckpt", tensors)
        with pytest.raises(ConversionError) as caught:
            convert(self.model_type, source, tmp_path / "out", licence="MIT", **overrides)
        assert any(name.removeprefix("ss_model.") in str(caught.value) for name in self.damaged)
        assert [path.name for path in tmp_path.iterdir()] == ["damaged.ckpt"]

    @pytest.mark.parametrize("part", [0.0, 0.3, 0.9, 0.999])
    def test_a_file_that_is_cut_short_is_refused(
        self, part: float, tmp_path: Path, source: Path, overrides: dict[str, Any]
    ):
        content = source.read_bytes()
        cut = tmp_path / "cut.ckpt"
        cut.write_bytes(content[: int(part * len(content))])
        with pytest.raises(ConversionError, match=r"cut\.ckpt"):
            convert(self.model_type, cut, tmp_path / "out", licence="MIT", **overrides)
        assert not (tmp_path / "out").exists()

    @pytest.mark.parametrize("archive", [True, False])
    def test_a_pickle_that_runs_code_is_refused_and_does_not_run_it(
        self, archive: bool, tmp_path: Path, overrides: dict[str, Any]
    ):
        canary = tmp_path / "canary"
        content = {"state_dict": self.tensors(), "callbacks": {"harmless": Canary(canary)}}
        bare = tmp_path / "proof.pkl"
        bare.write_bytes(pickle.dumps(Canary(canary), protocol=2))
        pickle.loads(bare.read_bytes())
        assert canary.exists(), "the trap works"
        canary.unlink()
        trap = tmp_path / "trap.ckpt"
        torch.save(content, trap, _use_new_zipfile_serialization=archive)
        stranger = tmp_path / "stranger.ckpt"
        stranger.write_bytes(b"\x80\x02cevil\nEvil\n.")
        for source in (trap, bare, stranger):
            with pytest.raises(ConversionError, match="was not opened") as caught:
                convert(self.model_type, source, tmp_path / "out", licence="MIT", **overrides)
            assert str(caught.value).isprintable()
            assert "weights_only" not in str(caught.value), "PyTorch's advice is to open it unsafely"
        assert not canary.exists()
        assert not (tmp_path / "out").exists()

    @pytest.mark.parametrize("licence", [None, "", "MIT\ntags: [x]", "all rights reserved"])
    def test_a_folder_is_not_written_without_a_licence(
        self, licence: str | None, tmp_path: Path, source: Path, overrides: dict[str, Any]
    ):
        with pytest.raises(ConversionError, match="licence"):
            convert(self.model_type, source, tmp_path / "out", licence=licence, **overrides)
        assert not (tmp_path / "out").exists()

    def test_an_override_that_does_not_exist_is_refused(self, source: Path, overrides: dict[str, Any]):
        with pytest.raises(ConversionError, match="hop_lenght"):
            convert(self.model_type, source, **overrides, hop_lenght=40)

    def test_a_source_that_does_not_exist_is_refused(self, tmp_path: Path):
        with pytest.raises(ConversionError, match="absent"):
            convert(self.model_type, tmp_path / "absent.ckpt")

    @pytest.mark.slow
    def test_killed_conversions_leave_a_whole_folder_or_none(
        self, tmp_path: Path, source: Path, converted: Path, overrides: dict[str, Any]
    ):
        """20 kills, one in each twentieth of two conversions; every second one starts without a folder."""
        target = tmp_path / "place" / "model"
        arguments = (self.model_type, str(source), str(target), overrides)
        child, generator, found = Children("conversion_child"), random.Random(0), []
        try:
            status, _, output = child.run("convert_once", *arguments)
            assert status == 0, output
            seconds = child.cpu_s
            parts = generator.sample(range(20), 20)
            for kill, part in enumerate(parts):
                if kill % 2 and target.exists():
                    # killed between exchange and clearing up, a folder that is moved away leaves what it replaced
                    # behind: that may be the only copy of something, so nobody deletes it
                    recover(target)
                    target.rename(tmp_path / f"moved-{kill}")
                moment = 2 * seconds * (part + generator.random()) / 20
                status, _, output = child.run("convert_for_ever", *arguments, kill_after_s=moment)
                assert os.WTERMSIG(status) == KILLED, output
                found.append(target.exists())
                if target.exists():
                    verify_manifest(target)
            assert child.run("convert_once", *arguments)[0] == 0
        finally:
            child.close()
        assert True in found[1::2], "every kill came before the folder was there"
        assert False in found[1::2], "every kill came after the folder was there"
        assert digests(target) == digests(converted)
        assert [path.name for path in target.parent.iterdir()] == ["model"], "litter was not removed"
