# SPDX-License-Identifier: Apache-2.0
"""Converting what was fetched in a process of its own: without tokens and network, and with bounds on all it takes."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from ..errors import CheckpointError
from .commercial import COMMERCIAL
from .published import Published


SECONDS, SECONDS_PER_GB = 300, 120  # processor time of a conversion
SECRET = re.compile(r"TOKEN|SECRET|PASSWORD|KEY", re.IGNORECASE)  # names of variables


def convert_apart(
    row: Published,
    files: list[Path],
    output: Path,
    options: Mapping[str, Any],
    *,
    licence: str | None = None,
    workplace: Path | None = None,
    strict: bool = False,
) -> str:
    """Converts files in a process of its own; the licence that the card of the result states.

    Args:
        row: of the table.
        files: in one folder.
        output: folder to write, complete or not at all.
        options: of the converter.
        licence: for the card; None for the row's.
        workplace: a folder of ours that the process works in; None for the one that the result is in.
        strict: whether a licence that the files contradict is an error, and not taken as unknown.

    Raises:
        CheckpointError: if they cannot be converted.
    """
    job = job_of(row, files, output, options, licence=licence, strict=strict)
    environment = {name: value for name, value in os.environ.items() if not SECRET.search(name)}
    environment |= {"HF_HUB_OFFLINE": "1", "HF_HUB_DISABLE_IMPLICIT_TOKEN": "1"}
    environment.pop(COMMERCIAL, None)  # whoever opens it has a say, before it is fetched and once its licence is known
    # Python looks for modules where a process works first: that is a folder of ours, and not the user's
    paths = [os.path.abspath(path) for path in environment.get("PYTHONPATH", "").split(os.pathsep) if path]
    environment["PYTHONPATH"] = os.pathsep.join(paths)
    status, answers, complaints = _run_apart(json.dumps(job), environment, workplace or output.parent)
    lines = answers.strip().splitlines()
    if status == 0 and lines:
        answer = json.loads(lines[-1])
        if "error" not in answer:
            if "doubt" in answer:
                say(f"{row.name}: its licence is taken as unknown: {answer['doubt']}")
            return str(answer["licence"])
        reason = answer["error"]
    else:
        last = (complaints.strip().splitlines() or ["nothing"])[-1]
        reason = f"its process ended with {status}, saying {last[:300]!r}"
    doubt = f" Not sure of this row of the table: {row.unsure}." if row.unsure else ""
    raise CheckpointError(f"{row.name} was fetched from {row.place}, but cannot be converted: {reason}.{doubt}")


def job_of(
    row: Published,
    files: list[Path],
    output: Path,
    options: Mapping[str, Any],
    *,
    licence: str | None = None,
    strict: bool = False,
) -> dict[str, Any]:
    """What `hubsep.conversion.apart` is told: arguments as for `convert_apart`."""
    size = sum(file.stat().st_size for file in files)
    source = files[0].parent if len(files) > 1 else files[0]
    return {
        "system": row.system, "source": os.path.abspath(source), "output": os.path.abspath(output),
        "licence": licence or row.licence, "options": dict(options), "megabytes": 6_144 + 4 * (size >> 20),
        "strict": strict, "seconds": SECONDS + SECONDS_PER_GB * (size >> 30), "written_bytes": 4 * size + (1 << 30),
    }  # fmt: skip


def options_of(row: Published, companions: Mapping[str, str]) -> dict[str, Any]:
    """Options that the converter of a published checkpoint is called with.

    Args:
        row: of the table.
        companions: by the option, the folder of each repository that the conversion needs, or its name.
    """
    return {**row.options, **companions}


def _run_apart(job: str, environment: Mapping[str, str], place: Path) -> tuple[int, str, str]:
    """Exit status, output and complaints of a process that converts; it ends when this one does, however that ends."""
    texts: dict[str, Any] = {"encoding": "utf-8", "errors": "replace"}
    with tempfile.TemporaryFile("w+", **texts) as complaints:
        command = [sys.executable, "-m", "hubsep.conversion.apart"]
        process = subprocess.Popen(
            command, env=dict(environment), cwd=place, stdin=subprocess.PIPE, stdout=subprocess.PIPE,
            stderr=complaints, **texts,
        )  # fmt: skip
        assert process.stdin is not None
        assert process.stdout is not None
        with process:
            with suppress(OSError):  # it ended before it read that
                print(job, file=process.stdin, flush=True)  # and stays open: its end tells that nobody waits any more
            answers = process.stdout.read()
        complaints.seek(0)
        return process.returncode, answers, complaints.read()


def say(line: str) -> None:
    """Says something to who waits."""
    print(line, file=sys.stderr, flush=True)


__all__ = ["convert_apart", "job_of", "options_of", "say"]
