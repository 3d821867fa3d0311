# SPDX-License-Identifier: Apache-2.0
"""Folders separated by several processes: complete after kills, nothing done twice, no half file."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile as sf
from children import ENVIRONMENT, Children
from tiny_conv_tasnet import tiny_conv_tasnet

from hubsep.batch.claims import Claims
from hubsep.batch.delivery import scratch_folder, sweep
from hubsep.batch.fingerprint import model_fingerprint
from hubsep.batch.manifest import Manifest, read_manifest
from hubsep.batch.places import Place, one_process_instead_of_many, own_device
from hubsep.cli import main
from hubsep.errors import HubsepError
from hubsep.hub.processes import host


SOURCES = Path(__file__).resolve().parents[2] / "src"
KILLED = -signal.SIGKILL


@pytest.fixture(scope="module")
def child() -> Iterator[Children]:
    children = Children("batch_child")
    yield children
    children.close()


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("models") / "tiny"
    tiny_conv_tasnet()[0].save_pretrained(folder)
    return folder


def recordings(folder: Path, count: int, *, seconds: float = 0.5) -> Path:
    """A folder of noises."""
    folder.mkdir(parents=True, exist_ok=True)
    for number in range(count):
        noise = np.random.default_rng(number).uniform(-0.5, 0.5, int(seconds * 8_000))
        sf.write(folder / f"{number:03d}.wav", noise, 8_000)
    return folder


def command(model: Path, folder: Path, output: Path) -> list[str]:
    return ["separate", str(folder), "--model", str(model), "-o", str(output)]


def done(output: Path) -> dict[str, tuple[int, int]]:
    """Every file of every finished input, and what changes if it is written again."""
    markers = [marker for marker in output.glob("*/separated.json") if json.loads(marker.read_text())["complete"]]
    files = [file for marker in markers for file in marker.parent.iterdir()]
    return {str(file): (file.stat().st_ino, file.stat().st_mtime_ns) for file in files}


def lines(output: Path) -> list[dict[str, Any]]:
    """Every whole line of every manifest."""
    texts = [text for path in sorted(output.glob(".hubsep/*.jsonl")) for text in path.read_bytes().split(b"\n")]
    return [json.loads(text) for text in texts if text.endswith(b"}")]


def check_complete(output: Path, count: int, *, seconds: float = 0.5) -> None:
    """All inputs are finished, each was done once, all files are whole, and nothing else is left."""
    files = [path for path in output.rglob("*") if path.is_file() and ".hubsep" not in path.parts]
    assert len(files) == 3 * count
    for path in files:
        if path.suffix == ".wav":
            assert sf.info(path).frames == int(seconds * 8_000)
    said = Counter(line["marker"] for line in lines(output) if line.get("ok"))
    assert len(said) == count
    assert set(said.values()) == {1}
    assert {path.name for path in output.iterdir() if path.name.startswith(".")} == {".hubsep"}


@pytest.mark.slow
def test_what_a_killed_process_leaves_is_done_by_its_sibling(child: Children, model: Path, tmp_path: Path) -> None:
    run = command(model, recordings(tmp_path / "in", 12), tmp_path / "out")
    status, result, output = child.run("together", run, 2, [1], 3)
    assert status == 0, output
    assert result == [0, KILLED]
    before = done(tmp_path / "out")
    assert len(before) == 36
    assert child.run("together", run, 2, [], 0)[1] == [0, 0]  # which also clears away what was left
    assert done(tmp_path / "out") == before
    check_complete(tmp_path / "out", 12)


@pytest.mark.slow
def test_killed_once_and_run_again(child: Children, model: Path, tmp_path: Path) -> None:
    run = command(model, recordings(tmp_path / "in", 12), tmp_path / "out")
    assert child.run("together", run, 2, [0, 1], 4)[1] == [KILLED, KILLED]
    before = done(tmp_path / "out")
    assert 12 <= len(before) < 36
    status, result, output = child.run("together", run, 2, [], 0)
    assert (status, result) == (0, [0, 0]), output
    assert f"{len(before) // 3} of 12 inputs are finished already" in output
    assert before.items() <= done(tmp_path / "out").items()
    check_complete(tmp_path / "out", 12)
    workers = {line["process"] for line in lines(tmp_path / "out") if line.get("ok")}
    assert len(workers) >= 3  # two before the kill, and again two if the second was not very late


@pytest.mark.slow
def test_a_bad_file_is_named_by_the_first_process_when_all_are_done(
    child: Children, model: Path, tmp_path: Path
) -> None:
    folder, output = recordings(tmp_path / "in", 6), tmp_path / "out"
    (folder / "001.wav").write_text("no audio")
    run = command(model, folder, output)
    for _ in range(2):  # it is tried again by the next run
        status, result, said = child.run("together", run, 2, [], 0)
        assert (status, result) == (0, [1, 0])
        assert said.count(f"failed: {folder / '001.wav'}: ") == 1
        assert "Traceback" not in said
    entry = read_manifest(output)["001/separated.json"]
    assert not entry["ok"]
    assert entry["input"] == str(folder / "001.wav")
    assert len(done(output)) == 15
    shutil.copy(folder / "000.wav", folder / "001.wav")
    assert child.run("together", run, 2, [], 0)[1] == [0, 0]
    assert read_manifest(output)["001/separated.json"]["ok"]


def test_what_the_manifest_says(model: Path, tmp_path: Path) -> None:
    folder, output = recordings(tmp_path / "in", 2), tmp_path / "out"
    assert main(command(model, folder, output)) == 0
    entry = read_manifest(output)["000/separated.json"]
    facts = (folder / "000.wav").stat()
    assert entry["source"] == {"name": "000.wav", "bytes": facts.st_size, "modified_ns": facts.st_mtime_ns}
    assert [said["bytes"] for said in entry["outputs"]] == [
        (output / "000" / said["path"]).stat().st_size for said in entry["outputs"]
    ]
    (started,) = [line["started"] for line in lines(output) if "started" in line]
    assert started["settings"]["weights"] == model_fingerprint(model)


def test_lines_cut_off_by_a_kill_do_no_harm(model: Path, tmp_path: Path) -> None:
    folder, output = recordings(tmp_path / "in", 2), tmp_path / "out"
    assert main(command(model, folder, output)) == 0
    (path,) = output.glob(".hubsep/*.jsonl")
    whole = path.read_bytes()
    path.write_bytes(whole[:-20])  # the second input is finished, and nothing says so
    assert main(command(model, folder, output)) == 0
    assert {name: entry["ok"] for name, entry in read_manifest(output).items()} == {
        "000/separated.json": True,
        "001/separated.json": True,
    }
    assert read_manifest(output)["001/separated.json"]["found"]


@pytest.mark.slow
def test_other_weights_and_options_are_not_done(
    model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder, output, own = recordings(tmp_path / "in", 2), tmp_path / "out", tmp_path / "own"
    tiny_conv_tasnet()[0].save_pretrained(own)
    assert main(command(model, folder, output)) == 0
    before = done(output)
    assert main(command(own, folder, output)) == 0  # the same weights in another place
    assert done(output) == before
    network = tiny_conv_tasnet()[0]
    next(network.parameters()).data.mul_(1.5)
    network.save_pretrained(own)
    capsys.readouterr()
    assert main(command(own, folder, output)) == 2
    assert "other settings (weights)" in capsys.readouterr().err
    assert done(output) == before
    assert main([*command(own, folder, output), "--overwrite"]) == 0
    again = done(output)
    assert not set(again.values()) & set(before.values())
    assert main([*command(own, folder, output), "--residual", "--clip", "clamp"]) == 2
    assert "other settings (clip, residual)" in capsys.readouterr().err


@pytest.mark.slow
def test_parts_of_a_folder(model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = command(model, recordings(tmp_path / "in", 5), tmp_path / "out")
    for part, names in (("2/2", ["001", "003"]), ("1/2", ["000", "001", "002", "003", "004"])):
        assert main([*run, "--shard", part]) == 0
        assert sorted(path.parent.name for path in (tmp_path / "out").glob("*/separated.json")) == names
    check_complete(tmp_path / "out", 5)
    for wrong in ("0/2", "3/2", "2", "a/b", "1/0"):
        assert main([*run, "--shard", wrong]) == 2
        assert "K/N" in capsys.readouterr().err


@pytest.mark.slow
def test_claims_end_with_the_process_that_had_them(child: Children, tmp_path: Path) -> None:
    claims = Claims(tmp_path / "claims")
    assert claims.available
    assert claims.take("a")
    path = str(tmp_path / "claims")
    assert child.run("take_claim", path, "a")[1] is False
    assert child.run("take_claim", path, "b")[1] is True
    assert claims.take("b")  # the process that had it has ended
    claims.release("a")
    assert child.run("take_claim", path, "a")[1] is True
    claims.close()


@pytest.mark.parametrize(
    ("environment", "place"),
    [
        ({}, Place()),
        (
            {"RANK": "3", "WORLD_SIZE": "4", "LOCAL_RANK": "1", "LOCAL_WORLD_SIZE": "2"},
            Place(rank=3, world=4, local_rank=1, local_world=2),
        ),
        (
            {"OMPI_COMM_WORLD_RANK": "1", "OMPI_COMM_WORLD_SIZE": "2", "OMPI_COMM_WORLD_LOCAL_RANK": "0"},
            Place(rank=1, world=2),
        ),
        (
            {
                "SLURM_PROCID": "5",
                "SLURM_STEP_NUM_TASKS": "6",
                "SLURM_LOCALID": "1",
                "SLURM_STEP_TASKS_PER_NODE": "2(x3)",
            },
            Place(rank=5, world=6, local_rank=1, local_world=2),
        ),
        ({"SLURM_PROCID": "0", "SLURM_NTASKS": "6"}, Place()),  # a batch script that calls it without srun
    ],
    ids=["alone", "torchrun", "mpi", "srun", "sbatch"],
)
def test_the_environment_says_which_process_this_is(environment: dict[str, str], place: Place) -> None:
    assert Place.of(environment) == place
    everything = list(range(23))
    shares = [place.share(everything, rank) for rank in range(place.world)]
    assert sorted(item for share in shares for item in share) == everything


def test_places(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(HubsepError, match="RANK=2"):
        Place.of({"RANK": "2", "WORLD_SIZE": "2"})
    parts = [Place.of({}, f"{part}/4").part(range(10)) for part in (1, 2, 3, 4)]
    assert sorted(item for part in parts for item in part) == list(range(10))
    assert one_process_instead_of_many({"ACCELERATE_USE_CPU": "True", "MASTER_ADDR": "127.0.0.1"})
    assert not one_process_instead_of_many({"MASTER_ADDR": "127.0.0.1", "RANK": "0", "WORLD_SIZE": "2"})
    monkeypatch.setenv("ACCELERATE_USE_CPU", "True")
    assert own_device(Place(local_rank=1, local_world=2)) == "cpu"


def test_manifests_are_merged_by_time(tmp_path: Path) -> None:
    first, second = Manifest(tmp_path, "00000-of-00002"), Manifest(tmp_path, "00001-of-00002")
    first.begin()
    second.begin()
    second.add("a", ok=False, error="it broke", input="a.wav")
    first.refresh()
    assert set(first.failures(["00001-of-00002"])) == {"a"}
    time.sleep(0.002)  # times are noted in milliseconds
    first.add("a", ok=True, outputs=[])
    first.refresh()
    assert first.failures(["00001-of-00002"]) == {}
    assert read_manifest(tmp_path)["a"]["ok"]
    assert first.is_there("00001-of-00002")
    assert not first.is_there("00002-of-00004")
    first.close()
    second.close()


def test_lines_of_a_manifest_that_are_none_of_ours_are_passed_over(tmp_path: Path) -> None:
    lines = (
        b'{"marker": "a", "ok": false, "time": "x"}',
        b'{"marker": 5}',
        b'{"marker": "a", "ok": []}',
        b'{"marker": "a", "ok": true, "time": NaN}',
        b'{"marker": "a", "time": 1e400}',
        b'{"marker": "b", "ok": false, "input": 5, "error": []}',
        b'{"marker": "c"}',
        b"[" * 99_999,
        b"9" * 5_000,
        b"\xff",
    )
    own = Manifest(tmp_path, "00000-of-00001")
    own.close()
    own.path.write_bytes(b"\n".join(lines) + b"\n")
    (own.folder / "manifest-00001-of-00002-zz.jsonl").mkdir()
    own = Manifest(tmp_path, "00000-of-00001")
    own.refresh()
    assert set(own.failures(["00000-of-00001"])) == {"c"}
    own.add("a", ok=True)
    own.refresh()
    assert own.entries["a"]["ok"]
    own.close()
    assert read_manifest(tmp_path)["a"]["ok"]
    assert set(read_manifest(tmp_path)) == {"a", "c"}


@pytest.mark.parametrize("kind", ["folder", "claims", "manifest", "pipe"])
def test_nothing_is_written_through_a_link(kind: str, tmp_path: Path) -> None:
    outside, output = tmp_path / "outside", tmp_path / "output"
    outside.mkdir()
    if kind == "folder":
        output.mkdir()
        (output / ".hubsep").symlink_to(outside)
    else:
        Manifest(output, "a").close()
        name = "claims" if kind == "claims" else next((output / ".hubsep").iterdir()).name
        (output / ".hubsep" / name).unlink(missing_ok=True)
        if kind == "pipe":
            os.mkfifo(output / ".hubsep" / name)
        else:
            (output / ".hubsep" / name).symlink_to(outside / "file")

    def begin() -> None:
        Manifest(output, "a").close()
        Claims(output / ".hubsep" / "claims").close()

    with pytest.raises(HubsepError, match="delete it"):
        begin()
    assert not list(outside.iterdir())


def test_folders_that_only_look_like_leftovers_stop_nothing(tmp_path: Path) -> None:
    of_nobody = f".separating-{host()}-{'9' * 23}-y"  # more than any system has for a process
    others = [".separating-x-\u00b2-y", ".separating-x--y"]
    for name in (of_nobody, *others):
        (tmp_path / name).mkdir()
    sweep(tmp_path)
    assert sorted(os.listdir(tmp_path)) == sorted(others)


@pytest.mark.slow
def test_the_commands_of_the_page_are_commands(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    page = (Path(__file__).resolve().parents[2] / "docs" / "scale-out.md").read_text(encoding="utf-8")
    commands = re.findall(r"hubsep separate ([^`\n]+)", page)
    assert len(commands) == 5
    monkeypatch.chdir(tmp_path)
    recordings(tmp_path / "recordings", 2)
    for arguments in commands:  # the first separates both, the others find them finished
        assert main(["separate", *arguments.split()]) == 0
    capsys.readouterr()
    (code,) = re.findall(r"^## The manifest.*?```python\n(.*?)```", page, re.DOTALL | re.MULTILINE)
    exec(code, {})
    assert capsys.readouterr().out.split() == ["recordings/000.wav", "ok", "recordings/001.wav", "ok"]


def launch(arguments: list[str]) -> subprocess.Popen[str]:
    """Two processes by `accelerate launch`."""
    start = "--multi_gpu --num_processes 2 --num_machines 1 --mixed_precision no --dynamo_backend no".split()
    run = [sys.executable, "-m", "accelerate.commands.launch", *start, "--main_process_port", "0", "-m", "hubsep"]
    environment = {**os.environ, **ENVIRONMENT, "PYTHONPATH": str(SOURCES)}
    pipes: dict[str, Any] = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
    return subprocess.Popen([*run, *arguments], env=environment, **pipes)


def test_an_interruption_while_scratch_files_go_leaves_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    unlink, signals = os.unlink, [signal.SIGINT]

    def interrupted(*arguments: Any, **options: Any) -> None:
        while signals:
            os.kill(os.getpid(), signals.pop())
        unlink(*arguments, **options)

    scratch = scratch_folder(tmp_path)
    (scratch.__enter__() / "half.w64").write_bytes(b"half")
    monkeypatch.setattr(os, "unlink", interrupted)
    with pytest.raises(KeyboardInterrupt):
        scratch.__exit__(None, None, None)
    assert not signals
    assert not os.listdir(tmp_path)


@pytest.mark.slow
@pytest.mark.timeout(1_800)
def test_two_hundred_files_by_accelerate_launch_killed_once(model: Path, tmp_path: Path) -> None:
    count, output = 200, tmp_path / "out"
    run = command(model, recordings(tmp_path / "in", count), output)
    first = launch(run)
    while len(list(output.glob("*/separated.json"))) < 60:
        assert first.poll() is None, first.communicate()[0]
        time.sleep(0.01)
    worker = next(line["process"] for line in reversed(lines(output)) if line.get("ok"))
    os.kill(int(worker.split("-")[1]), signal.SIGKILL)
    first.communicate()
    assert first.returncode != 0  # the launcher ends the others when one of its processes is killed
    before = done(output)
    assert 180 <= len(before) < 600
    second = launch(run)
    said = second.communicate()[0]
    assert second.returncode == 0, said
    assert before.items() <= done(output).items()
    check_complete(output, count)
