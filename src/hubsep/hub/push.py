# SPDX-License-Identifier: Apache-2.0
"""Pushing a model and its card to the Hub in one commit.

transformers writes a generic card with `library_name: transformers` where a repository has none, and pushes it after
the fact. Here the card is part of the same commit, so the repository is the old or the new one, never half of each.
Weights of the same name that the new ones replace, more or fewer shards of them, leave in that commit too. Files that
come from a folder are copied by `hub.copies`, which follows no link: what is pushed is public.
"""

from __future__ import annotations

import json
import os
import re
import tempfile
from collections.abc import Callable, Iterable
from contextlib import suppress
from pathlib import Path
from typing import Any

from ..errors import CheckpointError, DataError
from ..texts import read_front_matter
from .arguments import check_hub_options, check_place
from .bounds import shown
from .cards import CARD, FACTS, README
from .copies import copy_file, file_names, is_named, opened, read_file
from .fetch import LIBRARY, MAX_ANSWER_BYTES, fetch
from .json_files import MAX_CONFIG_BYTES, parse_json
from .manifest import MANIFEST, write_manifest, write_whole
from .wire import check_token, wire_errors


# folder and stem of a file of weights, of one of its shards, or of the index of these
WEIGHTS = re.compile(r"(.+?)(?:-\d{5}-of-\d{5})?\.safetensors(?:\.index\.json)?")
PLACE = "FOLDER"  # what cards of converted weights call the folder they lie in
SHORT_CARD = """---
library_name: hubsep
pipeline_tag: audio-to-audio
tags:
- audio-separation
---

# {name}

A model saved by hubsep. Its licence, training data and results are not described yet.
"""


def push_folder(
    repo_id: str,
    save: Callable[[Path], None],
    *,
    card: str | os.PathLike[str] | None = None,
    fallback: Path | None = None,
    commit_message: str | None = None,
    commit_description: str | None = None,
    private: bool | None = None,
    token: str | bool | None = None,
    revision: str | None = None,
    create_pr: bool = False,
    tags: list[str] | str | None = None,
    short_card: str = SHORT_CARD,
) -> str:
    """Let `save` write into a new folder, add the card, and push all of it as one commit; return its address.

    The card is `card` if given, else the one in the repository unless transformers wrote it, else `fallback`, else
    `short_card`, a text with the place {name}.

    Raises:
        CheckpointError: `card` is not a file, it or what lies beside it is a link, or the Hub cannot be reached or
            refuses.
        DataError: `tags` are to be added to a card that says to the Hub what is no YAML.
    """
    from huggingface_hub import HfApi

    _check_told(card, fallback, tags, commit_message=commit_message, commit_description=commit_description)
    check_hub_options(revision=revision, token=token, private=private, create_pr=create_pr)
    check_token(token)
    what = f"{shown(repo_id)} could not be pushed to; a push is one commit, so it holds the old or all of the new"
    api = HfApi(**LIBRARY, token=token)
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place) / "model"
        folder.mkdir()
        with wire_errors(what, token):
            repo_id = _made(api, repo_id, private, revision)
            _copy_card(folder, Path(card) if card else _own_card(repo_id, revision, token))
        save(folder)  # keeps the card, or brings that of the model's origin, and lists it in the manifest
        _complete_card(folder, repo_id, fallback, tags, short_card)
        with wire_errors(what, token):
            commit = api.create_commit(
                repo_id,
                _operations(folder, api.list_repo_files(repo_id, revision=revision)),
                commit_message=commit_message or "Upload model",
                commit_description=commit_description,
                revision=revision,
                create_pr=create_pr,
            )
    return str(commit)


def _check_told(card: Any, fallback: Path | None, tags: Any, **texts: Any) -> None:
    """Refuses what a caller says of a push in values of another kind, before anything is written.

    Raises:
        CheckpointError: naming the argument and its value.
    """
    if card is not None:
        check_place("card", card)
    words = [tags] if isinstance(tags, str) or tags is None else tags
    if not isinstance(words, list | tuple) or not all(isinstance(word, str | None) for word in words):
        raise CheckpointError(f"tags must be a text or a list of texts, got {shown(tags)}")
    for name, text in texts.items():
        if text is not None and not isinstance(text, str):
            raise CheckpointError(f"{name} must be a text, got {shown(text)}")
    _check_facts(card, fallback, adds_tags=bool(tags))


def _made(api: Any, repo_id: str, private: bool | None, revision: str | None) -> str:
    """Make the repository and the branch if they are missing, and return its full name."""
    full: str = api.create_repo(repo_id, private=private, exist_ok=True).repo_id
    if revision is not None and not revision.startswith("refs/pr"):
        api.create_branch(full, branch=revision, exist_ok=True)
    return full


