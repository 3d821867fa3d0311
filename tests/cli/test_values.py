# SPDX-License-Identifier: Apache-2.0
"""Values that no option can use: each is refused at once, by the option's name, with the value and the way out.

No model is loaded, nor even looked for: there is none of the name that is given.
"""

from __future__ import annotations

import re
import shlex
import signal
import subprocess
import sys
import time
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile as sf
import typer
from huggingface_hub import constants
from tiny_audioldm2 import published_folder
from tiny_audiosep import tiny_audiosep
from tiny_conv_tasnet import tiny_conv_tasnet
from tiny_spleeter import tiny_spleeter

from hubsep.cli import main, values
from hubsep.cli.main import stopped
from hubsep.errors import CheckpointError
from hubsep.hub.resolve import resolve_folder
from hubsep.pipelines.separation.meanings import meaning_of


RATE = 8_000
SEPARATE = "separate talk.wav -m ./nowhere"
GENERATE = "generate rain -o x.wav -m ./nowhere"
EVALUATE = "evaluate ./nowhere --data data"
NUMBERS = {
    SEPARATE: ("--offset", "--duration", "--batch-size"),
    GENERATE: ("--seconds", "--steps", "--guidance", "--seed", "--candidates", "--channel"),
    f"{GENERATE} --variation talk.wav": ("--strength",),
    f"{GENERATE} --inpaint talk.wav --from 0": ("--to",),
    f"{GENERATE} --inpaint talk.wav --to 1": ("--from",),
    f"{GENERATE} --interpolate wind": ("--mix",),
    EVALUATE: (
        "--limit", "--per-class", "--mixtures", "--speakers", "--conversation-minutes", "--seconds", "--seed",
        "--steps", "--guidance",
    ),
}  # fmt: skip
NO_NUMBERS = ("", " ", "x", "nan", "inf", "-inf", "1,5", "٣", "1_000", "0x10", "1 2", "9" * 400)
NAMES = {
    SEPARATE: ("--clip", "--dtype", "--on-short", "--format", "--bitrate", "--device", "--shard"),
    GENERATE: ("--dtype", "--device"),
    EVALUATE: ("--dataset", "--mode", "--mixture"),
}
NO_NAMES = ("", " ", "nonsense", "0", "-1", "../x", "٣", "a" * 400)
TEXTS = {
    SEPARATE: ("-q", "--negative", "--sources"),
    GENERATE: ("--negative", "--say", "--interpolate"),
    "generate -o x.wav -m ./nowhere": ("",),
}
FILES = {
    SEPARATE: ("--example", ""),
    GENERATE: ("--continue", "--variation", "--inpaint"),
    EVALUATE: ("--root", "--noise", "--classifier"),
    "evaluate ./nowhere": ("--data",),
    "train ./nowhere": ("--data",),
    "train ./nowhere --data data": ("--config", "--background"),
    "convert audiosep": ("SOURCE",),
    "push": ("FOLDER",),
    "push-space": ("FOLDER",),
}


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("values")
    text, processor = tiny_audiosep()
    text.save_pretrained(folder / "text")
    processor.save_pretrained(folder / "text")
    tiny_conv_tasnet()[0].save_pretrained(folder / "talk")
    tiny_spleeter()[0].save_pretrained(folder / "song")
    published_folder(folder / "maker")
    (folder / "data").mkdir()
    (folder / "none").mkdir()
    noise = np.random.default_rng(0).uniform(-0.1, 0.1, RATE)
    for name in ("talk.wav", "data/a.wav", "data/b.wav"):
        sf.write(folder / name, noise, RATE, subtype="PCM_16")
    (folder / "text.wav").write_text("this is no recording")
    return folder


