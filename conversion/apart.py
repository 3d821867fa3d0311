# SPDX-License-Identifier: Apache-2.0
"""The process that converts what was fetched by name: `python -m hubsep.conversion.apart`, with a job as JSON.

Decisions: a published pickle is opened by the restricted reader only; this process is the wall behind it. It takes its
limits before it imports PyTorch, has no network and knows no token, and answers with one line of JSON. It ends when
standard input does, which whoever waits for it keeps open: killed, they leave nobody who works on.
"""

from __future__ import annotations

import json
import os
import socket
import sys
import threading
from collections.abc import Mapping
from typing import Any, NoReturn

from hubsep.conversion import convert
from hubsep.errors import HubsepError
from hubsep.hub.processes import confine


def main() -> int:
    """Converts as standard input says, and prints what is wrong."""
    job = json.loads(sys.stdin.readline())
    threading.Thread(target=end_with_input, daemon=True).start()
    cut_off()
    confine(memory_bytes=job["megabytes"] << 20, cpu_seconds=job["seconds"], file_bytes=job["written_bytes"])
    print(json.dumps(answer_of(job)))
    return 0


def answer_of(job: Mapping[str, Any]) -> dict[str, Any]:
    """Converts as a job says: the licence that the card of the result states and what speaks against it, or an error.

    Args:
        job: what `hubsep.hub.converting.job_of` makes.
    """
    from hubsep.conversion.writing import LicenceError

    answer: dict[str, Any] = {"licence": job["licence"]}
    try:
        try:
            convert(job["system"], job["source"], job["output"], licence=job["licence"], **job["options"])
        except LicenceError as error:  # whoever opens it by its name cannot know which of the two is right
            if job.get("strict"):
                raise
            answer = {"licence": "unknown", "doubt": str(error)}
            convert(job["system"], job["source"], job["output"], licence="unknown", **job["options"])
    except HubsepError as error:
        answer = {"error": str(error)}
    except MemoryError:
        answer = {"error": f"it takes more than {job['megabytes']} MB of memory"}
    return answer


def end_with_input() -> None:
    """Ends this process when nobody waits for it any more."""
    os.read(sys.stdin.fileno(), 1)
    os._exit(1)


def cut_off() -> None:
    """Leaves this process without a network."""
    socket.socket.connect = _refuse  # type: ignore[method-assign]
    socket.socket.connect_ex = _refuse  # type: ignore[method-assign]


def _refuse(*arguments: object) -> NoReturn:
    raise OSError("a conversion has no network")


if __name__ == "__main__":
    sys.exit(main())
