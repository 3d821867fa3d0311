# SPDX-License-Identifier: Apache-2.0
"""Functions in processes of their own, without paying for the imports each time.

A helper process imports the modules once and forks for every call: hooks, signals and memory peaks then end with that
call. It is a process of its own so that what forks has no threads.
"""

from __future__ import annotations

import importlib
import json
import os
import subprocess
import sys
import tempfile
import traceback
from pathlib import Path
from typing import Any


TESTS = Path(__file__).parent
ENVIRONMENT = {
    "OMP_NUM_THREADS": "1",
    "HF_ENDPOINT": "http://127.0.0.1:9",  # nobody answers there
    "HF_HUB_DISABLE_TELEMETRY": "1",
    "HF_HUB_DISABLE_PROGRESS_BARS": "1",
}


class Children:
    """Runs the functions of one module of this folder in forked processes."""

    def __init__(self, module: str):
        path = os.pathsep.join([*(place for place in sys.path if place), str(TESTS)])
        self.helper = subprocess.Popen(
            [sys.executable, "-W", "ignore", __file__, module],
            env={**os.environ, **ENVIRONMENT, "PYTHONPATH": path},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def run(self, function: str, *arguments: Any) -> tuple[int, Any, str]:
        """Call a function; return how its process ended (as `os.waitpid`), its result and all it printed."""
        assert self.helper.stdin is not None
        assert self.helper.stdout is not None
        print(json.dumps([function, *arguments]), file=self.helper.stdin, flush=True)
        status, result, output = json.loads(self.helper.stdout.readline())
        return status, result, output

    def __call__(self, function: str, *arguments: Any) -> Any:
        """Call a function that is expected to end well, and return its result."""
        status, result, output = self.run(function, *map(str, arguments))
        assert status == 0, output[-3_000:]
        return result

    def close(self) -> None:
        """End the helper process."""
        self.helper.communicate()


def serve(module: str) -> None:
    """Answer calls from standard input until it is closed."""
    functions = importlib.import_module(module)
    if hasattr(functions, "warm_up"):
        functions.warm_up()  # what every call would do again
    for line in sys.stdin:
        function, *arguments = json.loads(line)
        with tempfile.TemporaryDirectory() as place:
            process = os.fork()
            if process == 0:
                _call(getattr(functions, function), arguments, Path(place))
            status = os.waitpid(process, 0)[1]
            result = Path(place, "result")
            answer = json.loads(result.read_text()) if result.exists() else None
            printed = Path(place, "output")  # not there if the process was killed in its first moment
            output = printed.read_text(errors="replace") if printed.exists() else ""
        print(json.dumps([status, answer, output]), flush=True)


def _call(function: Any, arguments: list[Any], place: Path) -> None:
    output = os.open(place / "output", os.O_CREAT | os.O_WRONLY)
    tempfile.tempdir = str(place)  # what a killed call leaves goes with the rest
    os.dup2(output, 1)
    os.dup2(output, 2)
    code = 1
    try:
        (place / "part").write_text(json.dumps(function(*arguments)))
        (place / "part").rename(place / "result")
        code = 0
    except BaseException:
        traceback.print_exc()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


if __name__ == "__main__":
    serve(sys.argv[1])
