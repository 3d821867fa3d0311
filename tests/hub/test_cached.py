# SPDX-License-Identifier: Apache-2.0
"""What was fetched by name: listed, removed, and nothing else touched; beside other processes, and after kills."""

from __future__ import annotations

import json
import re
import shutil
import threading
from pathlib import Path
from typing import Any

import published_conv_tasnet
import pytest
from hub_repository import Repository
from hub_server import HubServer
from huggingface_hub import constants, snapshot_download
from tiny_conv_tasnet import tiny_conv_tasnet

from hubsep.cli import main
from hubsep.conversion import convert
from hubsep.errors import CheckpointError
from hubsep.hub.cached import cached, remove_cached
from hubsep.hub.opening import Kept, kept_at, open_published
from hubsep.hub.processes import locked
from hubsep.hub.published import find_published
from hubsep.hub.resolve import resolve_folder


NAME = "JorisCos/ConvTasNet_Libri2Mix_sepclean_16k"
TUNED = "org/tuned"


def kept() -> Kept:
    row = find_published(NAME)
    assert row is not None
    return kept_at(row)


@pytest.fixture
def fetched(hub: HubServer, tmp_path: Path) -> Path:
    """The cache, with a converted checkpoint and what it was made of, a repository of ours, and one of others."""
    source = tmp_path / "pytorch_model.bin"
    published_conv_tasnet.write_asteroid(source, published_conv_tasnet.tensors(), facts={"licenses": []})
    tiny_conv_tasnet()[0].save_pretrained(tmp_path / "tuned")
    (tmp_path / "tuned" / "README.md").write_text("---\nlicense: mit\n---\n")
    tuned = {path.name: path.read_bytes() for path in (tmp_path / "tuned").iterdir()}
    contents = {
        NAME: {"pytorch_model.bin": source.read_bytes()},
        TUNED: tuned,
        "org/text": {"config.json": b'{"model_type": "bert"}'},
    }
    for name, files in contents.items():
        hub.repositories[name] = Repository()
        hub.repositories[name].commit("main", files, "published")
        snapshot_download(name)
    kept().folder.mkdir(parents=True)
    convert("conv_tasnet", source, kept().model, licence="cc-by-sa-4.0")
    record = {"name": NAME, "place": f"https://huggingface.co/{NAME}", "licence": "cc-by-sa-4.0", "sha256": {}}
    kept().source.write_text(json.dumps(record))
    return Path(constants.HF_HUB_CACHE)


def files(folder: Path) -> dict[str, bytes]:
    paths = (path for path in folder.glob("*/**/*") if path.is_file() and ".locks" not in path.parts)
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in paths}


def test_what_hubsep_opens_is_listed_and_nothing_else(fetched: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["list", "--cached"]) == 0
    table = capsys.readouterr().out
    *lines, _, place, _ = table.splitlines()
    assert str(fetched) in place
    assert max(map(len, lines)) <= 80, table
    assert "org/text" not in table
    assert main(["list", "--cached", "--json"]) == 0
    rows = {row["name"]: row for row in json.loads(capsys.readouterr().out)}
    assert rows.keys() == {NAME, TUNED}
    assert (rows[NAME]["licence"], rows[TUNED]["licence"]) == ("cc-by-sa-4.0", "mit")
    repository = fetched / f"models--{NAME.replace('/', '--')}"
    places = [path for path in (*repository.rglob("*"), *kept().folder.rglob("*")) if not path.is_symlink()]
    assert rows[NAME]["bytes"] == sum(path.stat().st_size for path in places if path.is_file())
    for row in rows.values():
        assert row["name"] in table
        assert row["opened"][:10] in table
        for folder in row["folders"]:
            assert str(resolve_folder(folder)) == folder
            printed = [Path(place.split()[-1]) / line.strip() for line in lines if line.startswith("  ")]
            assert any(Path(folder).is_relative_to(each) for each in printed)


