# SPDX-License-Identifier: Apache-2.0
"""Folders that appear complete or not at all.

A folder is written next to its place as `NAME.tmp-PID-HEX`, put on the disk (fsync of every file and folder), sealed
by `manifest.json`, and moved in by a rename. Where the target exists, Linux exchanges the two folders in one step;
elsewhere the old folder steps aside first, as `NAME.old-PID-HEX`.

A process may be killed between any two instructions. The file `.hubsep-unfinished` says what is what: beside the
target, a folder with it may be deleted; in the target, it lists what is still to be moved over from the old folder.
It is written first into a new folder and leaves the target last, so the next call can always finish or undo. That call
is any `atomic_folder` on the same target, or `recover`. What belongs to a process that is still alive is left alone;
so is what another computer left on a shared disk, until it is a day old.

Such a file may have come along with a folder. It names entries of the old folder and nothing else: plain names, so
that nothing is moved from elsewhere, through a link or a path. What is no such list is refused, and nothing is moved.
"""

from __future__ import annotations

import ctypes
import errno
import json
import os
import re
import secrets
import shutil
import stat
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from ..errors import CheckpointError
from .bounds import shown
from .copies import copy_file
from .json_files import MAX_INDEX_BYTES, read_json_value
from .manifest import MANIFEST, fsync, listed_files, verify_manifest, write_manifest
from .naming import FULL, of_the_system
from .processes import host, in_use, locked


MARKER = ".hubsep-unfinished"
MODEL_FILES = (".json", ".model", ".safetensors", ".txt")  # of a component
COPY_SUFFIXES = (".json", ".md", ".model", ".txt")
RENAME_EXCHANGE = 2
AT_FDCWD = -100

Keep = Callable[[str], bool]


@contextmanager
def atomic_folder(
    target: str | os.PathLike[str], *, overwrite: bool = True, keep: Keep | None = None
) -> Iterator[Path]:
    """Give an empty folder to write into; it takes the place of `target` when the block ends without an error.

    What an existing target holds is replaced. With `keep`, those of its entries stay for which `keep(name)` is true
    and the block wrote nothing of that name: small text files are there from the start, the rest is moved afterwards.
    Without it, a target holding files that no manifest lists is refused, because they would be lost; with it, so are
    such files in a folder of the target that does not stay.

    Raises:
        CheckpointError: the target exists and `overwrite` is false, or holds foreign files, or cannot be replaced.
    """
    target = Path(target).resolve()
    with _our_errors(target):
        target.parent.mkdir(parents=True, exist_ok=True)
        recover(target)
        _check_target(target, overwrite, keep)
        staging = target.with_name(f"{target.name}.tmp-{os.getpid()}-{host()}{secrets.token_hex(4)}")
        staging.mkdir()
    try:
        with _our_errors(target):
            (staging / MARKER).touch()
            if keep is not None:
                with locked(target.parent):
                    _copy_small_files(target, staging, keep)
        with _errors_of_writing(staging, target):
            yield staging
        with _our_errors(target):
            write_manifest(staging, skip=(MARKER,), share_weights=True)
            with locked(target.parent):
                _swap(staging, target, keep)
    finally:
        with _our_errors(target), locked(target.parent):
            _clear(staging, target)


def recover(target: str | os.PathLike[str]) -> None:
    """Finish or undo what processes that were killed while replacing `target` left next to it."""
    target = Path(target).resolve()
    if target.parent.is_dir():
        with _our_errors(target), locked(target.parent):
            _recover(target)


def _recover(target: Path) -> None:
    pattern = re.compile(re.escape(target.name) + r"\.(tmp|old)-(\d+)-([0-9a-f]{4})[0-9a-f]{8}")
    busy = False
    # an old folder first: it may have to go back to its place, which decides what an unfinished one is
    for path in sorted(target.parent.iterdir(), key=lambda path: (".old-" not in path.name, path.name)):
        match = pattern.fullmatch(path.name)
        if match is None or path.is_symlink() or not path.is_dir():
            continue
        if in_use(path, int(match[2]), match[3]):
            busy = True
        elif match[1] == "old" and not _is_marked(path) and not target.exists():
            os.rename(path, target)
        else:
            _clear(path, target)
    if not busy and target.is_dir() and _is_marked(target):
        (target / MARKER).unlink()


def _clear(leftover: Path, target: Path) -> None:
    """Delete a leftover folder if it is unfinished or spent; first move what the target still waits for."""
    if not leftover.exists():
        return
    if not _is_marked(leftover):
        if not _is_marked(target):
            if not any(leftover.iterdir()):  # killed right after it was made
                leftover.rmdir()
            return  # not ours to judge: it may be the only copy
        _finish(leftover, target)
    _delete(leftover)


def _check_target(target: Path, overwrite: bool, keep: Keep | None) -> None:
    if not target.exists():
        return
    if not target.is_dir():
        raise CheckpointError(f"{shown(str(target))} is a file; name a folder.")
    if Path.cwd().is_relative_to(target):
        raise CheckpointError(f"{shown(str(target))} is the working folder of this process; name a folder in it.")
    if not overwrite and any(target.iterdir()):
        raise CheckpointError(f"{shown(str(target))} exists; choose another folder or allow overwriting.")
    own_files = {MANIFEST, *(listed_files(target) if (target / MANIFEST).is_file() else ())}
    is_model = (target / "model_index.json").is_file()  # diffusers lists nothing
    for path in target.rglob("*"):
        name = path.relative_to(target).as_posix()
        if keep is not None and ("/" not in name or keep(name.partition("/")[0])):
            continue
        is_own = name in own_files or (keep is not None and is_model and path.suffix in MODEL_FILES)
        if not is_own and (path.is_symlink() or not path.is_dir()):
            raise CheckpointError(
                f"{shown(str(target))} holds {shown(name)}, which hubsep did not write and would delete. Choose a new "
                "folder."
            )


