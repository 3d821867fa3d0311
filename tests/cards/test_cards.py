# SPDX-License-Identifier: Apache-2.0
"""Cards: one source, from which README, front matter, list and leaderboard follow; fine-tunes say what they are of."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
import yaml
from huggingface_hub import ModelCard
from tiny_conv_tasnet import tiny_conv_tasnet

from hubsep.cards import card_text, catalogue, finetuned_card, read_card, write_card
from hubsep.cards.leaderboard import PAGE, render
from hubsep.cards.results import is_generation
from hubsep.cli import main
from hubsep.conversion.writing import ORIGINS
from hubsep.errors import CheckpointError, DataError
from hubsep.hub import verify_manifest
from hubsep.hub.published import published
from hubsep.registry import SYSTEMS
from hubsep.shipped import SHIPPED


DATA = [{"name": "my bells", "what": "40 recordings of bells", "licence": "CC0-1.0", "attribution": "Recorded by me."}]
TOLD: dict[str, Any] = {
    "name": "bells", "data": DATA, "licence": "CC-BY-4.0", "commercial": True, "training": "200 steps, LoRA.",
    "commands": ["hubsep train finetune ..."],
}  # fmt: skip


@pytest.fixture
def base() -> dict[str, Any]:
    return read_card(SHIPPED["audiosep-small"])


@pytest.mark.parametrize("name", SHIPPED)
def test_results_name_the_command_that_makes_them(name: str):
    card = read_card(SHIPPED[name])
    assert card["results"]["command"] == card["evaluation_command"]
    assert card["results"]["command"].startswith(f"hubsep evaluate {name} --")


@pytest.mark.parametrize("name", SHIPPED)
def test_every_figure_of_a_card_is_of_its_evaluation(name: str):
    """What stands in the table and in the front matter is in evaluation.json."""
    folder = SHIPPED[name]
    text = (folder / "README.md").read_text(encoding="utf-8")
    figures = {str(value) for value in numbers(json.loads((folder / "evaluation.json").read_text(encoding="utf-8")))}
    if not is_generation(read_card(folder)["results"]):  # there shares are shown in percent
        table = [line for line in text.splitlines() if line.startswith("| ")]
        table = [line for line in table if not line.startswith(("| class ", "| condition ", "| --- "))]
        cells = [part for line in table for cell in line.strip("| ").split(" | ")[1:] for part in cell.split(" to ")]
        assert len(cells) > 10
        assert {cell.strip() for cell in cells if cell.strip()} <= figures
    (entry,) = ModelCard(text).data.to_dict()["model-index"]
    metrics = [metric for result in entry["results"] for metric in result["metrics"]]
    assert metrics
    assert {str(metric["value"]) for metric in metrics} <= figures


def test_a_card_shows_what_is_not_easy(base: dict[str, Any]):
    """Bad rows too: a model is judged in the conditions it was measured in, and not by the easiest one alone."""
    conditions = {"rooms": {"mixtures": 8, "sdri": -1.25, "sdri_ci": [-2.5, 0.5]}, "in vain": {"false_alarms": 0.93}}
    text = card_text({**base, "results": {**base["results"], "conditions": conditions}})
    assert "| condition | mixtures | SDRi, dB |" in text
    assert "| rooms | 8 | -1.25 |" in text
    assert "0.93" in text
    assert "| condition |" not in card_text({**base, "results": {**base["results"], "conditions": {}}})


def numbers(value: Any) -> list[Any]:
    if isinstance(value, dict):
        value = list(value.values())
    if isinstance(value, list):
        return [number for entry in value for number in numbers(entry)]
    return [value]


def test_a_finetune_says_what_it_is_of(base: dict[str, Any], tmp_path: Path):
    card = finetuned_card(base, **TOLD, known_sounds=["church bell"], limits=["Bells only."])
    text = card_text(card)
    data = ModelCard(text).data.to_dict()
    assert (data["license"], data["base_model"], data["library_name"]) == ("cc-by-4.0", "audiosep-small", "hubsep")
    assert data["pipeline_tag"] == "audio-to-audio"
    assert "model-index" not in data, "the base's results are not the fine-tune's"
    for said in ("Recorded by me.", "J. Zhang et al.", "Bells only.", "church bell", "Commercial use is allowed."):
        assert said in text
    assert 'queries=["church bell"]' in text
    assert "## Results" not in text


@pytest.mark.parametrize(
    ("base_allows", "data_allows", "expected"),
    [(True, True, True), (True, False, False), (False, True, False), (None, True, None), (None, False, False)],
)
def test_what_the_base_forbids_stays_forbidden(
    base: dict[str, Any], base_allows: bool | None, data_allows: bool | None, expected: bool | None
):
    licence = "CC-BY-NC-4.0" if expected is False else "CC-BY-4.0"
    facts = {**TOLD, "commercial": data_allows, "licence": licence}
    card = finetuned_card({**base, "commercial": base_allows}, **facts)
    assert card["commercial"] is expected
    words = {True: "is allowed.", False: "is not allowed.", None: "is for you to find out."}
    assert words[expected] in card_text(card)


def test_a_finetune_without_licence_or_attribution_is_refused(base: dict[str, Any]):
    with pytest.raises(DataError, match="licence of the new weights is missing"):
        finetuned_card(base, **{**TOLD, "licence": ""})
    with pytest.raises(DataError, match="'my bells' lacks attribution"):
        finetuned_card(base, **{**TOLD, "data": [{k: v for k, v in DATA[0].items() if k != "attribution"}]})


def test_a_card_is_written_and_read_again(base: dict[str, Any], tmp_path: Path):
    folder = tmp_path / "model"
    tiny_conv_tasnet()[0].save_pretrained(folder)
    results = {"command": "hubsep evaluate bells --data DATA", "sdri": 3.5, "sdri_ci": [3.1, 3.9], "mixtures": 8}
    card = finetuned_card(base, **TOLD, results={**results, "classes": {}, "measured_on": "On eight bells."})
    write_card(folder, card)
    verify_manifest(folder)
    assert read_card(folder) == card
    assert "results" not in json.loads((folder / "card.json").read_text(encoding="utf-8"))
    text = (folder / "README.md").read_text(encoding="utf-8")
    assert "| **all** | 8 | 3.5 | 3.1 to 3.9 |" in text
    assert "On eight bells." in text
    front = yaml.safe_load(text.split("---\n")[1])
    assert front["model-index"][0]["results"][0]["metrics"][0]["value"] == 3.5
    assert not (folder / ".eval_results").exists(), "our own set is no benchmark of the Hub"
    tiny_conv_tasnet()[0].save_pretrained(folder)
    assert read_card(folder) == card, "saving the model again keeps its card"


def test_folders_without_a_card_are_refused(tmp_path: Path):
    with pytest.raises(DataError, match=r"has no card\.json"):
        read_card(tmp_path)
    (tmp_path / "card.json").write_text("{}")
    with pytest.raises(DataError, match="lacks name, model_type"):
        read_card(tmp_path)


WRONG: dict[str, list[Any]] = {
    "name": [None, 3, "", "a\nb", "x" * 9_999],
    "licence": [["mit"], {"x": 1}, "mit\nbase_model: x", None],
    "commercial": ["yes", 1, []],
    "tags": [5, "abc", [3], [["x"]]],
    "summary": [3, {}, "\ud800"],
    "use": [None, []],
    "training": [3, {}, ["x"]],
    "commands": ["x", [{}]],
    "limits": [[{}], {"x": 1}],
    "known_sounds": [[3], "rain"],
    "training_data": ["x", [3], [{"name": "x"}], [{"name": 1, "what": "", "licence": "", "attribution": ""}], {}],
    "converted_from": [[{"name": "x", "bytes": "9", "sha256": "x"}]],
    "base_model": [3, ["a", "b"]],
}


@pytest.mark.parametrize(("field", "value"), [(name, value) for name, values in WRONG.items() for value in values])
def test_a_card_of_somebody_else_has_fields_of_their_kind(
    base: dict[str, Any], tmp_path: Path, field: str, value: Any
):
    (tmp_path / "card.json").write_text(json.dumps({**finetuned_card(base, **TOLD), field: value}))
    with pytest.raises(CheckpointError, match=rf"card\.json: {field} is "):
        read_card(tmp_path)


@pytest.mark.parametrize("results", [{"x": 1}, {"command": 3, "classes": 5}, {"command": "x", "classes": {"a": 3}}])
def test_results_of_somebody_else_are_refused_and_nothing_is_written(
    base: dict[str, Any], tmp_path: Path, results: dict[str, Any]
):
    (tmp_path / "card.json").write_text(json.dumps(finetuned_card(base, **TOLD)))
    (tmp_path / "evaluation.json").write_text(json.dumps(results))
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    with pytest.raises(CheckpointError, match=r"evaluation\.json is not what `hubsep evaluate` writes"):
        write_card(tmp_path, read_card(tmp_path))
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before


def test_every_converter_knows_whose_work_it_converts():
    convertible = {name for name, system in SYSTEMS.items() if system.converter}
    assert convertible <= set(ORIGINS)
    assert all(origin.authors and origin.publisher for origin in ORIGINS.values())


@pytest.mark.parametrize("name", SHIPPED)
def test_info_says_what_was_measured(name: str, capsys: pytest.CaptureFixture[str]):
    assert main(["info", name]) == 0
    printed = capsys.readouterr().out
    results = read_card(SHIPPED[name])["results"]
    assert f"\nmeasured with:   {results['command']}\n" in printed
    assert "trained on: " in printed
    if "sdri" in results:
        assert f"SDRi {results['sdri']} dB" in printed


def test_the_list_is_short_and_names_the_way_to_the_rest(capsys: pytest.CaptureFixture[str]):
    assert main(["list"]) == 0
    printed = capsys.readouterr().out
    assert len(printed.splitlines()) < 40
    assert all(f"\n{name} " in printed for name in SHIPPED)
    assert "hubsep info NAME" in printed
    assert main(["list", "audiosep-small"]) == 2
    assert "`hubsep info audiosep-small`" in capsys.readouterr().err
    assert main(["info"]) == 2
    assert "which model?" in capsys.readouterr().err


def test_the_leaderboard_is_up_to_date():
    assert PAGE.read_text(encoding="utf-8") == render(SHIPPED.values())


def test_the_page_of_models_is_up_to_date():
    page = catalogue.PAGE.read_text(encoding="utf-8")
    assert page == catalogue.render()
    for name in [*SHIPPED, *published()]:
        assert len(re.findall(rf"^\| [`\[]{re.escape(name)}[`\]]", page, re.MULTILINE)) == 1, name


def test_the_leaderboard_leaves_out_what_was_not_measured(base: dict[str, Any], tmp_path: Path):
    folder = tmp_path / "bells"
    tiny_conv_tasnet()[0].save_pretrained(folder)
    write_card(folder, finetuned_card(base, **TOLD))
    assert "bells" not in render([folder])
    results = {"command": "hubsep evaluate bells --data DATA", "sdri": 3.5, "sdri_ci": [3.1, 3.9], "mixtures": 8}
    write_card(folder, finetuned_card(base, **TOLD, results={**results, "classes": {}}))
    page = render([folder])
    assert "| CC-BY-4.0 | 8 mixtures | 3.5 (3.1 to 3.9) |" in page
    assert "```bash\nhubsep evaluate bells --data DATA\n```" in page
