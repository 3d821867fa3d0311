# SPDX-License-Identifier: Apache-2.0
"""The process of a case: limits of memory and time, and the verdict. Run by `children.Children("fuzz.child")`.

Everything dear is done once before the first fork: imports, templates, and one valid case of each kind, so that what
libraries do the first time is done. There are no threads but this one, as a fork would lose them.
"""

from __future__ import annotations

import os


os.environ["HF_HUB_OFFLINE"] = "0"  # whoever asks the network is to be seen asking

import atexit
import contextlib
import gc
import re
import resource
import shutil
import signal
import sys
import tempfile
import time
import traceback
import warnings
from pathlib import Path
from typing import Any

import torch
from tqdm import tqdm

from fuzz.adapters import ADAPTERS, LORA
from fuzz.cases import Case, Fault, Kind
from fuzz.checkpoints import CHECKPOINTS
from fuzz.components import COMPONENTS
from fuzz.folders import MODELS, PROCESSORS
from fuzz.found import FOUND_KIND
from fuzz.planted import PLANTED
from fuzz.recordings import RECORDINGS
from fuzz.tables import RECIPES, TABLES
from fuzz.urls import URLS
from fuzz.watch import Guard
from hubsep.errors import HubsepError


KINDS: dict[str, Kind] = {
    "recordings": RECORDINGS,
    "models": MODELS,
    "processors": PROCESSORS,
    "adapters": ADAPTERS,
    "lora": LORA,
    "components": COMPONENTS,
    "checkpoints": CHECKPOINTS,
    "tables": TABLES,
    "recipes": RECIPES,
    "urls": URLS,
    "planted": PLANTED,
    "found": FOUND_KIND,
}
WALL_S = 900  # the last resort, for what waits for ever; of computing a kind says it, as a machine may be busy
GROWTH_MB, ADDRESS_BYTES, FILE_BYTES = 300, 3 << 30, 64 << 20
MAX_MESSAGE = 2_000  # characters

_templates = Path()


def warm_up() -> None:
    """Makes the templates, in the process that forks."""
    global _templates
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    tqdm.monitor_interval = 0  # else it starts a thread
    _templates = Path(tempfile.mkdtemp(prefix="hubsep-fuzz-"))
    atexit.register(shutil.rmtree, _templates, ignore_errors=True)
    for name, kind in KINDS.items():
        (_templates / name).mkdir()
        kind.prepare(_templates / name)
    sys.stdout.flush()
    gc.collect()
    gc.freeze()  # else the first collection of every child writes to all pages


def run_case(kind: str, seed: str) -> dict[str, Any]:
    """Runs a case; `outcome` is "fault", "refused" or what the kind says came out."""
    place = Path(tempfile.mkdtemp())
    case = Case(kind, int(seed), _templates / kind, place / "case", place / "outside")
    for folder in (case.folder, case.outside, place / "tmp"):
        folder.mkdir()
    tempfile.tempdir = str(place / "tmp")
    os.chdir(place / "tmp")
    limit(KINDS[kind].cpu_s)
    action = KINDS[kind].make(case)
    print(f"{kind} {seed}: {'; '.join(case.notes)}", flush=True)  # what a crash leaves to read
    guard = Guard(case, place / "tmp", KINDS[kind])
    before, start = rss_mb(), time.process_time()
    guard.start()
    verdict = attempt(action)
    faults = guard.stop()
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (2**20 if sys.platform == "darwin" else 2**10)
    verdict |= {"notes": case.notes, "grown_mb": round(peak - before), "cpu_s": round(time.process_time() - start, 2)}
    if (case.outside / "canary").exists():
        faults.append("code of the folder was run: the canary is there")
    if verdict["grown_mb"] > GROWTH_MB:
        faults.append(f"memory grew by {verdict['grown_mb']} MB; {GROWTH_MB} are allowed")
    if faults:
        verdict |= {"outcome": "fault", "fault": "; ".join(faults)}
    return verdict


def attempt(action: Any) -> dict[str, Any]:
    """What came out of a case, and where it was refused."""
    try:
        return {"outcome": action(), "where": ""}
    except HubsepError as error:
        return refusal(error)
    except Fault as error:
        return {"outcome": "fault", "fault": str(error), "where": ""}
    except BaseException as error:  # panics of Rust and exits are none of Exception
        text = "".join(traceback.format_exception(error))[-3_000:]
        return {"outcome": "fault", "fault": f"{type(error).__name__}: {ascii(str(error))[:200]}", "where": text}


def refusal(error: HubsepError) -> dict[str, Any]:
    """A refusal, unless its message is not fit to be printed."""
    frames = traceback.extract_tb(error.__traceback__)
    places = [(frame.filename, frame.name) for frame in frames if f"{os.sep}hubsep{os.sep}" in frame.filename]
    file, function = places[-1] if places else ("", "")
    message = str(error)
    verdict = {"outcome": "refused", "where": f"{Path(file).stem}.{function}", "message": message[:300]}
    if re.search(r"[\x00-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]", message):
        verdict |= {"outcome": "fault", "fault": f"the message has control characters: {ascii(message)[:300]}"}
    if len(message) > MAX_MESSAGE or not message.strip():
        verdict |= {"outcome": "fault", "fault": f"the message has {len(message)} characters"}
    return verdict


def limit(cpu_s: int) -> None:
    """Ends this process when it takes too long, and its allocations when they are too large."""
    used = sum(resource.getrusage(resource.RUSAGE_SELF)[:2])
    seconds = int(used) + cpu_s + 1
    address = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize() + ADDRESS_BYTES
    limits = {resource.RLIMIT_CPU: seconds, resource.RLIMIT_AS: address, resource.RLIMIT_FSIZE: FILE_BYTES}
    for name, value in {**limits, resource.RLIMIT_CORE: 0}.items():
        with contextlib.suppress(ValueError, OSError):
            resource.setrlimit(name, (value, value))
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    signal.alarm(WALL_S)


def rss_mb() -> float:
    """What this process holds now."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize() / 2**20


__all__ = ["KINDS", "run_case", "warm_up"]
