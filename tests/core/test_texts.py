# SPDX-License-Identifier: Apache-2.0
"""Names, texts and tables as others write them: printed in one line, read or refused in one, the same bytes twice."""

from __future__ import annotations

import errno
import math
import os
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile as sf
from tiny_audiosep import tiny_audiosep

import hubsep
from hubsep import AudioSeparationPipeline
from hubsep.audio import write_audio
from hubsep.audio.stamps import remove_stamps
from hubsep.cli import main
from hubsep.cli.main import explain
from hubsep.data.contract import read_rows
from hubsep.data.stems import load_songs, read_song
from hubsep.data.tables import read_table
from hubsep.errors import AudioError, CheckpointError, DataError, QueryError
from hubsep.hub import resolve_folder
from hubsep.hub.bounds import shown
from hubsep.pipelines.names import check_fields
from hubsep.plotting import plot_recordings
from hubsep.plotting.evaluations import plot_scores
from hubsep.texts import check_text, printable, read_front_matter, read_yaml
from hubsep.training.finetune import FineTuneRecipe
from hubsep.training.recipe import load_recipe


BYTES = "\udcff\udcfe"  # what Python makes of the bytes FF FE on a command line
FORGED = "x\nfailed: important.wav: forged\x1b[2J.wav"


@pytest.fixture(autouse=True)
def in_tmp_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


@pytest.mark.parametrize(
    ("text", "printed"),
    [
        ("rain 雨 ذهب é 👩‍👩‍👧", "rain 雨 ذهب é 👩‍👩‍👧"),
        ("a\nfailed: b", r"a\nfailed: b"),
        ("\x1b[2Ja\r\x07", r"\x1b[2Ja\r\x07"),
        ("\x9b31m\u2028\u2029", r"\x9b31m\u2028\u2029"),
        ("gpj.\u202e\u2066exe", r"gpj.\u202e\u2066exe"),
        (BYTES, r"\xff\xfe"),
        ("\ud800", r"\ud800"),
    ],
)
def test_a_name_is_printed_in_one_line_without_control_characters(text: str, printed: str) -> None:
    assert printable(text) == printed


def test_an_error_is_one_line_that_ends_with_the_way_out() -> None:
    assert str(DataError(f"there is no {FORGED}")) == r"there is no x\nfailed: important.wav: forged\x1b[2J.wav"
    long = str(DataError(f"{'x' * 50_000} is too long; shorten it"))
    assert len(long) < 2_000
    assert long.endswith("is too long; shorten it")


def test_a_name_cannot_forge_a_line_of_a_command(capsys: pytest.CaptureFixture[str]) -> None:
    Path("in").mkdir()
    Path("in", FORGED).write_text("no audio")
    model, processor = tiny_audiosep()
    model.save_pretrained("model")
    processor.save_pretrained("model")
    assert main(["separate", "in", "-q", "rain", "--model", "model", "-o", "out", "--device", "cpu"]) == 1
    assert main(["separate", "gone\nfailed: x\x1b[2J.wav", "-q", "rain"]) == 2
    assert main(["train", "gone\nfailed: x\x1b[2J", "--data", "in"]) == 2
    assert main(["convert", "audiosep", "gone\nfailed: x\x1b[2J", "out2", "--licence", "MIT"]) == 2
    output = capsys.readouterr()
    assert "\x1b" not in output.err + output.out
    assert not [line for line in output.err.splitlines() if line.startswith(("failed: x", "failed: important"))]


@pytest.mark.parametrize("text", [BYTES, "rain" + BYTES, "a" * 1_000_000, "\ud800"])
def test_a_text_that_is_none_is_refused_before_a_tokenizer_sees_it(text: str) -> None:
    with pytest.raises(QueryError, match=r"is no text|at most 10000"):
        check_text(text, "a query")
    model, processor = tiny_audiosep()
    separate = AudioSeparationPipeline(model=model, processor=processor)
    for asked in ({"queries": text}, {"queries": "rain", "negative_queries": [text]}):
        with pytest.raises(QueryError, match=r"is no text|at most 10000"):
            separate({"array": np.zeros(800, np.float32), "sampling_rate": 8_000}, **asked)


