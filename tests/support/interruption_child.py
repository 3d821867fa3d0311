# SPDX-License-Identifier: Apache-2.0
"""Saves that end early: by a signal at a random moment, before a given operation on files, or for lack of room."""

from __future__ import annotations

import os
import resource
import signal
import sys
from typing import Any

from tiny import TinyModel, tiny_model
from transformers.utils import logging

from hubsep.errors import CheckpointError
from hubsep.hub import atomic as hub_atomic


# `ctypes.dlopen` and `ctypes.dlsym` come just before the exchange of the folders, which has no event of its own
CHANGES = ("os.rename", "os.mkdir", "os.remove", "os.rmdir", "os.chmod", "os.utime", "ctypes.dlopen", "ctypes.dlsym")
WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC

logging.disable_progress_bar()


def numbered_model(number: int) -> TinyModel:
    """A model whose weights all hold `number`, of a size that follows from it: a mixture of two saves shows."""
    return tiny_model(float(number), num_layers=1 + number % 3)


def save_for_ever(target: str, first: int) -> None:
    """Save one numbered model after the other until this process is killed."""
    number = first
    while True:
        numbered_model(number).save_pretrained(target)
        number += 1


def save_until_operation(target: str, number: int, operation: int, exchange: bool) -> int:
    """Save once, but kill this process before its `operation`th change to the disk; return how many there were."""
    if not exchange:
        hub_atomic.RENAME_EXCHANGE = 1 << 20  # a flag the kernel does not know: it refuses, as an old one would
    model, count, watching = numbered_model(number), 0, True

    def hook(event: str, arguments: tuple[Any, ...]) -> None:
        nonlocal count
        if watching and (event in CHANGES or (event == "open" and (arguments[2] or 0) & WRITING)):
            count += 1
            if count == operation:
                os.kill(os.getpid(), signal.SIGKILL)

    sys.addaudithook(hook)
    model.save_pretrained(target)
    watching = False
    return count


def save_without_room(target: str, number: int, room: int) -> str:
    """Save with every file limited to `room` bytes, as on a full disk; return the error."""
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    _, ceiling = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (room, ceiling))
    try:
        numbered_model(number).save_pretrained(target)
    except CheckpointError as error:
        return str(error)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (ceiling, ceiling))
    return ""


def save_together(target: str, number: int, times: int) -> None:
    """Fork two processes that save to the same place over and over."""
    children = []
    for offset in (0, 1):
        process = os.fork()
        if process == 0:
            code = 1
            try:
                for _ in range(times):
                    numbered_model(number + offset).save_pretrained(target)
                code = 0
            finally:
                os._exit(code)
        children.append(process)
    codes = [os.waitpid(process, 0)[1] for process in children]
    assert codes == [0, 0]
