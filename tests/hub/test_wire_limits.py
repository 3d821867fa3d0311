# SPDX-License-Identifier: Apache-2.0
"""A Hub that is hostile: it sends for ever, more than it said, or names for files that lie outside of the cache.

Every download ends with one error, soon; nothing is written outside of the cache, and in it not more than is allowed.
"""

from __future__ import annotations

import gzip
import os
import signal
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from hub_repository import Repository, entry
from hub_server import Handler, HubServer
from huggingface_hub import hf_hub_download, snapshot_download

from hubsep.errors import CheckpointError
from hubsep.hub import fetch as hub_fetch
from hubsep.hub.resolve import resolve_folder


NAME = "org/model"
FILES = {"config.json": b"{}", "README.md": b"# A model", "model.safetensors": bytes(1_000)}
INFO, TREE = rf"GET /api/models/{NAME}(/revision/.*)?$", rf"GET /api/models/{NAME}/tree/"
WEIGHTS, TEXT = rf"GET /{NAME}/resolve/.*safetensors", rf"GET /{NAME}/resolve/.*config.json"
OK = b"HTTP/1.1 200 OK\r\n"
COMMIT = "0123456789abcdef" * 2 + "01234567"
OUTSIDE = "../../../../outside"
MAX_BYTES, MOST_ON_DISK = 1 << 20, 12 << 20  # of a chunk, ten: huggingface_hub writes so much at once

Attack = Callable[[Handler], None]


def drip(begin: bytes, again: bytes, pause_s: float = 0.02) -> Attack:
    """Sends a beginning, and then a piece again and again for as long as anybody listens."""

    def attack(handler: Handler) -> None:
        handler.close_connection = True
        with suppress(OSError):
            handler.wfile.write(begin)
            while True:
                handler.wfile.write(again)
                time.sleep(pause_s)

    return attack


def flood(handler: Handler) -> None:
    """A file without a length, and without an end."""
    drip(OK + b"Transfer-Encoding: chunked\r\n\r\n", b"10000\r\n" + bytes(1 << 16) + b"\r\n", 0)(handler)


def listing(*entries: dict[str, Any], **headers: Any) -> Attack:
    return lambda handler: handler.json(entries, **headers)


def answer(content: bytes) -> Attack:
    return lambda handler: handler.send(content, 200, Content_Type="application/json")


def naming(**headers: Any) -> Attack:
    """A file with headers of the attacker's."""
    sent: dict[str, Any] = {"ETag": '"a"', "X_Repo_Commit": COMMIT, **headers}
    return lambda handler: handler.send(b"{}", **sent)


def next_page(handler: Handler) -> None:
    handler.json([], Link=f'<{handler.server.url}{handler.path}>; rel="next"')


def packed(handler: Handler) -> None:
    handler.send(gzip.compress(bytes(64 << 20)), Content_Encoding="gzip", Content_Type="application/json")


def later(handler: Handler, seconds: str) -> None:
    handler.refuse(429, "", "too many requests", Retry_After=seconds, RateLimit=f'"api";r=0;t={seconds}')


def names(**fields: Any) -> Attack:
    return listing({**entry("config.json", b"{}"), **fields})


ATTACKS: dict[str, tuple[str, Attack, str]] = {
    "a status line that drips": (INFO, drip(b"HTTP/1.1 200 ", b"O"), "too slow"),
    "headers that drip": (TREE, drip(OK, b"X: y\r\n"), "too slow"),
    "a listing that drips": (TREE, drip(OK + b"Content-Length: 99999\r\n\r\n[", b" "), "too slow"),
    "weights that drip": (WEIGHTS, drip(OK + b"Content-Length: 1000\r\n\r\n", b"x"), "too slow"),
    "a server that never answers": (INFO, drip(b"", b"", 0.1), "too slow"),
    "headers of a file that drip": ("HEAD", drip(OK, b"X: y\r\n"), "too slow"),
    "a server that is busy for ever": ("HEAD", lambda handler: later(handler, "99999999"), "much later"),
    "a listing without an end": (TREE, flood, "more than the 1048576 bytes"),
    "a page after each page": (TREE, next_page, "more than 200 answers"),
    "a listing that unpacks to much": (TREE, packed, "more than the 1048576 bytes"),
    "weights without an end": (WEIGHTS, flood, "more than the 1048576 bytes"),
    "weights longer than they are said to be": (
        WEIGHTS, drip(OK + b"Content-Length: 99999999999\r\n\r\n", bytes(1 << 16), 0), r"more than the \d+ bytes",
    ),
    "too many files": (
        TREE, listing(*(entry(f"{number}.json", b"") for number in range(5_000))), "more than 1000 files",
    ),
    "too many files that are not fetched": (
        TREE, listing(*({"type": "file", "path": str(number), "size": 0} for number in range(9_999))), "9000 in all"
    ),
    "a listing of nothing": (TREE, answer(b"[" + b"[]," * 60_000 + b"[]]"), "more than 100000 values"),
    "a deep listing": (TREE, answer(b"[" * 50_000 + b"]" * 50_000), "nested too deeply"),
    "too large a file": (TREE, names(size=2**40), "more than 100 GiB"),
    "a commit outside": (INFO, lambda handler: handler.json({"id": NAME, "sha": OUTSIDE}), "a commit that cannot be"),
    "a blob outside": (TREE, names(oid=OUTSIDE), "outside of the cache"),
    "a large file outside": (TREE, names(lfs={"oid": OUTSIDE, "size": 1, "pointerSize": 1}), "outside of the cache"),
    "an ETag outside": ("HEAD", naming(ETag=f'"{OUTSIDE}"'), "outside of the cache"),
    "a weak ETag outside": ("HEAD", naming(ETag=f'W/"{OUTSIDE}"'), "outside of the cache"),
    "a bare ETag outside": ("HEAD", naming(ETag="/outside"), "outside of the cache"),
    "an ETag that is a folder": ("HEAD", naming(ETag='".."'), "outside of the cache"),
    "a linked ETag outside": ("HEAD", naming(X_Linked_ETag=f'"{OUTSIDE}"'), "outside of the cache"),
    "a file's commit outside": ("HEAD", naming(X_Repo_Commit=OUTSIDE), "outside of the cache"),
}  # fmt: skip


