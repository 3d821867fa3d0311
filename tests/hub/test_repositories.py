# SPDX-License-Identifier: Apache-2.0
"""Repositories that the table does not have, from a Hub on 127.0.0.1: recognised, converted and kept, or one error."""

from __future__ import annotations

import re
from pathlib import Path

import published_conv_tasnet
import published_sepformer
import pytest
from hub_server import Handler, HubServer
from huggingface_hub import constants, snapshot_download
from tiny_conv_tasnet import tiny_conv_tasnet

from hubsep import AutoModelForAudioSeparation
from hubsep.cli.main import main
from hubsep.errors import CheckpointError
from hubsep.hub.layouts import system_of
from hubsep.hub.opening import kept_of
from hubsep.hub.resolve import resolve_folder


NAME = "someone/my-sepformer"
CARD = b"---\nlicense: cc-by-4.0\nlibrary_name: speechbrain\n---\n# mine\n"
ASTEROID = b"---\nlicense: cc-by-sa-4.0\ntags: [asteroid, audio, %s]\n---\n"
PARTS = dict.fromkeys(("hyperparams.yaml", "encoder.ckpt", "decoder.ckpt", "masknet.ckpt"), b"x")
NOBODY = {"model.onnx": b"x", "weights.h5": b"y", "README.md": b"# ?\n"}


def publish(hub: HubServer, name: str, files: dict[str, bytes]) -> None:
    hub.publish(name, files)


def sepformer(place: Path, **others: bytes) -> dict[str, bytes]:
    folder = published_sepformer.golden_folder(place)
    return {**{path.name: path.read_bytes() for path in folder.iterdir()}, **others}


