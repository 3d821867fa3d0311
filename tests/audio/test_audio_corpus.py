# SPDX-License-Identifier: Apache-2.0
"""Broken and odd recordings: each is refused with one clear error, or read for what it is, and nothing in between."""

from __future__ import annotations

import re
import struct
import warnings
from collections.abc import Iterator
from pathlib import Path

import corpus
import numpy as np
import pytest
import soundfile as sf
from children import Children
from corpus import RATE

from hubsep.audio import SPLIT_IT, AudioLimits, open_audio, read_audio, write_audio
from hubsep.audio import mp3 as audio_mp3
from hubsep.errors import AudioError


ENCODED = {kind: corpus.encode(corpus.sound(), **options) for kind, options in corpus.FORMATS.items()}
WAV, FLAC, OGG, MP3 = (ENCODED[kind] for kind in ("wav", "flac", "ogg", "mp3"))


@pytest.fixture(scope="module")
def child() -> Iterator[Children]:
    children = Children("corpus")
    yield children
    children.close()


def refuse(data: bytes, says: str = "") -> str:
    """Reads what must not be read; also nothing may come out if a short result is asked for."""
    with pytest.raises(AudioError, match=says) as caught:
        read_audio(data)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def read_short(data: bytes) -> np.ndarray:
    """Reads what is left of a recording, which must warn exactly once."""
    with warnings.catch_warnings(record=True) as found:
        warnings.simplefilter("always")
        waveform = read_audio(data, on_short="warn").waveform
    assert [str(warning.message) for warning in found if "cut short" in str(warning.message)]
    assert len(found) == 1
    assert found[0].filename == __file__ or "/hubsep/audio/" in Path(found[0].filename).as_posix()
    return waveform


@pytest.mark.parametrize("share", [0.02, 0.5, 0.98])
@pytest.mark.parametrize("kind", ["wav", "flac", "ogg", "mp3"])
def test_truncated_files(kind: str, share: float) -> None:
    cut = ENCODED[kind][: int(len(ENCODED[kind]) * share)]
    says = refuse(cut, "cut short")
    if "damaged" in says:
        with pytest.raises(AudioError):
            read_audio(cut, on_short="warn")
        return
    whole, short = read_audio(ENCODED[kind]).waveform, read_short(cut)
    assert 0 < short.shape[1] < whole.shape[1]
    ending = 3_000  # decoders fade what they have only half of
    kept = short[:, : max(0, short.shape[1] - ending)]
    assert np.abs(kept - whole[:, : kept.shape[1]]).max(initial=0) <= 1e-6


@pytest.mark.parametrize("ending", ["wav", "rf64", "w64", "aiff", "au", "caf"])
@pytest.mark.parametrize("share", [0.02, 0.5, 0.98])
def test_truncated_files_of_other_kinds(ending: str, share: float, tmp_path: Path) -> None:
    data = write_audio(tmp_path / f"a.{ending}", corpus.sound(), RATE).read_bytes()
    says = refuse(data[: int(len(data) * share)], "cut short")
    if "damaged" not in says:
        samples = read_short(data[: int(len(data) * share)]).shape[1]
        assert samples == pytest.approx(2 * RATE * share, abs=600)


@pytest.mark.parametrize(
    ("container", "codec"),
    [
        ("ipod", "aac"),
        ("adts", "aac"),
        ("matroska", "flac"),
        ("webm", "libopus"),
        ("avi", "pcm_s16le"),
        ("ogg", "flac"),
    ],
)
def test_truncated_videos(container: str, codec: str) -> None:
    data = corpus.encode_video(corpus.sound(), container, codec, 48_000)
    assert read_audio(data).waveform.shape[1] >= 2 * RATE
    for share in (0.02, 0.5, 0.98):
        refuse(data[: int(len(data) * share)], "cut short|no samples")