@pytest.fixture
def hostile(hub: HubServer, monkeypatch: pytest.MonkeyPatch) -> HubServer:
    repository = Repository()
    repository.commit("main", FILES, "all")
    hub.repositories[NAME] = repository
    limits = {
        "CHECK_S": 0.05,
        "MAX_ANSWER_BYTES": MAX_BYTES,
        "MAX_ENTRIES": 9_000,
        "MAX_VALUES": 100_000,
        "MAX_ANSWERS": 200,
    }
    for limit, value in limits.items():
        monkeypatch.setattr(hub_fetch, limit, value)
    return hub


# what never ends is waited for, a few seconds each
SORTED_ATTACKS = [
    pytest.param(name, marks=pytest.mark.slow) if message == "too slow" else name
    for name, (_, _, message) in ATTACKS.items()
]


def hurry(message: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Wait less for what never ends; nothing else, as this machine may be slow itself."""
    if message == "too slow":
        monkeypatch.setattr(hub_fetch, "PATIENCE_S", 1.5)
        monkeypatch.setattr(hub_fetch, "ANSWER_S", 0.0)


def files(place: Path) -> dict[str, int]:
    return {path.relative_to(place).as_posix(): path.stat().st_size for path in place.rglob("*") if path.is_file()}


@pytest.mark.parametrize("name", SORTED_ATTACKS)
def test_a_hostile_hub_is_left_in_time_and_writes_nothing_outside(
    name: str, hostile: HubServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    request, attack, message = ATTACKS[name]
    hostile.attacks[request] = attack
    hurry(message, monkeypatch)
    cache = tmp_path / "a" / "b" / "c"
    with pytest.raises(CheckpointError, match=message) as caught:
        resolve_folder(NAME, cache_dir=cache)
    assert "hf download" in str(caught.value)
    assert not [path for path in files(tmp_path) if not path.startswith("a/b/c/")]
    assert sum(files(tmp_path).values()) <= MOST_ON_DISK


@pytest.mark.parametrize(
    "name", ["an ETag outside", pytest.param("headers of a file that drip", marks=pytest.mark.slow)]
)
def test_so_does_one_file(name: str, hostile: HubServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    request, attack, message = ATTACKS[name]
    hostile.attacks[request] = attack
    hurry(message, monkeypatch)
    with pytest.raises(CheckpointError, match=message):
        hub_fetch.fetch(hf_hub_download, NAME, "config.json", cache_dir=str(tmp_path / "a" / "b" / "c"))
    assert not [path for path in files(tmp_path) if not path.startswith("a/b/c/")]


@pytest.mark.parametrize("request_line", ["HEAD", INFO, WEIGHTS])
def test_an_interruption_ends_a_download_of_which_nothing_comes(
    request_line: str, hostile: HubServer, tmp_path: Path
) -> None:
    signals = [signal.SIGINT]

    def interrupt(handler: Handler) -> None:
        while signals:
            os.kill(os.getpid(), signals.pop())
        drip(OK, b"X: y\r\n", 0.2)(handler)

    hostile.attacks[request_line] = interrupt
    before = set(threading.enumerate())
    with pytest.raises(KeyboardInterrupt):
        resolve_folder(NAME, cache_dir=tmp_path)
    start = time.monotonic()
    while [thread for thread in set(threading.enumerate()) - before if thread.name.startswith("ThreadPool")]:
        assert time.monotonic() - start < 20, "Python would wait for it when it ends"
        time.sleep(0.05)
    assert not [path for path in files(tmp_path) if path.endswith((".incomplete", ".safetensors"))]


def test_what_is_refused_does_no_harm_to_what_follows(hostile: HubServer, monkeypatch: pytest.MonkeyPatch) -> None:
    hostile.attacks["HEAD"] = ATTACKS["headers of a file that drip"][1]
    with monkeypatch.context() as patch:
        hurry("too slow", patch)
        with pytest.raises(CheckpointError, match="too slow"):
            resolve_folder(NAME)
    hostile.attacks.clear()
    folder = resolve_folder(NAME)
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == FILES
    assert not hub_fetch._transfers


def test_downloads_of_others_are_not_looked_at(hostile: HubServer) -> None:
    resolve_folder(NAME)
    repository = hostile.repositories[NAME]
    repository.commit("main", {f"{number}.txt": b"" for number in range(1_001)}, "many")
    with pytest.raises(CheckpointError, match="more than 1000 files"):
        resolve_folder(NAME)
    assert snapshot_download(NAME, allow_patterns="1.txt")
