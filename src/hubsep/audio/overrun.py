# SPDX-License-Identifier: Apache-2.0
"""Headers that count fewer bytes of audio than the file holds, which libsndfile believes without a word.

A recorder writes the sizes every few seconds, and crashes in between; a size of 32 bits starts anew at 4 GiB; a file
is put behind another. Decisions: bytes behind the audio that are no chunks of the container are audio, and are read as
far as they go, as those of a file that is cut short. Those that programs put there are none: chunks, with and without
a byte of padding; tags of ID3 and APE; zeros; text, as of a form that was sent; a chunk that is cut itself. Where the
size is open, as in a file that was written into a pipe, what is behind the largest one is no fault, and is read.
"""

from __future__ import annotations

import codecs
import os
import struct
from collections.abc import Iterator
from typing import BinaryIO, NamedTuple

from .chunks import W64_NAMES, Chunk, caf_chunks, flac_stop, iff_chunks, w64_chunks
from .counts import UNKNOWN_SIZES
from .mp3_frames import id3_size


Patches = dict[int, bytes]
LARGEST = 2**32 - 2
SEARCHED_AT_ONCE = 2**20
FEWEST_BYTES = 64  # fewer are not worth a word, whatever they are
MOST_CHUNKS = 10_000
SSND_HEAD = 8  # bytes before the samples of an AIFF file
ANOTHER = "only the first of several recordings in this file can be read"
BEGINNINGS = (b"RIFF", b"RIFX", b"RF64", b"BW64", b"FORM", b"riff", b"caff", b".snd", b"dns.", b"fLaC", b"OggS")
AUDIO_CHUNKS = (b"data", b"SSND", b"BODY")
# of which one that is cut may be the last thing in a file
USUAL_CHUNKS = frozenset(
    b"LIST INFO id3  ID3  bext iXML axml chna cue  smpl inst plst acid afsp PEAK fact DISP JUNK junk PAD  FLLR _PMX"
    b" cart umid ubxt levl minf elm1 regn strc ResU LGWV LGDA ovwf AFAn NAME AUTH (c)  ANNO COMT MARK INST MIDI APPL"
    b" CHAN info strg mark peak uuid free edct ovvw midi umid".split()
)


class Overrun(NamedTuple):
    """What a header would say where, what is wrong with it, if something is, and where the audio ends, in bytes."""

    patches: Patches
    fault: str | None
    stop: int | None = None


class _Audio(NamedTuple):
    """Where the audio is.

    Attributes:
        start: in bytes.
        declared: bytes of it.
        width: bytes of a sample of all channels.
        kind: of the container.
        chunk: that holds it, if it has chunks.
        extra: where the sizes of ds64, or the count of samples, stand.
    """

    start: int
    declared: int
    width: int
    kind: str
    chunk: Chunk | None = None
    extra: int | None = None


def overrun(file: BinaryIO) -> Overrun:
    """What a header does not count of a WAVE, RF64, Wave64, AIFF, AU or CAF file; nothing of others.

    Args:
        file: seekable; it is left somewhere else.
    """
    audio = _audio(file)
    stop = flac_stop(file)  # behind which are tags
    nothing = Overrun({}, None)
    if audio is None or audio.declared <= 0 or audio.start + audio.declared >= stop:
        return nothing
    end = audio.start + audio.declared
    open_ended = audio.declared in UNKNOWN_SIZES
    rest = _rest(file, audio, end, stop)
    if rest is None:
        return nothing
    if rest == ANOTHER:
        return nothing if open_ended else Overrun({}, ANOTHER)
    if audio.kind == "wav":
        stop = next((at for at in range(end + 2**32, stop, 2**32) if _rest(file, audio, at, stop) is None), stop)
    there = stop - audio.start
    patches = _patches(file, audio, there)
    if patches is None:
        return nothing
    fault = None if open_ended else f"its header counts {audio.declared} bytes of audio, and there are {there}"
    return Overrun(patches, fault, stop)


def wave_sizes(chunk: Chunk, size: int, there: int) -> Patches:
    """What the header of a WAVE file would say; above 4 GiB what makes libsndfile go on to the end of the file.

    Args:
        chunk: of the audio.
        size: of the file in bytes.
        there: bytes of audio.
    """
    order = ">I" if chunk.big else "<I"
    whole, audio = (size - 8, there) if max(size - 8, there) <= LARGEST else (8, 0)
    return {4: struct.pack(order, whole), chunk.start - 4: struct.pack(order, audio)}


def _audio(file: BinaryIO) -> _Audio | None:
    file.seek(0)
    magic = file.read(24)
    if magic[:4] in (b".snd", b"dns.") and len(magic) == 24:
        start, size, _, _, channels = struct.unpack(">5I" if magic[:4] == b".snd" else "<5I", magic[4:])
        return _Audio(start, size, max(1, channels), "au")
    if magic[:4] == b"riff":
        data = next((chunk for chunk in w64_chunks(file) if chunk.name == W64_NAMES["data"]), None)
        return None if data is None else _Audio(data.start, data.size, 1, "w64", data)
    if magic[:4] == b"caff":
        data = next((chunk for chunk in caf_chunks(file) if chunk.name == b"data"), None)
        return None if data is None else _Audio(data.start, data.size, 1, "caf", data)
    return _iff_audio(file)


