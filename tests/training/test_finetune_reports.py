# SPDX-License-Identifier: Apache-2.0
"""Curves in trackio: on this computer without a network, one run where a fine-tune was stopped and went on."""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from bells import BRIEF, bells, save_listener
from children import ENVIRONMENT
from sounds import corpus

from hubsep.errors import DataError
from hubsep.training.finetune import run as finetune
from hubsep.training.finetune.trainer import REPORTERS, check_reports


MISSING = importlib.util.find_spec("trackio") is None


def run(words: list[str], place: Path) -> str:
    """Runs a command as a user does: trackio reads where it keeps its files when it is imported."""
    environment = {**os.environ, **ENVIRONMENT, "TRACKIO_DIR": str(place / "trackio")}
    done = subprocess.run(
        [sys.executable, "-m", *words], cwd=place, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr[-3_000:]
    return done.stdout


@pytest.mark.slow
@pytest.mark.skipif(MISSING, reason="trackio is not installed: pip install trackio")
def test_trackio_holds_the_curve_of_a_run_that_went_on(tmp_path: Path) -> None:
    save_listener(tmp_path / "tiny")
    bells(tmp_path / "my-sounds")
    corpus(tmp_path / "other-sounds", clips=6)
    fields = {**BRIEF, "eval_every": 2, "save_every": 2}
    train = [
        "hubsep", "train", "tiny", "--data", "my-sounds", "--background", "other-sounds", "--lora",
        "--non-commercial", "--output", "runs/bell", "--report-to", "trackio",
        *(word for name, value in fields.items() for word in ("--set", f"{name}={json.dumps(value)}")),
    ]  # fmt: skip
    run([*train, "--set", "steps=4"], tmp_path)
    run([*train, "--set", "steps=8", "--resume"], tmp_path)
    found = json.loads(run(["trackio.cli", "list", "runs", "--project", "hubsep", "--json"], tmp_path))
    assert found["runs"] == ["bell"]
    of_run = ["--project", "hubsep", "--run", "bell", "--json"]
    told = json.loads(run(["trackio.cli", "get", "metric", "--metric", "eval/sdri", *of_run], tmp_path))
    curve = json.loads((tmp_path / "runs/bell/curve.json").read_text())
    assert [point["step"] for point in curve] == [2, 4, 6, 8]
    assert [point["value"] for point in told["values"]] == [point["sdri"] for point in curve]


def test_what_is_not_installed_is_named_before_anything_is_trained(tmp_path: Path) -> None:
    listener = save_listener(tmp_path / "tiny")
    given = bells(tmp_path / "my-sounds"), tmp_path / "run"
    background = corpus(tmp_path / "other-sounds", clips=6)
    settings = {**BRIEF, "steps": 1, "non_commercial": True, "report_to": ["nothing_like_it"]}
    with pytest.raises(DataError, match=r"'nothing_like_it' is not known; use one of clearml, .*, trackio, wandb"):
        finetune.main(str(listener), *given, background=background, lora=True, **settings)
    assert not (tmp_path / "run" / "before.json").exists()


@pytest.mark.parametrize("name", ["evilpkg.x", "evilpkg", "this.x", "../../evil", "", 7, "a\0b", "wandb.errors"])
def test_a_name_from_a_recipe_is_not_looked_up(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Python imports the first part of a dotted name in order to look for the rest."""
    (tmp_path / "evilpkg").mkdir()
    (tmp_path / "evilpkg" / "__init__.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w').close()")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(DataError, match=r"--report-to .* is not known; use one of"):
        check_reports([name])
    assert not (tmp_path / "ran").exists()
    assert "evilpkg" not in sys.modules


def test_a_reporter_that_is_not_installed_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(REPORTERS, "wandb", ("no_such_package",))
    with pytest.raises(DataError, match="pip install no_such_package"):
        check_reports(["wandb"])
