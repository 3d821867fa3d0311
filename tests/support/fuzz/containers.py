# SPDX-License-Identifier: Apache-2.0
"""The tables of the containers that recordings come in, taken apart and put together with one thing that is a lie.

Each `..._lie` takes a file that is whole and gives one that is not; checksums are made anew, so that decoders get to
what is wrong. What cannot be found in a file that was changed before leaves it as it is.
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from random import Random

from fuzz.cases import Case
from fuzz.values import lying_size


Lie = Callable[[bytes, Case], bytes]
DEEPEST = 50
TREE = (b"moov", b"trak", b"mdia", b"minf", b"stbl", b"edts", b"dinf", b"udta", b"meta")  # atoms that hold atoms
JUNK = (b"LIST", b"id3 ", b"fact", b"smpl", b"cue ", b"bext", b"PEAK", b"ds64", b"fmt ", b"data", b"JUNK", b"COMM")


def chunks_of(data: bytes, order: str) -> list[tuple[bytes, bytes]]:
    """Names and contents of the chunks of a RIFF or AIFF file; the last one has what is left."""
    chunks, start = [], 12
    while start + 8 <= len(data):
        name, size = struct.unpack_from(f"{order}4sI", data, start)
        chunks.append((name, data[start + 8 : start + 8 + size]))
        start += 8 + size + size % 2
    return chunks


def chunk_lie(data: bytes, case: Case) -> bytes:
    """WAV, RF64 and AIFF: a size, an order, a number or a field of the format."""
    random, order = case.random, ">" if data[:4] in (b"FORM", b"RIFX") else "<"
    chunks = chunks_of(data, order)
    lied: dict[int, int] = {}
    if not chunks:
        return data
    place = random.randrange(len(chunks))
    name, content = chunks[place]
    roll = random.randrange(7)
    case.note(f"chunk {name!a}, change {roll}")
    if roll == 0:
        lied[place] = lying_size(len(content), random)
        case.note(f"size {lied[place]}")
    elif roll == 1:
        chunks.insert(
            random.randrange(len(chunks) + 1),
            (random.choice(JUNK), random.randbytes(random.choice([0, 1, 4, 28, 60, 1_000]))),
        )
    elif roll == 2:
        chunks.insert(random.randrange(len(chunks) + 1), chunks[place])
    elif roll == 3:
        del chunks[place]
    elif roll == 4:
        random.shuffle(chunks)
    elif roll == 5:
        many = random.choice([100, 9_999, 20_000])
        chunks[place:place] = [(random.choice(JUNK[:7]), b"")] * many
    else:
        chunks = [(name, format_lie(name, content, random, order)) for name, content in chunks]
    body = b"".join(
        name + struct.pack(f"{order}I", lied.get(number, len(content)) % 2**32) + content + bytes(len(content) % 2)
        for number, (name, content) in enumerate(chunks)
    )
    total = lying_size(len(body) + 4, random) if case.chance(0.1) else len(body) + 4
    return data[:4] + struct.pack(f"{order}I", total % 2**32) + data[8:12] + body


def format_lie(name: bytes, content: bytes, random: Random, order: str) -> bytes:
    """A field of `fmt ` or `COMM` that is another."""
    changed = bytearray(content)
    if name == b"fmt " and len(changed) >= 16:
        at, code, values = random.choice(
            [
                (0, "H", [0, 1, 2, 3, 6, 7, 0x11, 0x31, 0x50, 0x55, 0x161, 0xFFFE, 0xFFFF]),
                (2, "H", [0, 1, 3, 64, 255, 1_024, 65_535]),
                (4, "I", [0, 1, 999, 44_099, 768_000, 2**31, 2**32 - 1]),
                (8, "I", [0, 2**32 - 1]),
                (12, "H", [0, 1, 3, 65_535]),
                (14, "H", [0, 1, 7, 8, 12, 24, 33, 64, 65_535]),
            ]
        )
        struct.pack_into(f"{order}{code}", changed, at, random.choice(values))
    elif name == b"COMM" and len(changed) >= 18:
        at, code, values = random.choice(
            [(0, "H", [0, 1, 3, 65_535]), (2, "I", [0, 1, 2**31, 2**32 - 1]), (6, "H", [0, 1, 12, 64, 65_535])]
        )
        struct.pack_into(f"{order}{code}", changed, at, random.choice(values))
        if random.random() < 0.3:
            changed[8:18] = random.choice([bytes(10), b"\xff" * 10, b"\x40\x0e" + bytes(8)])
    return bytes(changed)


def flac_lie(data: bytes, case: Case) -> bytes:
    """A field of the stream's description, or a block of metadata."""
    random, start = case.random, data.find(b"fLaC") + 4
    if start < 4 or len(data) < start + 38:
        return data
    info = bytearray(data[start : start + 38])
    roll = random.randrange(4)
    case.note(f"FLAC, change {roll}")
    if roll == 0:
        at = random.randrange(4, 38)
        info[at] = random.choice([0, 1, 0x7F, 0x80, 0xFF, random.randrange(256)])
    elif roll == 1:
        info[1:4] = lying_size(34, random, 24).to_bytes(3, "big")
    elif roll == 2:
        samples = int.from_bytes(info[14:22], "big")
        info[14:22] = (samples & ~(2**36 - 1) | random.choice([0, 1, 2**20, 2**36 - 1])).to_bytes(8, "big")
    else:
        info[0] &= 0x7F
        kind, content = random.choice([1, 2, 3, 4, 5, 6, 126]), random.randbytes(random.choice([0, 4, 100, 40_000]))
        size = len(content) if case.chance(0.6) else lying_size(len(content), random, 24)
        return data[:start] + bytes(info) + bytes([kind]) + size.to_bytes(3, "big") + content + data[start + 38 :]
    return data[:start] + bytes(info) + data[start + 38 :]


