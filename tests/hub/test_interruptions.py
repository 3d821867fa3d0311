# SPDX-License-Identifier: Apache-2.0
"""Saving that is interrupted leaves the old folder or the new one, complete, and what else was in it."""

from __future__ import annotations

import json
import os
import random
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from children import KILLED, Children
from numbered_saves import PROCESSOR, furnish, number_in, save_numbered
from tiny import TinyModel, saved_tiny, tiny_model
from tiny_audioldm2 import published_folder

import hubsep
from hubsep.cards import read_card, write_card
from hubsep.errors import CheckpointError
from hubsep.hub import atomic_folder, recover, resolve_folder, verify_manifest
from hubsep.hub.atomic import MARKER
from hubsep.hub.manifest import listed_files
from hubsep.hub.processes import host
from hubsep.shipped import SHIPPED
from hubsep.training.separators import release


@pytest.fixture(scope="module")
def child() -> Iterator[Children]:
    children = Children("interruption_child")
    yield children
    children.close()


def check_furniture(folder: Path) -> None:
    assert (folder / "README.md").read_text() == "our card"
    assert (folder / "processor_config.json").read_text() == PROCESSOR
    assert (folder / "checkpoint-5" / "optimizer.pt").read_bytes() == b"optimizer"
    assert (folder / "training_args.bin").read_bytes() == b"arguments"


def kills(child: Children, target: Path, count: int, seed: int) -> list[int]:
    """Kill a process that saves for ever after random times; return the number found in the folder after each."""
    generator, numbers = random.Random(seed), []
    for kill in range(count):
        moment = generator.uniform(0.01, 0.3)
        status, _, output = child.run("save_for_ever", str(target), (kill + 1) * 1_000, kill_after_s=moment)
        assert os.WTERMSIG(status) == KILLED, output
        numbers.append(number_in(target))
    return numbers


@pytest.mark.slow
def test_saves_that_are_killed(child: Children, tmp_path: Path) -> None:
    target = tmp_path / "model"
    save_numbered(child, target, 7)
    furnish(target)
    numbers = kills(child, target, 20, seed=0)
    assert len(set(numbers)) > 3  # the kills came at many moments of many saves
    save_numbered(child, target, 3)
    assert number_in(target) == 3
    check_furniture(target)
    assert os.listdir(tmp_path) == ["model"]


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(1, 11))
def test_more_saves_that_are_killed(seed: int, child: Children, tmp_path: Path) -> None:
    save_numbered(child, tmp_path / "model", 7)
    kills(child, tmp_path / "model", 20, seed)


@pytest.mark.slow
@pytest.mark.parametrize("exchange", [True, False])
def test_killed_before_every_change(exchange: bool, child: Children, tmp_path: Path) -> None:
    target = tmp_path / "model"
    save_numbered(child, target, 1)
    furnish(target)
    total = child.run("save_until_operation", str(target), 1, 0, exchange)[1]
    assert total > 15
    seen, absent = set(), 0
    for operation in range(1, total + 1):
        status, _, output = child.run("save_until_operation", str(target), 1 + operation, operation, exchange)
        assert os.WIFSIGNALED(status), output
        absent += not target.exists()
        assert exchange or target.exists() or len(list(tmp_path.glob("model.old-*"))) == 1
        seen.add(number_in(resolve_folder(target)) - operation)  # 1 if new, else what the last finished save left
        recover(target)
        assert os.listdir(tmp_path) == ["model"]
        assert not (target / MARKER).exists()
        check_furniture(target)
        number_in(target)
    assert absent == 0 if exchange else absent > 0
    assert 1 in seen
    assert len(seen) > 1


@pytest.mark.slow
def test_first_save_that_is_killed(child: Children, tmp_path: Path) -> None:
    target = tmp_path / "model"
    total = child.run("save_until_operation", str(target), 1, 0, True)[1]
    outcomes = set()
    for operation in range(1, total + 1):
        shutil.rmtree(target, ignore_errors=True)
        child.run("save_until_operation", str(target), operation, operation, True)
        outcomes.add(target.exists())
        if target.exists():
            assert number_in(target) == operation
        recover(target)
        assert os.listdir(tmp_path) in ([], ["model"])
    assert outcomes == {True, False}


