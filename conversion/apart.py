# SPDX-License-Identifier: Apache-2.0
"""The process that converts what was fetched by name: `python -m hubsep.conversion.apart`, with a job as JSON.

Decisions: a published pickle is opened by the restricted reader only; this process is the wall behind it. It takes its
limits before it imports PyTorch, has no network and knows no token, and answers with one line of JSON.
"""

from __future__ import annotations

import json
import socket
import sys
from typing import Any, NoReturn

from hubsep.conversion import convert
from hubsep.errors import HubsepError


def main() -> int:
    """Converts as standard input says, and prints what is wrong."""
    job = json.loads(sys.stdin.read())
    confine(job)
    from hubsep.conversion.writing import LicenceError

    answer: dict[str, Any] = {"licence": job["licence"]}
    try:
        try:
            convert(job["system"], job["source"], job["output"], licence=job["licence"], **job["options"])
        except LicenceError as error:  # whoever opens it by its name cannot know which of the two is right
            answer = {"licence": "unknown", "doubt": str(error)}
            convert(job["system"], job["source"], job["output"], licence="unknown", **job["options"])
    except HubsepError as error:
        answer = {"error": str(error)}
    except MemoryError:
        answer = {"error": f"it takes more than {job['megabytes']} MB of memory"}
    print(json.dumps(answer))
    return 0


def confine(job: dict[str, Any]) -> None:
    """Bounds this process: no network; address space, processor time, size of a file it writes, no core file.

    Where the system knows no such limits (Windows), there is no network all the same.
    """
    socket.socket.connect = _refuse  # type: ignore[method-assign]
    socket.socket.connect_ex = _refuse  # type: ignore[method-assign]
    if sys.platform == "win32":
        return
    import resource

    bounds = {
        resource.RLIMIT_AS: job["megabytes"] << 20,
        resource.RLIMIT_CPU: job["seconds"],
        resource.RLIMIT_FSIZE: job["written_bytes"],
        resource.RLIMIT_CORE: 0,
    }
    for kind, bound in bounds.items():
        hard = resource.getrlimit(kind)[1]
        bound = bound if hard == resource.RLIM_INFINITY else min(bound, hard)
        resource.setrlimit(kind, (bound, bound))


def _refuse(*arguments: object) -> NoReturn:
    raise OSError("a conversion has no network")


if __name__ == "__main__":
    sys.exit(main())
