# SPDX-License-Identifier: Apache-2.0
"""MP4 files with tables that lie about how many samples there are: refused before memory is spent on them."""

from __future__ import annotations

import io
from collections.abc import Iterator
from contextlib import suppress
from typing import Any

import corpus
import numpy as np
import pytest
from children import Children

from hubsep.audio import open_audio, read_audio
from hubsep.audio.tables import MAX_BOXES, check_tables
from hubsep.errors import AudioError


av = pytest.importorskip("av", reason="needs PyAV: pip install 'hubsep[video]'")

SOUND = corpus.sound(20_000, channels=1)
M4A = corpus.encode_video(SOUND, "ipod", "aac")
MOV = corpus.encode_video(SOUND, "mov", "pcm_s16le")
FRAGMENTS = corpus.encode_video(SOUND, "mp4", "aac", movflags="frag_keyframe+empty_moov+default_base_moof")
PARENTS = {b"moov", b"trak", b"mdia", b"minf", b"stbl", b"edts", b"moof", b"traf", b"udta", b"mvex", b"dinf"}
MANY = 100_000_000


def numbers(*values: int) -> bytes:
    return b"".join(value.to_bytes(4, "big") for value in values)


def boxes(data: bytes, start: int = 0, stop: int | None = None, above: tuple[int, ...] = ()) -> Iterator[Any]:
    """Name, place, size and the places of the boxes around it, of each."""
    stop = len(data) if stop is None else stop
    while start + 8 <= stop:
        size, name = int.from_bytes(data[start : start + 4], "big"), data[start + 4 : start + 8]
        yield name, start, size, above
        if name in PARENTS:
            yield from boxes(data, start + 8, start + size, (*above, start))
        start += size


def changed(data: bytes, name: bytes, content: bytes, *, new: bytes = b"") -> bytes:
    """The file with other content in its first box of a name, or with a new box behind that one."""
    _, place, size, above = next(box for box in boxes(data) if box[0] == name)
    box = numbers(len(content) + 8) + (new or name) + content
    start, stop = (place + size,) * 2 if new else (place, place + size)
    result = bytearray(data[:start] + box + data[stop:])
    for parent in above:
        old = int.from_bytes(data[parent : parent + 4], "big")
        result[parent : parent + 4] = numbers(old + len(result) - len(data))
    return bytes(result)


def put(data: bytes, name: bytes, at: int, value: int) -> bytes:
    """The file with another number in its first box of a name."""
    place = next(box[1] for box in boxes(data) if box[0] == name) + 8 + at
    return data[:place] + numbers(value) + data[place + 4 :]


def hidden(data: bytes, name: bytes, content: bytes) -> bytes:
    """The file with a box in a place where the standard has none."""
    return changed(data, b"smhd", numbers(len(content) + 8) + name + content, new=b"wave")


LIES = {
    "equal sizes": changed(M4A, b"stsz", numbers(0, 1, MANY)),
    "equal sizes and everything to match": changed(
        changed(changed(M4A, b"stsz", numbers(0, 1, MANY)), b"stts", numbers(0, 1, MANY, 1_024)),
        b"stsc", numbers(0, 1, 1, MANY, 1),
    ),
    "equal sizes, said to be uncompressed": changed(
        changed(put(M4A, b"hdlr", 8, int.from_bytes(b"vide", "big")), b"stsz", numbers(0, 1, MANY)),
        b"stts", numbers(0, 1, 1_000_000, 1),
    ),
    "equal sizes, elsewhere": hidden(M4A, b"stsz", numbers(0, 1, MANY)),
    "sizes": put(M4A, b"stsz", 8, MANY),
    "short sizes": changed(M4A, b"stts", numbers(0, 8, MANY) + bytes(100), new=b"stz2"),
    "shortest sizes": changed(M4A, b"stts", numbers(0, 4, MANY) + bytes(100), new=b"stz2"),
    "durations": put(M4A, b"stts", 4, MANY),
    "runs of durations": changed(M4A, b"stts", numbers(0, 2, 2**31 - 1, 1_024, 2**31 - 1, 1)),
    "offsets in time": changed(M4A, b"stts", numbers(0, MANY, 1, 1), new=b"ctts"),
    "runs of offsets in time": changed(M4A, b"stts", numbers(0, 1, 2**31 - 1, 1), new=b"ctts"),
    "chunks": put(M4A, b"stsc", 4, MANY),
    "samples of a chunk": changed(MOV, b"stsc", numbers(0, 1, 1, 2**31 - 1, 1)),
    "samples of many chunks": changed(
        changed(MOV, b"stsc", numbers(0, 1, 1, 1_000_000, 1)), b"stco", numbers(0, 1_000) + numbers(36) * 1_000
    ),
    "places of chunks": put(M4A, b"stco", 4, MANY),
    "far places of chunks": changed(M4A, b"stco", numbers(0, MANY, 0, 36), new=b"co64"),
    "edits": put(M4A, b"elst", 4, MANY),
    "groups": put(M4A, b"sgpd", 12, MANY),
    "long groups": put(M4A, b"sgpd", 8, 2**31 - 1),
    "members of groups": put(M4A, b"sbgp", 8, MANY),
    "key frames": changed(M4A, b"stts", numbers(0, MANY, 1), new=b"stss"),
    "samples of a fragment": changed(FRAGMENTS, b"trun", numbers(0, MANY)),
    "samples of many fragments": changed(
        FRAGMENTS, b"trun", (numbers(16) + b"trun" + numbers(0, 3_000)) * 20, new=b"traf"
    ),
    "listed samples of a fragment": put(FRAGMENTS, b"trun", 4, MANY),
    "keys": hidden(M4A, b"keys", numbers(0, MANY) + bytes(16)),
    "pictures": hidden(M4A, b"iinf", bytes([1, 0, 0, 0]) + numbers(MANY) + bytes(16)),
    "places of pictures": hidden(M4A, b"iloc", bytes([2, 0, 0, 0, 0, 0]) + numbers(MANY) + bytes(16)),
    "what belongs to pictures": hidden(M4A, b"ipma", numbers(0, MANY) + bytes(16)),
    "directions": hidden(M4A, b"SA3D", numbers(0, 9_999 << 16, 10_000**2) + bytes(16)),
    "a compressed header": changed(M4A, b"mvhd", numbers(0) + bytes(20), new=b"cmov"),
    "a table longer than the file": put(put(M4A, b"stsz", -8, 2**31 - 1), b"stsz", 8, 2**28),
}  # fmt: skip


