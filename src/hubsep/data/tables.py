# SPDX-License-Identifier: Apache-2.0
"""Tables that users write: CSV with a header, in UTF-8, every row as long as the header. One place that reads them."""

from __future__ import annotations

import csv
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path

from ..errors import DataError


MAX_COLUMNS = 1_000
STEM_CHANNEL = re.compile(r"ch[0-9]{1,3}=[^=]+")
STEMS_EXAMPLE = "'drums bass other vocals' or 'ch0=accompaniment ch1=vocals'"
FILE_COLUMNS = ("path", "file_name", "file")  # the second is that of `datasets`' audio folders


class Row(dict[str, str]):
    """The cells of a row, by the names of their columns.

    Attributes:
        line: of the file, on which it ends; the first is 1.
    """

    def __init__(self, cells: Mapping[str, str], line: int) -> None:
        super().__init__(cells)
        self.line = line


def file_column(table: Path, row: Mapping[str, str], others: Sequence[str]) -> str:
    """The column that names the recordings.

    Args:
        table: for the error.
        row: of the table.
        others: columns that have to be there as well.

    Raises:
        DataError: if one of them is missing.
    """
    named = next((name for name in FILE_COLUMNS if name in row), None)
    if named is None or not set(others) <= row.keys():
        wanted = " and ".join(("path (or file_name)", *others))
        raise DataError(f"{table} must have the columns {wanted}, got {', '.join(map(str, row))}")
    return named


def read_table(table: Path) -> list[Row]:
    """The rows of a CSV by the names of its header; a byte order mark is no part of the first name.

    Raises:
        DataError: if it is no table in UTF-8, has no rows, two columns of one name or very many, or a row with another
            number of cells than the header; naming the line.
    """
    if table.exists() and not (table.is_file() or table.is_dir()):  # opening a pipe would wait for who writes into it
        raise DataError(f"{table} is a pipe, socket or device; write the table to a file")
    try:
        with table.open(encoding="utf-8-sig", newline="") as file:
            reader = csv.reader(file, strict=True)
            header = next(reader, [])
            if len(header) > MAX_COLUMNS:  # each row has all of them
                raise DataError(f"{table} has {len(header)} columns; at most {MAX_COLUMNS} are read")
            rows = [(reader.line_num, row) for row in reader if row]
    except UnicodeDecodeError as error:
        raise DataError(
            f"{table} is not a CSV file in UTF-8: byte {error.start} is {error.object[error.start]:#04x}; save it as "
            "CSV UTF-8"
        ) from error
    except OSError as error:
        raise DataError(f"{table} cannot be read: {error.strerror}") from error
    except csv.Error as error:
        raise DataError(f"{table} is not a CSV file in UTF-8: line {reader.line_num}: {error}") from error
    if not rows:
        raise DataError(
            f"{table} has no rows; write one for each recording, below a line with the names of the columns"
        )
    twice = sorted(name for name, count in Counter(header).items() if count > 1)
    if twice:
        raise DataError(f"{table} has more than one column {twice[0]!r}; only one of them can be meant")
    for line, row in rows:
        if len(row) != len(header):
            raise DataError(
                f"{table}, row {line}: it has {len(row)} cells, another number of cells than the first line has "
                f"columns ({len(header)}); put what holds a comma in double quotes"
            )
        if any("\0" in cell for cell in row):
            raise DataError(f"{table}, row {line}: a cell holds the character NUL, so this is no table of text")
    return [Row(dict(zip(header, row, strict=True)), line) for line, row in rows]


def inside(folder: Path, name: str, where: str) -> Path:
    """The path that a row names, which need not be there.

    Args:
        folder: resolved, which is done once for all rows.
        name: of the row.
        where: the row is.

    Raises:
        DataError: beginning with `where`, if it leads out of the folder, or is no name.
    """
    try:
        path = (folder / name).resolve()
        within = path.is_relative_to(folder)
    except (OSError, ValueError, RuntimeError) as error:  # RuntimeError: links in a circle, before Python 3.13
        raise DataError(f"{where}: {name!r} is not the name of a recording: {error}") from error
    if not within:
        raise DataError(f"{where}: {name!r} leaves the folder; copy the recording into it")
    return path


def stem_channels(text: str, where: str) -> dict[str, int] | None:
    """Which channel each stem of a recording is, by the column `stems`; None if each stem is a recording of its own.

    Args:
        text: of the column: `drums bass other vocals`, or `ch0=accompaniment ch1=vocals`.
        where: the row is.

    Raises:
        DataError: beginning with `where`, if it names nothing, a stem or a channel twice, or not every channel up to
            the last one that it names.
    """
    words = text.split()
    if not words:
        raise DataError(f"{where}: stems is empty; name them, as {STEMS_EXAMPLE}")
    in_channels = any("=" in word for word in words)
    wrong = next((word for word in words if in_channels and not STEM_CHANNEL.fullmatch(word)), None)
    if wrong:
        raise DataError(f"{where}: stems says {wrong!r}, in {text!r}; it must be as {STEMS_EXAMPLE}")
    names = [word.rpartition("=")[2] for word in words]
    if twice := next((name for name, count in Counter(names).items() if count > 1), None):
        raise DataError(
            f"{where}: stems names {twice!r} twice, in {text!r}; each stem is one channel, or one recording in a "
            "folder, which may be in stereo"
        )
    if not in_channels:
        return None
    channels = {name: int(word.partition("=")[0][2:]) for word, name in zip(words, names, strict=True)}
    for number, count in Counter(channels.values()).items():
        if count > 1:
            raise DataError(f"{where}: stems names channel {number} {count} times, in {text!r}; a channel is one stem")
    unnamed = sorted(set(range(max(channels.values()))) - set(channels.values()))
    if unnamed:
        raise unnamed_channel(unnamed[0], text, where)
    return channels


def unnamed_channel(number: int, text: str, where: str) -> DataError:
    """The error of a channel that the column `stems` does not name."""
    return DataError(
        f"{where}: stems does not name channel {number}, in {text!r}; name each channel (ch{number}=...), or write "
        "the recording without this one"
    )


def is_folder(path: Path) -> bool:
    """Whether there is such a folder; a name no file system would take is the name of none."""
    try:
        return path.is_dir()
    except (OSError, ValueError):
        return False


def is_file(path: Path) -> bool:
    """Whether there is such a file; a name no file system would take is the name of none."""
    try:
        return path.is_file()
    except (OSError, ValueError):
        return False


__all__ = [
    "FILE_COLUMNS", "Row", "file_column", "inside", "is_file", "is_folder", "read_table", "stem_channels",
    "unnamed_channel",
]  # fmt: skip