@pytest.mark.slow
@pytest.mark.parametrize("room", [0, 100, 300, 900])
def test_no_room_on_the_disk(room: int, child: Children, tmp_path: Path) -> None:
    target = tmp_path / "model"
    save_numbered(child, target, 7)
    assert "could not be written" in child.run("save_without_room", str(target), 8, room)[1]
    assert number_in(target) == 7
    assert os.listdir(tmp_path) == ["model"]


def test_two_processes_save_to_one_place(child: Children, tmp_path: Path) -> None:
    target = tmp_path / "model"
    save_numbered(child, target, 6)
    status, _, output = child.run("save_together", str(target), 6, 15)
    assert status == 0, output
    assert number_in(target) in (6, 7)
    assert os.listdir(tmp_path) == ["model"]


def test_saving_keeps_what_is_not_the_model(tmp_path: Path) -> None:
    target = saved_tiny(tmp_path / "model", hidden_size=16)
    furnish(target)
    os.symlink("README.md", target / "link")
    tiny_model(hidden_size=16).save_pretrained(target, max_shard_size=600)
    assert len(list(target.glob("model-0*.safetensors"))) > 1
    assert not (target / "model.safetensors").exists()
    tiny_model(hidden_size=16).save_pretrained(target)
    assert sorted(path.name for path in target.glob("model*")) == ["model.safetensors"]
    assert os.readlink(target / "link") == "README.md"
    check_furniture(target)
    verify_manifest(target)
    (target / "link").unlink()
    assert TinyModel.from_pretrained(target).config.hidden_size == 16


FOREIGN = (
    "precious.safetensors", "adapter_model.safetensors", "notes.safetensors.txt", "my.safetensors.bak",
    ".hidden.safetensors", "lora.safetensors.d/a.txt", "model-01-of-my-own.safetensors.txt",
    "model-0riginal.safetensors",
    ".env", "sub/deep.key", "token.txt", "run.sh", "text_encoder/mine.dat",
)  # fmt: skip


def others(folder: Path) -> dict[str, tuple[bytes, int]]:
    """Files that somebody else put there: what they hold, and who may read them."""
    found = {}
    for name in FOREIGN:
        path = folder / name
        if path.is_file():
            found[name] = (path.read_bytes(), path.stat().st_mode & 0o777)
    return found


@pytest.mark.parametrize("way", ["the model", "the pipeline", "a card", "a release"])
def test_files_of_others_stay_as_private_as_they_are(way: str, tmp_path: Path) -> None:
    """Whatever they are called, and also those that are a second name of a file elsewhere."""
    folder, outside = tmp_path / "model", tmp_path / "outside.key"
    separate = hubsep.pipeline(model="conv-tasnet-small")
    separate.save_pretrained(folder)
    for name in FOREIGN:
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_text("mine")
        (folder / name).chmod(0o700 if name == "run.sh" else 0o600)
    outside.write_text("secret")
    outside.chmod(0o600)
    os.link(outside, folder / "linked.key")
    before = others(folder)
    assert len(before) == len(FOREIGN)
    if way == "the model":
        separate.model.save_pretrained(folder)
    elif way == "the pipeline":
        separate.save_pretrained(folder)
    elif way == "a card":
        write_card(folder, read_card(folder))
    else:
        release.main(None, SHIPPED["conv-tasnet-small"], folder)
    assert others(folder) == before
    assert outside.stat().st_mode & 0o777 == 0o600
    listed = listed_files(folder)
    assert "config.json" in listed
    assert any(name.startswith("model") and name.endswith(".safetensors") for name in listed)
    assert not {".env", "linked.key", ".hidden.safetensors"} & listed.keys(), "their sums would be published"


def test_a_generator_replaces_no_folder_of_others(tmp_path: Path) -> None:
    pipe = hubsep.AudioLDM2Pipeline.from_pretrained(published_folder(tmp_path / "published"))
    (tmp_path / "mine" / "vae").mkdir(parents=True)
    (tmp_path / "mine" / "vae" / "notes.txt").write_text("mine")
    with pytest.raises(CheckpointError, match=r"holds 'vae/notes\.txt', which hubsep did not write and would delete"):
        pipe.save_pretrained(tmp_path / "mine")
    pipe.save_pretrained(tmp_path / "ours")
    pipe.save_pretrained(tmp_path / "ours")
    (tmp_path / "ours" / "vae" / "drawing.png").write_text("mine")
    with pytest.raises(CheckpointError, match=r"holds 'vae/drawing\.png'"):
        pipe.save_pretrained(tmp_path / "ours")
    assert (tmp_path / "ours" / "vae" / "drawing.png").read_text() == "mine"