@pytest.mark.parametrize(
    "template",
    ["{label!r:>99999999}", "{label:>9}", "{label!s}", "{label.__class__}", "{label[0]}", "{0}", "{", "{x}"],
)
def test_a_template_of_names_is_filled_in_and_not_computed(template: str) -> None:
    with pytest.raises(AudioError, match="template"):
        check_fields(template, ("name", "label", "stem"))


@pytest.mark.parametrize(
    "text",
    ["a: [" * 3_000, "a: 2020-99-99", "a:\n\t- b: [", "a: !!python/object/apply:os.system [x]", "? [a, b]\n: 1",
     "a: &a [1]\nb: *a", "a: \0", "a: \udcff", "- x\n" * 30_000, "[" * 999 + "]" * 999, "- " * 3_000 + "x",
     "a: 0x" + "f" * 9_000, "a: !!int 1:1", "a: 1\nb: 2\na: 3", "a: {b: 1, b: 2}", "a: !!int ''", "a: !!bool x",
     "a: !!timestamp x", "a: !!float ''", "a: 2026-01-01T00:00:00+99:00"],
)  # fmt: skip
def test_yaml_that_is_no_settings_is_one_error(text: str) -> None:
    with pytest.raises(DataError, match="settings of mine"):
        read_yaml(text, "settings of mine")


@pytest.mark.parametrize(
    ("text", "value"),
    [("1e-3", 0.001), ("1E3", 1_000.0), ("2.", 2.0), (".5", 0.5), ("-.5e1", -5.0), ("010", 10), ("-7", -7),
     ("0x1F", 31), ("0o17", 15), ("1_000", 1_000), ("12:30", "12:30"), ("1:1.5", "1:1.5"), ("089", 89),
     (".inf", math.inf), ("1e", "1e"), ("'1e-3'", "1e-3"), ("e3", "e3"), ("true", True), ("", None)],
)  # fmt: skip
def test_numbers_are_what_people_mean(text: str, value: object) -> None:
    read = read_yaml(text, "settings of mine")
    assert (type(read), read) == (type(value), value)


def test_a_number_and_its_text_are_two_names() -> None:
    assert read_yaml("{1: a, '1': b}", "settings of mine") == {1: "a", "1": "b"}


@pytest.mark.parametrize(
    "front", ["license: [mit", "- mit", "mit", "1: mit", "license: &a mit\nb: *a", "- x\n" * 250_000]
)
def test_front_matter_that_is_none_is_one_error(front: str) -> None:
    with pytest.raises(DataError, match=r"between the lines of --- in README\.md"):
        read_front_matter(f"---\n{front}\n---\n# x\n", "README.md")
    with pytest.raises(DataError, match="README"):
        read_front_matter(f"\ufeff\r\n---\r\n{front}\r\n---", "README.md")


@pytest.mark.parametrize(
    ("text", "fields"),
    [("---\nlicense: mit\n---\n# x\n---\n", {"license": "mit"}), ("---\r\na: b\r\n---\r\n", {"a": "b"}),
     ("\ufeff\n---\na: b\n---", {"a": "b"}), ("---\n---\n", {}), ("# x\n---\na: b\n---\n", {}), ("", {}),
     ("---\na: b\n", {}), ("---\na: |\n  x ---\n  y\n---\n", {"a": "x ---\ny\n"})],
)  # fmt: skip
def test_front_matter_is_what_stands_between_the_first_lines_of_hyphens(text: str, fields: dict[str, str]) -> None:
    assert read_front_matter(text, "README.md") == fields


def test_a_value_of_a_file_is_shown_whatever_it_is() -> None:
    deep: list[Any] = []
    for _ in range(100_000):
        deep = [deep]
    wide: list[Any] = ["x"] * 10
    for _ in range(12):
        wide = [wide] * 10
    for value in (deep, wide, [deep, 10**5_000], (wide,), {"a": deep}, ["x" * 10**6] * 100):
        assert len(shown(value)) < 100
    assert shown(["diffusers", "X"]) == "['diffusers', 'X']"


