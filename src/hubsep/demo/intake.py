# SPDX-License-Identifier: Apache-2.0
"""From an uploaded file to a waveform, by a child process with limits (`decoder.py`).

What the child says is not believed either: its JSON has to hold the expected numbers, and its file exactly so many
bytes. Its environment holds what finding the package takes, so no token of the Space is in its memory.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from ..audio.reader import Recording
from ..errors import AudioError
from .limits import DemoLimits


GONE = "The recording is not kept any longer. Upload it again."
READABLE = "This demo reads WAV, FLAC, MP3, OGG, AIFF and M4A."


def take_in(path: str | os.PathLike[str] | None, limits: DemoLimits, folder: Path) -> tuple[Recording, list[str]]:
    """Decodes an upload.

    Args:
        path: of the file; None if there is none yet.
        limits: of the demo.
        folder: for a temporary file.

    Returns:
        The recording, and notes for the person who uploaded it, such as that it is cut short.

    Raises:
        AudioError: if there is no file, or it is no recording or more than the limits allow, in words for that person.
    """
    if path is None:
        raise AudioError("There is no recording yet. Upload one, record one, or click an example.")
    path = Path(path)
    if not path.is_file():
        raise AudioError(GONE)
    size = path.stat().st_size
    if size > limits.max_upload_mb * 2**20:
        raise AudioError(
            f"The file has {size / 2**20:.0f} MB, more than {limits.max_upload_mb} MB. Upload a part of it."
        )
    output = folder / "decoded.f32"
    try:
        answer = _ask_child(path, output, limits)
        if "error" in answer:
            raise AudioError(f"This file cannot be used: {answer['error'].removeprefix(f'{path.stem}: ')}. {READABLE}")
        return _recording(answer, output, path.stem), [str(note) for note in answer["notes"]]
    finally:
        output.unlink(missing_ok=True)


def _ask_child(path: Path, output: Path, limits: DemoLimits) -> dict[str, Any]:
    command = [
        sys.executable,
        "-m",
        "hubsep.demo.decoder",
        str(path.resolve()),
        str(output),
        json.dumps(asdict(limits)),
    ]
    try:
        done = subprocess.run(
            command,
            cwd=output.parent,
            env=child_environment(),
            capture_output=True,
            timeout=limits.decode_seconds,
            check=False,
        )
    except subprocess.TimeoutExpired:
        return {"error": f"decoding it takes more than {limits.decode_seconds} seconds"}
    if done.returncode != 0:
        return {"error": "it is damaged, or decoding it takes more time or memory than this demo has for a recording"}
    answer: dict[str, Any] = json.loads(done.stdout)
    return answer


def child_environment() -> dict[str, str]:
    """What the child knows of this process's environment: no token, no secret of a Space."""
    kept = ("SYSTEMROOT", "LD_LIBRARY_PATH")
    return {
        "PATH": os.defpath,
        "PYTHONPATH": str(Path(__file__).parents[2]),
        "PYTHONDONTWRITEBYTECODE": "1",
        "OMP_NUM_THREADS": "1",  # every thread would take address space
        "OPENBLAS_NUM_THREADS": "1",
        "LANG": "C.UTF-8",
        **{name: os.environ[name] for name in kept if name in os.environ},
    }


def _recording(answer: dict[str, Any], output: Path, name: str) -> Recording:
    rate, channels, samples = (int(answer[key]) for key in ("sampling_rate", "channels", "samples"))
    values = np.fromfile(output, dtype=np.float32)
    if channels < 1 or values.size != channels * samples:
        raise AudioError("This file cannot be used: it was decoded to something else than it claims.")
    return Recording(np.ascontiguousarray(values.reshape(samples, channels).T), rate, name=name)


__all__ = ["GONE", "READABLE", "child_environment", "take_in"]
