# SPDX-License-Identifier: Apache-2.0
"""`hubsep generate`, and the pipeline of that task, with a tiny random model: what they make, and how they refuse."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile as sf
import torch
import transformers
from tiny_audioldm2 import CLOSE, SAMPLES, published_folder, tiny_audio_mae, tiny_components
from tiny_conv_tasnet import tiny_conv_tasnet

import hubsep
from hubsep import AudioLDM2Pipeline, AutoModelForAudioSeparation
from hubsep.cli import main
from hubsep.cli.generate import chosen_way
from hubsep.cli.generate_files import write
from hubsep.cli.generate_order import Order, load, read_channel
from hubsep.errors import CheckpointError, QueryError
from hubsep.shipped import DEFAULT_GENERATOR, SEPARATORS, SHIPPED


RATE = 16_000


@pytest.fixture(scope="module")
def pipe() -> Any:
    made = AudioLDM2Pipeline(**tiny_components(), audio_mae=tiny_audio_mae())
    made.set_progress_bar_config(disable=True)
    return made


@pytest.fixture(scope="module")
def folder(pipe: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("models") / "audioldm2"
    pipe.save_pretrained(place)
    return place


@pytest.fixture(autouse=True)
def in_tmp_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def hum(path: str, samples: int = 2_400, channels: int = 1) -> np.ndarray:
    """Writes a tone as floating point and gives it back."""
    tone = 0.3 * np.sin(2 * np.pi * 440 / RATE * np.arange(samples))
    rows = np.stack([tone * (1 + channel) for channel in range(channels)], axis=1).astype(np.float32)
    sf.write(path, rows, RATE, subtype="FLOAT")
    return rows[:, 0]


def run(folder: Path, *arguments: str) -> int:
    return main(["generate", *arguments, "--model", str(folder), "--steps", "2", "--device", "cpu"])


def made(pipe: Any, prompt: str, recording: str | None = None, **asked: Any) -> np.ndarray:
    """What a command line with these options makes, without the time it takes to load the model for it."""
    ways = {name: asked.get(name) for name in ("continue", "variation", "inpaint", "interpolate")}
    details = {f"--{name}": asked.get(name) for name in ("strength", "from", "to", "mix")}
    way = chosen_way({f"--{name}": value for name, value in ways.items()}, details, asked.get("seconds"))
    order = Order(way, {"num_inference_steps": 2}, asked.get("seconds"), None, 1, seed=asked.get("seed", 0))
    source = None if way.recording is None else read_channel(way.recording, None)
    waveforms: np.ndarray = order.made(pipe, prompt, source).audios
    assert len(waveforms) == 1
    return waveforms[0]


@pytest.mark.slow
def test_prompts_candidates_and_pictures(folder: Path, pipe: Any, capsys: pytest.CaptureFixture[str]) -> None:
    asked = ("rain", "a dog", "-o", "new/out.wav", "--seconds", "0.1", "--seed", "3", "--candidates", "2")
    assert run(folder, *asked, "--all", "--plot") == 0
    written = sorted(path.name for path in Path("new").iterdir())
    sounds = [f"out-{name}" for p in (1, 2) for name in (f"{p}-1.png", f"{p}-1.wav", f"{p}-2.wav")]
    assert written == [*sounds, "out.json"]
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith(f"{Path('new/out-1-1.wav')}  0.10 s  score ")
    assert lines[2] == str(Path("new/out-1-1.png"))
    scores = [float(line.split()[-1]) for line in lines[:2]]
    assert scores[0] >= scores[1]
    # what a prompt gives does not depend on those beside it
    alone = pipe("a dog", generator=seeded(3), seconds=0.1, num_inference_steps=2, num_waveforms_per_prompt=2).audios
    found = sf.read("new/out-2-1.wav", dtype="float32")[0]
    assert found.shape == (1_600,)
    # the tiny vocoder makes much of rounding, which may turn the order around
    assert min(np.abs(found - other).mean() for other in alone) < 1e-2


@pytest.mark.slow
def test_in_little_memory(folder: Path) -> None:
    assert run(folder, "rain", "-o", "rain.wav") == 0
    assert run(folder, "rain", "-o", "same.wav", "--low-memory") == 0
    assert np.abs(sf.read("same.wav")[0] - sf.read("rain.wav")[0]).max() < CLOSE + 2**-15
    pipe = load(str(folder), "cpu", "float32", True)
    assert all(weight.is_meta for weight in pipe.unet.parameters())


def test_files_that_exist_are_kept(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    Path("rain.flac").write_text("mine")
    assert run(folder, "rain", "-o", "rain.flac") == 2
    assert "rain.flac is there already; --overwrite replaces it" in capsys.readouterr().err
    assert Path("rain.flac").read_text() == "mine"
    assert run(folder, "rain", "-o", "rain.flac", "--overwrite") == 0
    assert sf.info("rain.flac").frames == SAMPLES
    Path("wind.png").write_text("mine")
    assert run(folder, "wind", "-o", "wind.wav", "--plot") == 2
    Path("storm.json").write_text("{}")
    assert run(folder, "storm", "-o", "storm.wav") == 2
    assert Path("storm.json").read_text() == "{}", "a record of somebody else is a file like others"
    names = [path.name for path in sorted(Path().iterdir())]
    assert names == ["rain.flac", "rain.json", "storm.json", "wind.png"]


@pytest.mark.slow
def test_what_the_same_command_made_is_known_by_its_record(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    call = ("rain", "wind", "-o", "out.wav", "--seconds", "0.1", "--plot")
    assert run(folder, *call) == 0
    record = json.loads(Path("out.json").read_text())
    assert record["complete"]
    assert [output["path"] for output in record["outputs"]] == ["out-1.wav", "out-1.png", "out-2.wav", "out-2.png"]
    assert record["outputs"][0]["bytes"] == Path("out-1.wav").stat().st_size
    before = {path.name: path.stat().st_mtime_ns for path in Path().iterdir()}
    capsys.readouterr()
    assert run(folder, *call) == 0
    assert "out-1.wav  made already by the same command" in capsys.readouterr().out
    assert {path.name: path.stat().st_mtime_ns for path in Path().iterdir()} == before
    assert run(folder, *call, "--seed", "1") == 2
    assert "out-1.wav is there already, and not of this command: other settings (seed); --overwrite" in (
        capsys.readouterr().err
    )
    Path("out-2.wav").unlink()  # as if the run had been killed
    assert run(folder, *call) == 0
    assert Path("out-2.wav").is_file()
    capsys.readouterr()
    contents = {path.name: path.read_bytes() for path in Path().iterdir()}
    assert run(folder, "rain", "-o", "out.wav", "--seconds", "0.1", "--overwrite") == 0
    assert "out.json listed 'out-1.wav' and 3 more, of another command: left alone" in capsys.readouterr().err
    after = {path.name: path.read_bytes() for path in Path().iterdir()}
    assert {name for name in after if after[name] != contents.get(name)} == {"out.json", "out.wav"}
    assert set(contents) < set(after)
    content = bytearray(after["out.wav"])
    content[-1] ^= 1
    Path("out.wav").write_bytes(content)
    assert run(folder, "rain", "-o", "out.wav", "--seconds", "0.1") == 2
    assert "out.wav is there already, and an output has changed" in capsys.readouterr().err
    assert Path("out.wav").read_bytes() == content


@pytest.mark.slow
def test_a_record_is_believed_only_for_what_the_command_makes(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    call = ("rain", "-o", "sub/out.wav", "--seconds", "0.1")
    assert run(folder, *call) == 0
    record, sound = Path("sub/out.json"), Path("sub/out.wav")
    whole = json.loads(record.read_text())
    Path("private.txt").write_text("12345")
    lies: dict[str, list[object]] = {
        "nothing": [],
        "another file": [{"path": "../private.txt", "bytes": 5, "label": "rain"}],
        "no output": [5],
    }
    for kind, outputs in lies.items():
        record.write_text(json.dumps({**whole, "outputs": outputs}))
        sound.unlink(missing_ok=True)
        capsys.readouterr()
        assert run(folder, *call) == (0 if kind == "nothing" else 2), kind
        assert sound.is_file() == (kind == "nothing"), kind
        assert "made already" not in capsys.readouterr().out
        assert run(folder, *call, "--overwrite") == 0
        assert Path("private.txt").read_text() == "12345"
        assert sound.is_file()
    record.unlink()
    os.mkfifo(record)
    assert run(folder, *call) == 2
    assert "out.json" in capsys.readouterr().err


@pytest.mark.slow
def test_recordings_vary_and_are_filled_in(pipe: Any) -> None:
    sound, file = hum("hum.wav"), Path("hum.wav")
    span: dict[str, Any] = {"from": 0.05, "to": 0.1}
    filled = made(pipe, "rain", inpaint=file, **span)
    changed = np.abs(filled - sound) > 1e-6
    assert changed[900:1_500].mean() > 0.9
    assert not changed[:800].any()
    assert not changed[1_600:].any()
    few: dict[str, Any] = {"generator": seeded(), "num_inference_steps": 2}
    wanted = pipe.vary("hum.wav", strength=0.3, **few).audios[0]
    assert np.abs(made(pipe, "", variation=file, strength=0.3) - wanted).max() < CLOSE
    few["generator"] = seeded()
    wanted = pipe.interpolate("rain", "a dog", (0.25,), **few).audios[0]
    assert np.abs(made(pipe, "rain", interpolate="a dog", mix=0.25) - wanted).max() < CLOSE


@pytest.mark.slow
def test_a_channel_goes_on(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    sound = hum("two.wav", channels=2)
    assert run(folder, "--continue", "two.wav", "-o", "on.wav") == 2
    assert "has 2 channels, and one is made: choose one with --channel" in capsys.readouterr().err
    assert run(folder, "--continue", "two.wav", "-o", "x.wav", "--channel", "3") == 2
    assert "has 2 channels, and --channel is 3" in capsys.readouterr().err
    asked = ("--continue", "two.wav", "-o", "on.wav", "--channel", "2", "--seconds", "0.05", "--plot")
    assert run(folder, *asked) == 0
    on = sf.read("on.wav", dtype="float32")[0]
    assert on.shape == (2_400 + 800,)
    assert np.abs(on[:2_000] - 2 * sound[:2_000]).max() < 1e-6
    assert Path("on.png").stat().st_size > 5_000


def test_what_does_not_fit_an_integer_format_is_said(capsys: pytest.CaptureFixture[str]) -> None:
    loud = 4 * hum("hum.wav")
    assert write([Path("on.flac")], loud[None], RATE) == [Path("on.wav")]
    assert "does not fit" in capsys.readouterr().err
    assert [path.name for path in sorted(Path().iterdir())] == ["hum.wav", "on.wav"]
    assert sf.info("on.wav").subtype == "FLOAT"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["", "-o", "x.wav"], "'' says nothing; write words"),
        (["rain", " ", "-o", "x.wav"], "' ' says nothing; write words"),
        (["-o", "x.wav"], "say what is to be heard"),
        (["--interpolate", "rain", "-o", "x.wav"], "say what is to be heard"),
        (["rain", "-o", "x.doc"], "cannot write .doc"),
        (["rain", "-o", "x.wav", "--continue", "hum.wav", "--variation", "hum.wav"], "do not go together"),
        (["rain", "-o", "x.wav", "--strength", "0.5"], "--strength needs --variation"),
        (["rain", "-o", "x.wav", "--mix", "0.5"], "--mix needs --interpolate"),
        (["rain", "-o", "x.wav", "--inpaint", "hum.wav", "--from", "0"], "needs --from and --to"),
        (["rain", "-o", "x.wav", "--variation", "hum.wav", "--seconds", "3"], "leave out --seconds"),
        (["rain", "-o", "x.wav", "--continue", "hum.wav", "--candidates", "2"], "leave out --candidates"),
        (["rain", "wind", "-o", "x.wav", "--continue", "hum.wav"], "one recording of one prompt"),
        (["rain", "-o", "x.wav", "--continue", "no.wav"], "cannot be decoded"),
        (["rain", "-o", "x.wav", "--model", SEPARATORS[0]], "separates recordings and makes none"),
    ],
)
def test_command_lines_that_are_refused(
    arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """All of them before a model is loaded: there is none of that name."""
    hum("hum.wav")
    Path("no.wav").write_text("no recording")
    model = [] if "--model" in arguments else ["--model", "no-such-folder/at/all"]
    assert main(["generate", *arguments, *model]) == 2
    assert message in capsys.readouterr().err
    assert not Path("x.wav").exists()


@pytest.mark.parametrize(
    "arguments", [["--seconds", "-1"], ["--steps", "0"], ["--continue", "gone.wav"], ["--candidates", "65"]]
)
def test_numbers_and_files_that_cannot_be(arguments: list[str]) -> None:
    assert main(["generate", "rain", "-o", "x.wav", "--model", "none", *arguments]) == 2


def test_models_that_make_no_sounds(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    tiny_conv_tasnet()[0].save_pretrained("separator")
    assert run(Path("separator"), "rain", "-o", "x.wav") == 2
    assert "separates recordings and makes none" in capsys.readouterr().err
    with pytest.raises(CheckpointError, match="makes sounds and separates none"):
        AutoModelForAudioSeparation.from_pretrained(folder)


@pytest.mark.slow
def test_the_shipped_model_is_the_default(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["generate", "rain on a tin roof", "-o", "rain.wav", "--steps", "2", "--seconds", "1"]) == 0
    sound, rate = sf.read("rain.wav")
    assert (len(sound), rate) == (16_000, 16_000)
    assert np.isfinite(sound).all()
    assert np.abs(sound).max() > 1e-3
    assert main(["list"]) == 0
    assert DEFAULT_GENERATOR in capsys.readouterr().out


@pytest.mark.slow
def test_words_are_taken_for_what_the_model_knows() -> None:
    pipe = AudioLDM2Pipeline.from_pretrained(DEFAULT_GENERATOR)
    taken = {
        "rain": "rain", "rain on a tin roof": "rain", "a dog barking": "dog barking", "a puppy yapping": "dog barking",
        "xyzzy": None, "siren": None, "typing": None, "music": None, "noise": None, "Hund bellt": None, "pluie": None,
        "\u4e0b\u96e8": None, "\u72d7\u53eb": None, "thunder": None, "a woman singing": None, "applause": None,
    }  # fmt: skip
    meanings = dict(zip(taken, pipe.understand(list(taken)) or (), strict=True))
    assert {word: meaning.understood_as for word, meaning in meanings.items()} == taken
    assert all(meaning.nearest in pipe.known_sounds for meaning in meanings.values() if meaning.understood_as is None)
    few: dict[str, Any] = {"num_inference_steps": 1, "seconds": 0.5}
    with pytest.warns(UserWarning, match="'xyzzy' is no sound this model knows"):
        pipe(["rain", "xyzzy"], **few)


@pytest.mark.slow
@pytest.mark.parametrize("between", ["the last sound is changed", "the first sound is changed after a kill"])
def test_sounds_that_are_changed_while_others_are_made_stay(between: str, folder: Path) -> None:
    call = ("rain", "wind", "dogs", "-o", "out.wav", "--seconds", "0.1")
    assert run(folder, *call) == 0
    if between == "the last sound is changed":
        Path("out-1.wav").unlink()
        changed = Path("out-3.wav")
    else:
        known = json.loads(Path("out.json").read_text())
        Path("out.json").write_text(json.dumps({**known, "complete": False, "outputs": known["outputs"][:2]}))
        Path("out-3.wav").unlink()
        changed = Path("out-1.wav")
    changed.write_bytes(changed.read_bytes() + b"mine")
    content = changed.read_bytes()
    assert run(folder, *call) == 2
    assert changed.read_bytes() == content


@pytest.mark.slow
@pytest.mark.parametrize(
    ("prompt", "way_out"),
    [("no rain", "--negative 'rain'"), ("rain without thunder", "the prompt 'rain', and --negative 'thunder'"),
     ("kein Regen", "--negative 'Regen'"), ("everything but a dog and a cat", "--negative 'a dog, a cat'")],
)  # fmt: skip
def test_what_is_not_to_be_heard_is_never_made(
    prompt: str, way_out: str, folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    place = tmp_path / "model"
    shutil.copytree(folder, place)
    shutil.copy(SHIPPED[DEFAULT_GENERATOR] / "card.json", place)
    assert run(place, prompt, "-o", "out.wav", "--seconds", "0.1") == 1
    assert way_out in capsys.readouterr().err
    assert not Path("out.wav").exists()
    assert run(folder, prompt, "-o", "out.wav", "--seconds", "0.1") == 0, "a model of every word takes it as it is"


def test_a_command_says_what_it_took_words_for(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The tiny model knows nothing; its card says rain, and words that are no copy of it are near or far by chance."""
    place = tmp_path / "model"
    shutil.copytree(folder, place)
    shutil.copy(SHIPPED[DEFAULT_GENERATOR] / "card.json", place)
    assert AudioLDM2Pipeline.from_pretrained(place).known_sounds[0] == "a child talking"
    monkeypatch.setattr("hubsep.pipelines.audioldm2.understanding.NEAR", 0.999)
    assert run(place, "rain", "xyzzy", "-o", "out.wav", "--seconds", "0.1") == 3
    said = capsys.readouterr()
    assert "taken as" not in said.out.splitlines()[0]
    assert "  no sound this model knows; nearest: " in said.out.splitlines()[1]
    assert said.err.startswith("not understood: 'xyzzy' is no sound this model knows; the nearest is ")
    assert [each["understood_as"] for each in json.loads(Path("out.json").read_text())["outputs"]] == ["rain", None]
    assert run(place, "rain", "xyzzy", "-o", "out.wav", "--seconds", "0.1") == 3, "said again, though it is made"


