# SPDX-License-Identifier: Apache-2.0
"""Files that leave a folder somebody else made: opened, copied and listed in one place.

What is copied is read with the rights of whoever runs this, and may be published. A link named `card.json` would hand
out any file of theirs, so nothing here follows one: each folder on the way and the file itself are opened without
following links, and what was opened is what is checked, so nobody can exchange it in between. Refused are links,
pipes, sockets and devices, names that lead out of the folder, and hard links, which are a second name of a file that
may lie anywhere. Two exceptions: the Hub's own cache, whose links lead to its `blobs/`, and the folders inside this
package, which package managers link from their stores.
"""

from __future__ import annotations

import os
import shutil
import stat
from collections.abc import Callable, Iterable
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import BinaryIO

from ..errors import CheckpointError
from .bounds import shown
from .checks import MAX_ENTRIES, MAX_FOLDER_DEPTH, blob_folders


PACKAGE = Path(__file__).resolve().parents[1]
COPY_IT = "Replace it by a copy of the file it names."
# O_NONBLOCK: opening a pipe must not wait for somebody to write into it
READ = os.O_RDONLY | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0)


def opened(folder: Path, name: str) -> BinaryIO:
    """Opens a file of a folder for reading, if it is a regular file that lies in it.

    Args:
        folder: may be a link itself: it is what the user named.
        name: of the file, relative, with forward slashes.

    Raises:
        CheckpointError: if it is missing, is no regular file, or is or may be one of another place.
    """
    if not stays_inside(name):
        raise CheckpointError(f"{shown(name)} is not the name of a file in the folder.")
    root = folder.resolve()
    try:
        if (root / name).is_symlink():
            root, name = in_cache(root, name)
        file = _opened(root, name)
    except FileNotFoundError:
        raise CheckpointError(f"{shown(str(folder))} holds no {shown(name)}.") from None
    except OSError as error:
        reason = f"cannot be read ({error.strerror}), or a folder on the way to it is a link"
        raise CheckpointError(f"{shown(name)} {reason}.") from error
    try:
        _check(os.fstat(file.fileno()), root, name)
    except CheckpointError:
        file.close()
        raise
    return file


def _opened(root: Path, name: str) -> BinaryIO:
    """Opens step by step, so that no folder on the way can be a link."""
    *folders, last = PurePosixPath(name).parts
    if os.open not in os.supports_dir_fd or not hasattr(os, "O_NOFOLLOW"):
        return _opened_by_path(root, folders, last, name)
    place = os.open(root, os.O_RDONLY | os.O_DIRECTORY)
    try:
        for folder in folders:
            below = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW, dir_fd=place)
            os.close(place)
            place = below
        # devices may do something when they are opened
        _check(os.stat(last, dir_fd=place, follow_symlinks=False), root, name)
        return os.fdopen(os.open(last, READ, dir_fd=place), "rb")
    finally:
        os.close(place)


def _opened_by_path(root: Path, folders: Iterable[str], last: str, name: str) -> BinaryIO:
    """The same where the system cannot open relative to a folder: looked at before and after."""
    path = root
    for folder in folders:
        path /= folder
        if path.is_symlink() or path.resolve() != path:
            raise CheckpointError(f"{shown(name)} lies in a folder that is a link. {COPY_IT}")
    before = os.lstat(path / last)
    _check(before, root, name)
    file = (path / last).open("rb")
    if not os.path.samestat(before, os.fstat(file.fileno())):
        file.close()
        raise CheckpointError(f"{shown(name)} was exchanged while it was opened.")
    return file


def _check(status: os.stat_result, root: Path, name: str) -> None:
    if stat.S_ISLNK(status.st_mode):
        raise CheckpointError(f"{shown(name)} is a link to a place outside the folder. {COPY_IT}")
    if not stat.S_ISREG(status.st_mode):
        raise CheckpointError(f"{shown(name)} is a pipe, socket, device or folder, not a regular file.")
    if status.st_nlink > 1 and not root.is_relative_to(PACKAGE):
        raise CheckpointError(
            f"{shown(name)} is a hard link: the same file has another name, which may be anywhere. {COPY_IT}"
        )


