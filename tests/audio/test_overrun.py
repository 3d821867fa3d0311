# SPDX-License-Identifier: Apache-2.0
"""Headers that count fewer bytes of audio than there are: it is said, all can be read, nothing else is reported."""

from __future__ import annotations

import os
import struct
import warnings
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import soundfile as sf

from hubsep.audio import read_audio
from hubsep.audio.chunks import caf_chunks, iff_chunks, w64_chunks
from hubsep.audio.reader import open_audio
from hubsep.errors import AudioError


RATE = 16_000
SAMPLES = np.random.default_rng(0).uniform(-0.5, 0.5, (4_001, 2))
ID3V2 = b"ID3\x03\0\0\0\0\x01\0" + bytes(range(128))
ID3V1 = b"TAG" + b"title".ljust(125, b"\0")
APE = b"APETAGEX" + struct.pack("<IIII8x", 2_000, 32, 0, 0)
FORM = b'\r\n------boundary\r\nContent-Disposition: form-data; name="a"\r\n\r\nyes\r\n------boundary--\r\n'
TAILS = {
    "nothing": b"",
    "id3v1": ID3V1,
    "id3v2": ID3V2,
    "ape": APE,
    "zeros": bytes(511),
    "text": FORM,
    "byte": b"\xff",
}


def written(folder: Path, format: str, subtype: str, channels: int = 2, samples: int = 4_001) -> Path:
    """As libsndfile writes it, with a title where there is a place for one."""
    path = folder / f"a.{format.lower()}"
    with sf.SoundFile(path, "w", 48_000 if subtype == "OPUS" else RATE, channels, subtype, format=format) as file:
        if format in ("WAV", "WAVEX", "RF64", "AIFF", "CAF", "FLAC", "OGG"):
            file.title, file.artist = "Title", "odd"
        file.write(SAMPLES[:samples, :channels])
    return path


