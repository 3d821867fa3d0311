# SPDX-License-Identifier: Apache-2.0
"""Recordings whose headers were never finished, as after a crash of the recorder, are read as far as they go."""

from __future__ import annotations

import struct
import warnings
from pathlib import Path

import numpy as np
import pytest
import soundfile as sf
from layouts import RATE, written_by_av

from hubsep.audio import read_audio, write_audio
from hubsep.audio.chunks import caf_chunks, iff_chunks, w64_chunks
from hubsep.errors import AudioError


SAMPLES = np.random.default_rng(0).integers(-9_000, 9_000, (2, 6_000)).astype(np.float32) / np.float32(2**15)
SAMPLES = SAMPLES.astype(np.float32)


def patch(path: Path, patches: dict[int, bytes]) -> Path:
    data = bytearray(path.read_bytes())
    for at, value in patches.items():
        data[at : at + len(value)] = value
    path.write_bytes(data)
    return path


def start_of(path: Path, name: bytes) -> int:
    """Where the content of a chunk begins."""
    with path.open("rb") as file:
        chunks = [*iff_chunks(file), *w64_chunks(file), *caf_chunks(file)]
    return next(chunk.start for chunk in chunks if chunk.name.startswith(name))


def unfinished(kind: str, folder: Path) -> Path:
    """A file as its recorder left it when it crashed."""
    ending = kind.split("-")[0]
    path = write_audio(folder / f"{kind}.{ending}", SAMPLES, RATE, subtype="PCM_16")
    if kind.startswith("wav"):
        riff = {4: bytes(4)} if kind == "wav-riff" else {}
        return patch(path, {start_of(path, b"data") - 4: bytes(4), **riff})
    if ending == "rf64":
        at = start_of(path, b"ds64")
        return patch(path, {at: bytes(24)})
    if ending == "w64":
        at = start_of(path, b"data")
        return patch(path, {at - 8: struct.pack("<Q", 24 if kind == "w64-head" else 0), 16: bytes(8)})
    if ending == "aiff":
        both = {start_of(path, b"SSND") - 4: bytes(4), 4: bytes(4)} if kind == "aiff-both" else {}
        return patch(path, {start_of(path, b"COMM") + 2: bytes(4), **both})
    if ending == "au":
        return patch(path, {8: bytes(4)})
    return patch(path, {start_of(path, b"data") - 8: bytes(8)})


@pytest.mark.parametrize("kind", ["wav", "wav-riff", "rf64", "w64", "w64-head", "aiff", "aiff-both", "au", "caf"])
def test_headers_that_count_nothing(kind: str, tmp_path: Path) -> None:
    path = unfinished(kind, tmp_path)
    with pytest.raises(AudioError, match=r'never finished.*on_short="warn"'):
        read_audio(path)
    with pytest.warns(UserWarning, match="cut short: its header was never finished"):
        recording = read_audio(path, on_short="warn")
    np.testing.assert_array_equal(recording.waveform, SAMPLES)
    with path.open("rb") as file, pytest.warns(UserWarning, match="never finished"):
        np.testing.assert_array_equal(read_audio(file, on_short="warn").waveform, SAMPLES)


@pytest.mark.parametrize("ending", ["wav", "w64", "aiff", "caf"])
def test_a_recording_that_was_never_begun_is_empty(ending: str, tmp_path: Path) -> None:
    path = tmp_path / f"a.{ending}"
    with sf.SoundFile(path, "w", RATE, 2, "PCM_16", format={"aiff": "AIFF", "caf": "CAF"}.get(ending)) as file:
        if ending != "w64":  # which has no place for it
            file.title = "nothing"
    with pytest.raises(AudioError, match="holds no samples"):
        read_audio(path, on_short="warn")


def test_chunks_behind_empty_audio_are_no_audio(tmp_path: Path) -> None:
    data = b"WAVEfmt " + struct.pack("<IHHIIHH", 16, 1, 1, RATE, 2 * RATE, 2, 16) + b"data" + bytes(4)
    data += b"LIST" + struct.pack("<I", 4) + b"INFO"
    (tmp_path / "a.wav").write_bytes(b"RIFF" + struct.pack("<I", len(data)) + data)
    with pytest.raises(AudioError, match="holds no samples"):
        read_audio(tmp_path / "a.wav", on_short="warn")


@pytest.mark.parametrize("ending", ["caf", "flac", "au"])
def test_lengths_that_the_format_leaves_open_are_no_fault(ending: str, tmp_path: Path) -> None:
    path = write_audio(tmp_path / f"a.{ending}", SAMPLES, RATE, subtype="PCM_16")
    if ending == "flac":  # total samples and checksum of STREAMINFO
        head = path.read_bytes()[21:22][0] & 0xF0
        patch(path, {21: bytes([head]) + bytes(20)})
    else:
        patch(path, {start_of(path, b"data") - 8: b"\xff" * 8} if ending == "caf" else {8: b"\xff" * 4})
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        np.testing.assert_array_equal(read_audio(path).waveform, SAMPLES)


def test_videos_that_were_never_finished(tmp_path: Path) -> None:
    pytest.importorskip("av")
    fragments = {"movflags": "frag_keyframe+empty_moov+default_base_moof", "frag_duration": "100000"}
    written_by_av(tmp_path / "a.mp4", "aac", "stereo", options=fragments)
    whole = read_audio(tmp_path / "a.mp4").waveform
    data = (tmp_path / "a.mp4").read_bytes()
    (tmp_path / "b.mp4").write_bytes(data[: len(data) * 2 // 3])
    with pytest.raises(AudioError, match="cut short"):
        read_audio(tmp_path / "b.mp4")
    with pytest.warns(UserWarning, match="cut short"):
        part = read_audio(tmp_path / "b.mp4", on_short="warn").waveform
    assert 0 < part.shape[1] < whole.shape[1]
    np.testing.assert_array_equal(part[:, :2_000], whole[:, :2_000])
    written_by_av(tmp_path / "c.m4a", "aac", "stereo")
    data = (tmp_path / "c.m4a").read_bytes()
    (tmp_path / "d.m4a").write_bytes(data[: data.index(b"moov") - 4])
    with pytest.raises(AudioError, match=r"its index .moov., which is written last, is missing"):
        read_audio(tmp_path / "d.m4a")
