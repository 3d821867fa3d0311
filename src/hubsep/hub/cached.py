# SPDX-License-Identifier: Apache-2.0
"""What was opened by name or fetched from the Hub: what there is of it on this computer, and taking it away again.

Decisions: only the cache of huggingface_hub is looked at, and nothing that a link leads to outside of it is touched.
What goes first loses its name in one step, so that a process that is killed leaves nothing that looks whole. What
another process is fetching or converting stays.
"""

from __future__ import annotations

import os
import re
import shutil
import uuid
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import CheckpointError
from ..shipped import SHIPPED
from ..texts import did_you_mean
from .bounds import shown
from .licences import stated_in_folder
from .opening import FOLDER, Kept, folder_name
from .processes import locked
from .published import HUB, find_published
from .resolve import INDEX, check_model_name, task_of


if TYPE_CHECKING:
    from huggingface_hub import CachedRepoInfo, HFCacheInfo

OF_A_NAME = re.compile(r"(.+)--[0-9a-f]{12}")  # folders of what was converted, see `kept_at`
OF_THE_HUB = re.compile(r"[\w.-]+/[\w.-]+")
REMOVED, SNAPSHOTS = ".removed", "snapshots"


@dataclass(frozen=True)
class Cached:
    """One model on this computer.

    Attributes:
        name: that opens it.
        licence: of the weights; "unknown" where its files state none.
        bytes: on the disk, of all that was fetched and made for it.
        opened: when it came, in seconds since 1970.
        folders: that open, the newest first.
    """

    name: str
    licence: str
    bytes: int
    opened: float
    folders: tuple[Path, ...]


def cached() -> list[Cached]:
    """All that hubsep can open from the cache without fetching anything, by name."""
    repositories = {repository.repo_id: repository for repository in _repositories(_scan())}
    converted: dict[str, list[Kept]] = {}
    for kept in _converted():
        if kept.is_complete:
            converted.setdefault(str(_record(kept).get("name", kept.folder.name)), []).append(kept)
    rows = []
    for name, group in converted.items():
        group.sort(key=lambda kept: -kept.source.stat().st_mtime)
        source = repositories.pop(_source(name, _record(group[0])), None)
        licences = {str(_record(kept).get("licence", "unknown")) for kept in group}
        rows.append(
            Cached(
                name=name,
                licence=licences.pop() if len(licences) == 1 else "unknown",
                bytes=sum(_bytes(kept.folder) for kept in group) + (_bytes(source.repo_path) if source else 0),
                opened=group[0].source.stat().st_mtime,
                folders=tuple(kept.model for kept in group),
            )
        )
    rows += [row for row in map(_fetched, repositories.values()) if row is not None]
    return sorted(rows, key=lambda row: row.name.casefold())


def remove_cached(name: str) -> int:
    """Takes away all that is in the cache of a name, and says how many bytes that were.

    Args:
        name: of a published checkpoint, or of a repository of the Hub that hubsep opens.

    Raises:
        CheckpointError: if there is nothing of that name, another process is fetching it, or the disk refuses.
    """
    check_model_name(name)
    row = find_published(name)
    meant = row.name if row is not None else name
    _sweep()
    folders = [kept for kept in _converted() if _is_of(kept.folder, meant)]
    records = [_record(kept) for kept in folders]
    sources = {_source(meant, record).casefold() for record in records}
    sources |= {(row.repository or "").casefold() if row is not None else ""}
    scan = _scan()
    fetched = [each for each in _repositories(scan) if each.repo_id.casefold() in sources or _is_ours(each, meant)]
    counted = {each.repo_path for each in _repositories(scan)}
    unfinished = _unfinished(meant if row is None else row.repository or "", counted)
    if not folders and not fetched and not unfinished:
        raise CheckpointError(_absent(name))
    with ExitStack() as others_wait:
        for kept in folders:
            others_wait.enter_context(_nobody_opens(kept, meant))
        for repository in (*(each.repo_path for each in fetched), *unfinished):
            others_wait.enter_context(_nobody_fetches(repository, meant))
        freed = sum(
            map(_bytes, [*(kept.folder for kept in folders), *(each.repo_path for each in fetched), *unfinished])
        )
        try:
            for kept in folders:
                _remove_folder(kept.folder)
            for whole in fetched:
                _remove_repository(scan, whole)
            for part in unfinished:
                _remove_folder(part)
        except OSError as error:
            raise CheckpointError(f"{meant} cannot be removed: {error.strerror}: {error.filename}") from error
    return freed


def _absent(name: str) -> str:
    """What is said of a name of which nothing is in the cache."""
    if name in SHIPPED:
        return f"{name} is part of the package and stays."
    if Path(name).exists():
        return f"{shown(name)} is a file or folder of yours and stays: only what was fetched by name is removed."
    names = [row.name for row in cached()]
    there = f"What was fetched is {', '.join(names)}." if names else "Nothing was fetched so far."
    return f"nothing of {shown(name)} is on this computer.{did_you_mean(name, names)} {there}"


def _cache() -> Path:
    from huggingface_hub import constants

    return Path(constants.HF_HUB_CACHE)


def _converted() -> list[Kept]:
    """What was converted, or begun."""
    root = _cache() / FOLDER
    if root.is_symlink() or not root.is_dir():
        return []
    folders = [path for path in sorted(root.iterdir()) if OF_A_NAME.fullmatch(path.name)]
    return [Kept(path) for path in folders if path.is_dir() and not path.is_symlink()]


