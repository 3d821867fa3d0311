# SPDX-License-Identifier: Apache-2.0
"""`separate_file` with places, names and formats that are none: one error of ours, and nothing is written."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile as sf
from tiny_conv_tasnet import tiny_conv_tasnet

from hubsep import AudioSeparationPipeline
from hubsep.errors import AudioError


LONG = "x" * 300
ODD: tuple[Any, ...] = (
    5,
    1.5,
    True,
    b"x",
    ["a"],
    object(),
    float("nan"),
    np.zeros(3),
    np.int64(3),
    (1, 2),
    "a\0b",
    "",
)
PATHS = ("speaker 1", "speaker 2")
CALLS: dict[str, list[dict[str, Any]]] = {
    "output": [
        *({"output": value} for value in (*ODD, None, {}, {"a": 1}, LONG, "afile", "afile/x", "x.wav")),
        *(
            {"output": dict(zip(PATHS, (value, "b.wav"), strict=True))}
            for value in (*ODD, None, f"{LONG}.wav", "X.WAV", "B.wav", "a.txt", "afile/a.wav")
        ),
        {"output": {1: "a.wav", "speaker 2": "b.wav"}},
    ],
    "template": [
        {"template": value}
        for value in (*ODD, None, "{label}", "{label}.json", "same.wav", "../{label}.wav", "a/../../{label}.wav",
                      "/{label}.wav", "{label!r}.wav", LONG + "{label}.wav")
    ],
    "subtype": [{"subtype": value} for value in (*ODD, "PCM_99", "VORBIS", {}, [])],
    "clip": [{"clip": value} for value in (*ODD, None, "rescale")],
    "bitrate": [{"bitrate": value} for value in (*ODD, "256k")],
    "overwrite": [{"overwrite": value} for value in (*ODD, None) if value is not True],
}  # fmt: skip


@pytest.fixture(scope="module")
def separate() -> AudioSeparationPipeline:
    return AudioSeparationPipeline(model=tiny_conv_tasnet()[0])


@pytest.mark.parametrize("option", CALLS)
def test_what_cannot_be_written_is_one_error_and_leaves_nothing(
    option: str, separate: AudioSeparationPipeline, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    sf.write("x.wav", np.random.default_rng(0).uniform(-0.4, 0.4, 800), 8_000)
    Path("afile").write_text("mine")
    before = {path.name: path.read_bytes() for path in Path().rglob("*") if path.is_file()}
    for call in CALLS[option]:
        with pytest.raises(AudioError):
            separate.separate_file("x.wav", **{"output": "out", **call})
        after = {path.name: path.read_bytes() for path in Path().rglob("*") if path.is_file()}
        assert after == before, call