def test_recipes_in_another_encoding_or_with_values_of_another_kind_are_refused() -> None:
    Path("latin.yaml").write_bytes("steps: 3 # caf\xe9".encode("latin-1"))
    with pytest.raises(DataError, match="not in UTF-8: byte 14"):
        load_recipe(FineTuneRecipe, Path("latin.yaml"))
    for value in ("abc", 1.5, True, [1], 1e400, 10**30):
        with pytest.raises(DataError, match="recipe setting steps must be a whole number"):
            load_recipe(FineTuneRecipe, None, steps=value)
    for value in (float("nan"), float("inf"), "much", False):
        with pytest.raises(DataError, match="recipe setting learning_rate must be a number"):
            load_recipe(FineTuneRecipe, None, learning_rate=value)
    assert load_recipe(FineTuneRecipe, None, learning_rate=1).learning_rate == 1


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        ("path,label\n0.wav,caf\xe9\n".encode("latin-1"), "UTF-8"),
        ("path,label\n0.wav,rain\n".encode("utf-16"), "UTF-8"),
        (bytes(range(256)) * 10, "UTF-8"),
        (b'path,label\n0.wav,"never closed\n', "line 2"),
        (b"path,label\n0.wav," + b"a" * 200_000, "field limit"),
        (b"path,label\n0.wav,a\0b\n", "NUL"),
        (b"path,label\n0.wav,rain,more\n", "another number of cells"),
        (b"path,label\n0.wav\n", "another number of cells"),
        (b"", "no rows"),
        (b"path,label\n", "no rows"),
        (b"path,label,path\n0.wav,rain,1.wav\n", "more than one column 'path'"),
    ],
)
def test_a_table_that_is_none_is_one_error(content: bytes, reason: str) -> None:
    Path("table.csv").write_bytes(content)
    with pytest.raises(DataError, match=reason):
        read_table(Path("table.csv"))


def test_a_table_of_very_many_columns_is_refused_at_once() -> None:
    start = time.process_time()
    Path("wide.csv").write_text("," * 1_000_000 + "\n" + "," * 1_000_000 + "\n")
    with pytest.raises(DataError, match="has 1000001 columns; at most 1000 are read"):
        read_table(Path("wide.csv"))
    assert time.process_time() - start < 10, "without a limit it was compared a million times a million times"


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="there are no pipes here")
def test_a_table_that_is_a_pipe_is_not_waited_for() -> None:
    os.mkfifo("pipe.csv")
    with pytest.raises(DataError, match="is a pipe, socket or device"):
        read_table(Path("pipe.csv"))


def test_a_table_that_cannot_be_opened_is_one_error() -> None:
    Path("folder.csv").mkdir()
    with pytest.raises(DataError, match="cannot be read"):
        read_table(Path("folder.csv"))


@pytest.mark.parametrize("name", ["x" * 5_000, "circle/a.wav", "../a.wav", "/etc/passwd"])
def test_a_row_names_a_recording_in_its_folder_or_is_one_error(name: str) -> None:
    Path("data").mkdir()
    Path("data", "circle").symlink_to("circle")
    for kind, columns in (("sounds", "path,label"), ("songs", "path,stems")):
        Path("data", "metadata.csv").write_text(f"{columns},group\n{name},drums,x\n")
        with pytest.raises(DataError, match=r"row 2"):
            read_rows("data", kind)
    with pytest.raises(DataError):
        load_songs([Path("data")], 8_000)
    with pytest.raises(DataError):
        read_song({"path": str(Path("data").resolve()), "stems": f"{name} bass", "group": "x"}, 8_000)


FORMS: list[tuple[str, str | None]] = [
    (".wav", "FLOAT"), (".wav", "DOUBLE"), (".aiff", "FLOAT"), (".ogg", None), (".opus", None), (".flac", None),
    (".w64", None), (".rf64", None), (".caf", None), (".au", None), (".mp3", None),
]  # fmt: skip