@pytest.mark.parametrize(
    "data",
    [
        WAV[:20],
        WAV[:44],
        FLAC[:20],
        OGG[:20],
        MP3[:20],
        b"\0" * 10_000,
        b"a recording is not text\n" * 99,
        b"\x89PNG\r\n\x1a\n" + bytes(range(256)) * 9,
        b"#EXTM3U\n#EXTINF:10,\nfile:///etc/passwd\n",
        b"ffconcat version 1.0\nfile /etc/passwd\n",
        b"PK\x03\x04" + bytes(999),
        b"ID3\x03\0\0\0\0\x02\0" + bytes(256),
        b"OggS\0\2" + bytes(22),
        b"\0\0\0\x18ftypmp42" + bytes(99),
        b"\x1a\x45\xdf\xa3" + bytes(99),
        b"RIFF\xff\xff\xff\xffAVI " + bytes(99),
        b"\xff\xf1" + bytes(99),
        b"riff" + bytes(99),
        b"\xff",
    ],
    ids=lambda data: repr(data[:12]),
)
def test_what_is_not_audio(data: bytes) -> None:
    refuse(data, "damaged, cut short or no audio|cut short|no samples|no audio stream")


@pytest.mark.parametrize("kind", ["wav", "flac", "ogg", "mp3"])
def test_content_wins_over_the_ending(kind: str, tmp_path: Path) -> None:
    for ending in ("wav", "mp3", "raw", "txt", "m4a"):
        path = tmp_path / f"a.{ending}"
        path.write_bytes(ENCODED[kind])
        found = read_audio(path)
        assert found.waveform.shape == (2, 2 * RATE)
        assert found.format == corpus.FORMATS[kind]["format"]


@pytest.mark.parametrize("kind", ["wav", "flac", "ogg", "mp3"])
@pytest.mark.parametrize("samples", [1, 2, 100, 1_000])
def test_very_short_recordings(kind: str, samples: int) -> None:
    data = corpus.encode(corpus.sound(samples), **corpus.FORMATS[kind])
    assert read_audio(data).waveform.shape == (2, samples)


def test_no_samples() -> None:
    refuse(corpus.encode(np.zeros((2, 0), np.float32), format="WAV"), "holds no samples")
    refuse(corpus.encode(np.zeros((2, 0), np.float32), format="OGG"), "holds no samples")


@pytest.mark.parametrize(
    ("value", "says"),
    [(np.nan, "is nan"), (np.inf, "is inf"), (-np.inf, "is -inf"), (1e30, "is 1e.30, above the limit of 10000")],
)
def test_samples_that_are_no_sound(value: float, says: str) -> None:
    waveform = corpus.sound(100_000)
    waveform[1, 70_001] = value
    for subtype in ("FLOAT", "DOUBLE"):
        refuse(corpus.encode(waveform, format="WAV", subtype=subtype), f"sample 70001 {says}")
    with pytest.raises(AudioError, match="sample 70001"):
        read_audio(waveform, sampling_rate=RATE)


def test_samples_beyond_float32() -> None:
    waveform = np.zeros((2, 100))
    waveform[0, 7] = -1e39
    with pytest.raises(AudioError, match=r"sample 7 is -1e\+39"):
        read_audio(waveform, sampling_rate=RATE)


def test_loud_recordings_are_read() -> None:
    """Full scale is a convention of floating point files, not a limit; lossy codecs overshoot a little."""
    loud = 1_000 * corpus.sound(1_000)
    assert np.array_equal(read_audio(corpus.encode(loud, format="WAV", subtype="FLOAT")).waveform, loud)
    square = np.sign(corpus.sound(RATE))
    peak = np.abs(read_audio(corpus.encode(square, format="OGG")).waveform).max()
    assert 1.2 < peak < 4


@pytest.mark.parametrize(
    ("fields", "says"),
    [
        ({"channels": 0}, "Channel count is zero"),
        ({"channels": 65_535}, "too many channels"),
        ({"channels": 255}, "got 255"),
        ({"sampling_rate": 0}, "no possible sampling rate"),
        ({"sampling_rate": 1}, "1000 to 768000 Hz, got 1$"),
        ({"sampling_rate": 999}, "got 999"),
        ({"sampling_rate": 768_001}, "got 768001"),
        ({"sampling_rate": 2**31 - 1}, "got 2147483647"),
        ({"sampling_rate": 2**32 - 1}, "no possible sampling rate"),
    ],
)
def test_absurd_headers(fields: dict[str, int], says: str) -> None:
    with pytest.raises(AudioError, match=re.compile(says, re.IGNORECASE)):
        read_audio(corpus.wav_with(WAV, **fields))


@pytest.mark.parametrize("rate", [1_000, 8_000, 11_025, 22_050, 44_099, 96_000, 384_000, 768_000])
def test_rates_that_are_read(rate: int) -> None:
    found = read_audio(corpus.wav_with(WAV, sampling_rate=rate))
    assert (found.sampling_rate, found.waveform.shape) == (rate, (2, 2 * RATE))


