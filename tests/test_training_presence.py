# SPDX-License-Identifier: Apache-2.0
"""The score of a text-queried model is set where it errs as often either way, and nothing else of it changes."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from sounds import corpus
from tiny_audiosep import tiny_audiosep

from hubsep import AutoModelForAudioSeparation
from hubsep.errors import DataError
from hubsep.training import presence


def test_where_errors_are_as_frequent_either_way() -> None:
    there, absent = torch.tensor([3.0, 5.0, 1.0, 4.0]), torch.tensor([-2.0, 0.5, 2.0, -3.0, -1.0, 2.5, -4.0, -5.0])
    level = presence.balanced(there, absent)
    assert 1.0 < level < 2.0
    assert presence.shares(there, absent, level) == {"missed": 0.25, "false_alarms": 0.25}
    assert presence.shares(there, absent, 0.0) == {"missed": 0.0, "false_alarms": 0.375}


@pytest.fixture
def data(tmp_path: Path) -> Path:
    return corpus(tmp_path / "data")


def test_only_the_bias_of_the_head_changes(data: Path, tmp_path: Path) -> None:
    model, processor = tiny_audiosep(presence_head=True)
    for part in (model, processor):
        part.save_pretrained(tmp_path / "model")
    fields = {"model": str(tmp_path / "model"), "per_class": 1, "absent_queries": 2}
    result = presence.main(None, data, tmp_path / "calibrated", **fields)
    own, found = model.state_dict(), AutoModelForAudioSeparation.from_pretrained(tmp_path / "calibrated").state_dict()
    changed = [name for name in own if not torch.equal(own[name], found[name])]
    assert changed == ["unet.presence.bias"]
    moved = own[changed[0]] - found[changed[0]]
    assert moved.item() == pytest.approx(result["lowered"], abs=1e-3)
    again = presence.main(None, data, tmp_path / "again", **{**fields, "model": str(tmp_path / "calibrated")})
    assert again["lowered"] == pytest.approx(0.0, abs=1e-3)
    assert {name: again[f"{name}_before"] for name in ("missed", "false_alarms")} == {
        name: result[name] for name in ("missed", "false_alarms")
    }


def test_what_cannot_be_calibrated(data: Path, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="--set model=FOLDER"):
        presence.main(None, data, tmp_path / "calibrated")
    for part in tiny_audiosep(presence_head=False):
        part.save_pretrained(tmp_path / "model")
    with pytest.raises(DataError, match="no presence head"):
        presence.main(None, data, tmp_path / "calibrated", model=str(tmp_path / "model"), per_class=1)
    assert not (tmp_path / "calibrated").exists()