def test_variant_stands_beside_the_model(tmp_path: Path) -> None:
    target = saved_tiny(tmp_path / "model")
    tiny_model().half().save_pretrained(target, variant="fp16")
    assert TinyModel.from_pretrained(target, variant="fp16").gains.dtype == torch.float16
    assert (target / "model.safetensors").is_file()
    verify_manifest(target)


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt, SystemExit])
def test_an_error_in_the_block_changes_nothing(error: type[BaseException], tmp_path: Path) -> None:
    target = saved_tiny(tmp_path / "model")
    before = {path.name: path.read_bytes() for path in target.iterdir()}
    with pytest.raises(error):
        write_and_raise(target, error)
    assert {path.name: path.read_bytes() for path in target.iterdir()} == before
    assert os.listdir(tmp_path) == ["model"]


def write_and_raise(target: Path, error: type[BaseException]) -> None:
    with atomic_folder(target, keep=lambda name: True) as folder:
        (folder / "config.json").write_text("half")
        raise error


def test_foreign_files_are_not_deleted(tmp_path: Path) -> None:
    target = saved_tiny(tmp_path / "model")
    with atomic_folder(target) as folder:
        (folder / "a" / "b").mkdir(parents=True)
        (folder / "a" / "b" / "c.txt").write_text("new")
    assert sorted(os.listdir(target)) == ["a", "manifest.json"]
    verify_manifest(target)
    (target / "thesis.tex").write_text("mine")
    with (
        pytest.raises(CheckpointError, match=r"holds 'thesis.tex', which hubsep did not write"),
        atomic_folder(target),
    ):
        pass
    assert (target / "thesis.tex").read_text() == "mine"
    with pytest.raises(CheckpointError, match="exists"), atomic_folder(target, overwrite=False):
        pass
    with pytest.raises(CheckpointError, match="is a file"), atomic_folder(target / "thesis.tex"):
        pass
    with pytest.raises(CheckpointError, match="could not be written"), atomic_folder(target / "thesis.tex" / "x"):
        pass


