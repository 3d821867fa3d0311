# SPDX-License-Identifier: Apache-2.0
"""What soundfile cannot say in the header of a file that it wrote: the layout of its channels, and notes.

Decisions: it is put there when the file is complete, before it gets its name. What takes more room than there was
moves the samples. A WAVE file of more than two channels is one with a channel mask, of zero where no layout is known:
libsndfile would call any four channels "quad".
"""

from __future__ import annotations

import os
import struct
import warnings
from typing import BinaryIO

from .chunks import W64_NAMES, Chunk, caf_chunks, flac_blocks, iff_chunks, w64_chunks
from .formats import PCM_BITS
from .layout_headers import AMBISONIC_GUID
from .layouts import AMBISONIC_B, BITMAP_TAG, SPEAKERS, Layout, codec_order, codec_speakers, ordered
from .notes import Notes, id3_tag


MOVED_AT_ONCE = 2**20
WAVE_TAIL = bytes.fromhex("000000001000800000aa00389b71")  # of SubFormat, behind the tag of the format
WAVE_BITS = 2**32 - 1
TAGGED_FORMATS = frozenset({"WAV", "RF64", "AIFF", "CAF", "FLAC", "OGG"})


def write_layout(file: BinaryIO, format: str, subtype: str, channels: int, layout: Layout | None) -> None:
    """Says in a finished file what its channels are.

    Args:
        file: open for reading and writing.
        format: that was written.
        subtype: that was written.
        channels: of the recording.
        layout: of the recording, None where it is not known.
    """
    if format in ("WAV", "RF64"):
        _mask_wave(file, layout or Layout())
    elif layout is None or subtype in ("VORBIS", "OPUS"):
        return
    elif format == "W64" and subtype in PCM_BITS:  # libsndfile takes masked floats for integers
        _mask_wave64(file, layout)
    elif format in ("CAF", "AIFF") and (layout.tag or layout.fits(channels)):
        order = codec_order(subtype, channels, layout)
        _describe_core_audio(file, layout, order, caf=format == "CAF")
    elif format == "FLAC" and layout.tag == 0 and layout != ordered(codec_speakers("FLAC", channels))[0]:
        _comment_flac(file, f"WAVEFORMATEXTENSIBLE_CHANNEL_MASK=0x{layout.mask & WAVE_BITS:04X}")
    elif (channels > 2 or layout.tag) and (format not in ("CAF", "AIFF", "FLAC") or layout.tag):
        said = f"{format} has no place for the layout of channels, {layout}; wav, flac and caf have"
        warnings.warn(said, UserWarning, stacklevel=4)


def write_notes(file: BinaryIO, format: str, sampling_rate: int, notes: Notes) -> None:
    """Puts into a finished file what soundfile does not write: the time line of a WAVE file, the cover of a FLAC file.

    Args:
        file: open for reading and writing.
        format: that was written.
        sampling_rate: in Hz.
        notes: of the recording.
    """
    if format in ("WAV", "RF64") and (broadcast := notes.of_stem(sampling_rate)):
        # libsndfile 1.2.2 loses its way behind a chunk of odd length in RF64; the history may end with a zero
        odd = format == "RF64" and len(broadcast) % 2
        insert_chunk(file, b"bext", broadcast + bytes(odd))
    elif format == "MP3":
        replace_bytes(file, 0, 0, id3_tag(notes.tags))
    elif format == "FLAC" and notes.picture:
        first = next(flac_blocks(file))
        start = first.start + first.size  # behind the one that has to be first
        head = b"\6" + len(notes.picture).to_bytes(3, "big")
        replace_bytes(file, start, start, head + notes.picture)


def replace_bytes(file: BinaryIO, start: int, stop: int, content: bytes) -> int:
    """Puts other bytes in the place of those from `start` to `stop`; what follows moves.

    Returns:
        How many bytes the file has more.
    """
    more = len(content) - (stop - start)
    end = file.seek(0, os.SEEK_END)
    blocks = range(stop, end, MOVED_AT_ONCE)
    for at in (reversed(blocks) if more > 0 else blocks) if more else ():
        file.seek(at)
        block = file.read(min(MOVED_AT_ONCE, end - at))
        file.seek(at + more)
        write_all(file, block)
    file.truncate(end + more)
    file.seek(start)
    write_all(file, content)
    return more


