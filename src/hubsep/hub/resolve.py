# SPDX-License-Identifier: Apache-2.0
"""From the name of a model to a folder on this computer.

Decisions: a local folder wins over a repository of the same name, as in transformers. All files of a repository come
from one commit. Only text and `.safetensors` are fetched. The one exception are the files that the table of published
checkpoints names, most of them pickles; they are not opened here (see `opening.py`).
"""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from ..errors import CheckpointError
from ..registry import SYSTEMS, TASK, TEXT_TO_AUDIO
from ..shipped import DEFAULT_GENERATOR, SEPARATORS, SHIPPED
from .arguments import check_hub_options, check_place, check_revision
from .atomic import recover
from .bounds import shown
from .cards import CARD, README
from .checks import check_folder, read_before_checks
from .commercial import check_commercial, check_folder_licence, is_wanted
from .fetch import fetch
from .layouts import foreign_system, holds_other_weights
from .opening import NOT_HERE, is_offline, kept_of, open_published
from .published import find_published, near_model
from .repositories import Listing, list_repository, row_of
from .wire import check_token, wire_errors


DOWNLOADED = ("*.json", "*.txt", "*.md")
WEIGHTS = ("*.safetensors",)
CARDS = (README, CARD)
INDEX = "model_index.json"
LONGEST_NAME, LONGEST_PATH = 255, 4_000  # bytes of a part, characters of all: what nearly every system takes


def resolve_folder(
    model: str | os.PathLike[str],
    *,
    revision: str | None = None,
    token: str | bool | None = None,
    cache_dir: str | os.PathLike[str] | None = None,
    local_files_only: bool = False,
    force_download: bool = False,
    weights: bool = True,
    commercial: bool | None = None,
) -> Path:
    """Return the folder of a model: a local one as it is, one shipped with hubsep, or a repository of the Hub.

    All files of a repository come from the one commit `revision` names at the time of the call. Only text and
    `.safetensors` files are fetched, and text only if `weights` is false. A repository without `.safetensors`, in a
    layout that a converter knows, is converted at the first call, as published names are. With `commercial`, weights
    that may not be used commercially are refused before they are fetched (see `commercial.py`).

    Raises:
        CheckpointError: no such folder or repository, or it could not be fetched.
    """
    check_model_name(name := check_place("a model", model))
    options: dict[str, Any] = {
        "revision": revision, "token": token, "cache_dir": cache_dir, "local_files_only": local_files_only,
        "force_download": force_download,
    }  # fmt: skip
    check_hub_options(**options)
    if not (path := Path(name)).exists():
        recover(path)  # the folder may be one rename away, if a process was killed while replacing it
    wanted = is_wanted(commercial)
    if path.is_dir() or (name in SHIPPED and not path.exists()):
        folder = path if path.is_dir() else SHIPPED[name]
        check_revision(revision, name)
        if wanted:
            check_folder_licence(folder, name)
        return folder
    if path.exists():
        raise CheckpointError(
            f"{shown(name)} is a file; name the folder it is in. `hubsep convert` reads the checkpoints of authors."
        )
    row = find_published(name)
    if row is not None and not row.opens:
        return open_published(row, **options, commercial=wanted)
    _check_repository(name)
    if row is not None:
        check_commercial(row, commercial=wanted)
        name = str(row.repository)
    check_token(token)
    hub = Fetching(revision, token, cache_dir, local_files_only, force_download, wanted)
    return _repository(name, hub, weights=weights)


def _check_repository(name: str) -> None:
    """Refuses what is no folder that is there, and cannot be a repository of the Hub.

    Raises:
        CheckpointError: naming a model that is near.
    """
    if Path(name).is_absolute() or name.startswith((".", "~")) or "\\" in name or name.count("/") > 1:
        raise CheckpointError(f"there is no folder {shown(name)}.")
    check_peers(name)
    if "/" not in name and (meant := near_model(name)):
        raise CheckpointError(
            f"there is no model {shown(name)}. Did you mean {meant}? `hubsep list` and `hubsep list --published` "
            "print all names; others are folders, or repositories of the Hub (org/name)."
        )


