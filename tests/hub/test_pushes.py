# SPDX-License-Identifier: Apache-2.0
"""A folder that somebody else made is pushed, copied or described: no file from outside it ever leaves."""

from __future__ import annotations

import json
import os
import shutil
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from bells import save_listener
from hub_server import HubServer
from tiny import hub_cache
from tiny_audioldm2 import tiny_components
from tiny_conv_tasnet import tiny_conv_tasnet

from hubsep import AudioLDM2Pipeline, AudioSeparationPipeline, AutoModelForAudioSeparation
from hubsep.cards import write_card
from hubsep.cli.push import merge
from hubsep.demo.pushing import push_space
from hubsep.errors import CheckpointError, DataError
from hubsep.hub import verify_manifest
from hubsep.hub.atomic import atomic_folder
from hubsep.hub.copies import copy_folder, file_names, opened
from hubsep.texts import read_front_matter
from hubsep.training.finetune.card import publish
from hubsep.training.generators.lora_card import push_adapters


SECRET = "hf_privatePRIVATEprivate"
NAME = "org/pushed"
README = "---\nlibrary_name: hubsep\nlicense: mit\n---\n# model\n"
CARD = {
    "name": "model", "model_type": "conv_tasnet", "system": "Conv-TasNet", "paper": "1809.07454",
    "pipeline_tag": "audio-to-audio", "tags": ["audio-separation"], "licence": "MIT", "commercial": True,
    "summary": "A model.", "use": "", "training": "", "training_data": [],
}  # fmt: skip
SPACE = "---\ntitle: T\nsdk: gradio\nsdk_version: '6'\napp_file: app.py\nlicense: mit\n---\n"


def folder_with_card(folder: Path) -> Path:
    tiny_conv_tasnet()[0].save_pretrained(folder)
    (folder / "README.md").write_text(README)
    (folder / "card.json").write_text(json.dumps(CARD))
    return folder


def push_model(folder: Path) -> None:
    model = tiny_conv_tasnet()[0]
    model.config.name_or_path = str(folder)
    model.push_to_hub(NAME)


def push_model_with_its_card(folder: Path) -> None:
    tiny_conv_tasnet()[0].push_to_hub(NAME, card=folder / "README.md")


def push_pipeline(folder: Path) -> None:
    model = tiny_conv_tasnet()[0]
    model.config.name_or_path = str(folder)
    AudioSeparationPipeline(model).push_to_hub(NAME)


def push_diffusion(folder: Path) -> None:
    pipe = AudioLDM2Pipeline(**tiny_components())
    pipe.register_to_config(_name_or_path=str(folder))
    pipe.push_to_hub(NAME)


def push_fine_tune(folder: Path) -> None:
    publish(folder, NAME)


def push_lora(folder: Path) -> None:
    push_adapters(NAME, folder)


def push_app(folder: Path) -> None:
    (folder / "app.py").touch()
    (folder / "requirements.txt").touch()
    if not (folder / "README.md").is_symlink():
        (folder / "README.md").write_text(SPACE)
    push_space(folder, NAME)


PUSHES = [
    push_model, push_model_with_its_card, push_pipeline, push_diffusion, push_fine_tune, push_lora, push_app,
]  # fmt: skip


def link(name: str) -> Callable[[Path, Path], None]:
    def plant(folder: Path, secret: Path) -> None:
        (folder / name).unlink(missing_ok=True)
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).symlink_to(secret)

    return plant


def hard_link(name: str) -> Callable[[Path, Path], None]:
    def plant(folder: Path, secret: Path) -> None:
        (folder / name).unlink(missing_ok=True)
        os.link(secret, folder / name)

    return plant


def linked_folder(folder: Path, secret: Path) -> None:
    (secret.parent / "hubsep.yaml").write_text(SECRET)
    (folder / ".eval_results").symlink_to(secret.parent, target_is_directory=True)


def pipe(name: str) -> Callable[[Path, Path], None]:
    def plant(folder: Path, secret: Path) -> None:
        (folder / name).unlink(missing_ok=True)
        os.mkfifo(folder / name)

    return plant


PLANTED: dict[str, Callable[[Path, Path], None]] = {
    "hidden link": link(".eval_results/hubsep.yaml"),
    "hidden linked folder": linked_folder,
    "linked README.md": link("README.md"),
    "linked card.json": link("card.json"),
    "linked evaluation.json": link("evaluation.json"),
    "hard link": hard_link("card.json"),
    "pipe": pipe("evaluation.json"),
}
PASSED_BY = {(push_app, "hidden link")}  # hidden files are no part of a Space
CASES = [
    *((push_model, planted) for planted in PLANTED),
    *((push, planted) for push in PUSHES[1:] for planted in ("hidden link", "linked README.md")),
    *((push, "pipe") for push in (push_fine_tune, push_app)),
]


