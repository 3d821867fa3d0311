# SPDX-License-Identifier: Apache-2.0
"""The modules of hubsep, what each imports, and the order of the packages: read from the sources, which do not run."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from functools import cache
from pathlib import Path


ROOT = Path(__file__).resolve().parents[2]
SOURCES = sorted(
    path
    for folder in ("src", "pipelines", "conversion")
    for path in (ROOT / folder).rglob("*.py")
    if not {"src/hubsep/pipelines", "src/hubsep/conversion"} & {p.as_posix() for p in path.relative_to(ROOT).parents}
)

# lowest first; a package imports what stands before it in this list, or beside it in the same row
LAYERS = (
    "errors registry shipped layers onednn texts",
    "audio hub chunking mel losses modeling",
    "models auto cards metrics",
    "plotting adapters registration",
    "pipelines",
    "conversion batch",
    "data",
    "training demo",
    "evaluation",
    "cli leaderboard",
)
LEVELS = {name: level for level, row in enumerate(LAYERS) for name in row.split()}


def module_of(path: Path) -> str:
    """The dotted name of a source file."""
    parts = path.relative_to(ROOT).with_suffix("").parts
    parts = parts[1:] if parts[0] == "src" else ("hubsep", *parts)
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


MODULES = {module_of(path): path for path in SOURCES}


@cache
def imported(module: str) -> tuple[str, ...]:
    """The modules of hubsep that a module imports: at its top, inside its functions, and for types alone."""
    path, targets = MODULES[module], []
    here = module.split(".") if path.name == "__init__.py" else module.split(".")[:-1]
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            targets += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            base = ".".join([*here[: len(here) - node.level + 1], *filter(None, [node.module])])
            source = base if node.level else node.module or ""
            names = [f"{source}.{alias.name}" for alias in node.names]
            targets += [name if name in MODULES else source for name in names]
    return tuple(target for target in targets if target in MODULES)


def package_of(module: str) -> str:
    """The package or module directly in hubsep that a module belongs to; "" for hubsep itself."""
    return module.split(".")[1] if "." in module else ""


def untyped(path: Path) -> Iterator[str]:
    """The attributes of the classes of a file whose type is said to be anything, or a function that returns it."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if not isinstance(node, ast.ClassDef):
            continue
        own = [item for item in ast.walk(node) if isinstance(item, ast.AnnAssign)]
        attributes = [item for item in own if item in node.body or isinstance(item.target, ast.Attribute)]
        for item in attributes:
            if "Any" in {name.id for name in ast.walk(item.annotation) if isinstance(name, ast.Name)}:
                yield f"{path.relative_to(ROOT)}: {node.name}.{ast.unparse(item.target).removeprefix('self.')}"
