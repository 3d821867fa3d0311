# SPDX-License-Identifier: Apache-2.0
"""A licence may not allow more than what the weights were made of, wherever it is written."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from bells import bells
from published_conv_tasnet import tensors, write_asteroid
from sounds import corpus
from tiny_audiosep import tiny_audiosep
from tiny_conv_tasnet import tiny_conv_tasnet

from hubsep.cards import finetuned_card, read_card, write_card
from hubsep.cli import main as command
from hubsep.conversion import convert
from hubsep.errors import ConversionError, DataError
from hubsep.hub.licences import allows_commercial_use, check_agrees, check_card, stated_in
from hubsep.shipped import SHIPPED
from hubsep.training.finetune import run as finetune
from hubsep.training.generators.lora_card import checked_licence


BY_SA = "is licensed under [Attribution-ShareAlike 3.0 Unported](https://creativecommons.org/licenses/by-sa/3.0/)"
NOTE = f'"ConvTasNet" is a derivative of [LibriSpeech](https://creativecommons.org/licenses/by/4.0/) and {BY_SA}'


@pytest.mark.parametrize(
    ("licence", "allowed"),
    [
        ("MIT", True), ("CC BY 4.0", True), ("CC0", True), ("cc-by-sa-4.0", True), ("Apache-2.0", True),
        ("CC BY-NC 3.0", False), ("cc-by-nc-sa-4.0", False), ("academic use only", False), ("research-only", False),
        ("Non-Commercial", False), ("noncommercial", False), ("openrail++", None), ("unknown", None), ("", None),
        ("announced", None),
    ],
)  # fmt: skip
def test_what_a_licence_allows(licence: str, allowed: bool | None):
    assert allows_commercial_use(licence) is allowed


def test_cards_of_shipped_models_do_not_contradict_themselves():
    for folder in SHIPPED.values():
        check_card(read_card(folder))


@pytest.mark.parametrize("licence", ["CC-BY-4.0", "mit", "openrail"])
def test_weights_of_restricted_material_carry_no_free_licence(licence: str):
    with pytest.raises(DataError, match=f"licence {licence} allows commercial use, which the songs does not"):
        check_agrees(licence, False, "the songs")
    for fine in ("CC-BY-NC-4.0", "other", "unknown"):
        check_agrees(fine, False, "the songs")
    check_agrees(licence, None, "the songs")


def restricted_base() -> dict[str, Any]:
    return read_card(SHIPPED["spleeter-small-2stems"])


def test_a_card_cannot_free_what_its_base_binds(tmp_path: Path):
    facts: dict[str, Any] = {"name": "x", "data": [], "commercial": True, "training": "", "commands": []}
    with pytest.raises(DataError, match="which spleeter-small-2stems does not"):
        finetuned_card(restricted_base(), licence="CC-BY-4.0", **facts)
    card = finetuned_card(restricted_base(), licence="CC-BY-NC-4.0", **facts)
    with pytest.raises(DataError, match="allows commercial use"):
        write_card(tmp_path, {**card, "licence": "cc-by-4.0"})
    with pytest.raises(DataError, match="forbids it"):
        write_card(tmp_path, {**card, "commercial": True})
    entry = {"name": "songs", "what": "", "licence": "CC BY-NC 3.0", "attribution": ""}
    free = {**read_card(SHIPPED["audiosep-small"]), "training_data": [entry]}
    with pytest.raises(DataError, match="songs, which the model was trained on"):
        write_card(tmp_path, free)
    assert not list(tmp_path.iterdir())


def test_a_fine_tune_on_restricted_recordings_is_refused_before_it_begins(tmp_path: Path):
    model, processor = tiny_audiosep()
    model.save_pretrained(tmp_path / "base")
    processor.save_pretrained(tmp_path / "base")
    data = bells(tmp_path / "bells", licence="CC-BY-NC-4.0", commercial="False")
    with pytest.raises(DataError, match=r"licence CC-BY-4\.0 allows"):
        finetune.main(
            str(tmp_path / "base"), data, tmp_path / "run", background=corpus(tmp_path / "others", clips=6),
            told={"licence": "CC-BY-4.0"}, lora=True, non_commercial=True,
        )  # fmt: skip
    assert not (tmp_path / "run").exists()


def test_a_contradiction_that_is_in_a_folder_is_not_pushed(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    tiny_conv_tasnet()[0].save_pretrained(tmp_path / "model")
    write_card(tmp_path / "model", {**restricted_base(), "model_type": "conv_tasnet"})
    card = json.loads((tmp_path / "model/card.json").read_text())
    (tmp_path / "model/card.json").write_text(json.dumps({**card, "licence": "CC-BY-4.0"}))
    assert command(["push", str(tmp_path / "model"), "me/model"]) == 2
    assert "licence CC-BY-4.0 allows commercial use" in capsys.readouterr().err


def test_adapters_of_a_restricted_model_are_restricted(tmp_path: Path):
    (tmp_path / "README.md").write_text("---\nlicense: cc-by-nc-sa-4.0\n---\n# A model\n")
    recipe = SimpleNamespace(pipeline=str(tmp_path), base_model="org/model", licence="CC-BY-4.0", push_to="")
    with pytest.raises(DataError, match="which org/model does not"):
        checked_licence(recipe)
    assert checked_licence(SimpleNamespace(**{**vars(recipe), "licence": ""})) == "cc-by-nc-sa-4.0"


def test_notices_name_the_licence_of_the_model_last():
    assert stated_in(NOTE) == "cc-by-sa-3.0"
    assert stated_in("in https://creativecommons.org/publicdomain/zero/1.0/") == "cc0-1.0"
    assert stated_in("all rights reserved") is None


def test_a_licence_that_the_checkpoint_contradicts_is_refused(tmp_path: Path):
    source = write_asteroid(tmp_path / "pytorch_model.bin", tensors(), facts={"license_note": NOTE})
    with pytest.raises(ConversionError, match=r"licence is mit, but the note in .* under cc-by-sa-3.0"):
        convert("conv_tasnet", source, tmp_path / "out", licence="MIT")
    assert not (tmp_path / "out").exists()
    convert("conv_tasnet", source, tmp_path / "out", licence="CC-BY-SA-3.0")
    barred = [{"license": "CC BY-NC 4.0", "non_commercial": True}]
    source = write_asteroid(tmp_path / "pytorch_model.bin", tensors(), facts={"licenses": barred})
    with pytest.raises(ConversionError, match="what it was trained on does not"):
        convert("conv_tasnet", source, tmp_path / "other", licence="MIT")
    convert("conv_tasnet", source, tmp_path / "other", licence="unknown")


def test_a_licence_that_the_folder_contradicts_is_refused(tmp_path: Path):
    write_asteroid(tmp_path / "pytorch_model.bin", tensors())
    (tmp_path / "README.md").write_text("---\nlicense: cc-by-sa-4.0\n---\n# A model\n")
    with pytest.raises(ConversionError, match=r"its README.md puts the weights under cc-by-sa-4.0"):
        convert("conv_tasnet", tmp_path, tmp_path / "out", licence="MIT")
    convert("conv_tasnet", tmp_path, tmp_path / "out", licence="cc-by-sa-4.0")
    (tmp_path / "README.md").write_text("only prose")
    convert("conv_tasnet", tmp_path, tmp_path / "again", licence="MIT")