@pytest.mark.slow
def test_the_same_samples_are_the_same_bytes_at_any_time() -> None:
    sound = np.random.default_rng(0).uniform(-0.5, 0.5, (2, 24_000)).astype(np.float32)

    def written() -> list[bytes]:
        paths = [
            write_audio(f"{number}{form[0]}", sound, 48_000, subtype=form[1]) for number, form in enumerate(FORMS)
        ]
        paths += [plot_recordings({"a": sound}, f"a.{kind}", sampling_rate=48_000) for kind in ("png", "svg", "pdf")]
        return [path.read_bytes() for path in paths]

    before = written()
    time.sleep(1.05)  # the PEAK chunk counts seconds
    assert written() == before
    assert np.array_equal(sf.read("0.wav", dtype="float32")[0].T, sound)
    assert all(sf.info(f"{number}{form[0]}").frames >= 24_000 for number, form in enumerate(FORMS))
    with pytest.raises(DataError, match=r"png, pdf, svg, not 'doc'"):
        plot_recordings({"a": sound}, "a.doc", sampling_rate=48_000)


def test_other_recordings_have_other_numbers_and_every_page_its_checksum() -> None:
    serials = set()
    for seed in range(3):
        sound = np.random.default_rng(seed).uniform(-0.5, 0.5, (1, 16_000)).astype(np.float32)
        content = write_audio(f"{seed}.ogg", sound, 8_000).read_bytes()
        position = 0
        while position < len(content):
            segments = content[position + 26]
            size = 27 + segments + sum(content[position + 27 : position + 27 + segments])
            page = bytearray(content[position : position + size])
            serials.add((seed, bytes(page[14:18])))
            page[22:26] = bytes(4)
            assert checksum(bytes(page)) == int.from_bytes(content[position + 22 : position + 26], "little")
            position += size
    assert len({serial for _, serial in serials}) == len(serials) == 3


def checksum(page: bytes) -> int:
    """As RFC 3533 says it, bit by bit."""
    rest = 0
    for byte in page:
        rest ^= byte << 24
        for _ in range(8):
            rest = (rest << 1) ^ 0x104C11DB7 if rest >> 31 else rest << 1
    return rest


def test_files_of_other_kinds_and_cut_ones_are_left_alone() -> None:
    for number, content in enumerate([b"", b"RIFF", b"OggS" + bytes(9), b"FORM\0\0\0\0AIFF" + bytes(5), b"fLaC" * 9]):
        Path(f"{number}.bin").write_bytes(content)
        with open(f"{number}.bin", "r+b") as file:
            remove_stamps(file)
        assert Path(f"{number}.bin").read_bytes() == content


@pytest.mark.parametrize("title", ["$\\foo$", "$x", "a\n\x1b[2J", BYTES, "{x}", "_^$$"])
def test_any_name_can_be_drawn(title: str) -> None:
    noise = np.random.default_rng(0).uniform(-0.5, 0.5, 4_000).astype(np.float32)
    assert plot_recordings({title: noise}, "a.png", sampling_rate=8_000, title=title).stat().st_size > 1_000
    result = {"classes": {title: {"sdri": 1.0}}, "sdri": 1.0}
    assert plot_scores(result, "b.png", title=title).stat().st_size > 1_000


