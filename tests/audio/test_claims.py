# SPDX-License-Identifier: Apache-2.0
"""What files say of their own length and parts is compared with what they hold; none comes out shorter in silence."""

from __future__ import annotations

import io
import itertools
import struct
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import corpus
import numpy as np
import pytest
import soundfile as sf

from hubsep.audio import open_audio, read_audio
from hubsep.audio.chunks import caf_chunks, iff_chunks, w64_chunks
from hubsep.audio.ogg import page_checksum, read_pages
from hubsep.errors import AudioError


def refused_or_read(data: bytes, says: str) -> np.ndarray:
    """What is left of a damaged recording: an error unless that is asked for, and then one warning."""
    with pytest.raises(AudioError, match=f'cut short: .*{says}.*pass on_short="warn" to use what is there') as caught:
        read_audio(data)
    assert "\n" not in str(caught.value)
    with warnings.catch_warnings(record=True) as caught_warnings:
        warnings.simplefilter("always")
        waveform = read_audio(data, on_short="warn").waveform
    raised = [each for each in caught_warnings if issubclass(each.category, UserWarning)]  # not of files left open
    assert len(raised) == 1
    assert "cut short" in str(raised[0].message)
    return waveform


def read_in_silence(data: bytes) -> np.ndarray:
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        return read_audio(data).waveform


SECONDS = 4
OGG = {
    subtype: corpus.encode(corpus.sound(SECONDS * rate), rate, format="OGG", subtype=subtype)
    for subtype, rate in (("VORBIS", 44_100), ("OPUS", 48_000))
}
Pages = list[bytes]


def pages_of(data: bytes) -> Pages:
    starts = [at for at in range(len(data)) if data.startswith(b"OggS\0", at)]
    return [data[start:stop] for start, stop in zip(starts, [*starts[1:], len(data)], strict=True)]


def flipped(page: bytes, at: int) -> bytes:
    return page[:at] + bytes([page[at] ^ 0xFF]) + page[at + 1 :]


