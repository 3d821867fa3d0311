# SPDX-License-Identifier: Apache-2.0
"""The `hubsep` command with a tiny model: what it writes, what it skips, and how it fails."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile as sf
from published_audiosep import OVERRIDES, whole, write_lightning, write_tokenizer
from tiny_audiosep import tiny_audiosep

from hubsep import AudioSepForAudioSeparation
from hubsep.cli import main
from hubsep.hub.processes import host
from hubsep.shipped import SHIPPED


SOURCES = Path(__file__).resolve().parents[2] / "src"


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


def record(
    path: str,
    *,
    seconds: float = 1.0,
    channels: int = 1,
    rate: int = 8_000,
    peak: float = 0.5,
    subtype: str | None = None,
) -> None:
    """Writes noise of a given peak."""
    noise = np.random.default_rng(len(path)).uniform(-1, 1, (int(seconds * rate), channels))
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    sf.write(path, noise / np.abs(noise).max() * peak, rate, subtype=subtype)


def files(folder: str) -> list[str]:
    """What is in a folder, but for the manifest of a run of several inputs."""
    names = [path.relative_to(folder).as_posix() for path in Path(folder).rglob("*") if path.is_file()]
    return sorted(name for name in names if ".hubsep" not in name.split("/"))


def test_help_names_every_command(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--help"]) == 0
    text = capsys.readouterr().out
    for command in ("separate", "convert", "list", "env", "train", "evaluate"):
        assert f"\n  {command} " in text
        assert main([command, "--help"]) == 0


def test_help_is_whole_and_says_nothing_of_python(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["help"]) == 0
    text = capsys.readouterr().out
    commands = [line.split() for line in text.partition("Commands:\n")[2].partition("\n\n")[0].splitlines()]
    for name, *words in commands:
        assert not words[-1].endswith("..."), name
        assert main(["help", name]) == 0
        shown = capsys.readouterr().out
        assert not any(mark in shown for mark in ("<", "list[", "{INPUT", "......", "...]...")), name
    assert main(["help", "list"]) == 0
    assert "Usage: hubsep list [OPTIONS]\n" in capsys.readouterr().out
    assert main(["version"]) == 0
    assert capsys.readouterr().out.startswith("hubsep ")


@pytest.mark.parametrize(
    ("name", "subtype"),
    [
        ("a.wav", "PCM_16"),
        ("a.wav", "PCM_24"),
        ("a.wav", "FLOAT"),
        ("a.flac", "PCM_16"),
        ("a.aiff", "PCM_16"),
        ("a.mp3", "MPEG_LAYER_III"),
        ("a.ogg", "VORBIS"),
    ],
)
def test_outputs_keep_what_the_input_is(model: Path, name: str, subtype: str) -> None:
    record(name, channels=2, rate=44_100, seconds=0.7, subtype=subtype)
    assert main(["separate", name, "-q", "rain", "--model", str(model), "--residual", "-o", "out"]) == 0
    assert files("out") == [f"a/rain{Path(name).suffix}", f"a/residual{Path(name).suffix}", "a/separated.json"]
    for output in Path("out/a").glob("r*"):
        expected, found = sf.info(name), sf.info(output)
        for fact in ("format", "subtype", "samplerate", "channels", "frames"):
            assert getattr(found, fact) == getattr(expected, fact)


@pytest.mark.parametrize(
    ("name", "subtype"),
    [
        ("a.wav", "PCM_U8"),
        ("a.wav", "PCM_16"),
        ("a.wav", "PCM_24"),
        ("a.wav", "PCM_32"),
        ("a.flac", "PCM_S8"),
        ("a.flac", "PCM_16"),
        ("a.aiff", "PCM_24"),
        ("a.caf", "ALAC_16"),
        ("a.caf", "ALAC_24"),
    ],
)
def test_files_of_integers_add_up_to_the_last_bit(model: Path, name: str, subtype: str) -> None:
    record(name, channels=2, seconds=0.7, subtype=subtype, peak=0.4)
    queries = ["-q", "rain", "-q", "dog barking", "--residual"]
    assert main(["separate", name, *queries, "--model", str(model), "-o", "out"]) == 0
    outputs = [path for path in Path("out/a").iterdir() if path.suffix != ".json"]
    assert len(outputs) == 3
    assert {sf.info(path).subtype for path in outputs} == {subtype}
    total = sum(sf.read(path, dtype="int32")[0].astype(np.int64) for path in outputs)
    assert np.array_equal(total, sf.read(name, dtype="int32")[0])


def test_sources_and_residual_add_up(model: Path) -> None:
    record("street.wav", channels=2, rate=44_100, subtype="FLOAT")
    assert (
        main(["separate", "street.wav", "-q", "rain", "-q", "dog barking", "--model", str(model), "--residual"]) == 0
    )
    outputs = list(Path("separated/street").glob("*.wav"))
    assert {path.stem for path in outputs} == {"rain", "dog_barking", "residual"}
    total = sum(sf.read(path, dtype="float32")[0] for path in outputs)
    # each of three files of float32 is rounded by 6e-8 at most
    assert np.abs(total - sf.read("street.wav", dtype="float32")[0]).max() <= 1e-6


def test_folder_is_mirrored_and_finished_inputs_are_skipped(model: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name in ("in/one.wav", "in/deep/er/雨 2.flac", "in/.hidden.wav"):
        record(name)
    Path("in/notes.txt").write_text("not audio")
    command = ["separate", "in", "-q", "rain", "--model", str(model), "-o", "in/out"]
    assert main(command) == 0
    written = ["deep/er/雨 2/rain.flac", "deep/er/雨 2/separated.json", "one/rain.wav", "one/separated.json"]
    assert files("in/out") == written
    times = {name: os.stat(f"in/out/{name}").st_mtime_ns for name in written}

    assert main(command) == 0  # results below the input folder are no inputs
    assert "2 of 2 inputs are finished" in capsys.readouterr().out
    assert {name: os.stat(f"in/out/{name}").st_mtime_ns for name in written} == times

    Path("in/out/one/rain.wav").unlink()
    assert main(command) == 0
    assert sf.info("in/out/one/rain.wav").frames == 8_000
    assert "1 of 2 inputs are finished" in capsys.readouterr().out
    record("in/deep/er/雨 2.flac", seconds=1.5)
    assert main(command) == 2
    assert sf.info("in/out/deep/er/雨 2/rain.flac").frames == 8_000
    assert "the recording is another one" in capsys.readouterr().err
    assert main([*command, "--overwrite"]) == 0
    assert sf.info("in/out/deep/er/雨 2/rain.flac").frames == 12_000


def test_other_settings_and_overwrite_do_the_work_again(model: Path) -> None:
    record("a.wav")
    command = ["separate", "a.wav", "-q", "rain", "--model", str(model)]
    marker = Path("separated/a/separated.json")
    assert main(command) == 0
    before = marker.stat().st_mtime_ns
    assert main([*command, "--batch-size", "2"]) == 0  # the same result
    assert marker.stat().st_mtime_ns == before
    assert main([*command, "--overwrite"]) == 0
    again = marker.stat().st_mtime_ns
    assert again > before
    assert main([*command, "--negative", "dog"]) == 2
    assert marker.stat().st_mtime_ns == again
    assert main([*command, "--negative", "dog", "--overwrite"]) == 0
    assert marker.stat().st_mtime_ns > again


def test_query_by_example_template_and_picture(model: Path) -> None:
    record("a.b.wav")
    record("bell.wav")
    command = ["separate", "a.b.wav", "--example", "bell.wav", "--model", str(model), "-o", "."]
    assert main([*command, "--template", "{label}-of-{name}.{ext}", "--plot", "--format", "flac"]) == 0
    results = ["bell-of-a.b.flac", "separated-of-a.b.json", "spectrograms-of-a.b.png"]
    assert files(".") == sorted(["a.b.wav", "bell.wav", *results])
    assert Path("spectrograms-of-a.b.png").read_bytes().startswith(b"\x89PNG")
    recorded = json.loads(Path("separated-of-a.b.json").read_text())
    assert [output["path"] for output in recorded["outputs"]] == [results[0], results[2]]
    assert 0 <= recorded["outputs"][0]["score"] <= 1


def test_processes_share_the_inputs(model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("in/a.wav", "in/b.wav", "in/c.wav"):
        record(name)
    monkeypatch.setenv("WORLD_SIZE", "2")
    for rank, folders in (("1", {"b"}), ("0", {"a", "b", "c"})):
        monkeypatch.setenv("RANK", rank)
        assert main(["separate", "in", "-q", "rain", "--model", str(model), "-o", "out"]) == 0
        assert {path.parent.name for path in Path("out").glob("*/separated.json")} == folders


def test_bitrate(model: Path) -> None:
    record("a.wav", seconds=3)
    command = ["separate", "a.wav", "-q", "rain", "--model", str(model), "--format", "mp3", "--bitrate"]
    sizes = []
    for bitrate in ("16", "32"):
        assert main([*command, bitrate, "--overwrite"]) == 0
        sizes.append(Path("separated/a/rain.mp3").stat().st_size)
    assert sizes[1] > 1.8 * sizes[0]
    assert main([*command, "1000", "--overwrite"]) == 2


@pytest.fixture
def loud(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """The residual of a full-scale recording has a peak above 1: the model turns the phase of what it takes round."""
    record("loud.wav", peak=1.0, subtype="PCM_16")
    folder = tmp_path_factory.mktemp("models") / "opposite"
    network, processor = tiny_audiosep()
    head: Any = network.unet.head
    head.bias.data[1] = -2.0
    network.save_pretrained(folder)
    processor.save_pretrained(folder)
    return ["separate", "loud.wav", "-q", "rain", "--residual", "--model", str(folder), "-o", "out", "--clip"]


def waveforms() -> tuple[np.ndarray, np.ndarray]:
    return sf.read("out/loud/rain.wav")[0], sf.read("out/loud/residual.wav")[0]


def test_another_container_than_the_one_of_the_recording_is_said(
    loud: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([*loud, "float", "--format", "flac"]) == 0
    assert "written as wav with 32-bit floating point samples, which flac cannot hold; --clip rescale keeps" in (
        capsys.readouterr().err
    )
    assert sorted(path.suffix for path in Path("out/loud").iterdir()) == [".json", ".wav", ".wav"]


def test_a_peak_that_does_not_fit_becomes_float(loud: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*loud, "float"]) == 0
    said = capsys.readouterr().err
    assert "does not fit into PCM_16: written as 32-bit floating point; --clip rescale keeps the format" in said
    rain, residual = waveforms()
    assert np.abs(residual).max() > 1
    assert np.abs(rain + residual - sf.read("loud.wav")[0]).max() <= 1e-6
    assert {sf.info(path).subtype for path in Path("out/loud").glob("*.wav")} == {"FLOAT"}


@pytest.mark.slow
def test_clamp_and_rescale_are_only_done_when_asked_for(loud: list[str]) -> None:
    assert main([*loud, "float", "--overwrite"]) == 0
    exact_rain, exact_residual = waveforms()
    assert main([*loud, "clamp", "--overwrite"]) == 0
    rain, residual = waveforms()
    assert np.abs(residual - exact_residual.clip(-1, 1)).max() <= 2**-15
    assert main([*loud, "rescale", "--overwrite"]) == 0
    rain, residual = waveforms()
    gain = 1 / np.abs(exact_residual).max()
    assert np.abs(residual - gain * exact_residual).max() <= 2**-15
    assert np.abs(rain - gain * exact_rain).max() <= 1.5 * 2**-15  # half a step, and one the residual has no room for


def test_raise_leaves_nothing(loud: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*loud, "raise"]) == 1
    assert "--clip float" in capsys.readouterr().err
    assert files("out") == []


def test_failures_are_listed_and_the_rest_is_done(model: Path, capsys: pytest.CaptureFixture[str]) -> None:
    record("in/good.wav")
    Path("in/bad.wav").write_text("no audio")
    assert main(["separate", "in", "-q", "rain", "--model", str(model), "-o", "out"]) == 1
    error = capsys.readouterr().err
    assert error.startswith(f"failed: {Path('in/bad.wav')}: ")
    assert len(error.splitlines()) == 1
    assert "Traceback" not in error
    assert files("out") == ["good/rain.wav", "good/separated.json"]


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (["missing.wav"], "does not exist"),
        (["a.wav", "--template", "{name}.{ext}"], "needs {label}"),
        (["a.wav", "--template", "../{label}.{ext}"], "leaves the output folder"),
        (["a.wav", "--template", "{label.__class__}"], "needs {label}"),
        (["a.wav", "--template", "{label}"], "must end in .{ext}"),
        (["a.wav", "--template", "{label}.json"], "must end in .{ext}"),
        (["a.wav", "--template", "{label}.mp3"], "must end in .{ext}"),
        (["a.wav", "--template", "{ext}/{label}"], "must end in .{ext}"),
        (["a.wav", "a.flac"], "would be written to the same files"),
        (["in", "-o", "."], "choose another --output"),
        (["in", "-o", "in"], "choose another --output"),
        (["a.wav", "a/rain.wav", "-o", "."], "could be written over"),
        (["empty"], "holds no recording"),
        (["a.wav", "--clip", "sometimes"], "sometimes"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_wrong_command_lines(arguments: list[str], reason: str, capsys: pytest.CaptureFixture[str]) -> None:
    for name in ("a.wav", "a.flac", "a/rain.wav", "in/b.wav"):
        record(name, seconds=0.01)
    Path("empty").mkdir()
    before = files(".")
    assert main(["separate", *arguments, "-q", "rain"]) == 2
    assert reason in " ".join(capsys.readouterr().err.split())
    assert files(".") == before


def test_a_text_queried_model_needs_a_query(model: Path, capsys: pytest.CaptureFixture[str]) -> None:
    record("a.wav")
    assert main(["separate", "a.wav", "--model", str(model)]) == 2
    error = capsys.readouterr().err
    assert "say what with -q TEXT" in error
    assert "dog barking" in error


def test_a_model_that_is_none(capsys: pytest.CaptureFixture[str]) -> None:
    record("a.wav")
    Path("broken").mkdir()
    Path("broken/config.json").write_text("{")
    assert main(["separate", "a.wav", "-q", "rain", "--model", "broken"]) == 2
    error = capsys.readouterr().err
    assert "'broken' holds no .safetensors weights" in error
    assert "Traceback" not in error


@pytest.mark.slow
def test_an_interrupted_run_leaves_no_half_file(model: Path) -> None:
    record("in/long.wav", seconds=600)
    record("in/a.wav")
    command = [sys.executable, "-m", "hubsep", "separate", "in", "-q", "rain", "--model", str(model), "-o", "out"]
    with open("errors.txt", "w") as errors:
        run = subprocess.Popen(
            command, env={**os.environ, "PYTHONPATH": str(SOURCES)}, stderr=errors,
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # a shell may have turned it off
        )  # fmt: skip
    deadline = time.monotonic() + 240  # on a machine that is busy with other things
    marker = Path("out/a/separated.json")
    while not list(Path("out").glob(".separating-*/*")) or not (
        marker.exists() and '"complete": true' in marker.read_text()
    ):
        assert run.poll() is None, "ended before it could be interrupted: " + Path("errors.txt").read_text()
        assert time.monotonic() < deadline
        time.sleep(0.01)
    run.send_signal(signal.SIGINT)
    assert run.wait(timeout=240) == 130
    assert files("out") == ["a/rain.wav", "a/separated.json"]
    assert not list(Path("out").glob(".separating-*"))


def test_what_a_killed_run_left_is_removed(model: Path) -> None:
    record("a.wav")
    ended = subprocess.Popen([sys.executable, "-c", ""])
    ended.wait()
    left = {process: Path(f"out/.separating-{host()}-{process}-x") for process in (ended.pid, os.getppid())}
    for folder in left.values():
        folder.mkdir(parents=True)
        (folder / "rain.w64").write_bytes(b"half")
    assert main(["separate", "a.wav", "-q", "rain", "--model", str(model), "-o", "out"]) == 0
    assert not left[ended.pid].exists()
    assert left[os.getppid()].exists()  # that process still runs


def test_convert(capsys: pytest.CaptureFixture[str]) -> None:
    write_lightning(Path("published.ckpt"), whole())
    write_tokenizer(Path("tokenizer"))
    settings = {**OVERRIDES, "tokenizer": "tokenizer"}
    assignments = [part for name, value in settings.items() for part in ("--set", f"{name}={json.dumps(value)}")]
    command = ["convert", "audiosep", "published.ckpt", "converted"]
    assert main([*command, *assignments]) == 2
    assert "--licence" in capsys.readouterr().err
    assert not Path("converted").exists()
    assert main([*command, *assignments, "--licence", "MIT"]) == 0
    assert "AudioSepForAudioSeparation" in capsys.readouterr().out
    assert AudioSepForAudioSeparation.from_pretrained("converted").config.hop_length == OVERRIDES["hop_length"]
    assert main([*command, "--licence", "MIT", "--set", "no_such_field=1", "--overwrite"]) == 2
    assert "no_such_field" in capsys.readouterr().err


def test_list_tells_licence_and_use(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["list", "--json"]) == 0
    listed = json.loads(capsys.readouterr().out)
    assert "audiosep-small" in [card["name"] for card in listed["models"]]
    assert "audiosep" in [system["model_type"] for system in listed["systems"]]
    research = {card["name"]: card for card in listed["models"] if not card["commercial"]}
    assert main(["list"]) == 0
    printed = capsys.readouterr().out
    assert max(map(len, printed.splitlines())) <= 80
    lines = {line.split()[0]: line.split()[3:] for line in printed.splitlines() if " Hz " in line}
    for card in research.values():
        assert lines[card["name"]][:2] == [card["licence_name"], "research"]
    assert lines["meta-tasnet-small"][2:] == ["SDR", "2.98", "dB", "mean"], "of the four stems"
    assert main(["list", "--commercial"]) == 0
    lines = {line.split()[0]: line.split() for line in capsys.readouterr().out.splitlines() if " Hz " in line}
    assert list(lines) == [card["name"] for card in listed["models"] if card["commercial"]]
    assert all(line[3:5] == ["CC-BY-4.0", "any"] for line in lines.values())


def test_how_the_shipped_models_were_trained(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["list", "--training"]) == 0
    told = capsys.readouterr()
    lines = (told.out + told.err).splitlines()
    for name, folder in SHIPPED.items():
        start = next(i for i, line in enumerate(lines) if line.startswith(f"# {name}: about "))
        assert float(lines[start].split()[3]) >= 0.5, "hours"
        assert any(line.startswith("hubsep train ") for line in lines[start:]), folder


@pytest.mark.parametrize(
    ("command", "status", "reason"),
    [
        (["train", "no_recipe", "--data", ".", "--output", "run"], 2, "'no_recipe' is no model"),
        (["train", "audiosep", "--data", "missing", "--output", "run"], 2, "does not exist"),
        (["train", "audiosep", "--data", ".", "--output", "used"], 2, "--resume"),
        (["train", "audiosep", "--data", ".", "--output", "run", "--set", "no_equals"], 2, "needs field=value"),
        (["train", "audiosep", "--data", ".", "--output", "run", "--set", "no_such_field=1"], 2, "no_such_field"),
        (["convert", "no_system", "a", "b", "--licence", "MIT"], 2, "'no_system' is not one of"),
        (["convert", "audiosep", "missing.ckpt", "b", "--licence", "MIT"], 2, "missing.ckpt"),
        (["evaluate", "missing-model", "--data", "missing"], 2, "does not exist"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_refusals(command: list[str], status: int, reason: str, capsys: pytest.CaptureFixture[str]) -> None:
    Path("used").mkdir()
    Path("used/curve.jsonl").touch()
    assert main(command) == status
    error = capsys.readouterr().err
    assert reason in " ".join(error.split())
    assert "Traceback" not in error
    assert [path.name for path in Path().iterdir()] == ["used"]


def test_environment_says_what_runs_where(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["env", "--json"]) == 0
    facts = json.loads(capsys.readouterr().out)
    assert facts["torch"].startswith("2.")
    assert facts["threads"] >= 1
    assert ("why cpu" in facts) == (facts["device"] == "cpu")
    assert main(["env"]) == 0
    assert ["torch", facts["torch"]] in [line.split(maxsplit=1) for line in capsys.readouterr().out.splitlines()]