@pytest.fixture(scope="module")
def child() -> Iterator[Children]:
    children = Children("corpus")
    yield children
    children.close()


@pytest.mark.parametrize(
    "data",
    [M4A, MOV, FRAGMENTS, changed(M4A, b"stsz", numbers(0, 1, 100)),
     hidden(M4A, b"keys", numbers(0, 1, 12) + b"mdtaabcd"), hidden(M4A, b"iinf", numbers(0, 0)),
     hidden(M4A, b"iloc", bytes([1, 0, 0, 0, 0, 0, 0, 1]) + bytes(10)),
     hidden(M4A, b"SA3D", numbers(0, 1 << 16, 4, 0, 1, 2, 3))],
)  # fmt: skip
def test_honest_tables_pass(data: bytes) -> None:
    check_tables(io.BytesIO(data), "audio")


@pytest.mark.parametrize(("container", "flags"), [("ipod", ""), ("mov", ""), ("mov", "use_metadata_tags")])
@pytest.mark.parametrize(
    "title", ["Lost my keys 5", "The trunk song: a trunk", "Kilocycles, ipma SA3D iinf 123 keys!"]
)
def test_titles_may_hold_the_names_of_tables(container: str, flags: str, title: str) -> None:
    data = io.BytesIO()
    with av.open(data, "w", format=container, options={"movflags": flags} if flags else {}) as file:
        file.metadata.update(title=title, artist="Prince", comment=title)
        stream = file.add_stream("aac", rate=8_000)
        frame = av.AudioFrame.from_ndarray(SOUND[:, :1_024].astype(np.float32), format="fltp", layout="mono")
        frame.sample_rate = 8_000
        for packet in (*stream.encode(frame), *stream.encode(None)):
            file.mux(packet)
    assert title.encode() in data.getvalue()
    check_tables(data, "audio")
    assert read_audio(data.getvalue()).waveform.shape[1] > 0


def test_a_table_that_lies_is_found_behind_a_text_and_in_what_only_looks_like_one() -> None:
    box = numbers(48) + b"keys" + numbers(0, MANY) + bytes(32)
    for before in (b"free", b"data", b"\xa9nam"):
        text = numbers(16) + before + bytes(8)
        short = numbers(2**31) + before + bytes(8)  # FFmpeg cuts it at the end of what is around it, and then goes on
        for content in (text + box, short + box, numbers(4) + before + box):
            with pytest.raises(AudioError, match="table keys claims"):
                check_tables(io.BytesIO(changed(M4A, b"smhd", content, new=b"wave")), "audio")


def test_honest_files_are_read() -> None:
    assert np.abs(read_audio(MOV).waveform - SOUND).max() < 2**-15
    for data in (M4A, FRAGMENTS):
        with open_audio(data) as reader:
            assert sum(block.shape[1] for block in reader.blocks()) >= 20_000


@pytest.mark.parametrize("lie", LIES)
def test_tables_that_lie_are_refused(lie: str) -> None:
    with pytest.raises(AudioError, match="cannot be decoded; it is damaged or cut short") as caught:
        read_audio(LIES[lie], on_short="warn")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("lie", ["keys", "pictures", "equal sizes", "samples of a fragment", "samples of many chunks"])
def test_tables_that_lie_take_no_memory(lie: str, child: Children, tmp_path: Any) -> None:
    """Without the check these took 57 MB to 1.2 GB."""
    path = tmp_path / "a.m4a"
    path.write_bytes(LIES[lie])
    found = child("memory_of_reading", path)
    assert found["error"] is not None
    assert found["grown_mb"] < 25


@pytest.mark.slow
@pytest.mark.parametrize(
    "filler",
    [
        b"stsz" * 1_000_000,
        numbers(0) + b"stts" + numbers(0, 1),
        numbers(8) + b"free",
        numbers(0) + b"stsz" + bytes(12),
    ],
)
def test_checking_costs_no_more_than_the_bytes(filler: bytes) -> None:
    content = (filler * (4_000_000 // len(filler)))[:4_000_000]
    data = M4A[:28] + (content if filler.endswith(b"free") else numbers(len(content) + 8) + b"udta" + content)
    file = corpus.Counting(data + M4A[28:])
    with suppress(AudioError):
        check_tables(file, "audio")
    assert file.count <= 3 * len(data), "two more reads for each of at most 200,000 names"
    assert file.calls <= 4 * MAX_BOXES