def _operations(folder: Path, remote: Iterable[str]) -> list[Any]:
    """What makes the repository hold the folder: its files, and no weights that they replace under another name.

    `upload_folder` would do this in several commits where it takes more than five minutes. Shards left from an earlier
    push would stand beside the new weights, and nothing could tell which are meant.
    """
    from huggingface_hub import CommitOperationAdd, CommitOperationDelete

    files = {name: folder / name for name in file_names(folder)}
    written = {match[1] for match in map(WEIGHTS.fullmatch, files) if match}
    replaced = [name for name in remote if (match := WEIGHTS.fullmatch(name)) and match[1] in written]
    return [
        *(CommitOperationDelete(name, is_folder=False) for name in replaced if name not in files),
        *(CommitOperationAdd(name, path) for name, path in files.items()),
    ]


def _copy_card(folder: Path, source: Path | None) -> None:
    """Copy a card and what it was made of; nothing for None.

    A card that stays is pushed again: unchanged it is no change to the repository, and the manifest lists it.
    """
    if source is not None:
        copy_file(source.parent, source.name, folder / README)
        _put_facts(folder, source.parent)


def _complete_card(
    folder: Path, repo_id: str, fallback: Path | None, tags: list[str] | str | None, short_card: str
) -> None:
    """Put a card where there is none, add `tags` to it, let it open what is pushed, and list it in the manifest."""
    from huggingface_hub import metadata_save

    path = folder / README
    before = path.is_file() and path.read_bytes()
    if not path.is_file():
        _copy_card(folder, fallback)
    if not path.is_file():
        write_whole(path, short_card.format(name=repo_id.rpartition("/")[2]))
    if tags:
        fields = _front_matter(path)
        old = fields.get("tags") or []
        listed = [*(old if isinstance(old, list) else [old]), *([tags] if isinstance(tags, str) else tags)]
        metadata_save(path, {**fields, "tags": list(dict.fromkeys(map(str, listed)))})
    if (_say_pushed_name(folder, repo_id) or path.read_bytes() != before) and (folder / MANIFEST).is_file():
        write_manifest(folder)


def _say_pushed_name(folder: Path, repo_id: str) -> bool:
    """Let the examples of a card open the repository, where they open a folder or a name on this computer.

    Returns whether anything was changed.
    """
    fields: dict[str, Any] = {}
    with suppress(CheckpointError):  # one that somebody wrote goes as it is
        fields = parse_json(read_file(folder, CARD, MAX_CONFIG_BYTES), CARD) if is_named(folder / CARD) else {}
    names = "|".join(re.escape(str(name)) for name in (PLACE, fields.get("name")) if name)
    opened_name = re.compile(rf'(?<=[=(])"(?:{names})"')
    texts = {name: folder / name for name in (README, CARD) if is_named(folder / name)}
    before = {name: path.read_text(encoding="utf-8", errors="surrogateescape") for name, path in texts.items()}
    after = {**before, README: opened_name.sub(f'"{repo_id}"', before.get(README, ""))}
    if isinstance(use := fields.get("use"), str):
        fields["use"] = opened_name.sub(f'"{repo_id}"', use)
        after[CARD] = json.dumps(fields, indent=1, ensure_ascii=False) + "\n" if fields["use"] != use else before[CARD]
    for name, path in texts.items():
        if after[name] != before[name]:
            write_whole(path, after[name].encode("utf-8", "surrogateescape"))
    return after != before


def _put_facts(folder: Path, source: Path) -> None:
    """Copy what the card was made of from its folder, if that is there: fields, numbers, the Hub's form of them."""
    for name in FACTS:
        if is_named(source / name):
            copy_file(source, name, folder / name)


def _check_facts(*cards: str | os.PathLike[str] | None, adds_tags: bool) -> None:
    """Open all that may be copied, and read a card that is to have more tags, before the Hub is asked for anything."""
    for card in (Path(path) for path in cards if path is not None):
        if not card.is_file() and not card.is_symlink():
            raise CheckpointError(f"card is {shown(os.fspath(card))}; it must be the README.md to push.")
        for name in (card.name, *FACTS):
            if is_named(card.parent / name):
                opened(card.parent, name).close()
        if adds_tags and is_named(card):
            _front_matter(card)


def _own_card(repo_id: str, revision: str | None, token: str | bool | None) -> Path | None:
    """The repository's card if somebody wrote it; None if there is none, or the one transformers writes."""
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import RemoteEntryNotFoundError

    try:
        # forced, because a Hub that does not answer would else mean the card of an earlier time, or none
        path = fetch(hf_hub_download, repo_id, README, revision=revision, token=token, force_download=True)
    except RemoteEntryNotFoundError:
        return None
    try:
        return Path(path) if _front_matter(Path(path)).get("library_name") != "transformers" else None
    except DataError:  # transformers does not write such: somebody did, and it is theirs
        return Path(path)


def _front_matter(card: Path) -> dict[str, Any]:
    """What a card says to the Hub.

    Raises:
        DataError: if it is no YAML.
    """
    content = read_file(card.parent, card.name, MAX_ANSWER_BYTES)
    return read_front_matter(content.decode(errors="replace"), shown(card.name))


__all__ = ["push_folder"]