def stale(path: Path, share: int = 2) -> Path:
    """A file as a recorder leaves it that crashed some time after it last wrote its sizes."""
    data = bytearray(path.read_bytes())
    if data[:4] == b".snd":
        data[8:12] = struct.pack(">I", int.from_bytes(data[8:12], "big") // share)
        path.write_bytes(data)
        return path
    with path.open("rb") as file:
        chunks = [*iff_chunks(file), *w64_chunks(file), *caf_chunks(file)]
    audio = next(chunk for chunk in chunks if chunk.name[:4] in (b"data", b"SSND"))
    del data[audio.start + (int.from_bytes(data[28:36], "little") if data[:4] == b"RF64" else audio.size) :]
    there = len(data) - audio.start
    counted = there // share // 12 * 12
    sizes: dict[bytes, list[tuple[int, bytes]]] = {
        b"RIFF": [(audio.start - 4, struct.pack("<I", counted)), (4, struct.pack("<I", audio.start - 8 + counted))],
        b"RF64": [(28, struct.pack("<Q", counted))],
        b"riff": [(audio.start - 8, struct.pack("<Q", counted + 24))],
        b"caff": [(audio.start - 8, struct.pack(">q", counted + 4))],
        b"FORM": [(audio.start - 4, struct.pack(">I", counted + 8))],
    }
    for at, value in sizes[bytes(data[:4])]:
        data[at : at + len(value)] = value
    if data[:4] == b"FORM":
        frames = next(chunk.start for chunk in chunks if chunk.name == b"COMM") + 2
        width = there // int.from_bytes(data[frames : frames + 4], "big")
        data[frames : frames + 4] = struct.pack(">I", counted // width)
    path.write_bytes(data)
    return path


@pytest.mark.parametrize("format", ["WAV", "WAVEX", "RF64", "W64", "AIFF", "CAF", "AU"])
@pytest.mark.parametrize("subtype", ["PCM_16", "PCM_24", "FLOAT"])
def test_sizes_that_were_not_written_again(format: str, subtype: str, tmp_path: Path) -> None:
    path = written(tmp_path, format, subtype)
    whole = read_audio(path).waveform
    stale(path)
    with pytest.raises(AudioError, match=r'cut short: its header counts [0-9]+ bytes.*on_short="warn"'):
        read_audio(path)
    with pytest.warns(UserWarning, match="its header counts"):
        np.testing.assert_array_equal(read_audio(path, on_short="warn").waveform, whole)
    with path.open("rb") as file, pytest.warns(UserWarning, match="its header counts"):
        np.testing.assert_array_equal(read_audio(file, on_short="warn").waveform, whole)
    path.write_bytes(path.read_bytes() + ID3V1)
    with pytest.warns(UserWarning, match="its header counts"):
        np.testing.assert_array_equal(read_audio(path, on_short="warn").waveform, whole)


@pytest.mark.parametrize("format", ["WAV", "WAVEX", "RF64", "W64", "AIFF", "CAF", "AU", "FLAC", "OGG", "MP3", "VOC"])
@pytest.mark.parametrize("channels", [1, 2])
def test_whole_recordings_are_not_reported(format: str, channels: int, tmp_path: Path) -> None:
    """In every encoding, with what programs put behind a recording."""
    for subtype in sf.available_subtypes(format):
        if not sf.check_format(format, subtype):
            continue
        try:
            path = written(tmp_path, format, subtype, channels)
        except sf.SoundFileError:  # not in so many channels
            continue
        data = path.read_bytes()
        plain = [name for name in TAILS if format in ("WAV", "WAVEX", "RF64", "W64", "AIFF", "CAF", "AU")]
        for name in plain or (["nothing"] if format == "VOC" else ["nothing", "id3v1"]):
            path.write_bytes(data + TAILS[name])
            with warnings.catch_warnings():
                warnings.simplefilter("error")
                assert read_audio(path).waveform.shape[1] > 0, (subtype, name)


def wave(*chunks: tuple[bytes, bytes], padded: bool = True) -> bytes:
    parts = [struct.pack("<4sI", name, len(body)) + body + bytes(padded and len(body) % 2) for name, body in chunks]
    body = b"WAVE" + b"".join(parts)
    return b"RIFF" + struct.pack("<I", len(body)) + body


FMT = (b"fmt ", struct.pack("<HHIIHH", 1, 1, RATE, RATE, 1, 8))
DATA = (b"data", (SAMPLES[:, 0] * 200 + 128).astype(np.uint8).tobytes())  # of odd length
LIST = (b"LIST", b"INFOIART\x04\0\0\0abc\0")


@pytest.mark.parametrize(
    "data",
    [
        pytest.param(wave(FMT, DATA, LIST, (b"id3 ", ID3V2[:99]), (b"bext", bytes(602))), id="chunks"),
        pytest.param(wave(FMT, DATA, LIST, (b"_any", b"\xff" * 99), padded=False), id="no padding"),
        pytest.param(wave(FMT, DATA, (b"JUNK", bytes(4_000))) + bytes(300), id="junk"),
        pytest.param(wave(FMT, DATA, (b"LIST", b"INFO" + b"\xff" * 400))[:-90], id="a chunk that is cut"),
        pytest.param(wave(FMT, DATA) + bytes(1_000) + wave(LIST)[12:], id="zeros before a chunk"),
        pytest.param(wave(FMT, DATA) + b"junk" * 1_000, id="text"),
    ],
)
def test_what_is_behind_the_audio_and_no_audio(data: bytes, tmp_path: Path) -> None:
    (tmp_path / "a.wav").write_bytes(data)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert read_audio(tmp_path / "a.wav").waveform.shape == (1, 4_001)


@pytest.mark.parametrize("format", ["RF64", "W64", "CAF", "AU"])  # libsndfile refuses the others
def test_recordings_one_behind_the_other(format: str, tmp_path: Path) -> None:
    path = written(tmp_path, format, "PCM_16")
    whole = read_audio(path).waveform
    path.write_bytes(path.read_bytes() * 2)
    with pytest.raises(AudioError, match="only the first of several recordings in this file"):
        read_audio(path)
    with pytest.warns(UserWarning, match="only the first of several"):
        np.testing.assert_array_equal(read_audio(path, on_short="warn").waveform, whole)


def huge(path: Path, size: int, *, riff: int, data: int, tail: bytes = b"") -> Path:
    """A WAVE file with holes: so many bytes of audio take no room on the disk, and the last ones are not zero."""
    fmt = struct.pack("<4sIHHIIHH", b"fmt ", 16, 1, 2, 48_000, 192_000, 4, 16)
    with path.open("wb") as file:
        file.write(b"RIFF" + struct.pack("<I", riff) + b"WAVE" + fmt + b"data" + struct.pack("<I", data))
        for at in (10_000, 2**31 + 100, size - 200):
            file.seek(44 + at)
            file.write(b"\x11\xf1" * 100)
        file.truncate(44 + size)
        file.seek(0, os.SEEK_END)
        file.write(tail)
    return path


SIZE = 2**32 + 8_000


@pytest.mark.parametrize(
    ("make", "fault"),
    [
        (lambda path: huge(path, SIZE, riff=(SIZE + 36) % 2**32, data=SIZE % 2**32), "its header counts 8000 bytes"),
        (lambda path: huge(path, SIZE, riff=60, data=8_000, tail=wave(LIST)[12:]), "its header counts 8000 bytes"),
        (lambda path: huge(path, SIZE, riff=36, data=0), "never finished"),
        (lambda path: huge(path, SIZE, riff=2**32 - 1, data=2**32 - 1), ""),
        (lambda path: huge(path, SIZE, riff=0x7FFF_F024, data=0x7FFF_F000), ""),
    ],
    ids=["wrapped", "wrapped, with a chunk behind", "unfinished", "open", "open, of sox"],
)
def test_files_of_more_than_4_gib_with_sizes_of_32_bits(
    make: Callable[[Path], Path], fault: str, tmp_path: Path
) -> None:
    path = make(tmp_path / "a.wav")
    if path.stat().st_blocks * 512 > 2**28:
        pytest.skip("this file system has no holes")
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        with open_audio(path, on_short="warn") as reader:
            assert reader.claimed_samples == SIZE // 4
    assert [fault in str(warning.message) for warning in said] == ([True] if fault else [])
