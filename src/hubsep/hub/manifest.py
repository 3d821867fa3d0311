# SPDX-License-Identifier: Apache-2.0
"""`manifest.json`: what a folder held when it was written, by size and SHA-256.

It is written last, so its presence says that the rest is complete. It holds no date and no path, so the same files
make the same manifest. Links are not followed. Hidden files and hard links are neither listed nor changed: the sum of
a private file would be published. The one hidden file that belongs to a model are its results, as the Hub wants them.
"""

from __future__ import annotations

import hashlib
import json
import os
import stat
from pathlib import Path
from typing import Any

from ..errors import CheckpointError
from .bounds import shown
from .checks import blob_folders
from .copies import PACKAGE, in_cache, stays_inside
from .json_files import MAX_INDEX_BYTES, read_json
from .naming import called


MANIFEST = "manifest.json"
RESULTS_FOLDER = ".eval_results"


def write_manifest(folder: Path, *, skip: tuple[str, ...] = (), share_weights: bool = False) -> None:
    """Put every file of a folder on the disk, list them in `manifest.json`, and put that on the disk as well.

    Args:
        folder: of a model.
        skip: names that are not listed.
        share_weights: whether all who may read the folder may read its weights; safetensors makes files that only
            their owner can read. For a folder of which every weight file was just written.

    Raises:
        CheckpointError: the folder holds a link, other than those of the Hub's cache.
    """
    listed = {}
    readable = folder.stat().st_mode & 0o666
    for path in sorted(folder.rglob("*")):
        name = path.relative_to(folder).as_posix()
        if path.is_symlink():
            in_cache(folder.resolve(), name)
        elif share_weights and path.suffix == ".safetensors" and path.is_file():
            path.chmod(readable)
        if path.is_dir() or path.is_file():
            fsync(path)
        if path.is_file() and name not in (MANIFEST, *skip) and _is_listed(path, name):
            listed[name] = {"bytes": path.stat().st_size, "sha256": sha256(path)}
    text = json.dumps({"files": listed}, indent=2, sort_keys=True) + "\n"
    unfinished = folder / f".{MANIFEST}.{os.getpid()}.part"
    unfinished.write_text(text, encoding="utf-8")
    fsync(unfinished)
    os.replace(unfinished, folder / MANIFEST)
    fsync(folder)


def _is_listed(path: Path, name: str) -> bool:
    """Whether a file is the model's: not hidden, and no second name of a file that may be anywhere."""
    hidden = any(part.startswith(".") for part in name.removeprefix(f"{RESULTS_FOLDER}/").split("/"))
    return not hidden and (path.stat().st_nlink == 1 or path.resolve().is_relative_to(PACKAGE))


def verify_manifest(folder: str | os.PathLike[str]) -> None:
    """Compare every file the folder's `manifest.json` lists with its size and SHA-256; files added since are ignored.

    Raises:
        CheckpointError: no manifest, or the first file that is missing or differs.
    """
    root = Path(folder)
    if not (root / MANIFEST).is_file():
        raise CheckpointError(f"{shown(root.name)} has no {MANIFEST}: hubsep did not write it, or not completely.")
    places = [root.resolve(), *blob_folders(root.resolve())]  # the Hub's cache keeps files beside its snapshots
    for name, entry in listed_files(root).items():
        path = root / name
        if not path.is_file() or not any(path.resolve().is_relative_to(place) for place in places):
            raise CheckpointError(f"{shown(name)} is listed in {MANIFEST} but missing.")
        if path.stat().st_size != entry.get("bytes") or sha256(path) != entry.get("sha256"):
            raise CheckpointError(f"{shown(name)} is not the file that was written: {MANIFEST} says otherwise.")


def listed_files(folder: Path) -> dict[str, dict[str, Any]]:
    """Return what the folder's manifest lists: relative name to `bytes` and `sha256`.

    Raises:
        CheckpointError: the manifest is broken or names something outside the folder.
    """
    files = read_json(folder / MANIFEST, MAX_INDEX_BYTES).get("files")
    if not isinstance(files, dict) or not all(isinstance(entry, dict) for entry in files.values()):
        raise CheckpointError(f"{MANIFEST} needs an object `files` with an object for each file.")
    for name in files:
        if not stays_inside(name):
            raise CheckpointError(f"{MANIFEST} names {shown(name)}, which is not in the folder.")
    return files


def fsync(path: Path) -> None:
    """Wait until a file or folder is on the disk; folders only where the system can do that."""
    if os.name != "posix" and path.is_dir():
        return
    descriptor = os.open(path, os.O_RDONLY if os.name == "posix" else os.O_RDWR)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def write_whole(path: Path, content: str | bytes) -> None:
    """Write a file that is the old or the new one whenever the process is killed, or the disk is full.

    A link is replaced, and what it leads to stays. Who may read the old file may read the new one.
    """
    part = path.with_name(f".{path.name[:60]}.part")  # one name: what a killed process left is replaced
    part.unlink(missing_ok=True)  # a link that came along would be written through
    try:
        with called({part: path}):
            part.write_bytes(content.encode() if isinstance(content, str) else content)
        if path.is_file() and not path.is_symlink():
            part.chmod(stat.S_IMODE(path.stat().st_mode))
        os.replace(part, path)
    finally:
        part.unlink(missing_ok=True)


def sha256(path: Path) -> str:
    """SHA-256 of a file in hexadecimal, read in blocks of 1 MiB."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


__all__ = ["MANIFEST", "fsync", "listed_files", "sha256", "verify_manifest", "write_manifest", "write_whole"]
