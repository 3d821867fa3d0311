# SPDX-License-Identifier: Apache-2.0
"""Pushing a model and its card to the Hub in one commit.

transformers writes a generic card with `library_name: transformers` where a repository has none, and pushes it after
the fact. Here the card is part of the same commit, so the repository is the old or the new one, never half of each.
"""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path

from .errors import CheckpointError
from .hub_bounds import shown


CARD = "README.md"
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
) -> str:
    """Let `save` write into a new folder, add the card, and push all of it as one commit; return its address.

    The card is `card` if given, else the one in the repository unless transformers wrote it, else `fallback`, else a
    short one.

    Raises:
        CheckpointError: `card` is not a file.
    """
    from huggingface_hub import HfApi

    if card is not None and not Path(card).is_file():
        raise CheckpointError(f"card is {shown(os.fspath(card))}; it must be the README.md to push.")
    api = HfApi(library_name="hubsep", token=token)
    repo_id = api.create_repo(repo_id, private=private, exist_ok=True).repo_id
    if revision is not None and not revision.startswith("refs/pr"):
        api.create_branch(repo_id, branch=revision, exist_ok=True)
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place) / "model"
        folder.mkdir()
        _put_card(folder / CARD, repo_id, revision, token, Path(card) if card else None, fallback, tags)
        save(folder)  # keeps the card, and lists it in the manifest
        commit = api.upload_folder(
            repo_id=repo_id,
            folder_path=folder,
            commit_message=commit_message or "Upload model",
            commit_description=commit_description,
            revision=revision,
            create_pr=create_pr,
        )
    return str(commit)


def _put_card(
    path: Path,
    repo_id: str,
    revision: str | None,
    token: str | bool | None,
    card: Path | None,
    fallback: Path | None,
    tags: list[str] | str | None,
) -> None:
    """Write the card to push to `path`, with `tags` added to its own."""
    from huggingface_hub import ModelCard

    # one that stays is pushed again: unchanged it is no change to the repository, and the manifest lists it
    source = card or _own_card(repo_id, revision, token) or fallback
    if source is not None:
        shutil.copyfile(source, path)
    else:
        path.write_text(SHORT_CARD.format(name=repo_id.rpartition("/")[2]), encoding="utf-8")
    if tags:
        content = ModelCard.load(path)
        added = [tags] if isinstance(tags, str) else tags
        content.data.tags = list(dict.fromkeys([*(content.data.tags or []), *added]))
        content.save(path)


def _own_card(repo_id: str, revision: str | None, token: str | bool | None) -> Path | None:
    """The repository's card if somebody wrote it; None if there is none, or the one transformers writes."""
    from huggingface_hub import ModelCard, hf_hub_download
    from huggingface_hub.errors import EntryNotFoundError

    try:
        path = hf_hub_download(repo_id, CARD, revision=revision, token=token)
    except EntryNotFoundError:
        return None
    return Path(path) if ModelCard.load(path).data.library_name != "transformers" else None


__all__ = ["push_folder"]
