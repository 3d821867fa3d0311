# SPDX-License-Identifier: Apache-2.0
"""Opening a published checkpoint by its name: fetched and converted once, kept, and opened from there ever after.

Most checkpoints are pickles, which can run code. Decisions: only the files that the table names are fetched, within
their size. No pickle is opened here: a process of its own converts them, with the restricted reader, without tokens,
without network, and with bounds on memory, time and what it writes. What it leaves is complete or absent. The hashes
of the files are kept beside it, so a change of what is published is seen when it is fetched again. What is kept is
opened without asking anybody.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..errors import CheckpointError
from .addresses import fetch_address
from .arguments import check_hub_options
from .commercial import COMMERCIAL, check_commercial, is_wanted
from .companions import check_places, companion, settings_of
from .converting import convert_apart, options_of, say
from .fetch import fetch
from .json_files import read_json
from .manifest import fsync, sha256
from .processes import locked
from .published import Published
from .repositories import Listing
from .wire import check_token, wire_errors


VERSION = 1  # of what conversions write; a new one converts what is kept again
DEFAULT_REVISION = "main"  # what transformers asks for if its caller names none
FOLDER, RESULT, SOURCE, LOCK = "hubsep-published", "model", "source.json", ".lock"
NOT_HERE = (
    "was not opened before on this computer, and nothing may be fetched now: open it once with a connection (without "
    "HF_HUB_OFFLINE and local_files_only)."
)
ROOM = 64 << 20  # bytes above the size of the table, which is rounded
MAX_BYTES = 20 << 30  # of a row whose size is not known
MAX_RECORD_BYTES = 1 << 20


@dataclass(frozen=True)
class Kept:
    """Where a converted checkpoint is kept.

    Attributes:
        folder: of this checkpoint.
    """

    folder: Path

    @property
    def model(self) -> Path:
        """The folder that opens."""
        return self.folder / RESULT

    @property
    def source(self) -> Path:
        """The record of the files it was made of."""
        return self.folder / SOURCE

    @property
    def lock(self) -> Path:
        """What is locked; not the folder itself, which the conversion locks while it writes into it."""
        return self.folder / LOCK

    @property
    def is_complete(self) -> bool:
        """Whether the conversion ended; the record is written last."""
        return self.source.is_file() and self.model.is_dir()

    @property
    def licence(self) -> str:
        """Of the weights, as the conversion found it; "unknown" if the table and the files contradict each other."""
        return str(self.record().get("licence", "unknown"))

    def record(self) -> dict[str, Any]:
        """What was written when the conversion ended.

        Raises:
            CheckpointError: if it is damaged.
        """
        try:
            return read_json(self.source, MAX_RECORD_BYTES)
        except CheckpointError as error:
            raise CheckpointError(
                f"{error} Remove {self.folder} (`hubsep remove NAME`), and open it again."
            ) from error


def kept_at(row: Published, revision: str | None = None, cache_dir: str | os.PathLike[str] | None = None) -> Kept:
    """Where a checkpoint is kept, or will be.

    Args:
        row: of the table.
        revision: of its repository; None or "main" for the newest at the time of the first opening.
        cache_dir: the cache of huggingface_hub, by default its own.
    """
    revision = _plain(revision)
    facts = json.dumps([VERSION, row.repository, row.files, row.address, row.system, dict(row.options), revision])
    return _kept(row.name, facts, cache_dir)


def folder_name(name: str) -> str:
    """The name of a checkpoint as a part of the name of a folder."""
    return re.sub(r"[^\w.-]+", "--", name)


def kept_of(name: str, revision: str | None, cache_dir: str | os.PathLike[str] | None) -> Kept:
    """Where a repository that the table does not have is kept, or will be; what it holds need not be known.

    Args:
        name: of the repository.
        revision: of it; None for the newest at the time of the first opening.
        cache_dir: the cache of huggingface_hub, by default its own.
    """
    return _kept(name, json.dumps([VERSION, "repository", name, _plain(revision)]), cache_dir)


def _plain(revision: str | None) -> str | None:
    """None for the newest."""
    return None if revision == DEFAULT_REVISION else revision


def _kept(name: str, facts: str, cache_dir: str | os.PathLike[str] | None) -> Kept:
    from huggingface_hub.constants import HF_HUB_CACHE

    key = hashlib.sha256(facts.encode()).hexdigest()[:12]
    root = Path(cache_dir if cache_dir is not None else HF_HUB_CACHE)
    return Kept(root / FOLDER / f"{folder_name(name)}--{key}")


def open_published(
    row: Published,
    *,
    listed: Listing | None = None,
    revision: str | None = None,
    token: str | bool | None = None,
    cache_dir: str | os.PathLike[str] | None = None,
    local_files_only: bool = False,
    force_download: bool = False,
    commercial: bool | None = None,
) -> Path:
    """The folder of a published checkpoint, fetched and converted at the first call.

    Args:
        row: of the table.
        listed: what the repository holds, where the table does not have it.
        revision: commit, branch or tag of its repository; None or "main" for the newest at the first opening.
        token: for the Hub.
        cache_dir: where the files and the result are kept.
        local_files_only: whether nothing may be fetched.
        force_download: whether the files are fetched again; if they have changed, that is an error.
        commercial: whether only weights that may be used commercially are opened.

    Raises:
        CheckpointError: if its licence is not allowed, a file cannot be fetched, is not what it was or what the table
            says, or cannot be converted.
    """
    _check_request(row, revision, cache_dir, commercial)
    if row.opened_with is not None:
        raise CheckpointError(
            f"{row.name} is none of the models that hubsep runs: `{row.command}` fetches and converts it, and "
            f"{row.opened_with}.from_pretrained opens the folder."
        )
    kept = kept_at(row, revision, cache_dir) if listed is None else kept_of(row.name, revision, cache_dir)
    if kept.is_complete and not force_download:
        check_commercial(row, kept.licence, commercial=commercial)
        return kept.model
    if local_files_only or is_offline():
        raise CheckpointError(f"{row.name} {NOT_HERE}")
    _make_room(row, kept)
    with locked(kept.lock, make=True):  # it may be removed while this waits
        if not kept.is_complete or force_download:  # unless another process was first
            _introduce(row)
            files = _fetched(row, listed, revision, token, cache_dir, force_download)
            hashes = {file.name: sha256(file) for file in files}
            _check_unchanged(row, kept, hashes)
            if not kept.is_complete:
                companions = {name: companion(place, token, cache_dir) for name, place in row.companions.items()}
                _convert(row, kept, files, hashes, companions)
    check_commercial(row, kept.licence, commercial=commercial)
    return kept.model


def convert_published(
    row: Published,
    output: Path,
    options: Mapping[str, Any],
    *,
    licence: str | None = None,
    listed: Listing | None = None,
    commercial: bool | None = None,
) -> str:
    """Fetches a published checkpoint and converts it, confined, into a folder of the user's.

    Args:
        row: of the table.
        output: folder to write, complete or not at all.
        options: of the converter, over those of the row; a tokenizer may be a repository.
        licence: for the card, in place of the row's.
        listed: what the repository holds, where the table does not have it.
        commercial: whether only weights that may be used commercially are converted.

    Returns:
        The licence that its card states.

    Raises:
        CheckpointError: as `open_published`.
    """
    _check_request(row, None, None, commercial)
    check_places(row, options)
    kept = kept_at(row) if listed is None else kept_of(row.name, None, None)
    _make_room(row, kept)
    with locked(kept.lock, make=True):
        _introduce(row)
        settings = settings_of(row, options)  # before the weights, which are much larger
        files = _fetched(row, listed)
        _check_unchanged(row, kept, {file.name: sha256(file) for file in files})
        strict = is_wanted(commercial)
        return convert_apart(row, files, output, settings, licence=licence, workplace=kept.folder, strict=strict)


def _introduce(row: Published) -> None:
    """Says once whose weights these are, and what may be done with them."""
    say(f"{row.name}: {row.does}, by {row.authors}; licence {row.licence}{_size(row)}")


def _check_request(
    row: Published, revision: str | None, cache_dir: str | os.PathLike[str] | None, commercial: bool | None
) -> None:
    """Refuses what cannot be opened, before anything is fetched.

    Raises:
        CheckpointError: saying why.
    """
    if row.page is not None:
        raise CheckpointError(
            f"{row.name} is published where no program can fetch it. Fetch it from {row.place}; `{row.command}` makes "
            f"a folder that opens. `hubsep info {row.name}` says more."
        )
    check_commercial(row, commercial=commercial)
    check_hub_options(revision=revision, cache_dir=cache_dir)


def _make_room(row: Published, kept: Kept) -> None:
    try:
        kept.lock.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise CheckpointError(f"{row.name} cannot be kept in {kept.folder}: {error.strerror}") from error


def _convert(
    row: Published, kept: Kept, files: list[Path], hashes: Mapping[str, str], companions: Mapping[str, Path]
) -> None:
    """Makes the folder that opens, and the record of what it was made of.

    Raises:
        CheckpointError: if the files cannot be converted.
    """
    say(f"{row.name}: converted once, then kept in {kept.model}")
    options = options_of(row, {name: str(folder) for name, folder in companions.items()})
    try:
        licence = convert_apart(row, files, kept.model, options)
    except CheckpointError:
        if row.address is not None:
            files[0].unlink(missing_ok=True)  # the next opening fetches it again
        raise
    _write_record(kept, {"name": row.name, "place": row.place, "licence": licence, "sha256": hashes})


def _fetched(
    row: Published,
    listed: Listing | None = None,
    revision: str | None = None,
    token: str | bool | None = None,
    cache_dir: str | os.PathLike[str] | None = None,
    force_download: bool = False,
) -> list[Path]:
    """The files of a checkpoint in one folder; of a listing, at its commit and with its sizes.

    Raises:
        CheckpointError: if one is missing, larger than it may be, or cannot be fetched.
    """
    most = MAX_BYTES if row.megabytes is None else row.megabytes * 1_500_000 + ROOM
    sizes: Mapping[str, int] = {}
    if listed is not None:
        sizes, revision = listed.sizes, listed.commit
        most = sum(sizes[name] for name in row.files)
    if row.address is not None:
        folder = kept_at(row, revision, cache_dir).folder
        return [fetch_address(row.address, folder / row.address.rpartition("/")[2], most, again=force_download)]
    from huggingface_hub import snapshot_download

    check_token(token)
    with wire_errors(f"{row.name} could not be fetched from {row.place}", token):
        folder = Path(
            fetch(
                snapshot_download,
                str(row.repository),
                most_bytes=most,
                revision=revision,
                token=token,
                cache_dir=os.fspath(cache_dir) if cache_dir is not None else None,
                force_download=force_download,
                allow_patterns=list(row.files),
            )
        )
    missing = [name for name in row.files if not (folder / name).is_file()]
    if missing:
        doubt = f"; not sure of this row of the table: {row.unsure}" if row.unsure else ""
        raise CheckpointError(f"{row.place} does not hold {', '.join(missing)}, which {row.name} is made of{doubt}.")
    _check_sizes(row, folder, sizes)
    return [folder / name for name in row.files]


def _check_sizes(row: Published, folder: Path, sizes: Mapping[str, int]) -> None:
    """Refuses files that are not as large as they were listed."""
    for name in row.files:
        size = (folder / name).stat().st_size
        if sizes.get(name, size) != size:
            raise CheckpointError(
                f"{name} of {row.name} has {size} bytes, and the Hub listed {sizes[name]}: it was not converted."
            )


def _check_unchanged(row: Published, kept: Kept, hashes: Mapping[str, str]) -> None:
    """Refuses files that are not those of the first opening.

    Raises:
        CheckpointError: naming the file and both hashes.
    """
    if not kept.is_complete:
        return
    before = kept.record().get("sha256")
    for name, digest in hashes.items():
        first = before.get(name) if isinstance(before, dict) else None
        if first != digest:
            raise CheckpointError(
                f"{name} of {row.name} has changed since it was opened first: its SHA-256 was {first} and is "
                f"{digest}. To take the new one, remove {kept.folder} (`hubsep remove {row.name}`) and open it again."
            )


def _write_record(kept: Kept, record: Mapping[str, Any]) -> None:
    unfinished = kept.folder / f".{os.getpid()}.part"
    unfinished.write_text(json.dumps(record, indent=2), encoding="utf-8")
    fsync(unfinished)
    os.replace(unfinished, kept.source)


def is_offline() -> bool:
    """Whether the user wants nothing from the Hub."""
    from huggingface_hub import constants

    return bool(constants.HF_HUB_OFFLINE)


def _size(row: Published) -> str:
    return f"; {row.megabytes} MB from {row.place}" if row.megabytes else f"; from {row.place}"


__all__ = [
    "COMMERCIAL", "FOLDER", "NOT_HERE", "Kept", "check_commercial", "convert_published", "folder_name", "is_offline",
    "kept_at", "kept_of", "open_published",
]  # fmt: skip
