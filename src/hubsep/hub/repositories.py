# SPDX-License-Identifier: Apache-2.0
"""Repositories that the table does not have, in a layout that a converter knows: a fine-tune on somebody's account.

Decisions: what a repository holds is listed before anything of it is fetched. From the names and sizes of its files
and from its card follows a row as the table has them, and with it all else goes the way of the table: those files
alone are fetched, at the commit that was listed and no larger than listed, and converted apart. Its licence is the one
that its own card states.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..errors import CheckpointError, DataError
from ..registry import SYSTEMS
from ..texts import read_front_matter
from .bounds import shown
from .fetch import fetch
from .layouts import FILE, KNOWN, RE_SEPFORMER, foreign_system, holds_other_weights, system_of
from .licences import README, allows_commercial_use, as_identifier, is_stated, stated_in_readme
from .published import Published
from .wire import check_token, wire_errors


MAX_CARD_BYTES = 1 << 20
MOST_NAMED = 6  # files, in an error


@dataclass(frozen=True)
class Listing:
    """What a repository holds.

    Attributes:
        name: of the repository.
        commit: that was listed.
        sizes: bytes of its files, by their paths.
        words: tags and library that the Hub read from its card.
    """

    name: str
    commit: str
    sizes: Mapping[str, int]
    words: tuple[str, ...] = ()


def list_repository(name: str, *, revision: str | None = None, token: str | bool | None = None) -> Listing:
    """What the Hub says that a repository holds; nothing of it is fetched.

    Args:
        name: of the repository.
        revision: commit, branch or tag.
        token: for the Hub.

    Raises:
        CheckpointError: if there is no such repository, or it may not be seen.
    """
    check_token(token)
    with wire_errors(f"{shown(name)} could not be listed on the Hub", token):
        return fetch(_listing, name, revision=revision, token=token)


def row_of(
    listing: Listing,
    *,
    token: str | bool | None = None,
    cache_dir: str | os.PathLike[str] | None = None,
) -> Published:
    """A repository as a row of the table.

    Args:
        listing: of the repository.
        token: for the Hub.
        cache_dir: where its card is kept.

    Raises:
        CheckpointError: if its layout is not known, or of a system that hubsep does not have.
    """
    card = _card(listing, token, cache_dir)
    words = [*_words(card), *listing.words]
    layout = system_of(listing.sizes, words)
    foreign = foreign_system([listing.name.rpartition("/")[2]]) or foreign_system(words)
    if foreign is not None and (layout is None or "asteroid" in words or foreign[0] == RE_SEPFORMER):
        raise CheckpointError(
            f"{listing.name} is {foreign[0]}, which hubsep does not have. {foreign[1]} is there for the same purpose; "
            "`hubsep list` and `hubsep list --published` print all that open."
        )
    if layout is None:
        raise CheckpointError(
            f"{listing.name} is in no layout that hubsep knows: it holds {_held(listing)}. {KNOWN}. If it is one of "
            f"these systems, fetch its file with `hf download {listing.name} FILE --local-dir FOLDER`, and convert "
            "that: `hubsep convert SYSTEM FILE OUTPUT --licence ID`."
        )
    system, files = layout
    licence = as_identifier(stated_in_readme(card))
    return Published(
        name=listing.name, system=system, does=f"weights of {system}", sources=0,
        sampling_rate=SYSTEMS[system].sampling_rate, paper=SYSTEMS[system].paper,
        authors=listing.name.partition("/")[0], licence=licence,
        licence_from="its own card" if is_stated(licence) else "nobody", repository=listing.name, files=files,
        commercial=allows_commercial_use(licence) is True,
        megabytes=-(-sum(listing.sizes[file] for file in files) // 1_000_000),
        companions=COMPANIONS.get(system, {}),
    )  # fmt: skip


COMPANIONS: Mapping[str, Mapping[str, str]] = {"audiosep": {"tokenizer": "FacebookAI/roberta-base"}}


def _listing(
    name: str, *, user_agent: str, library_name: str, library_version: str, tqdm_class: Any, **options: Any
) -> Listing:
    """Asks the Hub; called by `fetch`."""
    from huggingface_hub import HfApi

    api = HfApi(user_agent=user_agent, library_name=library_name, library_version=library_version)
    info = api.model_info(name, files_metadata=True, **options)
    sizes = {file.rfilename: file.size for file in info.siblings or ()}
    if any(size is None for size in sizes.values()):  # not every Hub answers with sizes
        token = options.get("token")
        tree = api.list_repo_tree(name, recursive=True, revision=info.sha, token=token)
        sizes = {file.path: getattr(file, "size", None) for file in tree}
    words = [word for word in (info.library_name, *(info.tags or ())) if isinstance(word, str)]
    whole = {path: size for path, size in sizes.items() if isinstance(size, int) and size >= 0}
    return Listing(name, str(info.sha), whole, tuple(words))


def _card(listing: Listing, token: str | bool | None, cache_dir: str | os.PathLike[str] | None) -> str:
    """The text of its card; "" if it has none, or one that nobody reads."""
    if not 0 < listing.sizes.get(README, 0) <= MAX_CARD_BYTES:
        return ""
    from huggingface_hub import hf_hub_download

    folder = os.fspath(cache_dir) if cache_dir is not None else None
    with wire_errors(f"the card of {shown(listing.name)} could not be fetched from the Hub", token):
        path = fetch(hf_hub_download, listing.name, README, revision=listing.commit, token=token, cache_dir=folder)
        with Path(path).open(encoding="utf-8", errors="replace") as file:
            return file.read(MAX_CARD_BYTES)


def _words(card: str) -> list[str]:
    """Library and tags of a card; nothing of one that cannot be read."""
    try:
        fields = read_front_matter(card, README)
    except DataError:
        return []
    tags = fields.get("tags")
    words = [fields.get("library_name"), *(tags if isinstance(tags, list) else [tags])]
    return [word for word in words if isinstance(word, str)]


def _held(listing: Listing) -> str:
    """What a repository holds, the weights first."""
    names = sorted(listing.sizes, key=lambda name: (not holds_other_weights([name]), name))
    named = ", ".join(name if FILE.fullmatch(name) else shown(name) for name in names[:MOST_NAMED])
    return f"{named or 'nothing'}{f' and {len(names) - MOST_NAMED} more' if len(names) > MOST_NAMED else ''}"


__all__ = ["Listing", "list_repository", "row_of"]
