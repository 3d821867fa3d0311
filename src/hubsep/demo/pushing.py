# SPDX-License-Identifier: Apache-2.0
"""Pushing a Space: a folder with an app becomes a repository of the Hub in one commit.

Decisions: the folder is checked before the Hub is asked for anything: its README says what the Hub has to know, the
app is there, and nothing goes along that does not belong: hidden files and what Python leaves behind are left out,
links and special files are refused. What is pushed is a copy made by `hub.copies`. What the Space has beside that
stays. A Space installs hubsep from the package index; `wheel` puts a built one into the Space instead and lets
requirements.txt name it, for a version that is not published.
"""

from __future__ import annotations

import os
import re
import tempfile
from pathlib import Path, PurePosixPath
from typing import Any

from ..errors import CheckpointError
from ..hub.bounds import shown
from ..hub.copies import copy_file, file_names, read_file
from ..hub.fetch import LIBRARY
from ..hub.wire import check_token, wire_errors
from ..texts import read_front_matter


README, REQUIREMENTS = "README.md", "requirements.txt"
LEFT_OUT = frozenset({"__pycache__", "flagged"})
MAX_BYTES, MAX_TEXT_BYTES = 200 * 2**20, 2**20


def push_space(
    folder: str | os.PathLike[str],
    repo_id: str,
    *,
    private: bool | None = None,
    token: str | bool | None = None,
    wheel: str | os.PathLike[str] | None = None,
    commit_message: str | None = None,
) -> str:
    """Pushes a folder as a Space, made if it is missing; returns the address of the commit.

    Args:
        folder: with README.md, the app it names, and requirements.txt.
        repo_id: "name", or "owner/name".
        private: whether a new Space is private.
        token: of the Hub; by default the one of this user.
        wheel: of hubsep, to go along.
        commit_message: by default "Upload Space".

    Raises:
        CheckpointError: if the folder is no Space, or the Hub cannot be reached or refuses.
    """
    with tempfile.TemporaryDirectory() as place:
        for name in space_files(Path(folder)):
            copy_file(Path(folder), name, Path(place) / "space" / name)
        return _push_copy(Path(place) / "space", repo_id, private, token, wheel, commit_message)


def _push_copy(
    folder: Path,
    repo_id: str,
    private: bool | None,
    token: str | bool | None,
    wheel: str | os.PathLike[str] | None,
    commit_message: str | None,
) -> str:
    from huggingface_hub import CommitOperationAdd, HfApi

    files = space_files(folder)
    front = front_matter(folder)
    check_token(token)
    what = f"{shown(repo_id)} could not be pushed to; a push is one commit, so it holds the old or all of the new"
    api = HfApi(**LIBRARY, token=token)
    with wire_errors(what, token):
        repo = api.create_repo(repo_id, repo_type="space", space_sdk=front["sdk"], private=private, exist_ok=True)
        contents: dict[str, Any] = dict(files)
        if wheel is not None:
            contents |= with_wheel(Path(wheel), files, f"{api.endpoint}/spaces/{repo.repo_id}/resolve/main")
        commit = api.create_commit(
            repo.repo_id,
            [CommitOperationAdd(name, content) for name, content in sorted(contents.items())],
            repo_type="space",
            commit_message=commit_message or "Upload Space",
        )
    return str(commit)


def space_files(folder: Path) -> dict[str, Path]:
    """The files that go into the Space, by their names in it.

    Raises:
        CheckpointError: if one is a link, there is none, or together they are too large.
    """
    if not folder.is_dir():
        raise CheckpointError(f"there is no folder {shown(str(folder))}; pass one such as spaces/separation")
    names = file_names(folder, left_out=lambda name: name.startswith(".") or name in LEFT_OUT)
    files = {name: folder / name for name in names}
    size = sum(path.stat().st_size for path in files.values())
    if size > MAX_BYTES:
        raise CheckpointError(
            f"the folder has {size / 2**20:.0f} MiB, more than {MAX_BYTES // 2**20}; models are repositories"
        )
    if README not in files or REQUIREMENTS not in files:
        raise CheckpointError(
            f"a Space needs {README} and {REQUIREMENTS}; {shown(str(folder))} has {', '.join(files) or 'nothing'}"
        )
    return files


def front_matter(folder: Path) -> dict[str, Any]:
    """What README.md says to the Hub.

    Raises:
        CheckpointError: if it says nothing, lacks what a Gradio Space needs, or names an app that is not there.
        DataError: if what it says is no YAML.
    """
    front = read_front_matter(_text(folder, README), README)
    if not front:
        raise CheckpointError(f"{README} has to begin with --- and what a Space needs: sdk, sdk_version, app_file")
    missing = [name for name in ("title", "sdk", "sdk_version", "app_file", "license") if not front.get(name)]
    if missing:
        raise CheckpointError(f"{README} does not say {', '.join(missing)}; add them between the lines of ---")
    if front["sdk"] != "gradio":
        raise CheckpointError(f"sdk is {shown(str(front['sdk']))}; these Spaces are made with gradio")
    if PurePosixPath(str(front["app_file"])).as_posix() not in space_files(folder):
        raise CheckpointError(f"app_file is {shown(str(front['app_file']))}, which is not in the folder")
    return front


def _text(folder: Path, name: str) -> str:
    """A text of the folder.

    Raises:
        CheckpointError: if it is not in UTF-8, or a book.
    """
    try:
        return read_file(folder, name, MAX_TEXT_BYTES).decode()
    except UnicodeDecodeError as error:
        raise CheckpointError(f"{name} is not in UTF-8: byte {error.start}; save it as UTF-8") from error


def with_wheel(wheel: Path, files: dict[str, Path], address: str) -> dict[str, Any]:
    """The wheel, and requirements.txt with its address in place of the name of the package.

    Raises:
        CheckpointError: if it is no wheel of hubsep, or requirements.txt does not ask for hubsep.
    """
    if not wheel.is_file() or not re.fullmatch(r"hubsep-[\w.+!]+-py3-none-any\.whl", wheel.name):
        raise CheckpointError(f"{shown(str(wheel))} is no wheel of hubsep; make one with: pip wheel --no-deps .")
    requirements = _text(files[REQUIREMENTS].parent, REQUIREMENTS)
    named, times = re.subn(r"(?m)^(hubsep(?:\[[\w,]+\])?)\s*$", rf"\1 @ {address}/{wheel.name}", requirements)
    if times != 1:
        raise CheckpointError(f"{REQUIREMENTS} has to ask for hubsep in a line of its own")
    return {wheel.name: read_file(wheel.parent, wheel.name, MAX_BYTES), REQUIREMENTS: named.encode()}


__all__ = ["front_matter", "push_space", "space_files"]