@pytest.fixture
def secret(tmp_path: Path) -> Path:
    """A private file of whoever pushes, which is valid where JSON is read."""
    (tmp_path / "private").mkdir()
    path = tmp_path / "private" / "token"
    path.write_text(json.dumps({**CARD, "sdri": SECRET, "command": SECRET, "classes": {}}))
    path.chmod(0o600)
    return path


@pytest.mark.parametrize(("push", "planted"), CASES, ids=[f"{push.__name__}, {planted}" for push, planted in CASES])
def test_what_lies_outside_a_folder_is_not_pushed(
    hub: HubServer, tmp_path: Path, secret: Path, push: Callable[[Path], None], planted: str
) -> None:
    folder = folder_with_card(tmp_path / "model")
    PLANTED[planted](folder, secret)
    if (push, planted) in PASSED_BY:
        push(folder)
    else:
        with pytest.raises(CheckpointError, match=r"link|pipe"):
            push(folder)
        assert not hub.repositories, "a repository was made for nothing"
    for repository in hub.repositories.values():
        assert not [name for name, content in repository.files().items() if SECRET.encode() in content]


@pytest.mark.parametrize("planted", ["linked card.json", "linked evaluation.json", "hard link"])
def test_a_card_is_not_made_of_what_lies_outside(tmp_path: Path, secret: Path, planted: str) -> None:
    from saved_adapters import saved

    base = tmp_path / "base"
    tiny_conv_tasnet()[0].save_pretrained(base)
    adapter = saved(tiny_conv_tasnet()[0], tmp_path / "adapter")
    (adapter / "card.json").write_text(json.dumps(CARD))
    PLANTED[planted](adapter, secret)
    with pytest.raises(CheckpointError, match="link"):
        merge(str(base), str(adapter), tmp_path / "merged")
    assert not [path for path in tmp_path.glob("merged/**/*.json") if SECRET in path.read_text()]


def test_a_card_written_into_a_folder_leaves_what_its_links_name_alone(tmp_path: Path, secret: Path) -> None:
    folder = folder_with_card(tmp_path / "model")
    link("notes.txt")(folder, secret)
    before = secret.read_text()
    with pytest.raises(CheckpointError, match=r"notes\.txt' is a link"):
        write_card(folder, CARD)
    assert secret.read_text() == before
    assert secret.stat().st_mode & 0o777 == 0o600, "a private file became readable by all"
    assert "notes.txt" not in (folder / "manifest.json").read_text(), "the sum of a private file would be published"
    link("manifest.json")(folder, secret)
    (folder / "notes.txt").unlink()
    with pytest.raises(CheckpointError, match=r"manifest\.json' is a link"):
        write_card(folder, CARD)
    assert secret.read_text() == before


def test_a_model_saved_over_a_foreign_folder_takes_no_contents_from_its_links(tmp_path: Path, secret: Path) -> None:
    folder = folder_with_card(tmp_path / "model")
    link("notes.txt")(folder, secret)
    with atomic_folder(folder, keep=lambda name: True) as place:
        assert not (place / "notes.txt").exists()
        assert (place / "README.md").read_text() == README
    assert (folder / "notes.txt").is_symlink()


@pytest.mark.parametrize("push", PUSHES[:6], ids=lambda push: push.__name__)
def test_what_lies_in_a_folder_is_pushed(hub: HubServer, tmp_path: Path, push: Callable[[Path], None]) -> None:
    folder = folder_with_card(tmp_path / "model")
    if push is push_diffusion:  # figures go with the weights they were measured on
        AudioLDM2Pipeline(**tiny_components()).save_pretrained(tmp_path / "sounds")
        for name in ("README.md", "card.json"):
            (folder / name).rename(tmp_path / "sounds" / name)
        folder = tmp_path / "sounds"
    (folder / ".eval_results").mkdir()
    (folder / ".eval_results/hubsep.yaml").write_text("- value: 1\n")
    push(folder)
    files = hub.repositories[NAME].files()
    assert json.loads(files["card.json"])["name"] == "model"
    assert files[".eval_results/hubsep.yaml"] == b"- value: 1\n"


@pytest.mark.parametrize(
    "front", ["license: [mit", "license: &a [x]\ntags: *a", "a: 2026-99-99", "- mit", "[" * 3_000]
)
def test_a_card_that_says_no_yaml_is_pushed_as_it_is_or_not_at_all(hub: HubServer, tmp_path: Path, front: str) -> None:
    folder = folder_with_card(tmp_path / "model")
    (folder / "README.md").write_text(f"---\n{front}\n---\n")
    with pytest.raises(DataError, match="between the lines of ---"):
        tiny_conv_tasnet()[0].push_to_hub(NAME, card=folder / "README.md", tags=["music"])
    assert not hub.requests
    push_model_with_its_card(folder)
    tiny_conv_tasnet()[0].push_to_hub(NAME)  # the card of the repository, which somebody wrote
    assert hub.repositories[NAME].files()["README.md"].decode() == f"---\n{front}\n---\n"