def _iff_audio(file: BinaryIO) -> _Audio | None:
    """Of WAVE, RF64 and AIFF."""
    width, extra, long_size = 1, None, None
    for chunk in iff_chunks(file):
        if chunk.name == b"ds64" and chunk.size >= 24:
            extra, long_size = chunk.start, int.from_bytes(chunk.read(16)[8:], "little")
        elif chunk.name == b"fmt ":
            width = max(1, int.from_bytes(chunk.read(14)[12:], "big" if chunk.big else "little"))
        elif chunk.name == b"COMM":
            channels, count, bits = struct.unpack(">HIH", chunk.read(8).ljust(8, b"\0"))
            width, extra, long_size = max(1, channels * -(-bits // 8)), chunk.start + 2, count
        elif chunk.name == b"data" and long_size is not None and chunk.size == 0xFFFF_FFFF:
            return _Audio(chunk.start, long_size, width, "rf64", chunk, extra)
        elif chunk.name == b"data":
            return _Audio(chunk.start, chunk.size, width, "wav", chunk)
        elif chunk.name == b"SSND":
            return _Audio(chunk.start, chunk.size, width, "aiff", chunk, extra)
    return None


def _patches(file: BinaryIO, audio: _Audio, there: int) -> Patches | None:
    """What the header would say, None if that cannot be known."""
    chunk, size = audio.chunk, file.seek(0, os.SEEK_END)
    if chunk is None:
        return {8: b"\xff" * 4}
    if audio.kind == "w64":
        return {16: struct.pack("<Q", size), chunk.start - 8: struct.pack("<Q", there + 24)}
    if audio.kind == "caf":
        return {chunk.start - 8: struct.pack(">q", there)}
    if audio.kind == "rf64" and audio.extra is not None:
        return {audio.extra: struct.pack("<QQQ", size - 8, there, there // audio.width)}
    if audio.kind == "wav":
        return wave_sizes(chunk, size, there)
    if audio.extra is None or there > LARGEST:
        return None
    file.seek(audio.extra)
    count = int.from_bytes(file.read(4), "big")
    if count * audio.width != audio.declared - SSND_HEAD:  # a codec
        return None
    return {
        4: struct.pack(">I", size - 8),
        chunk.start - 4: struct.pack(">I", there),
        audio.extra: struct.pack(">I", (there - SSND_HEAD) // audio.width),
    }


def _rest(file: BinaryIO, audio: _Audio, start: int, stop: int) -> str | None:
    """What is behind the audio: None if nothing that is heard, `ANOTHER`, or "audio"."""
    for at, name in _chunks(file, audio.kind, start, stop):
        start = at
        if name[:4] in (*BEGINNINGS, *AUDIO_CHUNKS):
            return ANOTHER
    start = _first_not_zero(file, start, stop)
    if stop - start < max(FEWEST_BYTES, audio.width):
        return None
    file.seek(start)
    head = file.read(4_096)
    if head[:4] in BEGINNINGS:
        return ANOTHER
    whole = next((at for at, name in _chunks(file, audio.kind, start, stop) if at >= stop), None) is not None
    return None if whole or id3_size(head[:10]) or head[:4] in USUAL_CHUNKS or _is_text(head) else "audio"


def _chunks(file: BinaryIO, kind: str, start: int, stop: int) -> Iterator[tuple[int, bytes]]:
    """Where each whole chunk ends, and its name."""
    form = {"w64": "<16sQ", "caf": ">4sq", "aiff": ">4sI"}.get(kind, "<4sI")
    head_size = struct.calcsize(form)
    for _ in range(MOST_CHUNKS if kind != "au" else 0):
        for at in {start, start + (-start % 8 if kind == "w64" else start % 2)}:
            file.seek(at)
            head = file.read(head_size)
            name, size = struct.unpack(form, head) if len(head) == head_size else (b"\0", 0)
            end = at + size + (0 if kind == "w64" else head_size)
            if all(32 <= letter < 127 for letter in name[:4]) and at + head_size <= end <= stop:
                start = end
                yield end, name
                break
        else:
            return


def _first_not_zero(file: BinaryIO, start: int, stop: int) -> int:
    file.seek(start)
    while start < stop and (block := file.read(min(SEARCHED_AT_ONCE, stop - start))):
        if left := block.lstrip(b"\0"):
            return start + len(block) - len(left)
        start += len(block)
    return stop


def _is_text(head: bytes) -> bool:
    try:
        text = codecs.getincrementaldecoder("utf-8")().decode(head)
    except UnicodeDecodeError:
        return False
    return all(letter.isprintable() or letter in "\t\r\n\0" for letter in text)


__all__ = ["ANOTHER", "Overrun", "overrun", "wave_sizes"]
