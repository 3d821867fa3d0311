# SPDX-License-Identifier: Apache-2.0
"""Uploads whose owner still waits in the queue, which must not go by age.

Decisions: gradio removes files by the time of their last change, whoever waits for them. So files of requests that
wait are touched more often than that. Who waits is read from gradio's queue, which has no public way to say it; where
its insides have changed, nothing is touched, and a test fails. An upload that was gone before its owner asked is
explained to them.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import gradio as gr

from .intake import GONE
from .limits import DemoLimits


def explained(recording: gr.Audio) -> gr.Audio:
    """The same component, which says what happened where an uploaded file is gone.

    Not a class of its own, because gradio writes a file beside the code of each.
    """
    move = recording.move_resource_to_block_cache

    def move_what_is_there(path: str | Path | None) -> str | None:
        if path is not None and not Path(path).is_file():
            raise gr.Error(GONE, title="Too late", print_exception=False)
        return move(path)

    recording.move_resource_to_block_cache = move_what_is_there
    return recording


def keep_waiting_files(blocks: gr.Blocks, limits: DemoLimits) -> threading.Event:
    """Keeps uploads of those who wait, in a thread of its own, until the event is set that is returned."""
    over = threading.Event()

    def keep() -> None:
        while not over.wait(limits.keep_seconds / 8):
            touch_waiting_files(blocks)

    threading.Thread(target=keep, daemon=True).start()
    return over


def touch_waiting_files(blocks: gr.Blocks) -> None:
    """Makes the uploads of all waiting requests as new as they can be."""
    cache = Path(gr.utils.get_upload_folder()).resolve()
    for path in set(_paths(_waiting(blocks))):
        file = Path(path)
        with suppress(OSError, ValueError):
            if file.resolve().is_relative_to(cache):
                os.utime(file)


def _waiting(blocks: gr.Blocks) -> list[Any]:
    """What those sent who wait in the queue, or whose turn it is."""
    queue = getattr(blocks, "_queue", None)
    events = [
        each for line in list(getattr(queue, "event_queue_per_concurrency_id", {}).values()) for each in line.queue
    ]
    events += [each for job in list(getattr(queue, "active_jobs", [])) for each in job or ()]
    return [getattr(getattr(event, "data", None), "data", None) for event in events]


def _paths(sent: Any) -> Iterator[str]:
    if isinstance(sent, dict):
        if isinstance(sent.get("path"), str):
            yield sent["path"]
    elif isinstance(sent, list):
        for each in sent:
            yield from _paths(each)


__all__ = ["explained", "keep_waiting_files", "touch_waiting_files"]