def check_peers(name: str) -> None:
    """Refuses the name of a well-known model that hubsep does not have.

    Raises:
        CheckpointError: naming the shipped model for the same purpose.
    """
    foreign = foreign_system([name]) if "/" not in name else None
    if foreign is not None:
        system, peer = foreign
        raise CheckpointError(
            f"{shown(name)} is no model of hubsep. {peer} does what {system} is known for; `hubsep list` and "
            "`hubsep list --published` print all names, and others are folders, or repositories of the Hub (org/name)."
        )


def check_model_name(name: str) -> None:
    """Refuses what can name neither a folder nor a repository, so that no system call has to.

    Raises:
        CheckpointError: naming it, as far as it can be read.
    """
    try:
        parts = os.fsencode(name).split(b"/")
    except UnicodeEncodeError:
        parts = [b"\0"]
    unusable = any(b"\0" in part or len(part) > LONGEST_NAME for part in parts)
    if unusable or not name.strip() or len(name) > LONGEST_PATH:
        raise CheckpointError(
            f"{shown(name)} is no name of a model: empty, too long, or with a character that no name has. Use a "
            f"folder, a repository of the Hub (org/name), or one of {', '.join(SHIPPED)}."
        )


def checked_folder(model: str | os.PathLike[str], *, subfolder: str = "", finite: bool = True, **hub: Any) -> Path:
    """Resolve a model to its folder as `resolve_folder` does, and check it as `check_folder` does.

    `finite=False` is for callers that hand the folder to a model's `from_pretrained`, which reads the weights anyway.
    """
    folder = inside(resolve_folder(model, **hub), subfolder)
    check_folder(folder, finite=finite)
    return folder


def task_of(folder: Path) -> str:
    """What the model in a folder is for, as `pipeline` calls it; "" if its files do not say."""
    if (folder / INDEX).is_file():
        return TEXT_TO_AUDIO if read_before_checks(folder, INDEX).get("_class_name") == "AudioLDM2Pipeline" else ""
    model_type = read_before_checks(folder, "config.json").get("model_type")
    return SYSTEMS[model_type].task if isinstance(model_type, str) and model_type in SYSTEMS else ""


def check_task(folder: Path, name: str | os.PathLike[str], task: str) -> None:
    """Refuses a model that is for something else, before any of it is loaded.

    Args:
        folder: of the model.
        name: what the caller calls it.
        task: what it is wanted for.

    Raises:
        CheckpointError: if it makes sounds where one that separates is wanted, or the other way round.
    """
    model, purpose = shown(os.fspath(name)), task_of(folder)
    if (task, purpose) == (TASK, TEXT_TO_AUDIO):
        raise CheckpointError(
            f"{model} makes sounds and separates none: load it with hubsep.AudioLDM2Pipeline, or "
            f'pipeline("{TEXT_TO_AUDIO}", model=...). Models that separate are {", ".join(SEPARATORS)}.'
        )
    if (task, purpose) == (TEXT_TO_AUDIO, TASK):
        raise CheckpointError(
            f'{model} separates recordings and makes none: load it with pipeline("{TASK}", model=...). A model that '
            f"makes sounds is {DEFAULT_GENERATOR}."
        )


@dataclass(frozen=True)
class Fetching:
    """How a caller wants a repository fetched."""

    revision: str | None
    token: str | bool | None
    cache_dir: str | os.PathLike[str] | None
    local_files_only: bool
    force_download: bool
    commercial: bool


class _OtherWeights(CheckpointError):
    """A repository holds weights, and none of ours."""