def ogg_pages(data: bytes) -> list[bytes]:
    """The pages of an Ogg file, and what is left as the last."""
    pages, start = [], 0
    while data[start : start + 4] == b"OggS" and start + 27 <= len(data):
        segments = data[start + 26]
        stop = start + 27 + segments + sum(data[start + 27 : start + 27 + segments])
        pages.append(data[start:stop])
        start = stop
    return [*pages, data[start:]] if start < len(data) else pages


def ogg_lie(data: bytes, case: Case) -> bytes:
    """A page lost, doubled, moved or with another header; its checksum is right."""
    random, pages = case.random, ogg_pages(data)
    place = random.randrange(len(pages))
    roll = random.randrange(7)
    case.note(f"Ogg page {place} of {len(pages)}, change {roll}")
    page = bytearray(pages[place])
    if roll == 0:
        del pages[place]
    elif roll == 1:
        pages.insert(place, pages[place])
    elif roll == 2:
        random.shuffle(pages)
    elif roll == 3 and len(page) > 27:
        page[6:14] = random.choice([0, 1, 2**31, 2**62, 2**63 - 1, 2**64 - 1]).to_bytes(8, "little")
        pages[place] = with_crc(page)
    elif roll == 4 and len(page) > 27:
        at = random.choice([4, 5, 14, 18, 22, 26, 27])
        page[at % len(page)] = random.choice([0, 1, 2, 4, 6, 255])
        pages[place] = with_crc(page)
    elif roll == 5 and len(page) > 60:  # the header of the codec: channels, rate, gain
        at = random.randrange(27 + page[26], min(len(page), 27 + page[26] + 40))
        page[at] = random.choice([0, 1, 2, 0x7F, 0xFF])
        pages[place] = with_crc(page)
    else:
        pages = pages * random.choice([2, 3, 40])
    return b"".join(pages)


def _crc_table() -> list[int]:
    table = []
    for byte in range(256):
        value = byte << 24
        for _ in range(8):
            value = (value << 1 ^ (0x04C11DB7 if value & 0x80000000 else 0)) & 0xFFFFFFFF
        table.append(value)
    return table