def _swap(staging: Path, target: Path, keep: Keep | None) -> None:
    old_names = os.listdir(target) if target.exists() else []
    waiting = [name for name in old_names if keep is not None and keep(name) and not os.path.lexists(staging / name)]
    (staging / MARKER).write_text(json.dumps(waiting), encoding="utf-8")
    fsync(staging / MARKER)
    fsync(staging)
    if target.exists():
        shutil.copymode(target, staging)
    if not old_names:
        if os.name != "posix" and target.exists():  # there, a rename cannot replace even an empty folder
            target.rmdir()
        os.rename(staging, target)
        (target / MARKER).unlink()
    else:
        old = staging if _exchange(staging, target) else _step_aside(staging, target)
        fsync(target.parent)
        _finish(old, target)
        _delete(old)
    fsync(target.parent)


def _finish(old: Path, target: Path) -> None:
    """Move what the target waits for, then mark the old folder as spent and the target as finished."""
    for name in _waiting(target / MARKER):
        if os.path.lexists(old / name) and not os.path.lexists(target / name):
            os.rename(old / name, target / name)
    (old / MARKER).touch()
    (target / MARKER).unlink(missing_ok=True)


def _is_marked(folder: Path) -> bool:
    marker = folder / MARKER
    if not os.path.lexists(marker):
        return False
    if not stat.S_ISREG(marker.lstat().st_mode):  # nothing is read or written through a link
        raise CheckpointError(f"{shown(str(marker), 200)} is no regular file: hubsep did not write it. Delete it.")
    return True


def _waiting(marker: Path) -> list[str]:
    if marker.stat().st_size == 0:
        return []
    label = shown(str(marker), 200)
    names = read_json_value(marker, MAX_INDEX_BYTES, name=label)
    if not isinstance(names, list) or not all(map(_is_plain, names)):
        raise CheckpointError(f"{label} is no list of names of files: hubsep did not write it. Delete it.")
    return names


def _is_plain(name: object) -> bool:
    """Whether it is the name of an entry of a folder, and no path."""
    if not isinstance(name, str) or name in ("", ".", "..", MARKER) or "\0" in name:
        return False
    return not any(separator in name for separator in ("/", os.sep, os.altsep or "/"))


def _step_aside(staging: Path, target: Path) -> Path:
    """The fall-back: two renames, between which the target is absent and `recover` finds the old folder."""
    old = target.with_name(staging.name.replace(".tmp-", ".old-"))
    os.rename(target, old)
    try:
        os.rename(staging, target)
    except BaseException:
        os.rename(old, target)
        raise
    return old


def _exchange(first: Path, second: Path) -> bool:
    """Exchange two folders in one step, or return False where the system or the file system cannot."""
    if sys.platform != "linux":
        return False
    function = getattr(ctypes.CDLL(None, use_errno=True), "renameat2", None)
    if function is None:  # glibc before 2.28, musl
        return False
    if function(AT_FDCWD, os.fsencode(first), AT_FDCWD, os.fsencode(second), RENAME_EXCHANGE) == 0:
        return True
    code = ctypes.get_errno()
    if code in (errno.EINVAL, errno.ENOSYS, errno.ENOTSUP, errno.EPERM):
        return False
    raise OSError(code, os.strerror(code), str(second))


def _copy_small_files(source: Path, staging: Path, keep: Keep) -> None:
    for path in source.iterdir() if source.is_dir() else ():
        wanted = keep(path.name) and path.suffix in COPY_SUFFIXES and path.name != MANIFEST
        if wanted and path.is_file():
            copy = staging / path.name
            copy.touch(mode=0o600)  # nobody else reads it before it has its own mode
            try:
                copy_file(source, path.name, copy)
                shutil.copymode(path, copy)
            except CheckpointError:
                copy.unlink()  # a link is moved as it is, with what else stays


def _delete(folder: Path) -> None:
    """Delete a marked folder, the marker last: a deletion that is killed leaves something that can still be told."""
    for path in folder.iterdir():
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path, ignore_errors=True)
        elif path.name != MARKER:
            path.unlink(missing_ok=True)
    shutil.rmtree(folder, ignore_errors=True)


@contextmanager
def _our_errors(target: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise CheckpointError(
            f"{shown(str(target), 200)} could not be written: {error.strerror or error}. Nothing of what was there is "
            "lost."
        ) from error


@contextmanager
def _errors_of_writing(staging: Path, target: Path) -> Iterator[None]:
    """What goes wrong with a file in `staging`, and a disk that is full, as the error of the folder asked for."""
    try:
        yield
    except Exception as error:
        cause = of_the_system(error)
        if cause is None:
            raise
        inside = cause.filename is not None and Path(os.fsdecode(cause.filename)).is_relative_to(staging)
        if not inside and (cause.filename is not None or cause.errno not in FULL):
            raise
        with _our_errors(target):
            raise cause from error


__all__ = ["MARKER", "atomic_folder", "recover", "verify_manifest"]
