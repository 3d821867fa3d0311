# SPDX-License-Identifier: Apache-2.0
"""Cards of converted weights: they name the repository that was converted, and after a push the one they lie in.

And what downloads say to the Hub of who asks.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import published_conv_tasnet
import pytest
from hub_repository import Repository
from hub_server import HubServer
from huggingface_hub import snapshot_download
from tiny_audioldm2 import tiny_components

from hubsep import AudioLDM2Pipeline, AutoModelForAudioSeparation, __version__, pipeline
from hubsep.cards import read_card
from hubsep.cli import main
from hubsep.conversion import convert
from hubsep.hub import verify_manifest
from hubsep.hub.resolve import resolve_folder
from hubsep.texts import read_front_matter


NAME = "JorisCos/ConvTasNet_Libri2Mix_sepclean_16k"
PUSHED = "org/pushed"


def published(hub: HubServer, tmp_path: Path) -> Path:
    """A published checkpoint in the Hub's cache."""
    file = tmp_path / "pytorch_model.bin"
    published_conv_tasnet.write_asteroid(file, published_conv_tasnet.tensors(), facts={"licenses": []})
    hub.repositories[NAME] = Repository()
    hub.repositories[NAME].commit("main", {file.name: file.read_bytes()}, "published")
    return Path(snapshot_download(NAME)) / file.name


def by_command(folder: Path) -> None:
    assert main(["push", str(folder), PUSHED]) == 0


def by_model(folder: Path) -> None:
    AutoModelForAudioSeparation.from_pretrained(folder).push_to_hub(PUSHED)


def by_pipeline(folder: Path) -> None:
    pipeline(model=str(folder), device="cpu").push_to_hub(PUSHED)


def pushed(hub: HubServer, place: Path) -> Path:
    """The files of the repository that was pushed to."""
    for name, content in hub.repositories[PUSHED].files().items():
        (place / name).parent.mkdir(parents=True, exist_ok=True)
        (place / name).write_bytes(content)
    return place


@pytest.mark.parametrize("push", [by_command, by_model, by_pipeline])
def test_a_pushed_card_opens_what_was_pushed(push: Callable[[Path], None], hub: HubServer, tmp_path: Path) -> None:
    convert("conv_tasnet", published(hub, tmp_path), tmp_path / "converted", licence="cc-by-sa-4.0")
    assert 'model="FOLDER"' in (tmp_path / "converted" / "README.md").read_text()
    push(tmp_path / "converted")
    folder = pushed(hub, tmp_path / "there")
    card = (folder / "README.md").read_text()
    assert f'pipeline(model="{PUSHED}")' in card
    assert read_card(folder)["use"] in card
    assert '"FOLDER"' not in card + (folder / "card.json").read_text()
    assert f"base_model: {NAME}" in card
    verify_manifest(folder)
    push(tmp_path / "converted")
    assert (pushed(hub, tmp_path / "there") / "README.md").read_text() == card


def test_a_card_that_was_pushed_with_a_placeholder_is_put_right(hub: HubServer, tmp_path: Path) -> None:
    text = '---\nlicense: mit\n---\n\nMine: `from_pretrained("FOLDER")`, in a "FOLDER" of words.\n'
    hub.repositories[PUSHED] = Repository()
    hub.repositories[PUSHED].commit("main", {"README.md": text.encode()}, "before")
    AudioLDM2Pipeline(**tiny_components()).push_to_hub(PUSHED)
    card = hub.repositories[PUSHED].files()["README.md"].decode()
    assert card == text.replace('("FOLDER")', f'("{PUSHED}")')


def test_a_card_names_the_repository_that_was_converted(hub: HubServer, tmp_path: Path) -> None:
    source = published(hub, tmp_path)
    convert("conv_tasnet", source, tmp_path / "converted", licence="cc-by-sa-4.0")
    text = (tmp_path / "converted" / "README.md").read_text()
    assert read_front_matter(text, "README.md")["base_model"] == NAME
    assert f"Converted from {NAME}." in text
    convert("conv_tasnet", tmp_path / "pytorch_model.bin", tmp_path / "other", licence="cc-by-sa-4.0")
    assert "base_model" not in (tmp_path / "other" / "README.md").read_text(), "of a file alone nobody knows it"
    model = AutoModelForAudioSeparation.from_pretrained(tmp_path / "converted").half()
    model.save_pretrained(tmp_path / "changed")
    text = (tmp_path / "changed" / "README.md").read_text()
    assert read_front_matter(text, "README.md")["base_model"] == NAME


def test_downloads_say_who_asks(hub: HubServer, tmp_path: Path) -> None:
    published(hub, tmp_path)
    hub.requests.clear()
    hub.repositories["org/plain"] = Repository()
    hub.repositories["org/plain"].commit("main", {"config.json": b"{}"}, "plain")
    resolve_folder("org/plain")
    agents = [headers["user-agent"] for _, headers in hub.requests]
    assert len(agents) > 2
    assert all(re.match(rf"hubsep/{re.escape(__version__)};", agent) for agent in agents), agents