@pytest.mark.slow
def test_pipeline_of_transformers(folder: Path, pipe: Any) -> None:
    """Its own class and output; what a call is told goes into `forward_params`."""
    make = transformers.pipeline("text-to-audio", model=str(folder), device="cpu")
    assert type(make) is transformers.TextToAudioPipeline
    told: dict[str, Any] = {"num_inference_steps": 2, "seconds": 0.1}
    out = make("rain", forward_params={**told, "generator": seeded()})
    assert set(out) == {"audio", "sampling_rate"}
    assert out["sampling_rate"] == RATE
    assert np.abs(out["audio"] - pipe("rain", generator=seeded(), **told).audios[0]).max() < CLOSE
    for batch_size in (1, 2):
        found = make(["rain", "dogs"], batch_size=batch_size, forward_params=told)
        assert [sound["audio"].shape for sound in found] == [(1_600,), (1_600,)]
    with pytest.raises(ValueError, match="forward_params"):
        make("rain", generate_kwargs=told)


@pytest.mark.slow
def test_pipeline_of_hubsep(folder: Path, pipe: Any, tmp_path: Path) -> None:
    """Folders of diffusers' too, and pipelines; plain arguments, and those of transformers."""
    told: dict[str, Any] = {"num_inference_steps": 2, "seconds": 0.1}
    expected = pipe("rain", generator=seeded(), **told).audios[0]
    published = published_folder(tmp_path / "published")
    for model in (folder, str(published), pipe):
        make = hubsep.pipeline("text-to-audio", model=model, device="cpu", num_inference_steps=2)
        assert isinstance(make, transformers.TextToAudioPipeline)
        assert np.abs(make("rain", seconds=0.1, generator=seeded())["audio"] - expected).max() < CLOSE
    for name in ("forward_params", "generate_kwargs"):
        options: Any = {name: {**told, "generator": seeded()}}
        out = make("rain", **options)
        assert np.abs(out["audio"] - expected).max() < CLOSE
    best = pipe("rain", num_waveforms_per_prompt=2, generator=seeded(), **told).audios[0]
    out = make("rain", seconds=0.1, num_waveforms_per_prompt=2, generator=seeded())
    assert np.abs(out["audio"] - best).max() < CLOSE
    found = make(["rain", "a dog"], seconds=0.1)
    assert [set(sound) for sound in found] == [{"audio", "sampling_rate"}] * 2
    make.save_pretrained(tmp_path / "saved")
    again = AudioLDM2Pipeline.from_pretrained(tmp_path / "saved", dtype=torch.float32)
    assert (tmp_path / "saved" / "config.json").is_file()
    assert again.audio_mae is not None
    with pytest.raises(QueryError, match="num_inference_steps must be"):
        make("rain", num_inference_steps=0)
    with pytest.raises(CheckpointError, match="trust_remote_code"):
        hubsep.pipeline("text-to-audio", model=folder, model_kwargs={"trust_remote_code": True})
