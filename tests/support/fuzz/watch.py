# SPDX-License-Identifier: Apache-2.0
"""What a case must not do: run code, start programs, use the network, or touch a file that is not its own.

An audit hook sees what Python does, code of a folder that runs and files that are opened among it. Compiled code opens
files without Python; inotify sees those that lie beside the case.
"""

from __future__ import annotations

import os
import sys
import types
from pathlib import Path
from typing import Any

from hostile_child import FORBIDDEN_EVENTS, Watch, system_places

from fuzz.cases import Case, Kind


NETWORK = ("socket.connect", "socket.getaddrinfo", "socket.gethostbyname", "socket.gethostbyaddr", "socket.sendto")
PROGRAMS = (*(event for event in FORBIDDEN_EVENTS if event not in NETWORK), "os.fork", "os.forkpty", "os.spawn")
CHANGES = (
    "os.remove",
    "os.rename",
    "os.mkdir",
    "os.rmdir",
    "os.link",
    "os.symlink",
    "os.truncate",
    "os.chmod",
    "os.chown",
    "os.utime",
    "shutil.rmtree",
    "shutil.move",
    "shutil.copyfile",
)
WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND
READABLE = (
    "/etc/ssl/",
    "/etc/localtime",
    "/etc/mime.types",
    "/etc/hosts",
    "/etc/resolv.conf",
    "/etc/nsswitch.conf",
    "/etc/host.conf",
    "/etc/gai.conf",
    "/etc/services",
    "/etc/os-release",
)


class Guard:
    """Looks on from `start` to `stop`.

    Args:
        case: may read and write its folder, read the templates, and touch nothing else.
        scratch: for temporary files.
        kind: says what else belongs to it.
    """

    def __init__(self, case: Case, scratch: Path, kind: Kind):
        self.case, self.kind, self.outside = case, kind, case.outside
        self.own = tuple(f"{os.path.realpath(place)}{os.sep}" for place in (case.folder, scratch))
        self.readable = (*self.own, f"{case.templates.parent}{os.sep}", *system_places(), *READABLE)
        self.armed = False
        self.faults: list[str] = []

    def start(self) -> None:
        """Begins to look. The hook stays for as long as the process lives."""
        folders = [self.outside, *(path for path in self.outside.rglob("*") if path.is_dir())]
        self.decoys, self.before = Watch(folders), tree(self.outside)
        self.armed = True
        sys.addaudithook(self._hook)

    def stop(self) -> list[str]:
        """What was seen, in words; none is well."""
        self.armed = False
        faults = list(dict.fromkeys(self.faults))
        opened = sorted(set(self.decoys.opened()))
        if opened:
            faults.append(f"files outside the folder were opened: {', '.join(opened)}")
        if tree(self.outside) != self.before:
            faults.append("files outside the folder were changed")
        return faults

    def _hook(self, event: str, arguments: tuple[Any, ...]) -> None:
        if not self.armed:
            return
        self.armed = False  # what is done here is not looked at
        try:
            text = self._fault(event, arguments)
            if text is not None and len(self.faults) < 20:
                self.faults.append(text)
        finally:
            self.armed = True

    def _fault(self, event: str, arguments: tuple[Any, ...]) -> str | None:
        if event == "open":
            return self._opened(*arguments[:3])
        if event in ("exec", "compile"):
            code = arguments[0] if event == "exec" else arguments[1]
            name = code.co_filename if isinstance(code, types.CodeType) else code
            inside = isinstance(name, str) and name.startswith((*self.own, str(self.outside)))
            return f"code of the folder was run: {name}" if inside else None
        if event in NETWORK:
            looked_up = self.kind.resolves and event != "socket.connect"
            here = self.case.serves and "127.0.0.1" in ascii(arguments)
            return None if looked_up or here else f"the network was used: {event} {ascii(arguments[1:])[:100]}"
        if event in PROGRAMS:
            allowed = event == "pickle.find_class" and self.kind.unpickles
            return None if allowed else f"{event} {ascii(arguments)[:120]}"
        if event in CHANGES:
            names = [name for name in arguments if isinstance(name, str | bytes | os.PathLike)]
            strays = [name for name in names[-1:] if not self._is_own(name)]
            return f"{event} outside the folder: {strays[0]!a}" if strays else None
        return None

    def _opened(self, name: Any, mode: Any, flags: Any) -> str | None:
        if not isinstance(name, str | bytes):
            return None
        writes = any(letter in mode for letter in "wax+") if isinstance(mode, str) else bool((flags or 0) & WRITING)
        path = os.path.abspath(os.fsdecode(name))
        if writes and not self._is_own(path) and path != "/dev/null":
            return f"written outside the folder: {path!a}"
        if not writes and not os.path.realpath(path).startswith(self.readable):
            return f"read outside the folder: {path!a}"
        return None

    def _is_own(self, name: Any) -> bool:
        parent, last = os.path.split(os.path.abspath(os.fsdecode(name)))
        return f"{os.path.join(os.path.realpath(parent), last)}{os.sep}".startswith(self.own)


def tree(folder: Path) -> dict[str, tuple[int, int]]:
    """Size and time of everything in a folder, which is not opened for it."""
    facts = {path: path.lstat() for path in folder.rglob("*")}
    return {str(path): (found.st_size, found.st_mtime_ns) for path, found in facts.items()}


__all__ = ["Guard", "tree"]
