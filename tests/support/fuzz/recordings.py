# SPDX-License-Identifier: Apache-2.0
"""Recordings in every format that is read.

What is asked: a refusal or a recording that is whole. A file that is only cut is never read as if it ended there, one
that was not changed is what it was, and it makes no difference how a file is handed over or in which pieces it is
read.
"""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import corpus
import numpy as np

from fuzz.cases import Action, Case, Kind, expect
from fuzz.containers import LIES, repeated
from fuzz.values import changed_bytes
from hubsep.audio import open_audio, read_audio
from hubsep.errors import AudioError


RATE, SAMPLES = 44_100, 12_000
SOUNDFILE: dict[str, dict[str, Any]] = {
    "wav": {"format": "WAV", "subtype": "PCM_16"},
    "float": {"format": "WAV", "subtype": "FLOAT"},
    "adpcm": {"format": "WAV", "subtype": "IMA_ADPCM"},
    "rf64": {"format": "RF64", "subtype": "PCM_24"},
    "aiff": {"format": "AIFF", "subtype": "PCM_16"},
    "au": {"format": "AU", "subtype": "ULAW"},
    "caf": {"format": "CAF", "subtype": "PCM_16"},
    "w64": {"format": "W64", "subtype": "FLOAT"},
    "flac": {"format": "FLAC", "subtype": "PCM_16"},
    "ogg": {"format": "OGG", "subtype": "VORBIS"},
    "opus": {"format": "OGG", "subtype": "OPUS"},
    "mp3": {"format": "MP3", "subtype": "MPEG_LAYER_III"},
    "vbr": {"format": "MP3", "bitrate_mode": "VARIABLE", "compression_level": 0.3},
}
PYAV = {
    "m4a": ("ipod", "aac"),
    "alac": ("ipod", "alac"),
    "mov": ("mov", "pcm_s16le"),
    "adts": ("adts", "aac"),
    "mkv": ("matroska", "flac"),
    "webm": ("webm", "libopus"),
    "avi": ("avi", "pcm_s16le"),
    "oggflac": ("ogg", "flac"),
    "mp2": ("mp2", "mp2"),
}
HEADLESS = ("mp2", "adts")  # bare streams of frames: nothing in them says how many there should be
PEAK = 10_000.0


def prepare(place: Path) -> None:
    """A file of each format, and each read once."""
    sound = corpus.sound(SAMPLES)
    for name, options in SOUNDFILE.items():
        (place / name).write_bytes(corpus.encode(sound, 48_000 if name == "opus" else RATE, **options))
    for name, (container, codec) in PYAV.items():
        (place / name).write_bytes(corpus.encode_video(sound, container, codec, 48_000))
    for path in list(place.iterdir()):
        np.save(f"{path}.npy", read_audio(path).waveform)


def make(case: Case) -> Action:
    """A file, and what is read from it."""
    name = case.choose({name: name for name in [*SOUNDFILE, *PYAV]})
    data = (case.templates / name).read_bytes()
    whole = np.load(case.templates / f"{name}.npy")
    data, kept = changed(data, name, case)
    path = case.folder / case.choose({"its own": f"a.{name}", "another": "a.wav", "none": "recording"})
    path.write_bytes(data)
    return lambda: read_in_every_way(path, data, whole, kept, case)


def changed(data: bytes, name: str, case: Case) -> tuple[bytes, str]:
    """The file with something done to it, and what of its sound has to be there still: "all", "no less" or ""."""
    random, roll = case.random, case.random.random()
    if roll < 0.08:
        case.note("as it was")
        return data, "all"
    if roll < 0.2:
        data = data[: random.randrange(len(data))]
        case.note(f"cut to {len(data)}")
        return data, "" if name in HEADLESS else "no less"
    if roll < 0.3:
        case.note("bytes")
        return changed_bytes(data, case, random.choice([1, 4, 40])), ""
    if roll < 0.36:
        other = random.choice([*SOUNDFILE, *PYAV])
        case.note(f"joined with {other}")
        more = (case.templates / other).read_bytes()
        place = random.randrange(len(data))
        return random.choice([data + more, more + data, data[:place] + more, data[:100] + more[100:]]), ""
    if roll < 0.42:
        return repeated(case), ""
    for _ in range(random.choice([1, 1, 2])):
        data = LIES.get(name, changed_bytes)(data, case)
    if case.chance(0.1):
        return data[: random.randrange(len(data) + 1)], ""
    return data, ""


def read_in_every_way(path: Path, data: bytes, whole: np.ndarray, kept: str, case: Case) -> str:
    """Reads a file as bytes, by its path and in pieces, which must all come to the same."""
    waveform = attempt(lambda: read_audio(data).waveform)
    streamed = attempt(lambda: in_pieces(path, case.random.choice([1_000, 4_096, 65_536])))
    expect(
        isinstance(waveform, AudioError) == isinstance(streamed, AudioError),
        f"one way it is read, the other not: {waveform!a:.300} {streamed!a:.300}",
    )
    if isinstance(waveform, AudioError):
        with warnings.catch_warnings(record=True) as said:
            warnings.simplefilter("always")
            short = attempt(lambda: read_audio(path, on_short="warn").waveform)
        if not isinstance(short, AudioError):
            check(short)
            expect(said, f"was refused ({waveform}) and is read without a warning")
        raise waveform
    expect(np.array_equal(waveform, streamed), "in pieces it is another recording")
    check(waveform)
    if kept == "all":
        expect(np.array_equal(waveform, whole), "what was not changed is another recording")
    if kept == "no less":
        expect(
            waveform.shape[1] >= whole.shape[1],
            f"{waveform.shape[1]} of {whole.shape[1]} samples were read without a word",
        )
    return "read"


def attempt(call: Any) -> Any:
    """The result, or the refusal."""
    try:
        return call()
    except AudioError as error:
        return error


def in_pieces(path: Path, samples: int) -> np.ndarray:
    with open_audio(path) as reader:
        return np.concatenate(list(reader.blocks(samples)), axis=1)


def check(waveform: np.ndarray) -> None:
    """What every recording that is read promises."""
    channels, samples = waveform.shape
    expect(1 <= channels <= 64 and samples > 0, f"a recording of {waveform.shape}")
    expect(np.isfinite(waveform).all(), "NaN or an infinity was read")
    expect(np.abs(waveform).max() <= PEAK, f"a peak of {np.abs(waveform).max()} was read")


RECORDINGS = Kind(prepare, make)


__all__ = ["RECORDINGS", "check", "read_in_every_way"]