@pytest.fixture(autouse=True)
def in_place(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(place)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")


def refused(words: list[str], capsys: pytest.CaptureFixture[str]) -> str:
    """What a command says that is refused, in one line."""
    before = sorted(path.name for path in Path().iterdir())
    assert main(words) == 2, words
    said = re.sub(r"[\s│╭╮╰╯─]+", " ", capsys.readouterr().err)
    assert "Traceback" not in said
    assert "nowhere" not in said, "a model was looked for"
    assert sorted(path.name for path in Path().iterdir()) == before
    return said


def cases(table: dict[str, tuple[str, ...]]) -> list[tuple[str, str]]:
    return [(line, option) for line, options in table.items() for option in options]


@pytest.mark.parametrize(("line", "option"), cases(NUMBERS))
def test_numbers(line: str, option: str, capsys: pytest.CaptureFixture[str]):
    for word in NO_NUMBERS:
        said = refused([*shlex.split(line), f"{option}={word}"], capsys)
        assert option in said
        assert repr(word[:60])[1:-1].strip() in said, said
        assert re.search(r"write|must be", said), said


@pytest.mark.parametrize(("line", "option"), cases(NAMES))
def test_names_of_a_few(line: str, option: str, capsys: pytest.CaptureFixture[str]):
    for word in NO_NAMES:
        said = refused([*shlex.split(line), f"{option}={word}"], capsys)
        assert option in said
        assert word[:10].strip() in said, said


@pytest.mark.parametrize(("line", "option"), cases(TEXTS))
def test_texts(line: str, option: str, capsys: pytest.CaptureFixture[str]):
    for word in ("", " ", "\t", "x" * 10_001, "\udcff"):
        said = refused([*shlex.split(line), *([option] if option else []), word], capsys)
        assert re.search(f"{option or 'PROMPT'}.*(says nothing; write words|shorten it|is no text)", said), said


@pytest.mark.parametrize(("line", "option"), cases(FILES))
def test_files(line: str, option: str, capsys: pytest.CaptureFixture[str]):
    for word in ("", "gone.wav", "no/where", "a" * 300, "/dev/null/x"):
        flag = [option] if option.startswith("-") else []
        said = refused([*shlex.split(line), *flag, word, *(["out"] if line == "convert audiosep" else [])], capsys)
        assert (option or "INPUT") in said
        assert "does not exist" in said, said


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("separate talk.wav -m talk --offset 100", "--offset is 100 s, but talk.wav is 1.00 s long"),
        ("separate talk.wav data -m talk --offset 1:40", "--offset is 100 s, but"),
        ("separate talk.wav -m talk --duration 1e-9", "--duration is 1e-09, which is not one sample"),
        ("separate talk.wav -m talk --adapter none", "it is not an adapter"),
        ("separate talk.wav -m song --set wiener=true", "Did you mean wiener_filter?"),
        ("separate talk.wav -m song --set wiener_filter=maybe", "--set: wiener_filter must be true or false"),
        ("separate talk.wav -m text -q rain --only-active", "--only-active is for models"),
        ("separate talk.wav -m text -q rain --sources vocals", "leave out --sources"),
        ("separate talk.wav -m text --example text.wav", "--example text.wav"),
        ("separate talk.wav -m talk -o /proc/none", "nothing can be written to the folder '/proc/none'"),
        ("separate talk.wav -m song --sources vocal", "Did you mean vocals?"),
        ("separate talk.wav -m song -s mixtur-vocal", "Did you mean mixture-vocals?"),
        ("separate tlak.wav -m talk", "'tlak.wav' does not exist. Did you mean talk.wav?"),
        ("separate talk.wav rain -m text", "-q 'rain'"),
        ("separate https://example.com/a.wav -m talk", "is an address, and files are read here"),
        ("separate talk.wav -m demucs", "'demucs' is no model of hubsep. spleeter-small-4stems does"),
        ("separate talk.wav -m talk --device gpu", "A GPU is called cuda"),
        ("generate rain -o x.wav -m maker --say hello", "--say is for models that speak"),
        ("generate rain -o x.wav -m audioldm2-tiny --seconds 0.01", "--seconds must be at least"),
        ("generate -o x.wav -m maker --variation talk.wav", "say it in words beside --variation"),
        (
            "generate rain -o x.wav -m maker --inpaint talk.wav --from 0.5 --to 0.2",
            "--from 0.5 is not before --to 0.2",
        ),
        ("generate rain -o x.wav -m maker --inpaint talk.wav --from 0 --to 9", "--to is 9 s, and the recording ends"),
        ("generate rain -o /proc/x.wav -m maker", "nothing can be written to the folder '/proc'"),
        ("generate rain -o none -m maker", "is a folder, and a file is wanted"),
        ("convert spleter talk.wav out --licence MIT", "Did you mean spleeter?"),
        ("convert audiosep talk.wav out --licence MIT --set sampling_rat=1", "Did you mean sampling_rate?"),
        ("train talk --data data --set steps=many", "steps must be a whole number"),
        ("train music --data data --output out --set steps=-1", "steps must be 0 to"),
        ("train talk --data data --report-to os", "--report-to 'os' is not known"),
        ("train talk --data data --push-to-hub 'a b'", "--push-to-hub"),
        ("push none me/model", "has no card.json"),
        ("push talk a/b/c", "is no name of a repository"),
        ("merge talk none out", "it is not an adapter"),
        ("info spleeter-small-2stem", "Did you mean spleeter-small-2stems?"),
        ("seperate talk.wav", "no command 'seperate'. Did you mean separate? The commands"),
        ("split talk.wav", "Did you mean separate?"),
        ("foo", "there is no command 'foo'. The commands are"),
    ],
)
def test_what_the_model_or_the_recording_decides(line: str, words: str, capsys: pytest.CaptureFixture[str]):
    said = refused(shlex.split(line), capsys)
    assert words in said, said


@pytest.mark.parametrize(
    ("word", "number"), [("90", 90), ("1.5", 1.5), ("1:30", 90), ("0:00.5", 0.5), ("1:02:03", 3_723), ("90:00", 5_400)]
)
def test_times_may_be_minutes_and_seconds(word: str, number: float):
    assert values.seconds()(word) == number


@pytest.mark.parametrize("word", ["1:60", "1:2:99", "1:90:00", ":30", "1:", "-1:30", "a:b", "1:2:3:4"])
def test_times_that_are_none(word: str):
    with pytest.raises(typer.BadParameter, match=re.escape(repr(word))):
        values.seconds()(word)


