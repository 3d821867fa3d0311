# SPDX-License-Identifier: Apache-2.0
"""A user's own files: none is replaced unasked, none is left out in silence, whatever they are called."""

from __future__ import annotations

import json
import os
import shlex
import subprocess
import sys
import unicodedata
from pathlib import Path

import numpy as np
import pytest
import soundfile as sf
from tiny_audiosep import tiny_audiosep
from tiny_conv_tasnet import tiny_conv_tasnet

from hubsep.audio.formats import FORMATS, check_written
from hubsep.audio.writer import AudioWriter
from hubsep.batch.explain import in_options
from hubsep.cli import main
from hubsep.errors import AudioError
from hubsep.hub.file_names import key_of
from hubsep.pipelines.names import portable


SOURCES = Path(__file__).resolve().parents[2] / "src"
RATE = 8_000


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("models") / "tiny"
    network, processor = tiny_audiosep()
    network.save_pretrained(folder)
    processor.save_pretrained(folder)
    return folder


@pytest.fixture(autouse=True)
def in_tmp_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def record(path: str | Path, *, seed: int = 0, rate: int = RATE, channels: int = 1, peak: float = 0.4) -> Path:
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    noise = np.random.default_rng(seed).uniform(-peak, peak, (rate // 4, channels))
    with open(path, "wb") as file:
        sf.write(file, noise, rate, format="WAV", subtype="FLOAT")
    return path


def run(model: Path, *arguments: str) -> int:
    return main(["separate", *arguments, "-q", "rain", "--model", str(model), "--device", "cpu"])


def listing() -> dict[str, bytes]:
    return {
        str(path): path.read_bytes() for path in Path().rglob("*") if path.is_file() and ".hubsep" not in str(path)
    }


@pytest.mark.slow
@pytest.mark.parametrize("target", ["out/ep/rain.wav", "out/ep/residual.wav", "out/ep/spectrograms.png",
                                    "out/ep/separated.json"])  # fmt: skip
def test_a_file_that_no_record_of_ours_lists_stays(
    target: str, model: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    record("ep.wav")
    Path(target).parent.mkdir(parents=True)
    Path(target).write_text("mine")
    before = listing()
    assert run(model, "ep.wav", "-o", "out", "--residual", "--plot") == 2
    error = " ".join(capsys.readouterr().err.split())
    assert f"{target} is there and was not written by this command" in error
    assert "--overwrite" in error
    assert listing() == before
    assert run(model, "ep.wav", "-o", "out", "--residual", "--plot", "--overwrite") == 0
    assert Path(target).read_bytes() != b"mine"
    assert run(model, "ep.wav", "-o", "out", "--residual", "--plot") == 0  # our own


def test_recordings_of_one_name_get_apart_or_are_refused(model: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for seed, folder in enumerate(("a", "b")):
        record(f"{folder}/ep.wav", seed=seed)
    assert run(model, "a/ep.wav", "-o", "out") == 0
    before = listing()
    assert run(model, "b/ep.wav", "-o", "out") == 2
    assert "the recording is another one" in " ".join(capsys.readouterr().err.split())
    assert listing() == before
    assert run(model, "a/ep.wav", "b/ep.wav", "-o", "both") == 0
    assert {path.parent.as_posix() for path in Path("both").rglob("rain.wav")} == {"both/a/ep", "both/b/ep"}
    assert run(model, "a/ep.wav", "a/../a/ep.wav", "-o", "twice") == 0
    assert "is named twice; it is separated once" in capsys.readouterr().err
    assert [path.parent.as_posix() for path in Path("twice").rglob("rain.wav")] == ["twice/ep"]


def test_files_of_another_command_stay_and_are_named(model: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Of all that is there, `--overwrite` replaces what has the name of a result and nothing else."""
    record("ep.wav")
    assert run(model, "ep.wav", "-o", "out", "--residual") == 0
    before = listing()
    assert run(model, "ep.wav", "-o", "out", "--format", "flac") == 2
    assert listing() == before
    capsys.readouterr()
    assert run(model, "ep.wav", "-o", "out", "--format", "flac", "--overwrite") == 0
    assert "separated.json listed 'rain.wav' and 1 more, of another command: left alone" in capsys.readouterr().err
    assert sorted(os.listdir("out/ep")) == ["rain.flac", "rain.wav", "residual.wav", "separated.json"]
    assert listing()["out/ep/rain.wav"] == before["out/ep/rain.wav"]
    listed = json.loads(Path("out/ep/separated.json").read_text())["outputs"]
    assert [entry["path"] for entry in listed] == ["rain.flac"]


def test_a_run_that_was_killed_between_its_files_is_ended_by_the_next(model: Path) -> None:
    record("ep.wav")
    assert run(model, "ep.wav", "-o", "out", "--residual") == 0
    whole = listing()
    marker = Path("out/ep/separated.json")
    known = json.loads(marker.read_text())
    marker.write_text(json.dumps({**known, "complete": False}))
    Path("out/ep/residual.wav").unlink()
    assert run(model, "ep.wav", "-o", "out", "--residual") == 0
    record_name = str(marker)  # it has the times of the files
    assert {**listing(), record_name: b""} == {**whole, record_name: b""}
    assert json.loads(marker.read_text())["complete"]


@pytest.mark.slow
@pytest.mark.parametrize("asked", [False, True])
def test_a_record_decides_nothing_about_files_that_the_command_would_not_write(
    asked: bool, model: Path, tmp_path_factory: pytest.TempPathFactory, capsys: pytest.CaptureFixture[str]
) -> None:
    """It may have come with the folder: without --overwrite it says that a killed run had begun to write them."""
    outside = tmp_path_factory.mktemp("outside")
    record("ep.wav")
    assert run(model, "ep.wav", "-o", ".") == 0
    marker = Path("ep/separated.json")
    known = json.loads(marker.read_text())
    Path("link").symlink_to(outside)
    Path("ep/inner").symlink_to(outside)
    Path("ep/same.wav").hardlink_to("ep.wav")
    others = [Path("private.txt"), Path("ep/song.txt"), Path("ep/rain"), outside / "private.txt", outside / "rain.wav"]
    for path in others:
        path.write_text("12345")
    listed = ["../ep.wav", "../private.txt", "song.txt", "rain", "../link/private.txt", "../link/rain.wav",
              "inner/rain.wav", str(outside / "private.txt"), f"../../{outside.name}/rain.wav"]  # fmt: skip
    for name in listed:
        place = marker.parent / name
        lie = {"path": name, "bytes": place.stat().st_size if place.exists() else 5, "label": Path(name).stem}
        marker.write_text(json.dumps({**known, "complete": asked, "outputs": [*known["outputs"], lie]}))
        before = listing() | {str(path): path.read_bytes() for path in others}
        status = run(model, "ep.wav", "-o", ".", *(["--overwrite"] if asked else []))
        assert status == (0 if asked else 2), name
        says = capsys.readouterr().err
        assert "separated.json" in says or name.startswith("/"), f"a sentence about {name}: {says}"
        after = listing() | {str(path): path.read_bytes() for path in others if path.exists()}
        assert set(after) == set(before), name
        changed = {path for path, content in after.items() if content != before[path]}
        assert changed <= ({"ep/separated.json"} if asked else set()), name


def test_no_input_is_removed_although_it_has_the_name_of_an_output(model: Path) -> None:
    record("ep.wav")
    record("ep/thunder.wav", seed=1)
    assert run(model, "ep.wav", "-o", ".") == 0
    marker = Path("ep/separated.json")
    known = json.loads(marker.read_text())
    content = Path("ep/thunder.wav").read_bytes()
    lie = {"path": "thunder.wav", "bytes": len(content), "label": "thunder"}
    marker.write_text(json.dumps({**known, "outputs": [*known["outputs"], lie]}))
    assert run(model, "ep.wav", "ep/thunder.wav", "-o", ".", "--overwrite") == 0
    assert Path("ep/thunder.wav").read_bytes() == content


RECORDS: dict[str, object] = {
    "a number among the outputs": {"outputs": [5]},
    "no outputs": {"outputs": ...},
    "a path that is null": {"outputs": [{"path": None, "bytes": 3, "label": "rain"}]},
    "a path with NUL": {"outputs": [{"path": "a\0b", "bytes": 3, "label": "rain"}]},
    "bytes that are a text": {"outputs": [{"path": "rain.wav", "bytes": "3", "label": "rain"}]},
    "a label that is a list": {"outputs": [{"path": "rain.wav", "bytes": 3, "label": []}]},
    "settings that are a list": {"settings": []},
    "complete that is a text": {"complete": "no"},
    "a list": [1],
    "deep": "[" * 200_000,
    "a whole number of 5,000 digits": "9" * 5_000,
    "no UTF-8": b"\xff",
    "a pipe": os.mkfifo if hasattr(os, "mkfifo") else "",
    "a folder": os.mkdir,
}


@pytest.mark.parametrize("kind", RECORDS)
def test_records_that_are_none_are_refused_by_name(kind: str, model: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source = record("ep.wav")
    facts = source.stat()
    content, marker = RECORDS[kind], Path("out/ep/separated.json")
    marker.parent.mkdir(parents=True)
    if callable(content):
        content(marker)
    elif isinstance(content, bytes):
        marker.write_bytes(content)
    else:
        named = {"name": source.name, "bytes": facts.st_size, "modified_ns": facts.st_mtime_ns}
        whole = {"source": named, "settings": {}, "complete": False, "outputs": []}
        if isinstance(content, dict):
            content = {name: value for name, value in {**whole, **content}.items() if value is not ...}
        marker.write_text(content if isinstance(content, str) else json.dumps(content))
    assert run(model, "ep.wav", "-o", "out") == 2
    says = capsys.readouterr().err
    assert "separated.json" in says
    assert "--overwrite" in says


@pytest.mark.parametrize("link", [None, os.symlink, os.link])
def test_no_input_is_written_over_by_a_source_of_another(
    link: None, model: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    record("song.wav")
    record("song_rain.wav" if link is None else "elsewhere/other.wav", seed=1)
    if link is not None:
        link("elsewhere/other.wav", "song_rain.wav")
    other = "song_rain.wav" if link is None else "elsewhere/other.wav"
    before = listing()
    for more in ([], ["--overwrite"]):
        assert run(model, "song.wav", other, "-o", ".", "--template", "{name}_{label}.{ext}", *more) == 2
        assert "could be written over" in " ".join(capsys.readouterr().err.split())
        assert listing() == before


def test_no_example_is_written_over(model: Path, capsys: pytest.CaptureFixture[str]) -> None:
    record("song.wav")
    record("hail.wav", seed=1)
    before = listing()
    for more in ([], ["--overwrite"]):
        assert run(model, "song.wav", "--example", "hail.wav", "-o", ".", "--template", "{label}.{ext}", *more) == 2
        assert "could be written over hail.wav, an input" in " ".join(capsys.readouterr().err.split())
        assert listing() == before


def test_names_that_a_disk_may_take_for_one_are_refused(model: Path, capsys: pytest.CaptureFixture[str]) -> None:
    composed, decomposed = (unicodedata.normalize(form, "caf\u00e9") for form in ("NFC", "NFD"))
    for first, second in (("Rain", "rain"), (composed, decomposed), ("stra\u00dfe", "STRASSE")):
        assert key_of(Path(first)) == key_of(Path(second))
        record(f"{first}.wav")
        record(f"{second}.wav")
        assert run(model, f"{first}.wav", f"{second}.wav", "-o", "out") == 2
        assert "would be written to the same files" in " ".join(capsys.readouterr().err.split())
    assert run(model, "rain.wav", "-o", "out", "-q", "a/b", "-q", "a?b") == 2
    assert "would both be" in " ".join(capsys.readouterr().err.split())
    assert run(model, "rain.wav", "-o", "out", "--template", "x" * 250 + "{label}.{ext}") == 2
    assert "longer than a name may be" in " ".join(capsys.readouterr().err.split())
    assert not Path("out").exists()


def test_names_are_names_on_every_system(model: Path) -> None:
    record("aux.wav")
    assert run(model, "aux.wav", "-o", "out", "-q", "con") == 0
    assert sorted(path.name for path in Path("out/aux_").iterdir()) == ["con_.wav", "rain.wav", "separated.json"]
    for name, portable_name in (("NUL.wav", "NUL_.wav"), ("com1", "com1_"), ("console.wav", "console.wav")):
        assert portable(f"a/{name}") == Path("a", portable_name)


@pytest.mark.slow
def test_names_are_bytes(model: Path, capsys: pytest.CaptureFixture[str]) -> None:
    names = [b"caf\xe9", b"\xff\xfe", "\u96e8".encode()]
    for number, name in enumerate(names):
        record(Path("in", os.fsdecode(name) + ".wav"), seed=number)
    for _ in range(2):  # the second finds them finished
        assert run(model, "in", "-o", "out", "--plot") == 0
    assert "3 of 3 inputs are finished" in capsys.readouterr().out
    assert sorted(os.listdir(b"out")) == sorted([b".hubsep", *names])
    for name in names:
        assert sorted(os.listdir(b"out/" + name)) == [b"rain.wav", b"separated.json", b"spectrograms.png"]


def run_process(model: Path, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "hubsep", "separate", *arguments, "--model", str(model), "--device", "cpu"]
    return subprocess.run(
        command, env={**os.environ, "PYTHONPATH": str(SOURCES), **environment}, capture_output=True, encoding="utf-8",
        check=False,
    )  # fmt: skip


@pytest.mark.parametrize(
    ("message", "line"),
    [
        ("offset_s must be at least 0", "--offset must be at least 0"),
        ("take less offset_s.", "take less --offset."),
        ("offset_s.wav does not exist", "offset_s.wav does not exist"),
        ("in/offset_s/a.wav and 'only_active' are there", "in/offset_s/a.wav and 'only_active' are there"),
        ("my-on_short is a folder", "my-on_short is a folder"),
    ],
)
def test_names_of_files_are_not_taken_for_arguments(message: str, line: str) -> None:
    assert in_options(message) == line


@pytest.mark.slow
def test_a_closed_output_is_no_error(model: Path) -> None:
    for redirect in (">&-", "2>&-", ">&- 2>&-"):
        command = f"{shlex.quote(sys.executable)} -m hubsep list {redirect}"
        done = subprocess.run(
            command, shell=True, env={**os.environ, "PYTHONPATH": str(SOURCES)}, capture_output=True, check=False
        )
        assert (done.returncode, b"Traceback" in done.stderr) == (0, False), redirect


@pytest.mark.slow
def test_names_and_queries_without_a_locale(model: Path) -> None:
    record("in/\u96e8.wav")
    environment = {"LC_ALL": "POSIX", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
    done = run_process(model, "in", "-q", "\u96e8", "-o", "out", "--plot", **environment)
    assert (done.returncode, done.stderr) == (0, "")
    assert sorted(path.name for path in Path("out/\u96e8").iterdir()) == [
        "separated.json", "spectrograms.png", "\u96e8.wav"
    ]  # fmt: skip


@pytest.mark.slow
def test_a_closed_output_does_not_make_results_failures(model: Path) -> None:
    record("in/1.wav")
    record("in/2.wav", seed=1)
    command = [sys.executable, "-m", "hubsep", "separate", "in", "-q", "rain", "--model", str(model), "-o", "out"]
    reading, writing = os.pipe()
    os.close(reading)
    environment = {**os.environ, "PYTHONPATH": str(SOURCES)}
    done = subprocess.run(command, env=environment, stdout=writing, stderr=subprocess.PIPE, text=True, check=False)
    os.close(writing)
    assert (done.returncode, done.stderr) == (0, "")
    assert len(list(Path("out").glob("*/separated.json"))) == 2


@pytest.mark.parametrize(
    ("arguments", "rate", "channels", "says"),
    [
        (["--format", "opus"], 44_100, 1, "--format opus cannot hold 1 channel at 44100 Hz"),
        (["--format", "mp3"], 96_000, 1, "--format mp3 cannot hold 1 channel at 96000 Hz"),
        (["--format", "mp3"], 44_100, 6, "--format mp3 cannot hold 6 channels"),
        (["--format", "flac"], 44_100, 9, "--format flac cannot hold 9 channels"),
        (["--format", "flac", "--subtype", "FLOAT"], 44_100, 1, "--subtype FLOAT: FLAC cannot hold FLOAT"),
        (["--subtype", "NONSENSE"], 44_100, 1, "--subtype NONSENSE: WAV cannot hold NONSENSE"),
        (["--format", "mp3", "--bitrate", "999k"], 44_100, 1, "--bitrate 999: the bitrate must be 40 to 320"),
        (["--bitrate", "128k"], 44_100, 1, "--bitrate 128: only mp3 files have a bitrate to choose"),
        (["--format", "m4a"], 44_100, 1, "--format 'm4a' cannot be written; use aif"),
        (["--format", ""], 44_100, 1, "--format '' cannot be written"),
    ],
)
def test_what_cannot_be_delivered_is_refused_before_a_model_is_loaded(
    arguments: list[str], rate: int, channels: int, says: str, capsys: pytest.CaptureFixture[str]
) -> None:
    record("a.wav", rate=rate, channels=channels)
    assert main(["separate", "a.wav", "-q", "rain", "--model", "no-such/model/anywhere", "-o", "out", *arguments]) == 2
    assert says in " ".join(capsys.readouterr().err.split())
    assert not Path("out").exists()


@pytest.mark.parametrize("ending", [ending[1:] for ending in FORMATS])
@pytest.mark.parametrize("rate", [8_000, 44_100, 48_000, 96_000])
@pytest.mark.parametrize("channels", [1, 2, 6, 16])
def test_what_is_said_of_a_format_is_what_its_writer_does(ending: str, rate: int, channels: int) -> None:
    try:
        with AudioWriter(f"a.{ending}", rate, channels) as writer:
            writer.write(np.zeros((channels, 10), np.float32))
        written = True
    except AudioError:
        written = False
    try:
        check_written(ending, rate, channels)
        said = True
    except AudioError:
        said = False
    assert said == written


def test_what_a_folder_run_leaves_out_is_said(model: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name in ("a.wave", "b.BWF", "c.mp2", "d.m4b", "e.3gp", "f.voc"):
        record(f"in/{name}")  # what a file holds decides, never its name
    for name in ("notes.txt", "cover.jpg", "g.wma", "no ending", ".hidden.wav"):
        Path("in", name).write_text("no recording")
    Path("elsewhere").mkdir()
    Path("in", "link").symlink_to("../elsewhere")
    Path("in", "gone.wav").symlink_to("nowhere.wav")
    assert run(model, "in", "-o", "out", "--format", "wav") == 0
    assert {path.parent.name for path in Path("out").rglob("rain.wav")} == {"a", "b", "c", "d", "e", "f"}
    lines = capsys.readouterr().err.splitlines()
    assert lines[0].startswith("left out: in/g.wma: what it holds cannot be read")
    assert lines[1].startswith("left out of in: 1 .jpg, 1 .txt, 1 no ending: ")
    assert lines[2] == "left out: in/gone.wav: a link that leads nowhere"
    assert lines[3] == "left out: in/link: a link to a folder; name it itself"
    assert lines[4].startswith("left out of in: hidden recordings (1)")


def test_generated_files_replace_nothing_unasked(capsys: pytest.CaptureFixture[str]) -> None:
    """Before a model is loaded: there is none of that name."""
    record("x.wav")
    before = listing()
    for arguments, says in (
        (["rain", "-o", "x.flac"], "x.wav is there already"),  # what does not fit is written as floating point
        (["rain", "-o", "x.wav"], "x.wav is there already"),
        (["--continue", "x.wav", "-o", "x.wav", "--overwrite"], "is the recording itself"),
        (["--variation", "x.wav", "-o", "X.WAV", "--overwrite"], "is the recording itself"),
        (["rain", "-o", "a" * 252 + ".wav"], "longer than a name may be"),
    ):
        assert main(["generate", *arguments, "--model", "no-such/model/anywhere"]) == 2
        assert says in capsys.readouterr().err
        assert listing() == before


def test_commands_that_write_one_thing_replace_nothing_unasked(capsys: pytest.CaptureFixture[str]) -> None:
    tiny_conv_tasnet()[0].save_pretrained("model")
    Path("figures.json").write_text("mine")
    Path("data").mkdir()
    before = listing()
    for arguments in (
        ["convert", "conv_tasnet", "other.ckpt", "model", "--licence", "MIT"],
        ["convert", "conv_tasnet", "model", "model", "--licence", "MIT", "--overwrite"],
        ["merge", "other", "adapter", "model"],
        ["merge", "model", "adapter", "model", "--overwrite"],
        ["train", "conv-tasnet-small", "--data", "data", "--output", "model"],
        ["evaluate", "model", "--data", "data", "--json", "figures.json"],
        ["evaluate", "model", "--data", "data", "--json", "a.png", "--picture", "A.png"],
    ):
        assert main(arguments) == 2
        assert capsys.readouterr().err
        assert listing() == before