@pytest.mark.parametrize(
    "waveform",
    [np.zeros((2, 9_000)), np.full((2, 9_000), 0.5), np.sign(corpus.sound(9_000)), np.eye(2, 9_000)],
    ids=["silence", "DC", "square", "impulse"],
)
def test_extreme_but_honest_signals(waveform: np.ndarray) -> None:
    for kind, options in corpus.FORMATS.items():
        found = read_audio(corpus.encode(waveform, **options)).waveform
        assert found.shape == waveform.shape
        assert np.isfinite(found).all()
        if kind in ("wav", "flac"):
            assert np.abs(found - waveform).max() <= 2**-15


def test_lengths_that_were_not_known_when_writing_began() -> None:
    """What programs write into pipes is complete."""
    whole = read_audio(WAV).waveform
    for size in (2**32 - 1, 0x7FFF_F000, 0x8000_0000):
        with open_audio(corpus.wav_with(WAV, data_size=size, riff_size=size)) as reader:
            assert np.array_equal(np.concatenate(list(reader.blocks()), axis=1), whole)
    assert np.array_equal(read_audio(corpus.flac_claiming(FLAC, 0)).waveform, read_audio(FLAC).waveform)
    with open_audio(corpus.flac_claiming(FLAC, 0)) as reader:
        assert reader.claimed_samples is None
    assert np.array_equal(read_audio(corpus.wav_with(WAV, riff_size=0xFFFF_FFF0)).waveform, whole)


def test_headers_that_lie_about_size(child: Children, tmp_path: Path) -> None:
    path = tmp_path / "a"
    path.write_bytes(corpus.flac_claiming(FLAC, 2**36 - 1))
    refuse(path.read_bytes(), f"it claims 68719476735 samples and holds {2 * RATE};")
    found = child("memory_of_reading", path)
    assert found["error"] is None
    assert found["grown_mb"] <= 50
    path.write_bytes(corpus.wav_with(WAV, data_size=0xFFFF_FFF0, riff_size=0xFFFF_FFF0))
    refuse(path.read_bytes(), "claims 4294967280 bytes of audio and holds 352800;")
    assert np.array_equal(read_short(path.read_bytes()), read_audio(WAV).waveform)
    found = child("memory_of_reading", path)
    assert found["error"] is None
    assert found["grown_mb"] <= 50
    with open_audio(corpus.flac_claiming(FLAC, 2**36 - 1)) as reader:
        assert sum(block.shape[1] for block, _ in zip(reader.blocks(1_000), range(3), strict=False)) == 3_000


@pytest.mark.slow
def test_memory_does_not_grow_with_the_recording(child: Children, tmp_path: Path) -> None:
    """A quarter of an hour is 159 MB on the disk and 318 MB as float32; measured: 2 MB."""
    samples = 15 * 60 * RATE
    source, target = tmp_path / "long.wav", tmp_path / "copy.wav"
    with source.open("wb") as file:
        file.write(corpus.wav_with(WAV, data_size=4 * samples, riff_size=4 * samples + 36)[:44])
        file.truncate(44 + 4 * samples)  # a hole: silence that takes no room
    assert child("memory_of_copying", source, target) <= 20
    with open_audio(target) as reader:
        assert reader.claimed_samples == samples
        assert reader.subtype == "PCM_16"


@pytest.mark.slow
def test_what_is_read_as_a_whole_is_bounded(child: Children, tmp_path: Path) -> None:
    """Half an hour of silence in two channels is 340 kB of FLAC and 635 MB in memory."""
    path = tmp_path / "silence.flac"
    with sf.SoundFile(path, "w", RATE, 2, format="FLAC", subtype="PCM_16") as file:
        for _ in range(30):
            file.write(np.zeros((60 * RATE, 2), np.float32))
    found = child("memory_of_reading", path)
    assert "the limit for one that is held in memory as a whole; read it block by block" in found["error"]
    assert found["grown_mb"] < 700
    found = child("memory_of_reading", path, "raise")
    assert "as a whole" in found["error"]
    assert found["grown_mb"] < 50, "the header says how long it is, so nothing is kept"


