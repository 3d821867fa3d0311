# SPDX-License-Identifier: Apache-2.0
"""The modules of hubsep, what each imports, and the order of the packages: read from the sources, which do not run."""

from __future__ import annotations

import ast
import sys
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

Import = ast.Import | ast.ImportFrom

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
    nodes = ast.walk(ast.parse(MODULES[module].read_text(encoding="utf-8")))
    targets = [target for node in nodes if isinstance(node, Import) for target in _targets(module, node)]
    return tuple(target for target in targets if target in MODULES)


def _targets(module: str, node: ast.Import | ast.ImportFrom) -> list[str]:
    """The dotted names that an import statement of a module asks for."""
    if isinstance(node, ast.Import):
        return [alias.name for alias in node.names]
    path = MODULES[module]
    here = module.split(".") if path.name == "__init__.py" else module.split(".")[:-1]
    base = ".".join([*here[: len(here) - node.level + 1], *filter(None, [node.module])])
    source = base if node.level else node.module or ""
    return [name if (name := f"{source}.{alias.name}") in MODULES else source for alias in node.names]


def _run(body: list[ast.stmt]) -> Iterator[ast.Import | ast.ImportFrom]:
    """The imports that run when a file is imported; those for type checkers do not."""
    for node in body:
        if isinstance(node, Import):
            yield node
        elif isinstance(node, ast.If):
            checking = ast.unparse(node.test) == "TYPE_CHECKING"
            yield from _run(node.orelse if checking else [*node.body, *node.orelse])
        elif isinstance(node, ast.Try):
            yield from _run([*node.body, *(part for handler in node.handlers for part in handler.body), *node.orelse])


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


def outside(module: str) -> frozenset[str]:
    """The packages of others that importing a module brings, its own imports followed."""
    found: set[str] = set()
    queue, seen = [module], {module}
    while queue:
        for target in at_the_top(queue.pop()):
            if target not in MODULES:
                found.add(target.partition(".")[0])
            elif target not in seen:
                seen.add(target)
                queue.append(target)
    return frozenset(found - sys.stdlib_module_names)


@cache
def at_the_top(module: str) -> tuple[str, ...]:
    """What importing a module imports: with the packages it lies in, without what is for types or in functions."""
    tree = ast.parse(MODULES[module].read_text(encoding="utf-8"))
    parts = module.split(".")
    packages = [".".join(parts[:end]) for end in range(1, len(parts))]
    return (*packages, *(target for node in _run(tree.body) for target in _targets(module, node)))


def in_functions(module: str) -> list[tuple[int, str]]:
    """The line and target of each import inside a function."""
    tree = ast.parse(MODULES[module].read_text(encoding="utf-8"))
    functions = [node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)]
    nodes = {node for function in functions for node in ast.walk(function) if isinstance(node, Import)}
    return sorted((node.lineno, target) for node in nodes for target in _targets(module, node))