# what may happen to one page, and what is said of it
PAGE_FAULTS: dict[str, tuple[Callable[[bytes], bytes], str]] = {
    "a flipped byte of sound": (lambda page: flipped(page, len(page) - 9), "page at byte [0-9]+ is damaged"),
    "a flipped byte of its position": (lambda page: flipped(page, 8), "page at byte [0-9]+ is damaged"),
    "a flipped byte of its sizes": (lambda page: flipped(page, 30), "page at byte [0-9]+ is damaged|last page"),
    "a flipped byte of its number": (lambda page: flipped(page, 18), "page at byte [0-9]+ is damaged"),
    "its first bytes": (lambda page: b"X" + page[1:], "bytes at byte [0-9]+ are no page|last page is missing"),
    "zeros": (lambda page: bytes(len(page)), "bytes at byte [0-9]+ are no page|last page is missing"),
    "missing": (lambda page: b"", "has the number [0-9]+ where [0-9]+ should be|last page is missing"),
    "half of it": (lambda page: page[: len(page) // 2], "page at byte [0-9]+ is damaged|last page is missing"),
    "something before it": (lambda page: b"junk" + page, "the 4 bytes at byte [0-9]+ are no page"),
    "there twice": (lambda page: page + page, "has the number [0-9]+ where [0-9]+ should be"),
}


@pytest.mark.parametrize("fault", PAGE_FAULTS)
@pytest.mark.parametrize("place", ["first", "middle", "last"])
@pytest.mark.parametrize("subtype", OGG)
def test_damaged_pages_are_said(subtype: str, place: str, fault: str) -> None:
    pages = pages_of(OGG[subtype])
    at = {"first": 2, "middle": len(pages) // 2, "last": len(pages) - 1}[place]  # of those with sound
    damage, says = PAGE_FAULTS[fault]
    whole = read_audio(OGG[subtype]).waveform
    waveform = refused_or_read(b"".join([*pages[:at], damage(pages[at]), *pages[at + 1 :]]), says)
    assert 0 < waveform.shape[1] <= whole.shape[1]


@pytest.mark.parametrize("fault", PAGE_FAULTS)
def test_damaged_pages_of_the_second_recording_are_said(fault: str) -> None:
    whole, pages = OGG["VORBIS"], pages_of(OGG["VORBIS"])
    damage, says = PAGE_FAULTS[fault]
    waveform = refused_or_read(whole + b"".join([*pages[:3], damage(pages[3]), *pages[4:]]), says)
    assert waveform.shape[1] > SECONDS * 44_100, "the first is read whole"


@pytest.mark.parametrize("between", [b"z", b"OggS", bytes(50), b"TAG" + bytes(125), b"OggS\0" + bytes(99)])
def test_what_stands_between_recordings_is_said(between: bytes) -> None:
    waveform = refused_or_read(OGG["OPUS"] + between + OGG["OPUS"], "no page|is damaged")
    assert waveform.shape[1] == 2 * SECONDS * 48_000


def test_a_recording_that_lacks_its_end_is_said_wherever_it_stands() -> None:
    whole, pages = OGG["VORBIS"], pages_of(OGG["VORBIS"])
    refused_or_read(b"".join(pages[:-1]) + whole, "the last page before byte [0-9]+ is missing")
    for tail in (whole[:3], whole[:20], whole[:60], whole[:-1]):
        refused_or_read(whole + tail, "its last page is missing")


def test_a_chain_whose_end_claims_more_than_there_is() -> None:
    pages = pages_of(OGG["VORBIS"])
    position = int.from_bytes(pages[-1][6:14], "little") + 1_000_000
    last = pages[-1][:6] + position.to_bytes(8, "little") + pages[-1][14:]
    last = last[:22] + page_checksum(last) + last[26:]
    claims_more = b"".join([*pages[:-1], last])
    for data in (claims_more, claims_more + OGG["VORBIS"], OGG["VORBIS"] + claims_more):
        refused_or_read(data, "claims [0-9]+ samples and holds [0-9]+")


def test_whole_ogg_files_are_read_in_silence() -> None:
    for data in OGG.values():
        samples = read_in_silence(data).shape[1]
        for tail in (b"TAG" + bytes(125), bytes(5_000), b"made with Ogg", b"ID3" + b"OggS"):
            assert read_in_silence(data + tail).shape[1] == samples
        assert read_in_silence(data + data + data).shape[1] == 3 * samples
        with open_audio(data + data, offset_s=1.5 * SECONDS) as reader:
            assert reader.whole().shape[1] == samples // 2


@pytest.mark.parametrize("codec", ["flac", "libopus"])
def test_whole_ogg_files_of_ffmpeg_are_read_in_silence(codec: str) -> None:
    data = corpus.encode_video(corpus.sound(SECONDS * 48_000), "ogg", codec, 48_000)
    assert read_in_silence(data).shape[1] >= SECONDS * 48_000
    pages = pages_of(data)
    assert page_checksum(pages[3]) == pages[3][22:26]
    refused_or_read(b"".join([*pages[:3], *pages[4:]]), "has the number 4 where 3 should be")


SPAM = {
    "first bytes": b"OggS\0" * 100_000,
    "pages of no size": (b"OggS\0" + bytes(22)) * 20_000,
    "pages of no size, and others": (b"OggS\0" + bytes(22) + b"z") * 20_000,
    "pages of full size": (b"OggS\0" + bytes(21) + b"\xff" * 256) * 3_000,
    "pages apart": (b"OggS\0" + b"x" * 300) * 3_000,
}


@pytest.mark.parametrize("kind", SPAM)
def test_looking_for_pages_takes_no_time_beyond_the_file(kind: str) -> None:
    file = corpus.Counting(SPAM[kind])
    assert read_pages(file).fault
    assert file.count <= 8 * 2**20 + 40 * len(SPAM[kind])


def chunk_start(data: bytes, name: bytes) -> int:
    """Where the content of a chunk begins."""
    file = io.BytesIO(data)
    chunks = [*iff_chunks(file), *w64_chunks(file), *caf_chunks(file)]
    return next(chunk.start for chunk in chunks if chunk.name.startswith(name))


# where a header counts samples: the chunk, the place in it, how the number is written
COUNTS = {
    ("AIFF", "PCM_16"): [("COMM", 2, ">I")],
    ("AIFF", "FLOAT"): [("COMM", 2, ">I")],
    ("RF64", "PCM_16"): [("ds64", 16, "<Q")],
    ("WAV", "FLOAT"): [("fact", 0, "<I")],
    ("WAV", "ULAW"): [("fact", 0, "<I")],
    ("WAV", "MS_ADPCM"): [("fact", 0, "<I")],
    ("W64", "FLOAT"): [("fact", 0, "<Q")],
    ("CAF", "ALAC_16"): [("pakt", 8, ">q"), ("pakt", 0, ">q")],
}
SAMPLES = 20_500


@pytest.mark.parametrize(("format", "subtype"), COUNTS)
def test_headers_that_count_more_samples_than_there_are(format: str, subtype: str) -> None:
    data = corpus.encode(corpus.sound(SAMPLES), format=format, subtype=subtype)
    whole = read_in_silence(data)
    samples = whole.shape[1]
    says = f"claims [0-9]+ samples and holds {samples}"
    for chunk, place, form in COUNTS[format, subtype]:
        at = chunk_start(data, chunk.encode()) + place
        for count in (samples + 1, 3 * samples, 2**31, 2**32 - 2):
            changed = bytearray(data)
            struct.pack_into(form, changed, at, count)
            assert np.array_equal(refused_or_read(bytes(changed), says), whole)
            if format == "RF64":
                assert np.array_equal(refused_or_read(b"BW64" + bytes(changed[4:]), says), whole)
        for count in (0, 1, 5, *([2**32 - 1, samples - 1] if chunk != "pakt" else [])):  # nothing is missing
            struct.pack_into(form, changed, at, count)
            if (chunk, count) != ("COMM", 0):
                assert np.array_equal(read_in_silence(bytes(changed)), whole)


@pytest.mark.parametrize("lost", [1, 2, 300, 10_000])
@pytest.mark.parametrize("subtype", ["PCM_16", "FLOAT", "ALAW"])
def test_caf_files_that_lack_their_end(subtype: str, lost: int) -> None:
    data = corpus.encode(corpus.sound(SAMPLES), format="CAF", subtype=subtype)
    left = refused_or_read(data[:-lost], "claims [0-9]+ bytes of audio and holds [0-9]+")
    assert 0 < SAMPLES - left.shape[1] <= lost


@pytest.mark.parametrize("counted", [1, 5, SAMPLES - 1, SAMPLES // 2])
@pytest.mark.parametrize("tail", [b"", b"TAG" + bytes(125)])
def test_flac_files_that_count_less_than_they_hold(counted: int, tail: bytes) -> None:
    """libsndfile stops at that count."""
    data = corpus.encode(corpus.sound(SAMPLES), format="FLAC", subtype="PCM_16")
    waveform = refused_or_read(corpus.flac_claiming(data, counted) + tail, f"counts {counted} samples, and it holds")
    assert np.array_equal(waveform, read_in_silence(data))


def test_wave_files_that_count_the_samples_of_all_channels_are_read_in_silence() -> None:
    data = bytearray(corpus.encode(corpus.sound(SAMPLES), format="WAV", subtype="FLOAT"))
    struct.pack_into("<I", data, chunk_start(bytes(data), b"fact"), 2 * SAMPLES)
    assert read_in_silence(bytes(data)).shape == (2, SAMPLES)


def test_whole_files_of_libsndfile_are_read_in_silence() -> None:
    """Of every kind that counts something, also of few samples and of an odd number."""
    for format in ("WAV", "WAVEX", "RF64", "W64", "AIFF", "CAF", "FLAC", "AU"):
        for subtype in sf.available_subtypes(format):
            for channels, samples in itertools.product((1, 2), (100, 20_011)):
                waveform = 0.5 * corpus.sound(samples, channels)
                try:
                    data = corpus.encode(waveform, 8_000, format=format, subtype=subtype)
                except sf.LibsndfileError:
                    continue
                if subtype not in UNREADABLE:
                    assert read_in_silence(data).shape[1] >= samples, (format, subtype, channels)


UNREADABLE = {"DWVW_12", "DWVW_16", "DWVW_24"}  # by libsndfile, forwards
STREAMED = [
    ("wav", "pcm_s16le", {}), ("wav", "pcm_f32le", {}), ("wav", "adpcm_ms", {}),
    ("wav", "libmp3lame", {}), ("w64", "pcm_s16le", {}),
    ("wav", "pcm_f32le", {"rf64": "always"}), ("aiff", "pcm_s16be", {}), ("aiff", "adpcm_ima_qt", {}),
    ("caf", "pcm_s16be", {}), ("flac", "flac", {}),
]  # fmt: skip


@pytest.mark.parametrize("into_a_pipe", [False, True])
@pytest.mark.parametrize(("container", "codec", "options"), STREAMED)
def test_whole_files_of_ffmpeg_are_read_in_silence(
    container: str, codec: str, options: dict[str, Any], into_a_pipe: bool
) -> None:
    """What it writes into a pipe has no lengths; of some kinds that looks like a recorder's crash, which is said."""
    data = corpus.encode_video(corpus.sound(SAMPLES), container, codec, into_a_pipe=into_a_pipe, **options)
    if into_a_pipe and (container == "aiff" or options):
        refused_or_read(data, "never finished")
    else:
        assert SAMPLES <= read_in_silence(data).shape[1] <= SAMPLES + 4_096


# their headers do not say how much there is; that of XI does, but not as libsndfile writes it
UNCOUNTED = {"PAF", "PVF", "IRCAM", "RAW", "XI"}
ODD = {"SD2", "SDS"}  # two files; one that libsndfile does not read to its end itself, which is then said


@pytest.mark.parametrize("format", sorted(set(sf.available_formats()) - UNCOUNTED - ODD))
def test_no_format_is_cut_short_in_silence(format: str, tmp_path: Path) -> None:
    """Every format that libsndfile writes, with every encoding that it has there."""
    tried = 0
    for subtype, channels in itertools.product(sf.available_subtypes(format), (1, 2)):
        path = tmp_path / f"{subtype}-{channels}.{format.lower()}"  # some formats are written by a name alone
        try:
            sf.write(path, corpus.sound(SAMPLES)[:channels].T, 8_000, format=format, subtype=subtype)
        except sf.LibsndfileError:
            continue  # not at this rate, or not for so many channels
        data = path.read_bytes()
        whole = read_in_silence(data)
        assert len(whole) == channels
        assert SAMPLES <= whole.shape[1] < SAMPLES + 2_500  # some have whole blocks
        tried += 1
        for share in (0.3, 0.9, 0.98):
            path.write_bytes(data[: int(len(data) * share)])
            with warnings.catch_warnings():
                warnings.simplefilter("error", UserWarning)
                with pytest.raises(AudioError, match=r"cut short|damaged|is not"):
                    read_audio(path)
    assert tried
