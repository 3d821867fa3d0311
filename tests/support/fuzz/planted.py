# SPDX-License-Identifier: Apache-2.0
"""Faults on purpose: what the harness does not notice here, it would not notice in hubsep."""

from __future__ import annotations

import ctypes
import os
import pickle
import runpy
import shutil
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import corpus
import numpy as np
import torch
from safetensors.torch import load_file

from fuzz.cases import Action, Case, Kind, expect
from fuzz.recordings import check
from hubsep.errors import CheckpointError


# the name of a fault, and what the report must say of it
EXPECTED = {
    "crash": "signal 11",
    "abort": "signal 6",
    "hang": "signal (24|9|14)",
    "memory": "memory grew|MemoryError",
    "foreign error": "KeyError",
    "exit": "SystemExit",
    "short": "without a word",
    "NaN": "NaN",
    "code": "canary|code of the folder was run",
    "program": "subprocess.Popen",
    "pickle": "pickle.find_class|os.system|canary",
    "network": "the network was used",
    "name": "the network was used: socket.getaddrinfo",
    "outside read": "outside the folder",
    "outside mapped": "outside the folder were opened",
    "outside written": "outside the folder",
    "outside removed": "shutil.rmtree outside",
    "message": "control characters",
    "long message": "characters",
    "imported": "code of the folder was run",
}


class Bomb:
    """Unpickles to a call."""

    def __init__(self, canary: Path):
        self.canary = canary

    def __reduce__(self) -> tuple[Any, ...]:
        return os.system, (f"touch '{self.canary}'",)


class UncheckedError(CheckpointError):
    """A refusal whose message is printed as it is: what `HubsepError` would do if it escaped and shortened nothing."""

    __str__ = Exception.__str__


def prepare(place: Path) -> None:
    (place / "sound").write_bytes(corpus.encode(corpus.sound(5_000), format="WAV"))


def make(case: Case) -> Action:
    """The fault of a seed."""
    name = list(EXPECTED)[case.seed]
    case.note(name)
    canary, secret = case.outside / "canary", case.outside / "secret.safetensors"
    (case.folder / "evil.py").write_text(f"open({str(canary)!r}, 'w')\n")
    secret.write_bytes((12).to_bytes(8, "little") + b'{"a":{"dtype":"U8","shape":[0],"data_offsets":[0,0]}}')
    (case.folder / "bomb").write_bytes(pickle.dumps(Bomb(canary)))

    def act() -> str:
        plant(name, case, secret)
        return "done"

    return act


def plant(name: str, case: Case, secret: Path) -> None:  # noqa: C901
    """Does what must not be."""
    if name == "crash":
        ctypes.string_at(0)
    elif name == "abort":
        os.abort()
    elif name == "hang":
        while True:
            pass
    elif name == "memory":
        np.ones(400 << 17)
    elif name == "foreign error":
        raise KeyError("config")
    elif name == "exit":
        sys.exit(3)
    elif name == "short":
        expect(False, "3 of 5 samples were read without a word")
    elif name == "NaN":
        check(np.full((1, 5), np.nan))
    elif name == "code":
        runpy.run_path(str(case.folder / "evil.py"))
    elif name == "imported":
        sys.path.insert(0, str(case.folder))
        import evil  # type: ignore[import-not-found]  # noqa: F401
    elif name == "program":
        subprocess.run(["true"], check=False)
    elif name == "pickle":
        torch.load(case.folder / "bomb", weights_only=False)  # noqa: TID251
    elif name == "network":
        socket.socket().connect_ex(("127.0.0.1", 9))
    elif name == "name":
        socket.getaddrinfo("localhost", 9)
    elif name == "outside read":
        secret.read_bytes()
    elif name == "outside mapped":
        try:
            load_file(secret)
        except Exception as error:
            raise CheckpointError("refused, but after it was opened") from error
    elif name == "outside written":
        (case.outside / "more").write_text("x")
    elif name == "outside removed":
        shutil.rmtree(case.outside)
        case.outside.mkdir()
    elif name == "message":
        raise UncheckedError("a name\nfailed: forged")
    elif name == "long message":
        raise UncheckedError("x" * 5_000)


PLANTED = Kind(prepare, make, cpu_s=1)


__all__ = ["EXPECTED", "PLANTED"]