def write_all(file: BinaryIO, content: bytes) -> None:
    """Writes all of it, which a file without buffer may not do at once."""
    left = memoryview(content)
    while left:
        left = left[file.write(left) :]


def add_to_size(file: BinaryIO, at: int, more: int, form: str) -> None:
    """Changes a size that stands in the header."""
    file.seek(at)
    size = struct.unpack(form, file.read(struct.calcsize(form)))[0]
    file.seek(at)
    write_all(file, struct.pack(form, size + more))


def _mask_wave(file: BinaryIO, layout: Layout) -> None:
    chunk = next((chunk for chunk in iff_chunks(file) if chunk.name == b"fmt "), None)
    if chunk is None or chunk.read(2) != b"\xfe\xff":
        return
    file.seek(chunk.start + 20)
    write_all(file, struct.pack("<I", layout.mask & WAVE_BITS))
    if layout.tag == AMBISONIC_B:
        file.seek(chunk.start + 28)
        write_all(file, AMBISONIC_GUID)


def _mask_wave64(file: BinaryIO, layout: Layout) -> None:
    chunk = next((chunk for chunk in w64_chunks(file) if chunk.name == W64_NAMES["fmt "]), None)
    if chunk is None or chunk.read(2) != b"\1\0":
        return
    plain = chunk.read(16)
    tail = plain[:2] + (AMBISONIC_GUID if layout.tag == AMBISONIC_B else WAVE_TAIL).rjust(14, b"\0")
    content = b"\xfe\xff" + plain[2:] + struct.pack("<HHI", 22, *struct.unpack("<H", plain[14:]), 0)
    content = content[:20] + struct.pack("<I", layout.mask & WAVE_BITS) + tail
    padded = chunk.size + -chunk.size % 8
    name = struct.pack("<16sQ", W64_NAMES["fmt "], 24 + len(content))
    more = replace_bytes(file, chunk.start - 24, chunk.start + padded, name + content)
    add_to_size(file, 16, more, "<Q")


def _describe_core_audio(file: BinaryIO, layout: Layout, order: tuple[int, ...] | None, *, caf: bool) -> None:
    tag, bitmap = (layout.tag, 0) if layout.tag else (BITMAP_TAG, layout.mask)
    content = struct.pack(">III", tag, bitmap & WAVE_BITS, 0)
    if order is not None:  # each channel by itself
        labels = [1 + SPEAKERS.index(layout.speakers[channel]) for channel in order]
        content = struct.pack(">III", 0, 0, len(labels)) + b"".join(struct.pack(">I16x", label) for label in labels)
    if caf:
        chunk = next(chunk for chunk in caf_chunks(file) if chunk.name == b"data")
        replace_bytes(file, chunk.start - 12, chunk.start - 12, struct.pack(">4sq", b"chan", len(content)) + content)
    else:
        insert_chunk(file, b"CHAN", content)


def insert_chunk(file: BinaryIO, name: bytes, content: bytes) -> None:
    """Adds a chunk to a WAVE or AIFF file, before the audio."""
    chunk: Chunk = next(chunk for chunk in iff_chunks(file) if chunk.name in (b"data", b"SSND"))
    head = struct.pack(">4sI" if chunk.big else "<4sI", name, len(content))
    start = chunk.start - 8
    more = replace_bytes(file, start, start, head + content + bytes(len(content) % 2))
    file.seek(0)
    if file.read(4) == b"RF64":
        add_to_size(file, 20, more, "<Q")
    else:
        add_to_size(file, 4, more, ">I" if chunk.big else "<I")


def _comment_flac(file: BinaryIO, comment: str) -> None:
    block = next(block for block in flac_blocks(file) if block.name == b"\4")
    content = block.read(block.size)
    vendor = 4 + int.from_bytes(content[:4], "little")
    count = int.from_bytes(content[vendor : vendor + 4], "little")
    text = comment.encode()
    content = content[:vendor] + struct.pack("<I", count + 1) + content[vendor + 4 :]
    content += struct.pack("<I", len(text)) + text
    replace_bytes(file, block.start - 3, block.start + block.size, len(content).to_bytes(3, "big") + content)


__all__ = [
    "TAGGED_FORMATS",
    "add_to_size",
    "insert_chunk",
    "replace_bytes",
    "write_all",
    "write_layout",
    "write_notes",
]
