# SPDX-License-Identifier: Apache-2.0
"""A copy of a model says what it is: its card goes where its weights go, and no figure goes to other weights."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
import torch
from huggingface_hub import ModelCard
from tiny_audiosep import tiny_audiosep
from tiny_conv_tasnet import tiny_conv_tasnet

from hubsep import ConvTasNetForAudioSeparation, pipeline
from hubsep.cards import read_card, write_card
from hubsep.conversion.writing import check_readme
from hubsep.hub import verify_manifest
from hubsep.shipped import SHIPPED
from hubsep.training.finetune.card import base_card


@pytest.fixture(scope="module")
def restricted(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model for research only, with its figures."""
    folder = tmp_path_factory.mktemp("restricted") / "model"
    tiny_conv_tasnet()[0].save_pretrained(folder)
    facts = read_card(SHIPPED["spleeter-small-2stems"])
    write_card(folder, {**facts, "model_type": "conv_tasnet", "name": "research-model"})
    return folder


def save(separate: Any, how: str, folder: Path) -> None:
    (separate if how == "pipeline" else separate.model).save_pretrained(folder)


@pytest.mark.parametrize("how", ["pipeline", "model"])
def test_a_copy_of_the_same_weights_has_the_same_card(restricted: Path, how: str, tmp_path: Path):
    save(pipeline(model=restricted), how, tmp_path / "copy")
    for name in ("README.md", "card.json", "evaluation.json"):
        assert (tmp_path / "copy" / name).read_bytes() == (restricted / name).read_bytes(), name
    verify_manifest(tmp_path / "copy")
    save(pipeline(model=tmp_path / "copy"), how, tmp_path / "again")
    assert read_card(tmp_path / "again")["commercial"] is False, "a copy of a copy"


@pytest.mark.parametrize("how", ["pipeline", "model"])
def test_changed_weights_keep_the_licence_and_lose_the_figures(restricted: Path, how: str, tmp_path: Path):
    separate = pipeline(model=restricted)
    with torch.no_grad():
        next(iter(separate.model.parameters())).mul_(1.5)
    save(separate, how, tmp_path / "changed")
    card = read_card(tmp_path / "changed")
    assert (card["licence_name"], card["commercial"]) == ("research-only", False)
    assert (card["base_model"], card["name"]) == ("research-model", "research-model")
    assert "results" not in card
    assert not {"measured_on", "evaluation_command", "commands"} & set(card)
    readme = ModelCard.load(tmp_path / "changed/README.md")
    assert readme.data.license == "research-only"
    assert "Commercial use is not allowed." in readme.text
    assert "dB" not in readme.text
    assert len(pipeline(model=tmp_path / "changed")(recording())) == 2


def recording() -> dict[str, Any]:
    return {"array": torch.rand(1, 9_000).numpy() - 0.5, "sampling_rate": 8_000}


CARDS = {
    "no JSON": "{",
    "a list": "[]",
    "nested": "[" * 100_000,
    "a key twice": '{"name": "a", "name": "b"}',
    "tags": '{"name": "a", "tags": 5}',
    "commercial": '{"name": "a", "commercial": []}',
    "two lines": '{"name": "a", "licence": "mit\\nbase_model: x"}',
}


@pytest.mark.parametrize("card", CARDS)
def test_changed_weights_are_saved_without_a_card_that_cannot_be_read(card: str, tmp_path: Path):
    tiny_conv_tasnet()[0].save_pretrained(tmp_path / "base")
    (tmp_path / "base/README.md").write_text("# base\n")
    (tmp_path / "base/card.json").write_text(CARDS[card])
    model = ConvTasNetForAudioSeparation.from_pretrained(tmp_path / "base")
    with pytest.warns(UserWarning, match="the card of 'base' was not copied"):
        model.half().save_pretrained(tmp_path / "half")
    assert not (tmp_path / "half/README.md").exists()
    assert ConvTasNetForAudioSeparation.from_pretrained(tmp_path / "half").dtype == torch.float16


