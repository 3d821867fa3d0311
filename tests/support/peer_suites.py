# SPDX-License-Identifier: Apache-2.0
"""Tests that transformers has for any model, fetched when they run: none is kept here.

transformers' are in the source archive of the release that is installed; an environment variable may name the folder
`tests` of a checkout in its place. diffusers' archive has none.
"""

from __future__ import annotations

import importlib
import os
import subprocess
import sys
import tarfile
import unittest
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest


@dataclass
class Outcome(unittest.TestResult):
    """What became of each test, by its name: "passed", "skipped", or the last line of its error."""

    named: dict[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        super().__init__()

    def addSuccess(self, test: unittest.TestCase) -> None:  # noqa: N802 - unittest's
        self.named.setdefault(name_of(test), "passed")

    def addSkip(self, test: unittest.TestCase, reason: str) -> None:  # noqa: N802
        self.named.setdefault(name_of(test), "skipped")

    def addError(self, test: unittest.TestCase, err: Any) -> None:  # noqa: N802
        said = str(err[1]).strip().splitlines() or [""]
        skipped = isinstance(err[1], pytest.skip.Exception)
        self.named[name_of(test)] = "skipped" if skipped else f"{err[0].__name__}: {said[0][:300]}"

    addFailure = addError  # noqa: N815

    def addSubTest(self, test: unittest.TestCase, subtest: unittest.TestCase, err: Any) -> None:  # noqa: N802
        if err is not None:
            self.addError(test, err)

    def failed(self) -> dict[str, str]:
        """The errors."""
        return {name: said for name, said in self.named.items() if said not in ("passed", "skipped")}


def name_of(test: unittest.TestCase) -> str:
    """The name of a test's method."""
    name: str = test.id().rpartition(".")[2]
    return name


def run_cases(kind: type[unittest.TestCase]) -> Outcome:
    """Runs the tests of a class."""
    outcome = Outcome()
    unittest.TestLoader().loadTestsFromTestCase(kind).run(outcome)
    return outcome


def fetched(package: str, variable: str, folder: Path) -> Path:
    """The folder `tests` of a package's release that is installed here; a test without it is skipped.

    Args:
        package: its name.
        variable: of the environment, which names the folder.
        folder: to unpack the archive to.
    """
    named = os.environ.get(variable)
    if named:
        return Path(named)
    wanted = f"{package}=={version(package)}"
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "--quiet"]
    get = [
        *pip,
        "download",
        "--no-binary",
        ":all:",
        "--no-deps",
        "--no-build-isolation",
        "--dest",
        str(folder),
        wanted,
    ]
    more = [*pip, "install", "--no-deps", "--target", str(folder / "site"), "parameterized"]
    for command in (get, more):
        try:
            subprocess.run(command, check=True, capture_output=True, timeout=120)
        except (subprocess.CalledProcessError, subprocess.TimeoutExpired):
            pytest.skip(f"the source archive of {wanted} cannot be fetched, and {variable} names no folder")
    (archive,) = folder.glob("*.tar.gz")
    with tarfile.open(archive) as file:
        file.extractall(folder, filter="data")
    sys.path.append(str(folder / "site"))
    (tests,) = folder.glob("*/tests")
    return tests


def loaded(tests: Path, name: str, absent: dict[str, str]) -> ModuleType:
    """A module of such a folder.

    Args:
        tests: the folder.
        name: dotted, in it.
        absent: modules that an archive leaves out, and the one class that is wanted of each: empty ones stand there.
    """
    root = f"peer_{tests.parent.name.replace('.', '_').replace('-', '_')}"
    for module, wanted in {"": "", **dict.fromkeys(parents(name), ""), **absent}.items():
        whole = f"{root}.{module}".rstrip(".")
        if whole not in sys.modules:
            made: Any = ModuleType(whole)
            made.__path__ = [str(tests.joinpath(*module.split(".")))]
            sys.modules[whole] = made
        if wanted and not (tests / (module.replace(".", "/") + ".py")).is_file():
            setattr(sys.modules[whole], wanted, type(wanted, (), {}))
    return importlib.import_module(f"{root}.{name}")


def parents(name: str) -> list[str]:
    """The packages a dotted name is in, from the outermost."""
    parts = name.split(".")[:-1]
    return [".".join(parts[: index + 1]) for index in range(len(parts))]