def test_a_whole_recording_of_every_kind_is_bounded(tmp_path: Path) -> None:
    limits = AudioLimits(max_values=2_000)
    for data in (WAV, FLAC, OGG, MP3, corpus.encode_video(corpus.sound(20_000), "mp4", "aac")):
        with pytest.raises(AudioError, match="more than 1000 samples in each of 2 channels"):
            read_audio(data, limits=limits)
        with open_audio(data, limits=limits, duration_s=0.01) as reader:
            assert reader.whole().shape == (2, 441)
        with open_audio(data, limits=limits) as reader:
            assert sum(block.shape[1] for block in reader.blocks()) > 10_000, "block by block there is no limit"
    waveform = corpus.sound(5_000)
    assert read_audio(waveform, sampling_rate=RATE, limits=limits).waveform.shape == (2, 5_000), "it is in memory"
    with pytest.raises(AudioError, match="; split it into shorter recordings"):
        read_audio(WAV, limits=limits, way_out=SPLIT_IT)


FRAME = bytes([0xFF, 0xE3, 0x18, 0xC0]).ljust(72, b"\0")  # MPEG 2.5, 8 kHz, 8 kbit/s
CRAFTED = {
    "lost bytes after every second frame": (FRAME * 2 + bytes(3)) * 30_000,
    "lost bytes after every third frame": (FRAME * 3 + b"\xff" * 5) * 20_000,
    "false starts": FRAME * 3 + (FRAME[:4] + b"\0") * 800_000,
    "starts of starts": FRAME * 3 + b"\xff" * 4_000_000,
    "tags": FRAME * 3 + b"ID3\3\0\0\0\0\0\0" * 400_000,
    "frames of two kinds": (FRAME + b"\xff\xe3\x14" + FRAME[3:]) * 30_000,
}


@pytest.mark.parametrize("kind", CRAFTED)
def test_counting_the_frames_of_an_mp3_reads_it_once(kind: str) -> None:
    file = corpus.Counting(CRAFTED[kind])
    audio_mp3.measure(file)
    assert file.count <= 1.1 * len(CRAFTED[kind])


def test_tags_and_trailing_bytes_do_no_harm() -> None:
    tails = [b"TAG" + bytes(125), bytes(500), b"APETAGEX" + bytes(100), b"LIST\x04\0\0\0abcd"]
    for kind, data in ENCODED.items():
        whole = read_audio(data).waveform
        for tail in tails if kind != "flac" else []:
            assert np.array_equal(read_audio(data + tail).waveform, whole), (kind, tail)
        if kind in ("flac", "mp3"):
            assert np.array_equal(read_audio(corpus.ID3_TAG + data).waveform, whole)


@pytest.mark.parametrize("mode", ["CONSTANT", "VARIABLE"])
def test_mp3_without_a_header_is_read_to_its_end(mode: str) -> None:
    """libsndfile alone stops at an estimate: with the quiet part first, after half of this."""
    waveform = corpus.sound(10 * RATE)
    waveform[:, 5 * RATE :] *= 1e-4
    data = corpus.encode(waveform, format="MP3", bitrate_mode=mode, compression_level=0.3)
    whole = read_audio(data).waveform
    assert whole.shape == waveform.shape
    found = read_audio(corpus.mp3_without_header(data)).waveform
    assert 0 <= found.shape[1] - whole.shape[1] <= 2 * 1_152
    # Without the header nothing says what the encoder put in front: LAME's 576 samples and the decoder's 529.
    delay = 576
    assert np.abs(found[:, delay : delay + whole.shape[1]] - whole).max() <= 1e-6
    for tag, tail in ((corpus.ID3_TAG, b""), (b"", b"TAG" + bytes(125))):
        assert np.array_equal(read_audio(tag + corpus.mp3_without_header(data) + tail).waveform, found)