CRC = _crc_table()


def with_crc(page: bytearray) -> bytes:
    """A page with the checksum it should have."""
    page[22:26], value = bytes(4), 0
    for byte in page:
        value = (value << 8 ^ CRC[value >> 24 ^ byte]) & 0xFFFFFFFF
    page[22:26] = value.to_bytes(4, "little")
    return bytes(page)


def mp3_lie(data: bytes, case: Case) -> bytes:
    """A tag, a header that counts frames, or frames."""
    random, roll = case.random, case.random.randrange(6)
    case.note(f"MP3, change {roll}")
    if roll == 0:
        size = lying_size(10, random, 28)
        head = bytes([size >> 21 & 127, size >> 14 & 127, size >> 7 & 127, size & 127])
        return b"ID3\x03\0" + bytes([random.choice([0, 0x10, 0x40, 0xFF])]) + head + data
    if roll == 1:
        at = max(data.find(b"Xing"), data.find(b"Info"))
        change = struct.pack(
            ">III", random.choice([0, 1, 3, 15, 2**31]), lying_size(40, random), lying_size(len(data), random)
        )
        return data[: at + 4] + change + data[at + 16 :] if at > 0 else data
    frames = data.split(data[:2])
    if roll == 2 and len(frames) > 3:
        del frames[random.randrange(2, len(frames))]
    elif roll == 3:
        frames[1:1] = frames[1:] * random.choice([1, 20])
    elif roll == 4:
        changed = bytearray(data)
        for _ in range(random.choice([1, 5])):
            changed[data.find(data[:2], random.randrange(len(data))) + random.choice([1, 2, 3])] ^= (
                1 << random.randrange(8)
            )
        return bytes(changed)
    else:
        return data + b"TAG" + random.randbytes(125) + data
    return data[:2].join(frames)


def mp4_lie(data: bytes, case: Case) -> bytes:
    """An atom's size, number or content; sizes of those around it follow unless they are the lie."""
    random, atoms = case.random, list(atoms_of(data, 0, len(data)))
    if not atoms:
        return data
    inner = [atom for atom in atoms if atom[2] not in (b"mdat", b"free")]
    start, stop, name = random.choice(inner or atoms)
    roll = random.randrange(6)
    case.note(f"atom {name!a}, change {roll}")
    changed = bytearray(data)
    if roll == 0:
        changed[start : start + 4] = lying_size(stop - start, random).to_bytes(4, "big")
        return bytes(changed)
    if roll in (1, 2) and stop - start >= 16:
        at = (
            random.randrange(start + 8, stop - 3)
            if roll == 1
            else random.choice(range(start + 12, min(stop - 3, start + 32), 4) or [start + 8])
        )
        value = random.choice([0, 1, 2**16, 2**31 - 1, 2**31, 2**32 - 1, 5_000_000, 100_000_000])
        changed[at : at + 4] = value.to_bytes(4, "big")
        case.note(f"{value} at {at - start}")
        return bytes(changed)
    if roll == 3:
        new = b""
    elif roll == 4:
        new = data[start:stop] * random.choice([2, 100])
    else:
        depth = random.choice([10, 2_000])
        new = b"".join(
            (8 * (depth - level)).to_bytes(4, "big") + random.choice([b"moov", b"trak", b"udta"])
            for level in range(depth)
        )
    return resized(changed, atoms, start, stop, new)


def resized(data: bytearray, atoms: list[tuple[int, int, bytes]], start: int, stop: int, new: bytes) -> bytes:
    """A part replaced, and the atoms around it made to fit."""
    for first, last, _ in atoms:
        if first < start and last >= stop and (first, last) != (start, stop):
            size = last - first + len(new) - (stop - start)
            data[first : first + 4] = (size % 2**32).to_bytes(4, "big")
    return bytes(data[:start]) + new + bytes(data[stop:])