def test_a_word_with_a_letter_too_few_has_a_nearest_sound():
    import torch

    shares = torch.tensor([0.3, 0.1, 0.05])
    meaning = meaning_of("raim", shares, ("dog barking", "rain", "cat"))
    assert (meaning.understood_as, meaning.nearest) == (None, "rain")
    sure = torch.tensor([0.9, 0.01, 0.01])
    for word, understood in (("rian", None), ("rain", "dog barking"), ("bellt", "dog barking")):
        meaning = meaning_of(word, sure, ("dog barking", "rain", "cat"))
        assert meaning.understood_as == understood, "a word that is none, and nearly the name of another sound"
    assert meaning_of("xyzzy", shares, ("dog barking", "rain", "cat")).nearest == "dog barking"


def test_a_recording_that_is_named_twice_is_separated_once(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    assert main(["separate", "talk.wav", "./talk.wav", "-m", "talk", "-o", str(tmp_path)]) == 0
    assert "talk.wav is named twice; it is separated once" in capsys.readouterr().err
    assert sorted(path.name for path in tmp_path.rglob("*.wav")) == ["speaker_1.wav", "speaker_2.wav"]
    assert (tmp_path / "talk" / "speaker_1.wav").is_file()


def test_a_part_without_inputs_is_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    assert main(["separate", "data", "-m", "talk", "-o", str(tmp_path), "--shard", "4/4"]) == 0
    assert "part 4 of 4 holds none of the 2 inputs" in capsys.readouterr().err


@pytest.mark.parametrize("name", ["demucs", "HTDemucs_ft", "mdx-net", "musicgen-small"])
def test_a_well_known_model_that_hubsep_does_not_have(name: str):
    with pytest.raises(
        CheckpointError, match=r"is no model of hubsep\. (?:spleeter-small-4stems|audioldm2-tiny) does"
    ):
        resolve_folder(name)


@pytest.mark.parametrize(
    ("line", "says"),
    [
        ("separate talk.wav", "stopped; what is finished stays, and the same command goes on with the rest"),
        ("generate rain -o x.wav", "stopped; the same command makes what is not finished"),
        ("convert spleeter a b", "stopped; nothing was written"),
        ("train talk --data data", "the same command with --resume goes on from it"),
        ("train talk --data data --resume", "stopped; the same command goes on from the newest checkpoint"),
        ("evaluate talk --data data", "stopped"),
    ],
)
def test_what_an_interrupted_command_says(line: str, says: str, capsys: pytest.CaptureFixture[str]):
    assert stopped(shlex.split(line)) == 130
    assert capsys.readouterr().err.rstrip("\n").endswith(says)


@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "win32", reason="interruptions are signals")
def test_an_interrupted_command_says_how_it_goes_on(tmp_path: Path):
    sf.write(tmp_path / "long.wav", np.zeros(RATE * 3_000, np.float32), RATE)
    command = [
        sys.executable,
        "-m",
        "hubsep",
        "separate",
        str(tmp_path / "long.wav"),
        "-m",
        "talk",
        "-o",
        str(tmp_path),
    ]
    pipes: dict[str, Any] = {"stderr": subprocess.PIPE, "stdout": subprocess.DEVNULL, "text": True}
    heed = partial(signal.signal, signal.SIGINT, signal.SIG_DFL)  # a shell may have started this in the background
    with subprocess.Popen(command, preexec_fn=heed, **pipes) as process:
        deadline = time.monotonic() + 120
        while not list(tmp_path.glob(".separating-*")) and time.monotonic() < deadline:
            time.sleep(0.05)
        process.send_signal(signal.SIGINT)
        said: Any = process.communicate(timeout=120)[1]
    assert process.returncode == 130
    assert "stopped; what is finished stays, and the same command goes on with the rest" in said
    assert "Traceback" not in said
    assert sorted(path.name for path in tmp_path.iterdir()) == ["long.wav"]


@pytest.mark.parametrize(
    ("line", "says"),
    [
        ("separate a.wav --querry rain", "No such option: --querry. Did you mean --query?"),
        ("separate a.wav --stem vocals", "No such option: --stem. Did you mean --sources?"),
        ("list --publish", "No such option: --publish. Did you mean --published?"),
        ("evaluate m --xyzzy", "No such option: --xyzzy; `hubsep evaluate --help` lists the options"),
        ("separate {talk} -m spleeter:2stem", "Did you mean spleeter:2stems?"),
        ("separate {talk} -m speechbrain/sepformer-wsj2mix", "Did you mean speechbrain/sepformer-wsj02mix?"),
        ("info speechbrian/sepformer-wsj02mix", "Did you mean speechbrain/sepformer-wsj02mix?"),
    ],
)
def test_options_and_names_with_a_slip_have_a_way_out(
    line: str, says: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    sf.write(tmp_path / "talk.wav", np.zeros(800), 16_000)
    assert main(line.format(talk=tmp_path / "talk.wav").split()) in (1, 2)
    assert says in " ".join(capsys.readouterr().err.split())
