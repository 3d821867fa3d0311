# SPDX-License-Identifier: Apache-2.0
"""The table of published checkpoints: complete, found by every name, and what is said of a row."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import transformers
from hub_server import HubServer

from hubsep.cli.main import main
from hubsep.errors import CheckpointError
from hubsep.hub.published import Published, find_published, published
from hubsep.hub.resolve import resolve_folder
from hubsep.registry import SYSTEMS


ROWS = list(published().values())


def test_the_systems_that_were_published_have_rows() -> None:
    assert len(ROWS) >= 35
    assert {row.system for row in ROWS} == {name for name, system in SYSTEMS.items() if system.converter is not None}


@pytest.mark.parametrize("row", ROWS, ids=[row.name for row in ROWS])
def test_a_row_is_found_by_its_names_and_says_where_it_is(row: Published) -> None:
    for name in (row.name, row.name.upper(), *row.aliases):
        assert find_published(name) == row
    assert row.place.startswith("https://")
    assert row.sampling_rate in (8_000, 16_000, 32_000, 44_100, 48_000)
    assert row.licence == row.licence.lower()
    denied = "-nc-" in row.licence or row.licence == "unknown" or row.system == "meta_tasnet"
    assert row.commercial != denied, "a licence without commercial use, or none"
    assert bool(row.files) == (row.repository is not None)
    assert not row.score or "data" in row.score
    assert all(isinstance(text, str) for text in (*row.score, *row.score.values(), *row.files, *row.aliases))


def test_stems_and_speakers_are_those_the_converters_know() -> None:
    for name, sources, rate in [
        ("spleeter:5stems", ("vocals", "piano", "drums", "bass", "other"), 44_100),
        ("speechbrain/sepformer-wsj03mix", 3, 8_000),
        ("speechbrain/sepformer-whamr-enhancement", 1, 8_000),
        ("joriscos/convtasnet_libri1mix_enhsingle_16k", 1, 16_000),
    ]:
        row = find_published(name)
        assert row is not None
        assert (row.sources, row.sampling_rate) == (sources, rate)


@pytest.mark.parametrize("name", ["Audio-AGI/AudioSep", "pfnet-research/meta-tasnet", "facebookresearch/AudioMAE"])
def test_what_no_program_can_fetch_says_how_it_opens(name: str) -> None:
    row = find_published(name)
    assert row is not None
    with pytest.raises(CheckpointError) as caught:
        resolve_folder(name)
    for part in (row.name, row.place, f"hubsep convert {row.system}", f"--licence {row.licence}"):
        assert part in str(caught.value)


def test_a_folder_of_that_name_wins(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "speechbrain" / "sepformer-wsj02mix").mkdir(parents=True)
    assert resolve_folder("speechbrain/sepformer-wsj02mix").is_dir()


def test_transformers_asks_no_hub_for_a_model_of_the_package(hub: HubServer) -> None:
    build: Any = transformers.pipeline
    build("audio-separation", model="audiosep-small", device="cpu")
    transformers.AutoConfig.from_pretrained("conv-tasnet-small")
    assert not hub.requests, "without a network each of them is half a minute"


def test_the_list_fits_a_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["list", "--published"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert max(map(len, lines)) <= 80
    assert sum(any(line.startswith(row.name) for row in ROWS) for line in lines) == len(ROWS)
    starred = {line.split()[0] for line in lines if " * " in line[1:]}
    assert starred == {row.name for row in ROWS if not row.opens_by_name}
    assert lines[-1].startswith("* fetched and converted by hand")
    assert main(["list", "--published", "--commercial", "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert {row["name"] for row in told} == {row.name for row in ROWS if row.commercial}


def test_all_that_is_known_of_one(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["info", "SpeechBrain/sepformer-wsj02mix"]) == 0
    told = capsys.readouterr().out
    for part in ("22.4 dB, on WSJ0-2Mix", "apache-2.0, says the model card", "masknet.ckpt", "by its name"):
        assert part in told
    assert main(["info", "pfnet-research/meta-tasnet"]) == 0
    assert "after `hubsep convert" in capsys.readouterr().out
    assert main(["info", "conv-tasnet-small"]) == 0
    assert "by its name" in capsys.readouterr().out
    assert main(["info", "conv-tasnet-smal"]) == 2
    assert "Did you mean conv-tasnet-small?" in capsys.readouterr().err


def test_what_another_library_opens_says_so_before_it_is_fetched(hub: HubServer) -> None:
    for row in ROWS:
        if row.opened_with is not None:
            with pytest.raises(CheckpointError) as caught:
                resolve_folder(row.name)
            for part in (row.name, f"hubsep convert {row.name} FOLDER", f"{row.opened_with}.from_pretrained"):
                assert part in str(caught.value)
    assert not hub.requests
