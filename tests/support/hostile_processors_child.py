# SPDX-License-Identifier: Apache-2.0
"""What the tests of hostile processors run in a process of its own, as some cases ended the process before."""

from __future__ import annotations

import io
import resource
import shutil
import sys
from pathlib import Path
from typing import Any

import torch
import transformers
from hostile_processors import WAYS
from tiny_audioldm2 import published_folder
from tiny_audiosep import tiny_audiosep

import hubsep
from hubsep import AudioLDM2Pipeline, AudioSepProcessor


transformers.utils.logging.disable_progress_bar()
MARGIN = 2 << 30  # of memory, in bytes, beyond what this process has; a case that asks for more fails


def queried(folder: Path) -> None:
    """Load a text-queried model and use both of its ways to be asked."""
    separate = hubsep.pipeline(model=folder, device="cpu")
    mixture = torch.sin(torch.arange(4_000) * 0.1)
    separate(mixture, sampling_rate=8_000, queries="a dog barking somewhere")
    separate(mixture, sampling_rate=8_000, query_audio={"x": {"array": mixture.numpy(), "sampling_rate": 8_000}})


def plain(folder: Path) -> None:
    """What somebody does who knows transformers only; it imports hubsep once."""
    build: Any = transformers.pipeline
    build("audio-separation", model=str(folder), device="cpu")


def generated(folder: Path) -> None:
    AudioLDM2Pipeline.from_pretrained(folder)


LOADERS: dict[str, Any] = {
    "queried": queried,
    "plain": plain,
    "processor": AudioSepProcessor.from_pretrained,
    "generator": generated,
}


def attempts(place: str, way: str) -> dict[str, Any]:
    """The cases of a way to load; what came of each, in how many seconds and MB, and whether code ran."""
    good = Path(place) / "good" / ("generator" if way == "generator" else "queried")
    if way == "generator":
        published_folder(good)
    elif not good.exists():
        for part in tiny_audiosep():
            part.save_pretrained(good)
    LOADERS[way](good)  # what is imported late is imported now, and the good folder loads
    limit_memory()
    results = {}
    for number, (name, (attack, _)) in enumerate(WAYS[way].items()):
        print(name, flush=True)  # the last line, if this ends the process
        folder = Path(place) / f"{way}-{number}" / "model"
        shutil.copytree(good, folder)
        attack(folder)
        results[name] = outcome(LOADERS[way], folder)
        shutil.rmtree(folder)
    return results


def limit_memory() -> None:
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    _, most = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (pages * resource.getpagesize() + MARGIN, most))


def outcome(load: Any, folder: Path) -> dict[str, Any]:
    sys.stdin = io.StringIO("y\n")  # what is asked is answered
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    error, message = "", ""
    try:
        load(folder)
    except BaseException as caught:
        error, message = type(caught).__name__, str(caught)
    return {
        "error": error,
        "message": message,
        "megabytes": (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1_024,
        "ran": (folder.parent / "canary").exists(),
    }