def _repository(name: str, hub: Fetching, *, weights: bool) -> Path:
    """The folder of a repository that the table does not have: as it is, or converted.

    Raises:
        CheckpointError: if it cannot be fetched, or its layout is not known.
    """
    kept = kept_of(name, hub.revision, hub.cache_dir)
    if kept.is_complete and not hub.force_download:
        if hub.commercial:
            check_folder_licence(kept.model, name)
        return kept.model
    at = hub
    if hub.commercial:
        card = _download(name, hub, list(CARDS), look=None)
        check_folder_licence(card, name)
        at = replace(hub, revision=card.name)  # the commit that has this card
    try:
        folder = _download(name, at, [*DOWNLOADED, *(WEIGHTS if weights else ())])
    except _OtherWeights:
        return _converted(name, hub) if weights else _converted_or_texts(name, hub)
    if not weights or any(folder.rglob("*.safetensors")):
        return folder
    others = holds_other_weights(path.name for path in folder.rglob("*"))
    if others or not (hub.local_files_only or is_offline()):  # listed before, so that nobody looked on
        listing = None if hub.local_files_only or is_offline() else _listing_of(name, hub)
        if listing is None or holds_other_weights(listing.sizes):
            return _converted(name, hub, listing)
    return folder


def _listing_of(name: str, hub: Fetching) -> Listing:
    return list_repository(name, revision=hub.revision, token=hub.token)


def _converted(name: str, hub: Fetching, listing: Listing | None = None) -> Path:
    """The folder that a repository in a layout of others was converted to."""
    if hub.local_files_only or is_offline():
        raise CheckpointError(f"{name} {NOT_HERE}")
    listing = listing or _listing_of(name, hub)
    row = row_of(listing, token=hub.token, cache_dir=hub.cache_dir)
    return open_published(
        row, listed=listing, revision=hub.revision, token=hub.token, cache_dir=hub.cache_dir,
        force_download=hub.force_download, commercial=hub.commercial,
    )  # fmt: skip


def _converted_or_texts(name: str, hub: Fetching) -> Path:
    """Where a processor is looked for: in what was converted; else in the texts, whatever weights lie beside them."""
    listing = _listing_of(name, hub)
    try:
        row_of(listing, token=hub.token, cache_dir=hub.cache_dir)
    except CheckpointError:
        return _download(name, hub, list(DOWNLOADED), look=None)
    return _converted(name, hub, listing)


def _look(paths: set[str]) -> None:
    """Ends a download of what holds no weights that open as they are, before it begins."""
    if holds_other_weights(paths):
        raise _OtherWeights("it holds no .safetensors")


def _download(name: str, hub: Fetching, fetched: list[str], look: Callable[[set[str]], None] | None = _look) -> Path:
    from huggingface_hub import snapshot_download

    row = find_published(name)
    meant = None if row is not None else near_model(name, _cached(hub.cache_dir))
    hint = f" Did you mean {meant}?" if meant else ""
    what = f"there is no folder {shown(name)}, and it could not be fetched from the Hub"
    if row is not None:
        what = f"{row.name} could not be fetched from {row.place}"
    with wire_errors(what, hub.token, hint):
        folder = fetch(
            snapshot_download,
            name,
            look=look,
            revision=hub.revision,
            token=hub.token,
            cache_dir=os.fspath(hub.cache_dir) if hub.cache_dir is not None else None,
            local_files_only=hub.local_files_only,
            force_download=hub.force_download,
            allow_patterns=fetched,
        )
    return Path(folder)


def _cached(cache_dir: str | os.PathLike[str] | None) -> list[str]:
    """Repositories that were fetched before."""
    from huggingface_hub.constants import HF_HUB_CACHE

    folder = Path(cache_dir) if cache_dir is not None else Path(HF_HUB_CACHE)
    if not folder.is_dir():
        return []
    return [path.name.removeprefix("models--").replace("--", "/", 1) for path in sorted(folder.glob("models--*--*"))]


def inside(folder: Path, subfolder: str) -> Path:
    """Return a folder below `folder`; `subfolder` uses forward slashes, "" is the folder itself.

    Raises:
        CheckpointError: it leads out of the folder, by its name or by a link.
    """
    if not isinstance(subfolder, str):
        raise CheckpointError(f"subfolder must be a text, the name of a folder in the model's; got {shown(subfolder)}")
    if subfolder in ("", "."):
        return folder
    if "\\" in subfolder or ":" in subfolder or not (folder / subfolder).resolve().is_relative_to(folder.resolve()):
        raise CheckpointError(f"subfolder is {shown(subfolder)}; it must be inside the model's folder.")
    return folder / subfolder


__all__ = ["check_model_name", "check_task", "checked_folder", "inside", "resolve_folder", "task_of"]