def test_mp3_with_the_other_header() -> None:
    frames = (2 * RATE) // 1_152 + 2
    data = corpus.mp3_with_vbri(MP3, frames)
    assert np.array_equal(read_audio(data).waveform, read_audio(corpus.mp3_without_header(MP3)).waveform)
    refuse(data[: len(data) // 2], "frames more than there are")
    assert read_short(data[: len(data) // 2]).shape[1] == pytest.approx(RATE, abs=3_000)


def test_layer_2_is_read_unless_its_end_would_be_lost() -> None:
    """libsndfile takes its length from the bitrate of the first frames, and no header can tell it more."""
    low, high = (corpus.encode_video(corpus.sound(), "mp2", "mp2", RATE, kbps) for kbps in (64, 384))
    for data in (low, high, low + low, low + high):
        samples = read_audio(data).waveform.shape[1]
        assert samples == pytest.approx(2 * RATE * (1 if data in (low, high) else 2), abs=3_000)
    refuse(high + low, "of which only .* would be read")


def test_recordings_joined_in_one_file_are_all_read() -> None:
    other = corpus.sound(30_000, seed=9)
    joined = OGG + corpus.encode(other, **corpus.FORMATS["ogg"])
    found = read_audio(joined).waveform
    assert np.array_equal(found[:, : 2 * RATE], read_audio(OGG).waveform)
    assert found.shape == (2, 2 * RATE + 30_000)
    refuse(joined[:-100], "its last page is missing")
    refuse(OGG + corpus.encode(other[:1], **corpus.FORMATS["ogg"]), "changes from 2 channels at 44100 Hz to 1")
    twice = read_audio(MP3 + MP3).waveform
    assert np.array_equal(twice[:, :80_000], read_audio(MP3).waveform[:, :80_000])
    assert 4 * RATE <= twice.shape[1] <= 4 * RATE + 4 * 1_152


@pytest.mark.parametrize("kind", ["wav", "flac", "ogg", "mp3"])
def test_flipped_bytes(kind: str, child: Children) -> None:
    flip(kind, 40, child)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["wav", "flac", "ogg", "mp3"])
def test_many_flipped_bytes(kind: str, child: Children) -> None:
    flip(kind, 500, child)


def flip(kind: str, seeds: int, child: Children) -> None:
    status, found, output = child.run("read_flipped", kind, 0, seeds)
    assert status == 0, output[-500:]
    assert found["foreign"] == []
    assert found["refused"] + found["decoded"] == seeds
    assert found["peak"] <= 4


@pytest.mark.parametrize("ending", ["wav", "flac", "ogg", "mp3"])
@pytest.mark.parametrize(("room_bytes", "seconds"), [(100_000, 60), (1_000, 0.05)])
def test_full_disks(ending: str, room_bytes: int, seconds: float, child: Children, tmp_path: Path) -> None:
    path = tmp_path / f"a.{ending}"
    path.write_bytes(b"what was there before")
    error = child("write_with_room_for", room_bytes, path, seconds)
    assert "cannot be written" in error
    assert list(tmp_path.iterdir()) == [path]
    assert path.read_bytes() == b"what was there before"


@pytest.mark.slow
@pytest.mark.needs_shared
def test_healthy_recordings_are_read(shared: Path) -> None:
    paths = sorted(path for path in (shared / "data").rglob("*") if path.suffix in (".ogg", ".wav", ".flac", ".mp3"))
    assert paths
    for path in paths[::60]:
        assert read_audio(path).waveform.shape[1] > 1_000


APE_TAG = b"k" * 10 + b"APETAGEX" + struct.pack("<4I", 2_000, 42, 1, 0) + bytes(8)


@pytest.mark.parametrize("ending", ["flac", "w64", "wav", "ogg", "mp3"])
@pytest.mark.parametrize(
    "tail", [b"TAG" + b"a" * 125, APE_TAG, APE_TAG + b"TAG" + bytes(125)], ids=["id3", "ape", "both"]
)
def test_tags_behind_the_sound_are_no_part_of_it(ending: str, tail: bytes) -> None:
    data = corpus.encode(
        corpus.sound(12_000), **{"w64": {"format": "W64", "subtype": "FLOAT"}, **corpus.FORMATS}[ending]
    )
    with open_audio(data + tail) as reader:
        blocks = list(reader.blocks(1_000))  # which divides the recording
    assert np.array_equal(np.concatenate(blocks, axis=1), read_audio(data).waveform)
    assert np.array_equal(read_audio(data + tail).waveform, read_audio(data).waveform)


@pytest.mark.parametrize("samples", [1_000, 4_096, 12_000])
@pytest.mark.parametrize("tail", [b"a", bytes(1_000), FLAC], ids=["byte", "zeros", "flac"])
def test_what_follows_a_flac_is_refused_whatever_it_is_read_in(samples: int, tail: bytes) -> None:
    data = corpus.encode(corpus.sound(12_000), format="FLAC", subtype="PCM_16")
    with pytest.raises(AudioError, match="lost sync"), open_audio(data + tail) as reader:
        list(reader.blocks(samples))