BOMB = "license: &a [x, x]\n" + "".join(
    f"{new}: &{new} [{', '.join([f'*{old}'] * 10)}]\n" for old, new in zip("abcdefgh", "bcdefghi", strict=True)
)
READMES = {
    "no YAML": "license: [mit",
    "deep": "license: " + "[" * 3_000,
    "deeper than it can be printed": "license: " + "[" * 400 + "]" * 400,
    "a bomb for a licence": BOMB.replace("license", "x").replace("\ni:", "\nlicense:"),
    "a bomb of tags": BOMB + "tags: *i",
    "a date that is none": "license: mit\nd: 2026-99-99",
    "a number for a licence": "license: 0x" + "f" * 9_000,
    "a list": "- mit",
    "a licence of two lines": 'license: "mit\\nbase_model: x"',
    "a book": "- x\n" * 240_000,
}


@pytest.mark.parametrize("front", READMES)
def test_weights_are_saved_whatever_their_readme_says(front: str, tmp_path: Path):
    tiny_conv_tasnet()[0].save_pretrained(tmp_path / "base")
    (tmp_path / "base/README.md").write_text(f"---\n{READMES[front]}\n---\n# x\n")
    model = ConvTasNetForAudioSeparation.from_pretrained(tmp_path / "base")
    with pytest.warns(UserWarning, match="the card of 'base' was not copied"):
        model.half().save_pretrained(tmp_path / "half")
    assert not (tmp_path / "half/README.md").exists()
    assert ConvTasNetForAudioSeparation.from_pretrained(tmp_path / "half").dtype == torch.float16
    assert base_card(tmp_path / "base", "base", "conv_tasnet")["licence"] in ("unknown", "mit")
    check_readme("mit", tmp_path / "base")


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="there are no pipes here")
@pytest.mark.timeout(60)
@pytest.mark.parametrize("name", [".h/x.safetensors", "checkpoint-1/x.safetensors", ".h/.x.safetensors"])
def test_saving_waits_for_no_pipe_in_a_folder_that_loading_does_not_look_into(name: str, tmp_path: Path):
    tiny_conv_tasnet()[0].save_pretrained(tmp_path / "base")
    (tmp_path / "base/README.md").write_text("# base\n")
    (tmp_path / "base" / name).parent.mkdir()
    os.mkfifo(tmp_path / "base" / name)
    ConvTasNetForAudioSeparation.from_pretrained(tmp_path / "base").save_pretrained(tmp_path / "copy")
    assert (tmp_path / "copy/README.md").read_text() == "# base\n"


def test_a_licence_that_yaml_would_take_for_something_else_is_quoted(tmp_path: Path):
    tiny_conv_tasnet()[0].save_pretrained(tmp_path / "base")
    (tmp_path / "base/README.md").write_text("# base\n")
    (tmp_path / "base/card.json").write_text('{"name": "a: [b", "licence": "no", "tags": ["x: y", "- z"]}')
    model = ConvTasNetForAudioSeparation.from_pretrained(tmp_path / "base")
    model.half().save_pretrained(tmp_path / "half")
    data = ModelCard.load(tmp_path / "half/README.md").data
    assert (data.base_model, data.license, data.tags) == ("a: [b", "no", ["x: y", "- z"])


def test_a_card_that_is_there_stays(restricted: Path, tmp_path: Path):
    (tmp_path / "README.md").write_text("# my own words\n")
    pipeline(model=restricted).save_pretrained(tmp_path)
    assert (tmp_path / "README.md").read_text() == "# my own words\n"


def test_a_readme_alone_tells_its_licence(tmp_path: Path):
    model, processor = tiny_audiosep()
    model.save_pretrained(tmp_path / "base")
    processor.save_pretrained(tmp_path / "base")
    (tmp_path / "base/README.md").write_text("---\nlicense: cc-by-nc-4.0\n---\n# base, 12.3 dB\n")
    separate = pipeline(model=tmp_path / "base")
    separate.model.half().save_pretrained(tmp_path / "half")
    card = ModelCard.load(tmp_path / "half/README.md")
    assert card.data.license == "cc-by-nc-4.0"
    assert "12.3" not in card.text, "rounded weights were not measured"


@pytest.mark.skipif(not hasattr(os, "symlink"), reason="there are no links here")
def test_a_card_that_is_a_link_is_not_copied(tmp_path: Path):
    (tmp_path / "private.txt").write_text("secret")
    tiny_conv_tasnet()[0].save_pretrained(tmp_path / "base")
    separate = pipeline(model=tmp_path / "base")
    (tmp_path / "base/README.md").symlink_to(tmp_path / "private.txt")
    with pytest.warns(UserWarning, match="card of 'base' was not copied"):
        separate.save_pretrained(tmp_path / "copy")
    assert not (tmp_path / "copy/README.md").exists()