def test_what_is_removed_is_gone_and_the_rest_stays(fetched: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = files(fetched)
    sizes = {row.name: row.bytes for row in cached()}
    assert main(["remove", NAME.lower()]) == 0
    assert f"{sizes[NAME] / 1e6:.1f} MB freed" in capsys.readouterr().out
    assert not kept().folder.exists()
    assert [row.name for row in cached()] == [TUNED]
    assert files(fetched) == {name: content for name, content in before.items() if "ConvTasNet" not in name}
    assert main(["remove", TUNED]) == 0
    assert cached() == []
    assert files(fetched) == {name: content for name, content in before.items() if "org--text" in name}
    assert main(["list", "--cached"]) == 0
    assert "Nothing was fetched so far" in capsys.readouterr().out


def test_what_is_not_there_is_refused_naming_what_is(fetched: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = files(fetched)
    (fetched.parent / "mine").mkdir()
    for name, says in {
        "conv-tasnet-small": "is part of the package and stays",
        str(fetched.parent / "mine"): "is a file or folder of yours and stays",
        "org/text": f"What was fetched is {NAME}, {TUNED}.",
        "org/tunde": f"Did you mean {TUNED}?",
        "..": "is a file or folder of yours and stays",
        "../../x": "nothing of",
        "a/../../b": "nothing of",
    }.items():
        assert main(["remove", name]) == 2
        said = " ".join(capsys.readouterr().err.replace("│", " ").split())
        assert says in said, said
    assert files(fetched) == before


def test_links_out_of_the_cache_are_not_followed(fetched: Path, tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    for place in (fetched / f"models--{TUNED.replace('/', '--')}", kept().folder):
        shutil.move(place, outside / place.name)
        place.symlink_to(outside / place.name)
    before = files(outside)
    assert cached() == []
    remove_cached(NAME)  # what it was converted from is in the cache itself
    for name in (NAME, TUNED):
        with pytest.raises(CheckpointError, match="nothing of"):
            remove_cached(name)
    assert files(outside) == before


def test_what_another_process_opens_or_fetches_stays(fetched: Path) -> None:
    before = files(fetched)
    kept().lock.mkdir()
    with locked(kept().lock), pytest.raises(CheckpointError, match=f"another process is fetching {NAME} now"):
        remove_cached(NAME)
    lock = next((fetched / ".locks" / f"models--{TUNED.replace('/', '--')}").glob("*.lock"))
    with locked(lock), pytest.raises(CheckpointError, match=f"another process is fetching {TUNED} now"):
        remove_cached(TUNED)
    assert files(fetched) == before


def test_who_waits_for_what_is_removed_makes_it_again(tmp_path: Path) -> None:
    """A lock that was taken away while somebody waited for it is none: two would work in one folder."""
    folder, order = tmp_path / "a" / "lock", []

    def wait() -> None:
        with locked(folder, make=True):
            order.append(folder.is_dir())

    waiting = threading.Thread(target=wait)
    with locked(folder, make=True):
        waiting.start()
        waiting.join(0.2)
        shutil.move(tmp_path / "a", tmp_path / "b")
    waiting.join(10)
    assert order == [True]


def break_off(name: str, at: int) -> None:
    """Ends a removal when it removes the files of a folder, the first or a later one."""
    remaining, remove = at, shutil.rmtree

    def fail(*arguments: Any, **options: Any) -> None:
        nonlocal remaining
        remaining -= 1
        if not remaining:
            raise KeyboardInterrupt
        remove(*arguments, **options)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(shutil, "rmtree", fail)
        with pytest.raises(KeyboardInterrupt):
            remove_cached(name)


def test_a_removal_that_was_broken_off_leaves_nothing_that_looks_whole_and_goes_on(fetched: Path) -> None:
    left = {name for name in files(fetched) if "org--text" in name}
    for name, at in [(NAME, 1), (NAME, 2), (TUNED, 1)]:  # the conversion, what it was made of, a repository
        break_off(name, at)
        assert name not in [row.name for row in cached()]
        assert not kept().folder.exists()
        with pytest.raises(CheckpointError):
            resolve_folder(name, local_files_only=True)
    remove_cached(NAME)
    remove_cached(TUNED)
    assert files(fetched).keys() == left


def test_a_download_that_was_broken_off_is_removed_too(fetched: Path) -> None:
    for name in (NAME, TUNED):
        repository = fetched / f"models--{name.replace('/', '--')}"
        shutil.rmtree(repository / "snapshots")
        (repository / "blobs" / "0.incomplete").write_bytes(bytes(7))
    (kept().source).unlink()
    assert cached() == []
    assert remove_cached(NAME) > remove_cached(TUNED) > 7
    assert not [name for name in files(fetched) if "org--text" not in name]


@pytest.mark.slow
def test_opening_while_it_is_removed_ends_with_the_model_or_one_error(hub: HubServer, tmp_path: Path) -> None:
    source = tmp_path / "pytorch_model.bin"
    published_conv_tasnet.write_asteroid(source, published_conv_tasnet.tensors(), facts={"licenses": []})
    hub.repositories[NAME] = Repository()
    hub.repositories[NAME].commit("main", {"pytorch_model.bin": source.read_bytes()}, "published")
    row, ends = find_published(NAME), []
    assert row is not None

    def open_it() -> None:
        ends.append(open_published(row))

    removed, refusals = 0, set()
    for _ in range(3):
        opening = [threading.Thread(target=open_it) for _ in range(2)]
        for thread in opening:
            thread.start()
        while any(thread.is_alive() for thread in opening):
            try:
                remove_cached(NAME)
                removed += 1
            except CheckpointError as error:
                refusals.add(re.search("another process|nothing of|$", str(error))[0])  # type: ignore[index]
        assert kept().is_complete or not kept().folder.exists()
    assert len(ends) == 6, "an opening failed"
    assert removed
    assert "" not in refusals
