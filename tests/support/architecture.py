# SPDX-License-Identifier: Apache-2.0
"""docs/architecture.md: its picture of the packages, drawn from the imports, and its walks, held against a run.

`python tests/support/architecture.py` writes the picture again.

A walk is a list of functions, each with those that it calls, in order. It is held against what a small run does:
a function that is listed below another one has to run within it, and has to give its first result (return, or yield)
after the one listed above it. Results, because generators call each other from the last to the first.
"""

from __future__ import annotations

import ast
import os
import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from types import FrameType
from typing import Any

from imports import LAYERS, MODULES, ROOT, imported, package_of


PAGE = ROOT / "docs" / "architecture.md"
PICTURE = re.compile(r"(?<=```mermaid\n).*?(?=```)", re.DOTALL)
CONTENTS = {
    "errors": "errors in one line", "registry": "table of systems", "shipped": "names of shipped models",
    "layers": "STFT, overlap-add", "texts": "texts others wrote",
    "onednn": "private operators of torch",
    "audio": "read, resample, write", "hub": "folders, checked and saved", "chunking": "segments and cross-fades",
    "mel": "mel spectrograms", "losses": "training losses", "modeling": "outputs of models",
    "models": "a folder for each system", "auto": "AutoModel", "cards": "model cards", "metrics": "SDR, FAD",
    "plotting": "pictures", "adapters": "LoRA", "registration": "transformers' tables",
    "pipelines": "what users call", "conversion": "authors' checkpoints", "batch": "many recordings",
    "data": "recordings and mixtures", "training": "recipes, fine-tuning", "demo": "the Spaces",
    "evaluation": "measures models", "cli": "the commands", "leaderboard": "a page of figures",
}  # fmt: skip


def picture() -> str:
    """The packages as a Mermaid flowchart, one row a layer; arrows that follow from others are left out."""
    arrows: dict[str, set[str]] = {name: set() for row in LAYERS for name in row.split()}
    for module in MODULES:
        source = package_of(module)
        targets = {package_of(target) for target in imported(module)}
        if source in arrows:
            arrows[source] |= (targets & arrows.keys()) - {source}
    lines = ["flowchart TD"]
    for row in reversed(LAYERS):
        lines += [f'    {name}["{name}:<br>{CONTENTS[name]}"]' for name in row.split()]
    below = {name: _below(name, arrows) for name in arrows}
    for source, targets in arrows.items():
        direct = {name for name in targets if not any(name in below[other] for other in targets)}
        if direct:
            lines.append(f"    {source} --> {' & '.join(sorted(direct))}")
    return "\n".join(lines) + "\n"


def _below(name: str, arrows: dict[str, set[str]]) -> set[str]:
    """All that a package imports, over others too."""
    reached: set[str] = set()
    waiting = set(arrows[name])
    while waiting:
        reached |= waiting
        waiting = {target for one in waiting for target in arrows[one]} - reached
    return reached


@cache
def _parsed(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"))


@dataclass(frozen=True)
class Function:
    """A function that the page names, as it stands there: `Class.method`, and its file."""

    name: str
    path: Path

    @property
    def line(self) -> int:
        """The line where it begins, its decorators included, as in its code object.

        Raises:
            LookupError: if the file has no such function.
        """
        if not self.path.is_file():
            raise LookupError(f"there is no {self.path.name} to find {self.name} in")
        nodes: list[Any] = [_parsed(self.path)]
        for part in self.name.split("."):
            inner = [node for node in nodes[-1].body if getattr(node, "name", None) == part]
            if not inner:
                raise LookupError(f"{self.path.name} has no {self.name}")
            nodes.append(inner[-1])  # after its overloads
        return int(min([nodes[-1].lineno, *(decorator.lineno for decorator in nodes[-1].decorator_list)]))


@dataclass
class Walk:
    """Functions with those they call, in order; what is an entry again is one of those that an earlier entry calls."""

    title: str
    entries: list[tuple[Function, list[Function]]] = field(default_factory=list)

    @property
    def functions(self) -> set[Function]:
        return {one for entry, calls in self.entries for one in (entry, *calls)}


def walks() -> dict[str, Walk]:
    """The walks of the page, by title."""
    walks: dict[str, Walk] = {}
    for line in PAGE.read_text(encoding="utf-8").splitlines():
        if heading := re.fullmatch(r"### (.+)", line):
            walks[heading[1]] = Walk(heading[1])
        elif match := re.match(r"(\d+\.|   -) \[`[^`]+`\]\(([^)]+)\) `([\w.]+)`: \w", line):
            function = Function(match[3], (PAGE.parent / match[2]).resolve())
            walk = list(walks.values())[-1]
            if match[1] == "   -":
                walk.entries[-1][1].append(function)
            else:
                walk.entries.append((function, []))
    return walks


Results = dict[tuple[Function, Function], int]


@contextmanager
def traced(walk: Walk) -> Iterator[Results]:
    """Notes in what order the functions of a walk give their first result, within each of the others."""
    results: Results = {}
    wanted = {(str(function.path), function.line): function for function in walk.functions}
    lines = {line for _, line in wanted}
    real = cache(os.path.realpath)  # the same file by way of the links in src/hubsep

    def of(frame: FrameType) -> Function | None:
        line = frame.f_code.co_firstlineno
        return wanted.get((real(frame.f_code.co_filename), line)) if line in lines else None

    def note(frame: FrameType, event: str, argument: object) -> None:
        if event != "return" or (function := of(frame)) is None:
            return
        outer = frame.f_back
        while outer is not None:
            if (caller := of(outer)) is not None:
                results.setdefault((caller, function), len(results))
            outer = outer.f_back

    before = sys.getprofile()
    sys.setprofile(note)
    try:
        yield results
    finally:
        sys.setprofile(before)


def faults(walk: Walk, results: Results) -> list[str]:
    """What a walk says and a run did not do."""
    wrong = []
    seen = {walk.entries[0][0]}
    for entry, calls in walk.entries:
        if entry not in seen:
            wrong.append(f"{entry.name} is explained before anything calls it")
        latest = -1
        for function in calls:
            moment = results.get((entry, function))
            if moment is None:
                wrong.append(f"{entry.name} does not call {function.name}")
            elif moment < latest:
                wrong.append(f"{entry.name} calls {function.name} earlier than the page says")
            else:
                latest = moment
        seen.update(calls)
    return wrong


def main() -> None:
    """Writes the picture into the page."""
    text = PAGE.read_text(encoding="utf-8")
    PAGE.write_text(PICTURE.sub(lambda match: picture(), text), encoding="utf-8")


if __name__ == "__main__":
    main()
