# SPDX-License-Identifier: Apache-2.0
"""Functions in processes of their own, without paying for the imports each time.

A helper process imports the modules once and forks for every call: hooks, signals and memory peaks then end with that
call. It is a process of its own so that what forks has no threads.
"""

from __future__ import annotations

import importlib
import json
import os
import signal
import subprocess
import sys
import tempfile
import traceback
from contextlib import suppress
from pathlib import Path
from typing import Any


SUPPORT = Path(__file__).parent
ENVIRONMENT = {
    "OMP_NUM_THREADS": "1",
    "HF_ENDPOINT": "http://127.0.0.1:9",  # nobody answers there
    "HF_HUB_DISABLE_TELEMETRY": "1",
    "HF_HUB_DISABLE_PROGRESS_BARS": "1",
}


KILLED = signal.SIGPROF  # of `kill_after_s`; it is not caught, so it ends a process as SIGKILL does


class Children:
    """Runs the functions of one module of this folder in forked processes."""

    cpu_s = 0.0

    def __init__(self, module: str):
        self.module = module
        self.begin()

    def begin(self) -> None:
        """Start the helper process, in a group of its own with all it forks."""
        path = os.pathsep.join([*(place for place in sys.path if place), str(SUPPORT)])
        self.helper = subprocess.Popen(
            [sys.executable, "-W", "ignore", __file__, self.module],
            env={**os.environ, **ENVIRONMENT, "PYTHONPATH": path},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )

    def run(self, function: str, *arguments: Any, kill_after_s: float = 0) -> tuple[int, Any, str]:
        """Call a function; return how its process ended (as `os.waitpid`), its result and all it printed.

        With `kill_after_s` a signal that nothing can tidy up after ends the process when it has computed for so long:
        the same moment of its work on a machine that is busy. What it computed in all is then in `cpu_s`.

        Whoever stops waiting, as a test does whose time is over, would leave an answer that the next call takes for
        its own: that helper ends with what it runs, and another begins.
        """
        assert self.helper.stdin is not None
        assert self.helper.stdout is not None
        try:
            print(json.dumps([kill_after_s, function, *arguments]), file=self.helper.stdin, flush=True)
            status, result, output, self.cpu_s = json.loads(self.helper.stdout.readline())
        except BaseException:
            self.end()
            self.begin()
            raise
        return status, result, output

    def end(self) -> None:
        """End the helper process and what it runs, at once."""
        with suppress(ProcessLookupError):
            os.killpg(self.helper.pid, signal.SIGKILL)
        with suppress(OSError):  # what was not read any more
            self.helper.communicate()
        self.helper.wait()

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
        kill_after_s, function, *arguments = json.loads(line)
        with tempfile.TemporaryDirectory() as place:
            process = os.fork()
            if process == 0:
                signal.setitimer(signal.ITIMER_PROF, kill_after_s)
                _call(getattr(functions, function), arguments, Path(place))
            _, status, used = os.wait4(process, 0)
            result = Path(place, "result")
            answer = json.loads(result.read_text()) if result.exists() else None
            printed = Path(place, "output")  # not there if the process was killed in its first moment
            output = printed.read_text(errors="replace") if printed.exists() else ""
        print(json.dumps([status, answer, output, used.ru_utime + used.ru_stime]), flush=True)


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