@pytest.mark.slow
def test_an_unknown_repository_of_a_known_layout_opens_and_is_kept(
    hub: HubServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    others = {"evil.py": b"raise SystemExit", "notes.txt": b"", "other.json": b"{}", "README.md": CARD}
    publish(hub, NAME, sepformer(tmp_path, **others))
    model = AutoModelForAudioSeparation.from_pretrained(NAME)
    assert model.config.model_type == "sepformer"
    assert not hub.seen(r"evil.py|notes.txt|other.json|optimizer.ckpt|config.json"), "those files alone are fetched"
    first = next(request for request, _ in hub.requests)
    assert first == f"GET /api/models/{NAME}/revision/main", "it is listed first"
    said = capfd.readouterr().err
    assert f"{NAME}: weights of sepformer, by someone; licence cc-by-4.0" in said
    kept = kept_of(NAME, None, None)
    assert "license: cc-by-4.0" in (kept.model / "README.md").read_text()
    count = len(hub.requests)
    assert resolve_folder(NAME) == kept.model, "what is kept asks nobody"
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    assert resolve_folder(NAME) == kept.model
    assert len(hub.requests) == count


def test_a_repository_of_ours_is_asked_for_as_before(hub: HubServer, tmp_path: Path) -> None:
    tiny_conv_tasnet()[0].save_pretrained(tmp_path / "own")
    files = {path.name: path.read_bytes() for path in (tmp_path / "own").iterdir()}
    publish(hub, "someone/own", {**files, "pytorch_model.bin": b"beside it"})
    patterns = ["*.json", "*.txt", "*.md", "*.safetensors"]
    snapshot_download("someone/own", allow_patterns=patterns, cache_dir=tmp_path / "theirs")
    before = sorted(request for request, _ in hub.requests)
    hub.requests.clear()
    resolve_folder("someone/own", cache_dir=tmp_path / "ours")
    assert sorted(request for request, _ in hub.requests) == before


@pytest.mark.parametrize(
    ("name", "files", "says"),
    [
        ("someone/thing", NOBODY, r"is in no layout.*model\.onnx, weights\.h5, README\.md.*hf download someone"),
        ("someone/thing", {**NOBODY, "README.md": b"---\ntags: [a\n  b: {\n---\n"}, "is in no layout"),
        ("someone/thing", {"pytorch_model.bin": b"x", "README.md": b"---\ntags: 3\n---\n"}, "is in no layout"),
        ("someone/thing", {"a.ckpt": b"x"}, "is in no layout"),
        ("someone/thing", {"pytorch_model.bin": b"x", "README.md": ASTEROID % b"DPRNNTasNet"}, "a DPRNN, which hub"),
        ("someone/thing", {"pytorch_model.bin": b"x", "README.md": ASTEROID % b"DPTNet"}, "a DPTNet, which hubsep"),
        ("someone/thing", {"pytorch_model.bin": b"x", "README.md": ASTEROID % b"DCCRNet"}, "a DCCRNet, which hubsep"),
        ("someone/htdemucs_ft", {"a.th": b"x"}, "a Demucs, which hubsep does not have"),
        ("someone/mel-band-roformer-vocals", {"a.ckpt": b"x"}, "a RoFormer, which hubsep does not have"),
        ("someone/resepformer-x", PARTS, "a RE-SepFormer, which hubsep does not have"),
    ],
)  # fmt: skip
def test_what_is_not_known_is_one_error_that_names_the_repository(
    name: str, files: dict[str, bytes], says: str, hub: HubServer
) -> None:
    publish(hub, name, files)
    with pytest.raises(CheckpointError, match=f"(?s){says}") as caught:
        AutoModelForAudioSeparation.from_pretrained(name)
    assert name in str(caught.value)
    assert not re.search(r"[0-9a-f]{40}", str(caught.value)), "a commit says nothing"
    assert not hub.seen(r"/resolve/.*\.(onnx|h5|bin|ckpt|th)"), "nothing of it is fetched"


@pytest.mark.parametrize(
    ("words", "files", "system"),
    [
        ([], {"checkpoint": 9, "model.index": 9, "model.data-00000-of-00001": 9}, "spleeter"),
        (["asteroid", "ConvTasNet"], {"pytorch_model.bin": 9}, "conv_tasnet"),
        (["Audio-Sep"], {"x.ckpt": 9, "config.yaml": 1}, "audiosep"),
        ([], {"x.ckpt": 9}, None),
        (["audiosep"], {"x.ckpt": 9, "y.ckpt": 9}, None),
        (["audiosep"], {"x.ckpt": 0}, None),
        (["audiosep"], {"x.ckpt": 1 << 40}, None),
        (["audiosep"], {"../x.ckpt": 9}, None),
        ([], {"hyperparams.yaml": 9, "encoder.ckpt": 9, "decoder.ckpt": 9, "masknet.ckpt": 0}, None),
    ],
)  # fmt: skip
def test_layouts_are_known_by_names_sizes_and_cards(
    words: list[str], files: dict[str, int], system: str | None
) -> None:
    layout = system_of(files, words)
    assert (layout and layout[0]) == system


def test_a_listing_that_lies_about_sizes_leaves_nothing_that_opens(hub: HubServer, tmp_path: Path) -> None:
    files = sepformer(tmp_path)
    publish(hub, NAME, files)

    def lie(handler: Handler) -> None:
        siblings = [{"rfilename": name, "size": 7} for name in files]
        handler.json({"id": NAME, "sha": hub.repositories[NAME].sha("main"), "tags": [], "siblings": siblings})

    hub.attacks[rf"GET /api/models/{NAME}(/revision/\w+)?$"] = lie
    with pytest.raises(CheckpointError, match=NAME):
        resolve_folder(NAME)
    assert not kept_of(NAME, None, None).model.exists()


def test_what_cannot_be_fetched_is_one_error(hub: HubServer, monkeypatch: pytest.MonkeyPatch) -> None:
    publish(hub, NAME, NOBODY)
    hub.repositories[NAME].private = True
    monkeypatch.setenv("HF_TOKEN", "hf_readerREADERreader")
    names = (NAME, "nobody/nothing", "some one/x", "a/b/c", "someone/..", "someone/x\n", "\u202e/x")
    for name in names:
        with pytest.raises(CheckpointError):
            resolve_folder(name)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(CheckpointError):
        resolve_folder(NAME)


@pytest.mark.slow
def test_a_repository_that_broke_off_is_recognised_again(hub: HubServer, tmp_path: Path) -> None:
    publish(hub, NAME, sepformer(tmp_path))
    hub.fault(r"GET .*/masknet\.ckpt", 404, times=50)
    with pytest.raises(CheckpointError, match=NAME):
        resolve_folder(NAME)
    hub.faults.clear()
    assert resolve_folder(NAME) == kept_of(NAME, None, None).model


@pytest.mark.slow
def test_a_repository_of_asteroid_converts_from_the_command_line(
    hub: HubServer, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    file = published_conv_tasnet.write_asteroid(tmp_path / "x", published_conv_tasnet.tensors())
    publish(hub, "someone/tasnet", {"pytorch_model.bin": file.read_bytes(), "README.md": ASTEROID % b"ConvTasNet"})
    assert main(["convert", "someone/tasnet", "out", "--licence", "mit"]) == 2
    assert "under cc-by-sa-4.0" in " ".join(capfd.readouterr().err.split())
    assert main(["convert", "someone/tasnet", "out"]) == 0
    assert "license: cc-by-sa-4.0" in Path("out/README.md").read_text()
