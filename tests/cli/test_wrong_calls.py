# SPDX-License-Identifier: Apache-2.0
"""What a newcomer reads who calls a command in a wrong way: one clear message, in the words of the command line."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import numpy as np
import pytest
import soundfile as sf
from tiny_audiosep import tiny_audiosep
from tiny_conv_tasnet import tiny_conv_tasnet
from tiny_spleeter import tiny_spleeter

from hubsep.cli import main


# Names of Python that mean nothing to who types a command
PYTHON = re.compile(
    r"quer(?:y|ies)_\w+|queries=|\w+=\s|_s\b|on_short|only_active|model_options|sources=|num_(?:inference|waveforms)\w+|guidance_scale|"
    r"negative_\w+|prompt=|torch\.|Traceback|object at 0x|NoneType|self\b|kwargs"
)
RATE = 8_000

# (the command line, its exit status, what it says at least)
CALLS: list[tuple[str, int, str]] = [
    ("separate talk.wav --model text", 2, "say what with -q TEXT"),
    ("separate talk.wav --model text -q ''", 2, "'' says nothing; write words"),
    ("separate talk.wav --model text -q rain -q RAIN", 2, "'RAIN' is asked for twice"),
    ("separate talk.wav --model text -q rain --sources vocals", 2, "leave out --sources"),
    ("separate talk.wav --model text -q rain --only-active", 2, "--only-active is for models"),
    ("separate talk.wav --model song -q vocals", 2, "leave out -q, --example and --negative"),
    ("separate talk.wav --model song --negative rain", 2, "leave out -q, --example and --negative"),
    ("separate talk.wav --model song --sources drumz", 2, "'drumz' is no sum of sources of this model"),
    ("separate talk.wav --model song --sources ''", 2, "'' says nothing"),
    ("separate talk.wav --model song --set wiener=true", 2, "'wiener' is no option of this spleeter model; it takes"),
    ("separate talk.wav --model song --set", 2, "requires an argument"),
    ("separate talk.wav --model song --set wiener_filter", 2, "--set needs field=value"),
    ("separate talk.wav --model talk --sources 'speaker 1'", 2, "leave out --sources"),
    ("separate talk.wav --model talk --offset 100", 2, "--offset is 100 s"),
    ("separate talk.wav --model talk --duration 0", 2, "must be above 0"),
    ("separate talk.wav --model talk --offset -1", 2, "--offset"),
    ("separate talk.wav --model talk --batch-size 0", 2, "--batch-size"),
    ("separate talk.wav --model talk --clip never", 2, "--clip"),
    ("separate talk.wav --model talk --dtype int8", 2, "--dtype"),
    ("separate talk.wav --model talk --format docx", 2, "'docx' cannot be written; use"),
    ("separate talk.wav --model talk --format flac --subtype FLOAT", 2, "FLOAT"),
    ("separate talk.wav --model talk --bitrate fast", 2, "--bitrate"),
    ("separate talk.wav --model talk --template same.wav", 2, "needs {label} or {stem}"),
    ("separate talk.wav --model talk --template ../{label}.wav", 2, "leaves the output folder"),
    ("separate talk.wav --model talk --shard 3/2", 2, "3/2"),
    ("separate talk.wav --model talk --device gpu", 2, "--device"),
    ("separate talk.wav --model conv-tasnet-smal", 2, "Did you mean conv-tasnet-small?"),
    ("separate talk.wav --model ./nowhere", 2, "there is no folder './nowhere'"),
    ("separate talk.wav --model talk.wav", 2, "is a file; name the folder it is in"),
    ("separate talk.wav --model empty", 2, "Name a model that `hubsep list` prints"),
    ("separate talk.wav --model talk --adapter empty", 2, "is not an adapter"),
    ("separate nothing.wav --model talk", 2, "nothing.wav"),
    ("separate empty --model talk", 2, "holds no recording"),
    ("separate text.wav --model talk", 1, "text.wav"),
    ("separate cut.flac --model talk", 1, "cut.flac"),
    ("separate cut.wav --model talk", 1, "--on-short warn"),
    ("separate talk.wav --model talk --on-short maybe", 2, "--on-short"),
    ("separate", 2, "INPUT"),
    ("separate talk.wav --modl talk", 2, "--modl"),
    ("seperate talk.wav", 2, "seperate"),
    ("generate rain", 2, "-o"),
    ("generate -o rain.wav", 2, "say what is to be heard"),
    ("generate rain -o rain.docx", 2, "rain.docx"),
    ("generate rain -o rain.wav --seconds 0", 2, "--seconds"),
    ("generate rain -o rain.wav --steps 0", 2, "--steps"),
    ("generate rain -o rain.wav --from 1", 2, "--from needs --inpaint"),
    ("generate rain -o rain.wav --model audiosep-small", 2, "separates recordings and makes none"),
    ("generate rain -o talk.wav", 2, "--overwrite"),
    ("convert nothing talk.wav out --licence MIT", 2, "is not one of audiosep"),
    ("convert audiosep talk.wav out", 2, "--licence"),
    ("convert audiosep talk.wav out --licence 'all rights'", 2, "SPDX id"),
    ("convert audioslots talk.wav out --licence MIT", 2, "cannot be converted"),
    ("convert sepformer empty out --licence MIT", 1, "hyperparams.yaml"),
    ("convert conv_tasnet talk.wav out --licence MIT", 1, "was not opened: it is damaged, or no PyTorch checkpoint"),
    ("evaluate talk", 2, "--data"),
    ("evaluate talk --data nowhere", 2, "nowhere"),
    ("train nothing --data empty", 2, "is no model"),
    ("list --sounds talk", 2, "has no list of sounds"),
    ("list --sounds audiosep-smal", 2, "Did you mean audiosep-small?"),
    ("push empty me/model", 2, "has no card.json"),
    ("push empty", 2, "ORG/NAME"),
]  # fmt: skip


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("wrong")
    model, processor = tiny_audiosep()
    model.save_pretrained(folder / "text")
    processor.save_pretrained(folder / "text")
    tiny_conv_tasnet()[0].save_pretrained(folder / "talk")
    tiny_spleeter()[0].save_pretrained(folder / "song")
    (folder / "empty").mkdir()
    noise = np.random.default_rng(0).uniform(-0.1, 0.1, RATE)
    sf.write(folder / "talk.wav", noise, RATE, subtype="PCM_16")
    sf.write(folder / "whole.flac", noise, RATE)
    for name, source in (("cut.wav", "talk.wav"), ("cut.flac", "whole.flac")):
        (folder / name).write_bytes((folder / source).read_bytes()[:6_000])
    (folder / "text.wav").write_text("this is no recording")
    return folder


@pytest.mark.parametrize(("line", "status", "words"), CALLS, ids=[line for line, _, _ in CALLS])
def test_a_wrong_call_says_what_to_do(
    line: str,
    status: int,
    words: str,
    place: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
):
    monkeypatch.chdir(place)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    before = sorted(path.name for path in place.iterdir())
    assert main(shlex.split(line)) == status
    said = capsys.readouterr()
    message = re.sub(r"[\s│╭╮╰╯─]+", " ", said.err)  # a terminal's frame breaks lines
    assert words in message, said.err
    assert not PYTHON.search(message), PYTHON.search(message)
    assert len(message) < 900, "nobody reads more than that"
    left = {path.name for path in place.iterdir()} - set(before) - {"separated"}
    assert not left, left
    assert not [file for file in (place / "separated").rglob("*") if file.suffix in {".wav", ".flac"}]


def test_at_least_forty_wrong_calls_are_read():
    assert len({line for line, _, _ in CALLS}) >= 40


def test_a_file_that_is_cut_short_can_be_used(place: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    call = ["separate", str(place / "cut.wav"), "-m", str(place / "talk"), "-o", str(tmp_path)]
    assert main(call) == 1
    assert not list(tmp_path.rglob("*.wav"))
    assert main([*call, "--on-short", "warn"]) == 0
    assert len(list(tmp_path.rglob("*.wav"))) == 2
    assert "cut short" in capsys.readouterr().err


def test_all_sounds_of_a_model_are_listed(capsys: pytest.CaptureFixture[str]):
    from hubsep.hub.json_files import read_json
    from hubsep.shipped import SHIPPED

    assert main(["list", "--sounds", "audiosep-small"]) == 0
    listed = capsys.readouterr().out.splitlines()
    assert listed == read_json(SHIPPED["audiosep-small"] / "config.json")["known_sounds"]


def test_short_options_and_the_version(capsys: pytest.CaptureFixture[str]):
    from hubsep import __version__

    for words in (["--version"], ["-v"]):
        assert main(words) == 0
        assert capsys.readouterr().out == f"hubsep {__version__}\n"
    for command in ("separate", "generate"):
        assert main([command, "-h"]) == 0
        assert "-m, --model" in capsys.readouterr().out


def test_a_file_is_named_once_and_foreign_numbers_are_left_out(
    place: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    monkeypatch.chdir(place)
    assert main(shlex.split("convert conv_tasnet text.wav out --licence MIT")) == 1
    assert capsys.readouterr().err.endswith("holds more than tensors and plain values\n")
    assert main(shlex.split("separate text.wav --model talk")) == 1
    assert "failed: text.wav: cannot be decoded" in capsys.readouterr().err
