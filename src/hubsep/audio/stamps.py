# SPDX-License-Identifier: Apache-2.0
"""The same samples are the same bytes: what libsndfile puts into a file of the moment it was written.

Floating point WAV and AIFF files get a PEAK chunk with the time of day; it becomes 0, which is what the format says
when nobody knows. The pages of an Ogg file bear a number that tells chained and multiplexed streams apart and is drawn
at random; it becomes a checksum of the file's content, so different recordings still have different ones. A checksum
of a page covers its number. That of another number follows from the old one without the content of the page, because
a CRC is linear (RFC 3533; polynomial 0x04c11db7).
"""

from __future__ import annotations

import os
import zlib
from functools import lru_cache
from typing import BinaryIO


PEAK_TIME = 4  # bytes of the chunk before it: the version of its layout
POLYNOMIAL = 0x104C11DB7
SERIAL = 14  # where the number of a stream is in the header of an Ogg page, then that of the page, then the checksum
CHECKSUM = 22
SEGMENTS = 26
CHUNKED = {b"RIFF": "little", b"FORM": "big"}


def remove_stamps(file: BinaryIO) -> None:
    """Takes the moment of writing out of a finished file; one of another format stays as it is.

    Args:
        file: open for reading and writing.
    """
    file.seek(0)
    kind = file.read(4)
    if kind in CHUNKED:
        _remove_peak_time(file, big=CHUNKED[kind] == "big")
    elif kind == b"OggS":
        _set_serial(file)


def _remove_peak_time(file: BinaryIO, *, big: bool) -> None:
    end = file.seek(0, os.SEEK_END)
    position = 12
    while position + 8 <= end:
        file.seek(position)
        name, size = file.read(4), int.from_bytes(file.read(4), "big" if big else "little")
        if name == b"PEAK":
            file.seek(position + 8 + PEAK_TIME)
            file.write(bytes(4))
        if name in (b"PEAK", b"data", b"SSND"):  # it stands before the samples
            return
        position += 8 + size + size % 2


def _set_serial(file: BinaryIO) -> None:
    """Gives all pages one number that follows from what they hold."""
    end, position, pages = file.seek(0, os.SEEK_END), 0, []
    while position + SEGMENTS < end:
        file.seek(position)
        header = file.read(SEGMENTS + 1)
        size = len(header) + header[SEGMENTS] + sum(file.read(header[SEGMENTS]))
        number, checksum = header[SERIAL : SERIAL + 4], int.from_bytes(header[CHECKSUM : CHECKSUM + 4], "little")
        pages.append((position, size, checksum ^ _part(number, size)))
        position += size
    serial = zlib.crc32(b"".join(checksum.to_bytes(4, "little") for *_, checksum in pages)).to_bytes(4, "little")
    for position, size, checksum in pages:
        file.seek(position + SERIAL)
        file.write(serial)
        file.seek(position + CHECKSUM)
        file.write((checksum ^ _part(serial, size)).to_bytes(4, "little"))


def _part(number: bytes, size: int) -> int:
    """What the number of a stream adds to the checksum of a page of so many bytes."""
    return _product(int.from_bytes(number, "big"), _power(8 * (size - SERIAL)))


@lru_cache(maxsize=1024)
def _power(exponent: int) -> int:
    """x to this power, modulo the polynomial."""
    if exponent == 0:
        return 1
    half = _power(exponent // 2)
    square = _product(half, half)
    return _product(square, 2) if exponent % 2 else square


def _product(first: int, second: int) -> int:
    """The product of two polynomials over bits, modulo that of the checksum."""
    result = 0
    for bit in range(31, -1, -1):
        result <<= 1
        if result >> 32:
            result ^= POLYNOMIAL
        if second >> bit & 1:
            result ^= first
    return result


__all__ = ["remove_stamps"]