@pytest.mark.parametrize(
    "arguments",
    [
        ["separate", "a.wav", "--bitrate", "9" * 5_000],
        ["separate", "a.wav", "--set", "a=" + "[" * 5_000],
        ["separate", "a.wav", "--set", "a=2020-99-99"],
        ["separate", "a.wav", "--stems", BYTES, "--model", "spleeter-small-2stems"],
        ["separate", "a.wav", "-q", BYTES],
        ["separate", "a.wav", "-q", "rain", "--offset", "1e308"],
        ["separate", "a.wav", "-q", "rain", "--device", "gpu"],
        ["separate", "a.wav", "-q", "rain", "--device", BYTES],
        ["generate", "rain", "-o", "x.wav", "--seed", "9" * 30],
        ["generate", "rain", "-o", "x.wav", "--device", "gpu"],
        ["generate", "rain", "-o", "x.wav", "--seconds", "1e9"],
        ["generate", "rain", "-o", "x.wav", "--guidance", "inf"],
        ["generate", "rain", "-o", "x.wav", "--guidance", "nan"],
        ["generate", "rain", "-o", "x.wav", "--guidance", "1e30"],
        ["generate", "rain", "-o", "x.wav", "--candidates", "64", "--seconds", "3600"],
        ["generate", "rain", "-o", "x.wav", "--channel", "9" * 20],
        ["generate", BYTES, "-o", "x.wav"],
        ["separate", "a.wav", "-m", "x" * 100_000],
        ["separate", "a.wav", "-m", "a\0b"],
        ["separate", "a.wav", "-q", "rain", "-o", "x/" * 3_000],
        ["separate", "a.wav", "-q", "rain", "--template", "{name}" * 3_000 + "{label}.wav"],
        ["separate", "x" * 100_000, "-q", "rain"],
        ["evaluate", "no-such-model", "--data", ".", "--seconds", "inf"],
        ["evaluate", "no-such-model", "--data", ".", "--seconds", "1e9"],
        ["evaluate", "no-such-model", "--data", ".", "--conversation-minutes", "1e300"],
        ["evaluate", "no-such-model", "--data", ".", "--conversation-minutes", "inf"],
        ["evaluate", "no-such-model", "--data", ".", "--mixtures", "9" * 30],
        ["evaluate", "no-such-model", "--data", ".", "--guidance", "nan"],
        ["train", "x" * 100_000, "--data", ".", "--output", "x"],
        ["train", "no-such/model", "--data", ".", "--output", "x", "--set", "model={a: 1}"],
        ["train", "no-such/model", "--data", ".", "--output", "x", "--set", "seed=-1"],
        ["train", "speech", "--data", ".", "--output", "x", "--set", "output=1"],
        ["convert", "conv_tasnet", "a.wav", "model", "--licence", "MIT", "--set", "a=2020-99-99"],
        ["evaluate", "audiosep-small", "--data", ".", "--picture", "x.doc"],
    ],
    ids=lambda words: " ".join(words)[:50].encode("ascii", "replace").decode(),
)
def test_the_ends_of_what_an_option_takes(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    sf.write("a.wav", np.full(800, 0.1), 8_000)
    assert main(arguments) in (1, 2)
    error = capsys.readouterr().err
    assert "unexpected" not in error
    assert "rror: " in error or "failed: " in error
    assert "no-such" not in error, "the option was not looked at"
    assert len(error) < 3_000
    assert not Path("x.wav").exists()
    assert not list(Path().glob("separated/*/*"))


@pytest.mark.parametrize("name", ["a\0b", "a/" + "b" * 5_000, "x" * 100_000, "a\ud800", "a/b/" * 2_000])
def test_what_can_be_no_name_of_a_model_is_refused_by_it(name: str) -> None:
    for call in (hubsep.pipeline, lambda task, model: resolve_folder(model)):
        with pytest.raises(CheckpointError, match="is no name of a model") as caught:
            call("audio-separation", model=name)
        assert len(str(caught.value)) < 1_000
    with pytest.raises(CheckpointError, match="is no name of a model"):
        hubsep.pipeline("text-to-audio", model=name)


def test_an_error_of_the_system_has_no_endless_name_and_a_way_out() -> None:
    long = explain(OSError(errno.ENAMETOOLONG, "File name too long", "x" * 100_000))
    assert long.startswith(f"[Errno {errno.ENAMETOOLONG}] File name too long: 'xxx")
    assert long.endswith("; choose a shorter name, or fewer folders")
    assert len(long) < 600
    assert explain(OSError("x" * 100_000)).count("x") < 500
    assert explain(FileNotFoundError(2, "No such file", "a.wav")) == "[Errno 2] No such file: 'a.wav'"
    assert "--set batch_size=1" in explain(MemoryError("x" * 9_000))


@pytest.mark.parametrize(
    ("error", "line"),
    [
        (IndexError("list index\n out of range"), "unexpected IndexError: list index out of range; run it again with"),
        (KeyError(), "unexpected KeyError: KeyError; run"),
        (MemoryError(), "there is not enough memory for this: MemoryError"),
        (RuntimeError("can't allocate memory: 9 bytes"), "there is not enough memory for this: can't allocate"),
        (DataError("a table"), "a table"),
    ],
)
def test_an_unexpected_error_is_one_line_that_says_how_to_see_more(error: Exception, line: str) -> None:
    assert explain(error).startswith(line)
    assert "\n" not in explain(error)
