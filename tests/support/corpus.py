# SPDX-License-Identifier: Apache-2.0
"""Recordings that are broken on purpose, made from a seed, and what a process of its own does with them.

Everything is made in memory from a second or two of sound, so that nothing large is kept in the repository.
"""

from __future__ import annotations

import io
import resource
import signal
import struct
import sys
from typing import Any

import numpy as np
import soundfile as sf

from hubsep.audio import AudioWriter, open_audio, read_audio, write_audio
from hubsep.errors import AudioError


RATE = 44_100
HANG_S = 20
ID3_TAG = b"ID3\x03\0\0\0\0\x02\0" + b"\xff\xfb\x90\0" * 64  # its content looks like MP3 frames
FORMATS: dict[str, dict[str, Any]] = {
    "wav": {"format": "WAV", "subtype": "PCM_16"},
    "flac": {"format": "FLAC", "subtype": "PCM_16"},
    "ogg": {"format": "OGG", "subtype": "VORBIS"},
    "mp3": {"format": "MP3", "subtype": "MPEG_LAYER_III"},
}


def sound(samples: int = 2 * RATE, channels: int = 2, seed: int = 0) -> np.ndarray:
    """Tones over some noise, (channels, samples), peak below 0.9."""
    generator = np.random.default_rng(seed)
    time_s = np.arange(samples) / RATE
    pitches = generator.uniform(80, 4_000, (channels, 3, 1))
    tones = np.sin(2 * np.pi * pitches * time_s).sum(axis=1)
    return (0.2 * tones + 0.05 * generator.uniform(-1, 1, (channels, samples))).astype(np.float32)


def encode(waveform: np.ndarray, sampling_rate: int = RATE, **options: Any) -> bytes:
    """A file as libsndfile writes it; `options` are those of soundfile."""
    file = io.BytesIO()
    sf.write(file, waveform.T, sampling_rate, **options)
    return file.getvalue()


def flipped(data: bytes, seed: int, count: int = 200) -> bytes:
    """The file with `count` bytes replaced, anywhere."""
    generator = np.random.default_rng(seed)
    changed = np.frombuffer(data, np.uint8).copy()
    changed[generator.integers(0, len(changed), count)] = generator.integers(0, 256, count, np.uint8)
    return changed.tobytes()


def wav_with(data: bytes, **fields: int) -> bytes:
    """A WAV of libsndfile with fields of its header replaced: riff_size, channels, sampling_rate, data_size."""
    places = {"riff_size": (4, "<I"), "channels": (22, "<H"), "sampling_rate": (24, "<I")}
    places["data_size"] = (data.index(b"data") + 4, "<I")
    changed = bytearray(data)
    for name, value in fields.items():
        struct.pack_into(places[name][1], changed, places[name][0], value)
    return bytes(changed)


def flac_claiming(data: bytes, samples: int) -> bytes:
    """A FLAC whose stream header says that it holds so many samples, up to 2**36 - 1."""
    at = data.index(b"fLaC") + 8 + 10
    field = int.from_bytes(data[at : at + 8], "big") & ~(2**36 - 1) | samples
    return data[:at] + field.to_bytes(8, "big") + data[at + 8 :]


def mp3_without_header(data: bytes) -> bytes:
    """An MP3 of LAME without the first frame, which says how long it is."""
    return data[data.index(data[:2], 4) :]


def mp3_with_vbri(data: bytes, frames: int) -> bytes:
    """An MP3 of LAME whose length is told by a header of Fraunhofer's kind instead."""
    stream = mp3_without_header(data)
    first = bytearray(data[: len(data) - len(stream)])
    first[4:] = bytes(len(first) - 4)
    first[36:40] = b"VBRI"
    first[50:54] = frames.to_bytes(4, "big")
    return bytes(first) + stream


class Counting(io.BytesIO):
    """Counts what is read of a file: calls and bytes."""

    calls = count = 0

    def read(self, size: int | None = -1) -> bytes:
        data = super().read(size)
        self.calls += 1
        self.count += len(data)
        return data


def read_flipped(kind: str, first: str, last: str) -> dict[str, Any]:
    """Reads damaged files of one kind; says what came out, and on standard output which seed it is at."""
    data = encode(sound(), **FORMATS[kind])
    found: dict[str, Any] = {"refused": 0, "decoded": 0, "peak": 0.0, "foreign": []}
    for seed in range(int(first), int(last)):
        print(kind, seed, flush=True)
        signal.setitimer(signal.ITIMER_PROF, HANG_S)  # of computing: a machine may be busy
        try:
            waveform = read_audio(flipped(data, seed), on_short="warn").waveform
            found["decoded"] += 1
            found["peak"] = max(found["peak"], float(np.abs(waveform).max()))
            assert np.isfinite(waveform).all()
        except AudioError:
            found["refused"] += 1
        except Exception as error:
            found["foreign"].append(f"{seed}: {error!r}")
        signal.setitimer(signal.ITIMER_PROF, 0)
    return found


def memory_of_reading(path: str, on_short: str = "warn") -> dict[str, Any]:
    """Reads a file; gives the growth of the peak memory in MB and the error, if there was one."""
    read_audio(encode(sound(RATE), format="WAV"))
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    error = None
    try:
        read_audio(path, on_short="raise" if on_short == "raise" else "warn")
    except AudioError as caught:
        error = str(caught)
    unit = 2**20 if sys.platform == "darwin" else 2**10
    return {"grown_mb": (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / unit, "error": error}


def memory_of_copying(source: str, target: str) -> float:
    """Reads a recording block by block and writes it; gives the growth of the peak memory in MB."""
    write_audio(target, sound(RATE), RATE, subtype="PCM_16")
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with open_audio(source) as reader, AudioWriter(target, RATE, reader.channels, subtype=reader.subtype) as writer:
        for block in reader.blocks():
            writer.write(block)
    unit = 2**20 if sys.platform == "darwin" else 2**10
    return (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / unit


def write_with_room_for(room_bytes: str, path: str, seconds: str) -> str | None:
    """Writes a recording where files cannot grow beyond a size, as on a full disk; gives the error."""
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (int(room_bytes), resource.RLIM_INFINITY))
    try:
        write_audio(path, sound(int(float(seconds) * RATE)), RATE)
    except AudioError as error:
        return str(error)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
    return None


class Pipe(io.BytesIO):
    """What cannot go back, to fill in lengths."""

    def seekable(self) -> bool:
        return False


def encode_video(
    waveform: np.ndarray,
    container: str,
    codec: str,
    sampling_rate: int = RATE,
    kbps: int | None = None,
    into_a_pipe: bool = False,
    **muxing: str,
) -> bytes:
    """A file as ffmpeg writes it, through PyAV; `muxing` are the muxer's own options."""
    import av

    file = Pipe() if into_a_pipe else io.BytesIO()
    layout = "mono" if waveform.shape[0] == 1 else "stereo"
    with av.open(file, "w", format=container, options=muxing) as output:
        stream = output.add_stream(codec, rate=sampling_rate, layout=layout)
        frame = av.AudioFrame.from_ndarray(waveform, format="fltp", layout=layout)
        frame.sample_rate, frame.pts = sampling_rate, 0
        context = stream.codec_context
        if kbps is not None:
            context.bit_rate = kbps * 1_000
        context.open()  # before, it does not know its frames
        resampler = av.AudioResampler(
            format=context.format.name, layout=layout, rate=sampling_rate, frame_size=context.frame_size or 0
        )
        for part in [*resampler.resample(frame), *resampler.resample(None), None]:
            output.mux(stream.encode(part))
    return file.getvalue()