def test_the_working_folder_is_not_replaced(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(saved_tiny(tmp_path / "model"))
    for name in (".", ".."):
        with pytest.raises(CheckpointError, match="working folder"):
            tiny_model().save_pretrained(name)


def test_a_link_to_a_folder_stays_a_link(tmp_path: Path) -> None:
    saved_tiny(tmp_path / "real" / "model")
    os.symlink("real/model", tmp_path / "link")
    tiny_model(3.0).save_pretrained(tmp_path / "link")
    assert os.readlink(tmp_path / "link") == "real/model"
    assert TinyModel.from_pretrained(tmp_path / "real" / "model").gains.tolist() == [3.0, 3.0]


def test_litter_of_the_living_and_of_strangers_stays(tmp_path: Path) -> None:
    living = tmp_path / f"model.tmp-{os.getppid()}-{host()}00000000"
    stranger = tmp_path / f"model.tmp-99999999-{(int(host(), 16) ^ 1):04x}00000000"
    similar = tmp_path / f"model2.tmp-99999999-{host()}00000000"
    dead = tmp_path / f"model.tmp-99999999-{host()}00000000"
    old = tmp_path / f"{stranger.name[:-1]}1"
    for path in (living, stranger, similar, dead, old):
        path.mkdir()
        (path / MARKER).touch()
    os.utime(old, (0, 0))
    os.symlink(similar, tmp_path / f"model.tmp-99999999-{host()}00000001")
    saved_tiny(tmp_path / "model")
    left = {path.name for path in tmp_path.iterdir()}
    assert left == {"model", living.name, stranger.name, similar.name, f"model.tmp-99999999-{host()}00000001"}


def leftover(folder: Path) -> Path:
    """A folder beside a model that a process left which is long gone."""
    old = folder.with_name(f"{folder.name}.old-1-0000deadbeef")
    old.mkdir(parents=True)
    return old


@pytest.mark.parametrize(
    "name", ["link/secret", "../secret", "/secret", ".", "..", "", 7, None, "a\0b", ".hubsep-unfinished"]
)
def test_nothing_is_moved_into_a_folder_but_what_lay_beside_it(name: object, tmp_path: Path) -> None:
    """The list of what is still to be moved may have come along with the folder."""
    target, secret = tmp_path / "models" / "model", tmp_path / "models" / "secret"
    target.mkdir(parents=True)
    (target / "link").mkdir()
    old = leftover(target)
    secret.write_text("mine")
    (old / "link").symlink_to(tmp_path / "models")
    os.utime(old, (1, 1))
    (target / ".hubsep-unfinished").write_text(json.dumps([name]))
    with pytest.raises(CheckpointError, match=r"no list of names of files.*Delete it"):
        recover(target)
    assert secret.read_text() == "mine"
    assert old.is_dir()


@pytest.mark.parametrize("content", ["7", "{", "{}", "deep", "pipe", "link", "folder"])
def test_marks_that_are_none_are_refused_by_name(content: str, tmp_path: Path) -> None:
    target = tmp_path / "model"
    target.mkdir()
    old = leftover(target)
    (old / "file").write_text("old")
    os.utime(old, (1, 1))
    mark = target / ".hubsep-unfinished"
    if content == "pipe":
        os.mkfifo(mark)
    elif content == "link":
        mark.symlink_to(tmp_path / "elsewhere")
    elif content == "folder":
        mark.mkdir()
    else:
        mark.write_text("[" * 200_000 if content == "deep" else content)
    with pytest.raises(CheckpointError, match=r"hubsep-unfinished"):
        recover(target)
    assert (old / "file").is_file()
    assert not (tmp_path / "elsewhere").exists()


def test_a_mark_that_is_a_link_is_not_written_through(tmp_path: Path) -> None:
    target = tmp_path / "model"
    target.mkdir()
    old = leftover(target)
    (old / ".hubsep-unfinished").symlink_to(tmp_path / "elsewhere")
    os.utime(old, (1, 1))
    (target / ".hubsep-unfinished").write_text("[]")
    with pytest.raises(CheckpointError, match="no regular file"):
        recover(target)
    assert not (tmp_path / "elsewhere").exists()


def test_manifest(tmp_path: Path) -> None:
    target = saved_tiny(tmp_path / "model")
    (target / "added.txt").write_text("later")
    verify_manifest(target)
    content = (target / "config.json").read_bytes()
    (target / "config.json").write_bytes(content.replace(b"8000", b"8001"))
    with pytest.raises(CheckpointError, match=r"config.json' is not the file"):
        verify_manifest(target)
    (target / "config.json").unlink()
    with pytest.raises(CheckpointError, match=r"config.json' is listed"):
        verify_manifest(target)
    for name in ("../x", "/etc/passwd", "C:\\x", "a\\..\\x", ""):
        (target / "manifest.json").write_text(json.dumps({"files": {name: {}}}))
        with pytest.raises(CheckpointError, match="not in the folder"):
            verify_manifest(target)
    (target / "manifest.json").unlink()
    with pytest.raises(CheckpointError, match="no manifest"):
        verify_manifest(target)


def test_same_model_same_bytes(tmp_path: Path) -> None:
    first, second = saved_tiny(tmp_path / "a"), saved_tiny(tmp_path / "b")
    assert (first / "manifest.json").read_bytes() == (second / "manifest.json").read_bytes()


@pytest.mark.slow
def test_content_is_on_the_disk_before_the_rename(tmp_path: Path) -> None:
    if shutil.which("strace") is None:
        pytest.skip("strace is not installed")
    log = tmp_path / "log"
    code = (
        f"from hubsep.hub import atomic_folder\nwith atomic_folder({str(tmp_path / 'x')!r}) as f:\n (f / 'a').touch()"
    )
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    subprocess.run(
        ["strace", "-f", "-o", str(log), "-e", "trace=fsync,rename,renameat2", sys.executable, "-c", code],
        env=environment,
        check=True,
    )
    calls = [line.split("(")[0].split()[-1] for line in log.read_text().splitlines() if "(" in line]
    sealed = ["fsync"] * 3 + ["rename", "fsync"]  # the marker, `a` and the manifest, which then gets its name
    assert calls[-9:] == [*sealed, "fsync", "fsync", "rename", "fsync"]
