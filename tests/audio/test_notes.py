# SPDX-License-Identifier: Apache-2.0
"""The time line of a broadcast wave, tags and covers go from a recording to its stems."""

from __future__ import annotations

import struct
from pathlib import Path

import numpy as np
import pytest
from tiny_conv_tasnet import tiny_conv_tasnet

from hubsep.audio import Notes, open_audio, read_audio, write_audio
from hubsep.cli import main
from hubsep.pipelines import pipeline


RATE = 48_000
START = 123_456_789_012  # beyond 32 bits
SAMPLES = (np.random.default_rng(0).integers(-9_000, 9_000, (2, 6_000)) / 2**15).astype(np.float32)
TAGS = {
    "title": "Töne",
    "artist": "Ich",
    "album": "a",
    "date": "2020",
    "comment": "c",
    "genre": "g",
    "tracknumber": "3",
}
COVER = struct.pack(">II", 3, 9) + b"image/png" + struct.pack(">IIIIII", 0, 1, 1, 24, 0, 4) + b"ABCD"


def bext(version: int = 1) -> bytes:
    content = bytearray(602) + b"A=PCM,F=48000\r\n"
    content[:7], content[256:264], content[320:338] = b"Scene 1", b"Recorder", b"2026-01-0210:20:30"
    content[338:348] = struct.pack("<QH", START, version)
    content[412:422] = struct.pack("<hhhhh", -2300, 500, -100, -1800, -2000)
    return bytes(content)


NOTES = Notes(TAGS, bext(), RATE)


@pytest.mark.parametrize(("ending", "subtype"), [("wav", "PCM_16"), ("wav", None), ("rf64", None)])
def test_the_time_line_is_kept_to_the_byte(ending: str, subtype: str | None, tmp_path: Path) -> None:
    path = write_audio(tmp_path / f"a.{ending}", SAMPLES, RATE, subtype=subtype, notes=NOTES)
    recording = read_audio(path)
    padding = bytes(len(bext()) % 2 if ending == "rf64" else 0)
    assert (recording.notes.broadcast, recording.notes.tags) == (bext() + padding, TAGS)
    np.testing.assert_array_equal(recording.waveform, SAMPLES)
    assert path.read_bytes() == write_audio(path, SAMPLES, RATE, subtype=subtype, notes=NOTES).read_bytes()


def test_odd_chunks_of_rf64(tmp_path: Path) -> None:
    path = write_audio(tmp_path / "a.rf64", SAMPLES, RATE)
    data = path.read_bytes()
    path.write_bytes(data.replace(b"fmt ", b"bext" + struct.pack("<I", len(bext())) + bext() + b"\0fmt ", 1))
    recording = read_audio(path)
    assert recording.notes.broadcast == bext()
    np.testing.assert_array_equal(recording.waveform, SAMPLES)


def test_the_time_reference_follows_parts_and_rates(tmp_path: Path) -> None:
    path = write_audio(tmp_path / "a.wav", SAMPLES, RATE, notes=NOTES)
    with open_audio(path, offset_s=0.05) as part:
        assert part.notes.time_reference == START + 2_400
    for rate in (96_000, 44_100, 8_000):
        again = read_audio(write_audio(tmp_path / "b.wav", SAMPLES, rate, notes=read_audio(path).notes))
        assert again.notes.time_reference == (START * rate + RATE // 2) // RATE
        assert again.notes.broadcast[:338] + again.notes.broadcast[346:] == bext()[:338] + bext()[346:]


def test_loudness_measured_of_the_recording_is_none_of_a_stems(tmp_path: Path) -> None:
    path = write_audio(tmp_path / "a.wav", SAMPLES, RATE, notes=Notes({}, bext(2), RATE))
    assert read_audio(path).notes.broadcast == bext(2)[:412] + b"\xff\x7f" * 5 + bext(2)[422:]


@pytest.mark.parametrize("ending", ["wav", "rf64", "flac", "ogg", "opus", "mp3", "caf"])
def test_tags_go_where_there_is_a_place_for_them(ending: str, tmp_path: Path) -> None:
    assert read_audio(write_audio(tmp_path / f"a.{ending}", SAMPLES, RATE, notes=NOTES)).notes.tags == TAGS


def test_formats_with_fewer_places_take_what_they_can(tmp_path: Path) -> None:
    kept = read_audio(write_audio(tmp_path / "a.aiff", SAMPLES, RATE, notes=NOTES)).notes.tags
    assert kept == {name: TAGS[name] for name in ("title", "artist", "comment")}
    for ending in ("au", "w64"):
        assert read_audio(write_audio(tmp_path / f"a.{ending}", SAMPLES, RATE, notes=NOTES)).notes.tags == {}


def test_covers_of_flac(tmp_path: Path) -> None:
    recording = read_audio(write_audio(tmp_path / "a.flac", SAMPLES, RATE, notes=Notes(TAGS, picture=COVER)))
    assert (recording.notes.picture, recording.notes.tags) == (COVER, TAGS)
    np.testing.assert_array_equal(recording.waveform, SAMPLES)


def test_stems_bear_what_the_recording_bears(tmp_path: Path) -> None:
    network, _ = tiny_conv_tasnet(num_sources=1)
    network.save_pretrained(tmp_path / "model")
    path = write_audio(tmp_path / "a.wav", SAMPLES, RATE, subtype="PCM_16", notes=NOTES)
    separator = pipeline("audio-separation", model=tmp_path / "model")
    for result in separator.separate_file(path, tmp_path, residual=True, offset_s=0.05):
        assert read_audio(result["path"]).notes == Notes(TAGS, Notes({}, bext(), RATE).later(2_400).broadcast, RATE)
    command = [
        "separate",
        str(path),
        "--model",
        str(tmp_path / "model"),
        "-o",
        str(tmp_path / "out"),
        "--device",
        "cpu",
    ]
    assert main([*command, "--offset", "0.05", "--residual"]) == 0
    for stem in (tmp_path / "out" / "a").glob("*.wav"):
        assert read_audio(stem).notes == Notes(TAGS, NOTES.later(2_400).broadcast, RATE)
