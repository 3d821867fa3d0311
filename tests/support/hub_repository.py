# SPDX-License-Identifier: Apache-2.0
"""What a Hub keeps: a repository is a table of commits, each a table of path and content.

So a revision is there as a whole or not at all. Contents are named as on the Hub: large files by their SHA-256, all
others as git names them.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass, field
from typing import Any


@dataclass
class Repository:
    """Commits, newest last, and the branches that name them."""

    private: bool = False
    commits: dict[str, dict[str, bytes]] = field(default_factory=dict)
    messages: list[str] = field(default_factory=list)
    branches: dict[str, str] = field(default_factory=dict)

    def commit(self, branch: str, files: dict[str, bytes], message: str) -> str:
        """Add a commit and let a branch name it."""
        listing = json.dumps([len(self.commits), *((path, git_hash(data)) for path, data in sorted(files.items()))])
        sha = hashlib.sha1(listing.encode()).hexdigest()
        self.commits[sha] = files
        self.messages.append(message)
        self.branches[branch] = sha
        return sha

    def sha(self, revision: str) -> str | None:
        """The commit a branch or a commit's own name stands for."""
        return self.branches.get(revision, revision if revision in self.commits else None)

    def files(self, revision: str = "main") -> dict[str, bytes]:
        """Paths and contents."""
        return self.commits[self.sha(revision) or ""]


def entry(path: str, data: bytes) -> dict[str, Any]:
    """One file of a listing."""
    large = {"lfs": {"oid": sha256(data), "size": len(data), "pointerSize": 134}} if is_large(path) else {}
    return {"type": "file", "path": path, "size": len(data), "oid": git_hash(data), **large}


def is_large(path: str) -> bool:
    return path.endswith(".safetensors")


def sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def git_hash(data: bytes) -> str:
    return hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest()


__all__ = ["Repository", "entry", "git_hash", "is_large", "sha256"]