def test_tags_are_added_to_a_card_and_all_else_stays(hub: HubServer, tmp_path: Path) -> None:
    folder = folder_with_card(tmp_path / "model")
    (folder / "README.md").write_text("---\nmodel-index: 5\ntags: music\n---\n# model\n")
    tiny_conv_tasnet()[0].push_to_hub(NAME, card=folder / "README.md", tags=["music", "songs"])
    card = hub.repositories[NAME].files()["README.md"].decode()
    assert read_front_matter(card, "card") == {"model-index": 5, "tags": ["music", "songs"]}
    assert card.endswith("---\n# model\n")


@pytest.mark.skipif(os.name != "posix", reason="here names are text")
@pytest.mark.parametrize("push", [push_fine_tune, push_lora, push_app], ids=lambda push: push.__name__)
def test_names_that_are_not_utf8_are_refused_before_the_hub_is_asked(
    hub: HubServer, tmp_path: Path, push: Callable[[Path], None]
) -> None:
    folder = folder_with_card(tmp_path / "model")
    Path(os.fsdecode(os.fsencode(folder) + b"/caf\xe9.txt")).write_text("x")
    with pytest.raises(CheckpointError, match=r"caf\\udce9\.txt' has a name that is not UTF-8"):
        push(folder)
    assert not hub.requests


def test_a_folder_of_the_hubs_cache_may_be_pushed(hub: HubServer, tmp_path: Path) -> None:
    snapshot = hub_cache(tmp_path / "cache", folder_with_card(tmp_path / "model"))
    assert (snapshot / "card.json").is_symlink()
    push_model(snapshot)
    assert json.loads(hub.repositories[NAME].files()["card.json"])["name"] == "model"
    copy_folder(snapshot, tmp_path / "copy")
    verify_manifest(tmp_path / "copy")
    blob = (snapshot / "card.json").resolve()
    blob.unlink()
    blob.symlink_to(__file__)
    with pytest.raises(CheckpointError, match="link"):
        push_model(snapshot)


def test_a_shipped_model_may_be_hard_linked_by_its_package_manager(
    hub: HubServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from hubsep.hub import copies as hub_copies

    folder = folder_with_card(tmp_path / "package" / "checkpoints" / "model")
    os.link(folder / "card.json", tmp_path / "store")
    monkeypatch.setattr(hub_copies, "PACKAGE", tmp_path / "package")
    push_model(folder)
    assert "card.json" in hub.repositories[NAME].files()


@pytest.mark.parametrize("name", ["../private/token", "/etc/hostname", "a/../../private/token", "C:\\x", "", "a\0b"])
def test_names_that_lead_out_are_refused(tmp_path: Path, secret: Path, name: str) -> None:
    (tmp_path / "model" / "a").mkdir(parents=True)
    with pytest.raises(CheckpointError, match="not the name of a file in the folder"):
        opened(tmp_path / "model", name)


def test_devices_and_folders_are_no_files(tmp_path: Path) -> None:
    (tmp_path / "model" / "card.json").mkdir(parents=True)
    for folder, name in ((tmp_path / "model", "card.json"), (Path("/dev"), "null")):
        with pytest.raises(CheckpointError, match="not a regular file"):
            opened(folder, name)
    deep = tmp_path / "deep"
    deep.joinpath(*"abcdefghijkl").mkdir(parents=True)
    (deep.joinpath(*"abcdefghijkl") / "file").touch()
    with pytest.raises(CheckpointError, match="levels of folders"):
        file_names(deep)


@pytest.mark.parametrize("inner", ["", "inner/"])
def test_a_file_exchanged_for_a_link_while_it_is_read_stays_private(tmp_path: Path, secret: Path, inner: str) -> None:
    """Somebody who can write into the folder exchanges the file, or the folder it is in, all the time."""
    root = tmp_path / "model"
    (root / inner).mkdir(parents=True)
    (root / inner / "card.json").write_text("{}")
    (secret.parent / "card.json").write_text(SECRET)
    done = threading.Event()

    def exchange() -> None:
        place, other = (root / "inner", root / "other") if inner else (root / "card.json", root / "other")
        target = secret.parent if inner else secret
        while not done.is_set():
            place.rename(other)
            place.symlink_to(target)
            place.unlink()
            other.rename(place)

    thread = threading.Thread(target=exchange)
    thread.start()
    contents: set[Any] = set()
    try:
        for _ in range(2_000):
            try:
                with opened(root, f"{inner}card.json") as file:
                    contents.add(file.read())
            except CheckpointError:
                pass
    finally:
        done.set()
        thread.join()
    assert contents <= {b"{}"}


def test_a_model_of_queries_still_goes_with_all_it_needs(hub: HubServer, tmp_path: Path) -> None:
    folder = save_listener(tmp_path / "model")
    (folder / "README.md").write_text(README)
    (folder / "card.json").write_text(json.dumps(CARD))
    shutil.rmtree(folder / ".cache", ignore_errors=True)
    publish(folder, NAME)
    assert AutoModelForAudioSeparation.from_pretrained(NAME).config.model_type == "audiosep"
