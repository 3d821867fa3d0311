# SPDX-License-Identifier: Apache-2.0
"""Types as users' tools see them: the package is found, a right program passes, and every mistyped line does not.

Checked by mypy with the settings of this repository, where transformers and diffusers count as untyped: what hubsep
says itself is tested, without the minutes that reading those two takes.
"""

from __future__ import annotations

import dataclasses
import inspect
import re
import subprocess
import sys
import typing
import zipfile
from pathlib import Path
from typing import Any

import pytest

import hubsep
from hubsep.pipelines.audioldm2 import AudioLDM2Pipeline
from hubsep.pipelines.audioldm2 import settings as audioldm2_settings
from hubsep.pipelines.audioldm2.arguments import CallOptions
from hubsep.pipelines.separation import AudioSeparationPipeline, options
from hubsep.pipelines.separation.options import SeparationOptions


ROOT = Path(__file__).parents[2]
PROGRAMS = Path(__file__).parents[1] / "typed"
BUILD = "import sys; from setuptools import build_meta; print(build_meta.build_editable(sys.argv[1]))"


def editable_wheel(folder: Path) -> Path:
    """What `pip install -e .` installs."""
    command = [sys.executable, "-W", "ignore", "-c", BUILD, str(folder)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    (wheel,) = folder.glob("hubsep-*.whl")
    return wheel


@pytest.mark.slow
def test_an_editable_install_is_a_path_that_type_checkers_read(tmp_path: Path) -> None:
    with zipfile.ZipFile(editable_wheel(tmp_path)) as wheel:
        names = [name for name in wheel.namelist() if ".dist-info" not in name]
        assert [Path(name).suffix for name in names] == [".pth"], "a finder is code, which type checkers do not run"
        (path,) = wheel.read(names[0]).decode().split()
    assert Path(path).samefile(ROOT / "src")
    for name in ("py.typed", "pipelines/separation/pipeline.py", "conversion/__init__.py"):
        assert (Path(path) / "hubsep" / name).is_file()


@pytest.mark.slow
@pytest.mark.timeout(1_800)
def test_a_right_program_passes_and_every_mistyped_line_is_an_error(tmp_path: Path) -> None:
    pytest.importorskip("mypy")
    programs = [str(PROGRAMS / name) for name in ("right.py", "wrong.py")]
    command = [sys.executable, "-m", "mypy", "--cache-dir", str(tmp_path), *programs]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    found = re.findall(r"(\w+)\.py:(\d+): error: (.*)", done.stdout)
    assert found, done.stdout + done.stderr
    assert [each for each in found if each[0] != "wrong"] == []
    lines = (PROGRAMS / "wrong.py").read_text(encoding="utf-8").splitlines()
    mistyped = {number for number, line in enumerate(lines, 1) if re.search(r"\S  # ", line)}
    assert len(mistyped) > 30
    named = {int(number) for _, number, _ in found}
    assert [lines[number - 1] for number in sorted(mistyped - named)] == [], "nothing was found wrong in these"
    assert [lines[number - 1] for number in sorted(named - mistyped)] == [], "nothing is wrong in these"


@pytest.mark.parametrize(
    ("typed", "fields"),
    [
        (options.CallOptions, SeparationOptions),
        (audioldm2_settings.SamplingOptions, audioldm2_settings.Sampling),
    ],
)
def test_options_of_a_call_are_typed_under_the_names_they_have(typed: Any, fields: Any) -> None:
    assert [*typed.__annotations__] == [field.name for field in dataclasses.fields(fields)]


def test_what_a_call_takes_is_typed_under_the_names_it_has() -> None:
    own = set(typing.cast(Any, CallOptions).__annotations__) | {"prompt", "return_dict"}
    assert own == set(inspect.signature(AudioLDM2Pipeline.__call__).parameters) - {"self"}
    call = set(inspect.signature(AudioSeparationPipeline.__call__).parameters)
    assert call - {"self", "inputs", "unknown"} == set(options.CallOptions.__annotations__)


def test_every_public_name_is_known_to_type_checkers() -> None:
    code = re.sub(r'"[^"]*"', "", Path(hubsep.__file__).read_text(encoding="utf-8"))  # names in strings are not known
    assert not {name for name in hubsep.__all__ if not re.search(rf"\b{name}\b", code)}
