# SPDX-License-Identifier: Apache-2.0
"""What tells the result of one model and one set of options from that of another.

Decisions: a model is known by the content of its weights, configuration and vocabulary, not by its name: a folder that
was trained on is another model, and the same folder in another place is the same one. Its card, its figures and the
manifest that lists them say nothing about what comes out, so they do not count.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ..hub.manifest import MANIFEST, sha256
from ..hub.resolve import resolve_folder


IGNORED = frozenset({MANIFEST, "card.json", "curve.json", "evaluation.json"})
PIPELINE = "model_index.json"
MOST_HASHED = 1 << 28  # a tenth of a second on an idle core
ENDINGS = (".json", ".safetensors", ".txt", ".model")


def model_fingerprint(model: str | os.PathLike[str], *, most_hashed: int | None = MOST_HASHED) -> str:
    """Sixteen hexadecimal digits of a folder, a repository of the Hub (which is fetched) or a shipped model.

    Args:
        model: the folder, the repository or the name.
        most_hashed: bytes of a file that is known by its content; a larger one is known by its size and its time.
            None for all of them.

    Raises:
        CheckpointError: if there is no such model.
    """
    folder = Path(resolve_folder(model))
    kept = [path for path in sorted(folder.iterdir()) if path.suffix in ENDINGS and path.name not in IGNORED]
    if (folder / PIPELINE).is_file():  # several models, a folder each
        kept += [path for path in sorted(folder.glob("*/*")) if path.suffix in ENDINGS and path.name not in IGNORED]
    return fingerprint(
        {path.relative_to(folder).as_posix(): _content(path, most_hashed) for path in kept if path.is_file()}
    )


def _content(path: Path, most_hashed: int | None) -> str:
    """What tells a file from another: its hash; of gigabytes, which take longer than what is made with them, less."""
    facts = path.stat()
    whole = most_hashed is None or facts.st_size <= most_hashed
    return sha256(path) if whole else f"{facts.st_size} bytes of {facts.st_mtime_ns}"


def fingerprint(settings: Mapping[str, Any]) -> str:
    """Sixteen hexadecimal digits of options; the order of their names does not matter."""
    text = json.dumps(settings, sort_keys=True, ensure_ascii=False, default=str)
    return hashlib.sha256(text.encode(errors="backslashreplace")).hexdigest()[:16]


__all__ = ["fingerprint", "model_fingerprint"]