def in_cache(root: Path, name: str) -> tuple[Path, str]:
    """Where a link of the Hub's cache leads: the folder of blobs, and the name in it.

    Raises:
        CheckpointError: if it leads anywhere else.
    """
    try:
        target = (root / name).resolve(strict=True)
    except (OSError, RuntimeError):
        raise CheckpointError(f"{shown(name)} is a link that leads nowhere.") from None
    for blobs in blob_folders(root):
        if target.is_relative_to(blobs):
            return blobs, target.relative_to(blobs).as_posix()
    raise CheckpointError(f"{shown(name)} is a link to a place outside the folder. {COPY_IT}")


def stays_inside(name: str) -> bool:
    """Whether a relative name stays in its folder, read by the rules of POSIX and of Windows."""
    paths = (PurePosixPath(name), PureWindowsPath(name))
    return bool(name) and "\0" not in name and not any(path.anchor or ".." in path.parts for path in paths)


def is_named(path: Path) -> bool:
    """Whether there is anything of that name, a link that leads nowhere included."""
    return os.path.lexists(path)


def read_file(folder: Path, name: str, limit: int) -> bytes:
    """What a file of a folder holds, at most `limit` bytes.

    Raises:
        CheckpointError: as `opened`, or if it is larger.
    """
    with opened(folder, name) as file:
        content = file.read(limit + 1)
    if len(content) > limit:
        raise CheckpointError(f"{shown(name)} has more than {limit} bytes, the most that are accepted.")
    return content


def copy_file(folder: Path, name: str, target: Path) -> None:
    """Copies a file of a folder to a place of our own, whose folders are made.

    Raises:
        CheckpointError: as `opened`.
    """
    with opened(folder, name) as file:
        target.parent.mkdir(parents=True, exist_ok=True)
        with target.open("wb") as copy:
            shutil.copyfileobj(file, copy, 1 << 20)


def file_names(folder: Path, *, left_out: Callable[[str], bool] = lambda name: False) -> list[str]:
    """Names of all files of a folder and of those in it, relative, with forward slashes.

    Args:
        folder: that is gone through.
        left_out: whether a file or folder is passed by, asked with its name without folders.

    Raises:
        CheckpointError: if there is anything but folders and files that `opened` opens, or a name is not UTF-8.
    """
    names: list[str] = []
    pending, entries = [("", 0)], 0
    root = folder.resolve()
    while pending:
        place, depth = pending.pop()
        for entry in sorted(os.scandir(root / place), key=lambda entry: entry.name):
            entries += 1
            if entries > MAX_ENTRIES or depth > MAX_FOLDER_DEPTH:
                raise CheckpointError(
                    f"{shown(str(folder))} holds more than {MAX_ENTRIES} files or {MAX_FOLDER_DEPTH} levels of "
                    "folders: it is not a model's folder."
                )
            if left_out(entry.name):
                continue
            name = f"{place}{entry.name}"
            if not name.isascii() and not _is_unicode(name):
                raise CheckpointError(f"{shown(name)} has a name that is not UTF-8, as the Hub's are. Rename it.")
            if entry.is_dir(follow_symlinks=False):
                pending.append((f"{name}/", depth + 1))
                continue
            if entry.is_symlink():
                in_cache(root, name)
            else:
                _check(os.lstat(entry.path), root, name)
            names.append(name)
    return sorted(names)


def _is_unicode(name: str) -> bool:
    """Whether a name can be written in UTF-8; Python keeps bytes that cannot be read as such as half a letter each."""
    return not any("\ud800" <= letter <= "\udfff" for letter in name)


def copy_folder(folder: Path, target: Path, *, left_out: Callable[[str], bool] = lambda name: False) -> None:
    """Copies all files of a folder into one of our own; what it holds of the same name is replaced.

    Raises:
        CheckpointError: as `file_names`.
    """
    for name in file_names(folder, left_out=left_out):
        copy_file(folder, name, target / name)


__all__ = ["copy_file", "copy_folder", "file_names", "in_cache", "is_named", "opened", "read_file", "stays_inside"]
