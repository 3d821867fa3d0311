# SPDX-License-Identifier: Apache-2.0
"""What the tests of hostile folders run in a process of its own: hooks and memory peaks cannot be undone."""

from __future__ import annotations

import contextlib
import ctypes
import os
import random
import resource
import struct
import sys
import traceback
from pathlib import Path
from typing import Any

from tiny import TinyModel, saved_tiny
from transformers.utils import logging

from hubsep.errors import CheckpointError, HubsepError
from hubsep.hub import check_folder, resolve_folder


FORBIDDEN_EVENTS = (
    "pickle.find_class",
    "subprocess.Popen",
    "os.system",
    "os.exec",
    "os.posix_spawn",
    "socket.connect",
)
IN_OPEN = 0x20
IN_ISDIR = 0x40000000


logging.disable_progress_bar()


def peak() -> float:
    """Highest memory of this process so far, in MB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1_024


def grown_by_refusals(*folders: str) -> float:
    before = peak()
    for folder in folders:
        with contextlib.suppress(CheckpointError):
            TinyModel.from_pretrained(folder)
    return peak() - before


def grown_by_check(folder: str) -> float:
    before = peak()
    check_folder(folder)
    return peak() - before


class Watch:
    """Reports the names of files opened below some folders by anything in this process, compiled code included."""

    def __init__(self, folders: list[Path]):
        self.library = ctypes.CDLL(None, use_errno=True)
        self.descriptor = self.library.inotify_init1(os.O_NONBLOCK)
        for folder in folders:
            assert self.library.inotify_add_watch(self.descriptor, os.fsencode(folder), IN_OPEN) >= 0

    def opened(self) -> list[str]:
        names, content = [], b""
        with contextlib.suppress(BlockingIOError):
            while True:
                content += os.read(self.descriptor, 1 << 16)
        while content:
            _, mask, _, length = struct.unpack_from("iIII", content)
            if not mask & IN_ISDIR:
                names.append(content[16 : 16 + length].rstrip(b"\0").decode())
            content = content[16 + length :]
        return names


def watched_load(good: str, *hostile: str) -> dict[str, Any]:
    """Load one folder full of decoys and some hostile ones; report what was opened besides their own plain files."""
    TinyModel.from_pretrained(good)  # everything that Python imports late is imported now
    for folder in hostile:
        with contextlib.suppress(CheckpointError):
            TinyModel.from_pretrained(folder)
    top = Path(good).parent
    outside = Watch([top, *(path for path in top.rglob("*") if path.is_dir() and path.name != "model")])
    inside, events, reads = Watch([Path(good)]), [], []

    def hook(event: str, arguments: tuple[Any, ...]) -> None:
        if event in FORBIDDEN_EVENTS:
            events.append(event)
        elif event == "open" and isinstance(arguments[0], str | bytes):
            reads.append(os.path.abspath(os.fsdecode(arguments[0])))

    sys.addaudithook(hook)
    loaded = refused = 0
    for folder in (good, *hostile):
        try:
            TinyModel.from_pretrained(folder)
            loaded += 1
        except CheckpointError:
            refused += 1
    seen = list(reads)
    opened = [name for name in inside.opened() if name not in ("config.json", "model.safetensors")]
    opened += outside.opened()
    (top / "probe").write_text("x")
    folders = [f"{folder}{os.sep}" for folder in (good, *hostile)]
    opened += [path for path in seen if not path.startswith((*folders, *system_places()))]
    return {
        "loaded": loaded,
        "refused": refused,
        "events": events,
        "opened": opened,
        "watch_works": outside.opened() == ["probe"] and len(seen) > 0,
    }


def system_places() -> list[str]:
    """Where the interpreter and the libraries live; `/proc` is read to learn about the machine."""
    own = Path(__file__).parents[2]
    return [sys.prefix, sys.base_prefix, "/proc/", "/sys/", "/dev/null", f"{own}{os.sep}", "/usr/"]


def sockets_of_a_load(folder: str) -> list[str]:
    events: list[str] = []
    sys.addaudithook(lambda event, _: events.append(event) if event.startswith("socket.") else None)
    TinyModel.from_pretrained(folder)
    return [event for event in events if event != "socket.gethostname"]


def mutate(place: str, count: str, seed: str) -> dict[str, Any]:
    """Load folders with random changes to their bytes; report how many were refused and every foreign error."""
    generator = random.Random(int(seed))
    folder = saved_tiny(Path(place) / "model")
    originals = {name: (folder / name).read_bytes() for name in ("config.json", "model.safetensors")}
    counts: dict[str, Any] = {"refused": 0, "loaded": 0, "foreign": []}
    for number in range(int(count)):
        for name, content in originals.items():
            (folder / name).write_bytes(content)
        name = generator.choice(list(originals))
        (folder / name).write_bytes(mutated(originals[name], generator))
        try:
            model, info = TinyModel.from_pretrained(folder, output_loading_info=True)
            assert not any(info[kind] for kind in ("missing_keys", "unexpected_keys", "mismatched_keys"))
            assert all(tensor.isfinite().all() for tensor in model.state_dict().values())
            counts["loaded"] += 1
        except HubsepError:
            counts["refused"] += 1
        except Exception:
            counts["foreign"].append(f"{number}: {traceback.format_exc()[-1_500:]}")
    return counts


def mutated(content: bytes, generator: random.Random) -> bytes:
    """One to four random changes: a byte, a bit, a digit, a cut, a copy of a piece elsewhere, a hostile token."""
    data = bytearray(content)
    for _ in range(generator.choice((1, 1, 1, 2, 4))):
        place = generator.randrange(len(data) + 1)
        kind = generator.randrange(6)
        if kind == 0 and place < len(data):
            data[place] = generator.randrange(256)
        elif kind == 1 and place < len(data):
            data[place] ^= 1 << generator.randrange(8)
        elif kind == 2:
            digits = [index for index, byte in enumerate(data) if 48 <= byte <= 57]
            if digits:
                data[generator.choice(digits)] = generator.choice(b"0123456789")
        elif kind == 3:
            del data[place : place + generator.randint(1, 8)]
        elif kind == 4:
            data[place:place] = data[generator.randrange(len(data) or 1) :][: generator.randint(1, 16)]
        else:
            tokens = [b"null", b"-1", b"1e9", b"[]", b"{}", b'"', b"true", b"\\u0000", b"99999999999999", b"NaN"]
            data[place:place] = generator.choice(tokens)
    return bytes(data)


def load_with_token(token: str, folder: str, copy: str) -> None:
    """Use a token in every way there is; what is printed and written is searched by the test."""
    logging.set_verbosity_debug()
    model = TinyModel.from_pretrained(folder, token=token)
    model.save_pretrained(copy, token=token)
    for attempt in (resolve_folder, TinyModel.from_pretrained):
        try:
            attempt("someone/model", token=token, cache_dir=Path(copy) / "cache")
        except CheckpointError:
            traceback.print_exc()
    print(model.config, vars(model.config))