def _is_of(folder: Path, name: str) -> bool:
    match = OF_A_NAME.fullmatch(folder.name)
    return match is not None and match[1].casefold() == folder_name(name).casefold()


def _record(kept: Kept) -> dict[str, Any]:
    """The record of a conversion; empty if it did not end, or is damaged."""
    try:
        return kept.record() if kept.is_complete else {}
    except CheckpointError:
        return {}


def _source(name: str, record: dict[str, Any]) -> str:
    """The repository that something was converted from, "" if it was another place."""
    row = find_published(name)
    place = str(record.get("place", ""))
    return (row.repository or "") if row is not None else place.removeprefix(HUB) if place.startswith(HUB) else ""


def _scan() -> HFCacheInfo | None:
    """What huggingface_hub finds in its cache."""
    from huggingface_hub import CacheNotFound, scan_cache_dir

    try:
        return scan_cache_dir(_cache())
    except (CacheNotFound, ValueError):  # none, or a file in its place
        return None


def _repositories(scan: HFCacheInfo | None) -> list[CachedRepoInfo]:
    """Repositories of models in the cache itself."""
    repos = [] if scan is None else [each for each in scan.repos if each.repo_type == "model"]
    return [each for each in repos if not each.repo_path.is_symlink()]


def _fetched(repository: CachedRepoInfo) -> Cached | None:
    """A repository that hubsep opens as it is; None if it does not."""
    revisions = sorted(repository.revisions, key=lambda revision: -revision.last_modified)
    folders = [revision.snapshot_path for revision in revisions if _opens(revision.snapshot_path)]
    if not folders:
        return None
    return Cached(
        repository.repo_id,
        stated_in_folder(folders[0]) or "unknown",
        _bytes(repository.repo_path),
        repository.last_modified,
        tuple(folders),
    )


def _is_ours(repository: CachedRepoInfo, name: str) -> bool:
    """Whether this is the repository of a model of hubsep, all of it or not."""
    is_named = repository.repo_id.casefold() == name.casefold()
    return is_named and any(_purpose(revision.snapshot_path) for revision in repository.revisions)


def _opens(folder: Path) -> bool:
    """Whether a folder holds the weights and the settings of a model of hubsep."""
    parts = (folder,) if not (folder / INDEX).is_file() else tuple(path for path in folder.iterdir() if path.is_dir())
    return bool(_purpose(folder)) and any(next(part.glob("*.safetensors"), None) is not None for part in parts)


def _purpose(folder: Path) -> str:
    try:
        return task_of(folder)
    except CheckpointError:
        return ""


def _unfinished(name: str, others: set[Path]) -> list[Path]:
    """The folder of a repository that huggingface_hub does not count: its download or its removal was broken off.

    Args:
        name: of the repository; one without a slash is none.
        others: folders that it does count.
    """
    if not OF_THE_HUB.fullmatch(name) or ".." in name:
        return []
    path = _cache() / f"models--{name.replace('/', '--')}"
    return [path] if path.is_dir() and not path.is_symlink() and path not in others else []


@contextmanager
def _nobody_opens(kept: Kept, name: str) -> Iterator[None]:
    """Keeps others from opening a checkpoint for the first time.

    Raises:
        CheckpointError: if one does.
    """
    with locked(kept.lock, make=True, wait=False) as is_ours:
        if not is_ours:
            raise CheckpointError(_busy(name))
        yield


@contextmanager
def _nobody_fetches(repository: Path, name: str) -> Iterator[None]:
    """Keeps others from fetching files of a repository that are begun.

    Raises:
        CheckpointError: if one does.
    """
    with ExitStack() as held:  # huggingface_hub locks a file for each that it fetches
        for path in sorted((_cache() / ".locks" / repository.name).glob("*.lock")):
            if not held.enter_context(locked(path, wait=False)):
                raise CheckpointError(_busy(name))
        yield


def _busy(name: str) -> str:
    return f"another process is fetching {name} now, so nothing was removed: wait until it has ended, or end it."


def _remove_folder(folder: Path) -> None:
    """Removes a folder of the cache, which loses its name first."""
    nameless = _cache() / FOLDER / f"{REMOVED}-{uuid.uuid4().hex}"
    nameless.parent.mkdir(exist_ok=True)
    folder.rename(nameless)
    shutil.rmtree(nameless)
    with suppress(OSError):  # something else is in it
        nameless.parent.rmdir()


def _remove_repository(scan: HFCacheInfo | None, repository: CachedRepoInfo) -> None:
    """Removes a repository, by the function that huggingface_hub has for it.

    Raises:
        OSError: if it is there still.
    """
    if scan is None:
        return
    alone = replace(scan, repos=frozenset({repository}))  # a copy of a repository has the same commits
    removal = alone.delete_revisions(*(revision.commit_hash for revision in repository.revisions))
    # it goes file by file: without this, a process that is killed would leave half a model under its name
    (repository.repo_path / SNAPSHOTS).rename(repository.repo_path / f".{SNAPSHOTS}")
    removal.execute()
    if repository.repo_path.exists():  # it writes no more than a line of a log
        shutil.rmtree(repository.repo_path)


def _sweep() -> None:
    """Removes what a process left that was killed while it removed."""
    for path in (_cache() / FOLDER).glob(f"{REMOVED}-*"):
        if not path.is_symlink():
            shutil.rmtree(path, ignore_errors=True)


def _bytes(folder: Path) -> int:
    """What the files of a folder take, without what links lead to."""
    return sum(os.lstat(path).st_size for path in folder.rglob("*") if path.is_file() and not path.is_symlink())


__all__ = ["Cached", "cached", "remove_cached"]
