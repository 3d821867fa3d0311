# SPDX-License-Identifier: Apache-2.0
"""What is there when results get their names: results somebody worked on, and those of another run."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile as sf
from tiny_conv_tasnet import tiny_conv_tasnet

from hubsep.batch.jobs import collect_jobs
from hubsep.batch.places import Place
from hubsep.batch.records import move
from hubsep.batch.run import Run
from hubsep.batch.work import work_through
from hubsep.cli import main
from hubsep.errors import AudioError


RATE = 8_000


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("models") / "tiny"
    tiny_conv_tasnet()[0].save_pretrained(folder)
    return folder


@pytest.fixture(autouse=True)
def in_tmp_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("in").mkdir()
    for number in range(2):
        noise = np.random.default_rng(number).uniform(-0.4, 0.4, RATE // 4)
        sf.write(f"in/{number}.wav", noise, RATE, subtype="FLOAT")


def run(model: Path, *arguments: str) -> int:
    return main(["separate", "in", "--model", str(model), "--device", "cpu", "-o", "out", *arguments])


def contents(folder: str = "out") -> dict[str, bytes]:
    paths = [path for path in Path(folder).rglob("*") if path.is_file() and ".hubsep" not in path.parts]
    return {str(path): path.read_bytes() for path in paths}


def edit(path: Path, kind: str) -> None:
    """Changes a file as an editor would."""
    content = bytearray(path.read_bytes())
    if kind == "shorter":
        del content[-4:]
    elif kind == "other samples":
        content[-2] ^= 1
    path.write_bytes(content)


@pytest.mark.parametrize("kind", ["shorter", "other samples"])
def test_a_result_that_was_changed_stays_until_overwriting_is_asked_for(
    kind: str, model: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(model) == 0
    results = sorted(Path("out/0").glob("*.wav"))
    edit(results[0], kind)
    results[1].unlink()  # of the same recording
    before = contents()
    capsys.readouterr()
    assert run(model) == 0
    assert f"{results[0]} has changed since it was written: left as it is" in capsys.readouterr().err
    assert contents() == before
    assert run(model, "--overwrite") == 0
    assert contents()[str(results[0])] != before[str(results[0])]
    assert results[1].is_file()


def test_results_in_a_copied_folder_are_known_although_their_times_differ(
    model: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(model) == 0
    Path("out").rename("moved")
    shutil.copytree("moved", "out", copy_function=shutil.copyfile)
    for path in Path("out").rglob("*.wav"):
        os.utime(path, ns=(0, 0))
    capsys.readouterr()
    assert run(model) == 0
    assert "2 of 2 inputs are finished" in capsys.readouterr().out


def whole_run(model: Path, **options: Any) -> Run:
    """What `hubsep separate in -o out` does, from where it has looked at what is there."""
    unasked = dict.fromkeys(("queries", "negative_queries", "query_audio", "sources", "model_options", "check_voices"))
    part = {"offset_s": 0.0, "duration_s": None, "on_short": "raise", "batch_size": 1, "residual": False}
    writing = {"extension": None, "subtype": None, "bitrate": None, "clip": "float", "plot": False}
    loading = {"device": "cpu", "dtype": "auto", "adapter": None}
    options = {**unasked, **part, "only_active": False, **options}
    return Run(str(model), options, loading, writing, Path("out"), "{name}/{label}.{ext}")


@pytest.mark.parametrize("between", ["another run", "a file of the user", "a record of somebody"])
def test_what_appears_while_a_run_is_at_work_stays(between: str, model: Path) -> None:
    jobs, _ = collect_jobs([Path("in")], Path("out"))
    if between == "another run":
        assert run(model, "--duration", "0.1") == 0
    else:
        Path("out/0").mkdir(parents=True)
        name = "separated.json" if between == "a record of somebody" else "speaker_1.wav"
        Path("out/0", name).write_text("mine")
    before = contents()
    failures, _ = work_through(whole_run(model), jobs, Place(), overwrite=False)
    after = contents()
    assert {name: content for name, content in after.items() if name in before} == before
    failed = {Path(source).name for source, _ in failures}
    assert failed == ({"0.wav", "1.wav"} if between == "another run" else {"0.wav"})
    assert all("was written while this was at work" in reason for _, reason in failures)
    assert all("--overwrite" in reason for _, reason in failures)
    assert not list(Path("out").glob(".separating-*"))


def test_a_result_that_was_changed_after_a_killed_run_stays(model: Path) -> None:
    assert run(model) == 0
    marker = Path("out/0/separated.json")
    known = json.loads(marker.read_text())
    results = sorted(Path("out/0").glob("*.wav"))
    for change, status in ((True, "stays"), (False, "made again")):
        marker.write_text(json.dumps({**known, "complete": False}))
        if change:
            whole = results[0].read_bytes()
            edit(results[0], "shorter")
            edited = results[0].read_bytes()
        results[1].unlink(missing_ok=True)
        assert run(model) == 0
        assert (results[0].read_bytes() == edited) == change, status
        assert results[1].is_file() != change
        if change:
            results[0].write_bytes(whole)


def test_what_a_killed_run_was_about_to_replace_is_known(model: Path) -> None:
    """The new file has other bytes where another number of threads made it."""
    assert run(model) == 0
    marker = Path("out/0/separated.json")
    known = json.loads(marker.read_text())
    for entry in known["outputs"]:
        entry["before"], entry["sha256"], entry["modified_ns"] = entry["sha256"], "0" * 64, 0
    marker.write_text(json.dumps({**known, "complete": False}))
    assert run(model) == 0
    again = json.loads(marker.read_text())
    assert again["complete"]
    assert all("before" not in entry for entry in again["outputs"])


def test_of_two_that_give_a_file_one_name_at_once_the_second_fails() -> None:
    for name in ("first", "second"):
        Path(name).write_text(name)
    move([(Path("result"), Path("first"))], replaced=())
    with pytest.raises(AudioError, match="result was written while this was at work"):
        move([(Path("result"), Path("second"))], replaced=())
    assert (Path("result").read_text(), Path("second").read_text()) == ("first", "second")
    move([(Path("result"), Path("second"))], replaced=[Path("result")])
    assert Path("result").read_text() == "second"
    assert not Path("second").exists()