def atoms_of(data: bytes, start: int, stop: int, depth: int = 0) -> list[tuple[int, int, bytes]]:
    """Start, end and name of all atoms down to `DEEPEST`: one lie after another nests them by the thousand."""
    found: list[tuple[int, int, bytes]] = []
    while start + 8 <= stop and depth <= DEEPEST:
        size, name = struct.unpack_from(">I4s", data, start)
        if size < 8 or start + size > stop:
            break
        found.append((start, start + size, name))
        if name in TREE:
            found += atoms_of(data, start + (12 if name == b"meta" else 8), start + size, depth + 1)
        elif name in (b"stsd", b"dref"):
            found += atoms_of(data, start + 16, start + size, depth + 1)
        start += size
    return found


def ebml_lie(data: bytes, case: Case) -> bytes:
    """Matroska: the size of an element, or a byte of one of the first hundred, which describe the tracks."""
    random, changed = case.random, bytearray(data)
    marks = [
        b"\x18\x53\x80\x67",
        b"\x16\x54\xae\x6b",
        b"\xae",
        b"\x1f\x43\xb6\x75",
        b"\xe1",
        b"\x63\xa2",
        b"\x15\x49\xa9\x66",
        b"\x9f",
        b"\xb5",
        b"\xa3",
    ]
    mark = random.choice(marks)
    at = data.find(mark)
    case.note(f"element {mark.hex()} at {at}")
    if at < 0:
        return data
    at += len(mark)
    changed[at : at + 1] = random.choice(
        [b"\x01\xff\xff\xff\xff\xff\xff\xff", b"\xff", b"\x80", b"\x00", b"\x81", b"\x10\xff\xff\xff", b"\x40\x01"]
    )
    return bytes(changed)


def repeated(case: Case) -> bytes:
    """Megabytes of one small thing, for whoever needs the square of its length."""
    pieces = {
        "frames of MP3": b"\xff\xfb\x90\x00",
        "syncs": b"\xff",
        "syncs apart": b"\xff\xfb\x10\x00\x00",
        "tags": b"ID3\x03\0\0\0\0\0\0",
        "empty pages": b"OggS\0\2" + bytes(20) + b"\0",
        "first pages": b"OggS\0\2" + bytes(20) + b"\1\x1e\x01vorbis" + bytes(23),
        "chunks": b"LIST\0\0\0\0",
        "syncs of FLAC": b"\xff\xf8\xc9\x18",
        "atoms": b"\0\0\0\x08free",
        "voids": b"\xec\x80",
        "ADTS": b"\xff\xf1\x50\x80\x00\xff\xfc",
        "nested": b"\0\x10\0\0moov",
        "layer 2": b"\xff\xfd\x10\x00",
        "free format": b"\xff\xfb\x00\x00",
    }
    heads = {
        "none": b"",
        "wav": b"RIFF\xff\xff\xff\xffWAVE",
        "flac": b"fLaC",
        "mp4": b"\0\0\0\x18ftypM4A \0\0\0\0M4A mp42isom",
        "mkv": b"\x1a\x45\xdf\xa3\x80\x18\x53\x80\x67\xff",
        "mp3": b"\xff\xfb\x90\x64",
    }
    piece = case.choose(pieces)
    return case.choose(heads) + piece * (case.random.choice([20_000, 500_000, 3_000_000]) // len(piece))


LIES: dict[str, Lie] = {
    "wav": chunk_lie,
    "float": chunk_lie,
    "rf64": chunk_lie,
    "aiff": chunk_lie,
    "adpcm": chunk_lie,
    "avi": chunk_lie,
    "flac": flac_lie,
    "ogg": ogg_lie,
    "opus": ogg_lie,
    "oggflac": ogg_lie,
    "mp3": mp3_lie,
    "vbr": mp3_lie,
    "m4a": mp4_lie,
    "alac": mp4_lie,
    "mov": mp4_lie,
    "mkv": ebml_lie,
    "webm": ebml_lie,
}


__all__ = ["LIES", "repeated"]
