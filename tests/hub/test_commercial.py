# SPDX-License-Identifier: Apache-2.0
"""Only weights that may be used commercially: one rule, wherever weights are opened, and before they are fetched."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import published_conv_tasnet
import pytest
import soundfile as sf
from hub_repository import Repository
from hub_server import HubServer
from tiny_conv_tasnet import tiny_conv_tasnet

import hubsep
from hubsep.adapters import read_adapter
from hubsep.cli.main import main
from hubsep.errors import CheckpointError
from hubsep.hub.commercial import COMMERCIAL, check_folder_licence, is_wanted
from hubsep.hub.published import published
from hubsep.hub.resolve import resolve_folder


REFUSED = "may not be used commercially"
CARDS: dict[str, tuple[dict[str, Any] | None, str | None, bool]] = {
    "allowed": ({"licence": "CC-BY-4.0", "commercial": True}, None, True),
    "allowed by its README": (None, "apache-2.0", True),
    "allowed by its licence": ({"licence": "MIT", "commercial": None}, None, True),
    "its own terms": ({"licence": "other", "licence_name": "mine", "commercial": True}, None, True),
    "no card": (None, None, False),
    "unknown": ({"licence": "unknown", "commercial": None}, None, False),
    "said to be allowed, licence unknown": ({"licence": "unknown", "commercial": True}, None, False),
    "research": ({"licence": "CC-BY-NC-4.0", "commercial": False}, None, False),
    "research by its README": (None, "cc-by-nc-sa-4.0", False),
    "not known here": (None, "some-licence", False),
    "contradictory": ({"licence": "CC-BY-NC-4.0", "commercial": True}, None, False),
    "two cards that differ": ({"licence": "MIT", "commercial": True}, "cc-by-nc-4.0", False),
    "broken YAML": (None, "[a\n  b: {", False),
    "a list": (None, "[mit, apache-2.0]", False),
    "no text": ({"licence": 3, "commercial": True}, None, False),
    "no truth value": ({"licence": "MIT", "commercial": "yes"}, None, False),
}


def card_files(kind: str) -> dict[str, bytes]:
    card, licence, _ = CARDS[kind]
    files = {} if card is None else {"card.json": json.dumps({"name": "x", **card}).encode()}
    return files if licence is None else {**files, "README.md": f"---\nlicense: {licence}\n---\n".encode()}


def model_folder(place: Path, kind: str) -> Path:
    tiny_conv_tasnet()[0].save_pretrained(place)
    for name, content in card_files(kind).items():
        (place / name).write_bytes(content)
    return place


@pytest.mark.parametrize("kind", CARDS)
def test_the_card_of_a_folder_decides(kind: str, tmp_path: Path) -> None:
    for name, content in card_files(kind).items():
        (tmp_path / name).write_bytes(content)
    if CARDS[kind][2]:
        check_folder_licence(tmp_path, "x")
    else:
        with pytest.raises(CheckpointError, match=REFUSED):
            check_folder_licence(tmp_path, "x")


@pytest.mark.parametrize(
    ("value", "wanted"), [("", False), ("0", False), ("FALSE", False), ("1", True), ("yes", True)]
)
def test_the_environment_holds_for_all(value: str, wanted: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(COMMERCIAL, value)
    assert is_wanted() == is_wanted(False) == wanted
    assert is_wanted(True)
    wrong: Any = "yes"
    with pytest.raises(CheckpointError, match="commercial"):
        is_wanted(wrong)


def test_a_part_of_a_pipeline_has_the_card_of_the_whole(tmp_path: Path) -> None:
    (tmp_path / "unet").mkdir()
    (tmp_path / "README.md").write_bytes(card_files("allowed by its README")["README.md"])
    with pytest.raises(CheckpointError, match=REFUSED):
        check_folder_licence(tmp_path / "unet", "unet")
    (tmp_path / "model_index.json").write_text("{}")
    check_folder_licence(tmp_path / "unet", "unet")


OPENERS: dict[str, Callable[..., object]] = {
    "pipeline": lambda name, **options: hubsep.pipeline("audio-separation", model=name, **options),
    "text to audio": lambda name, **options: hubsep.pipeline("text-to-audio", model=name, **options),
    "AutoModel": hubsep.AutoModelForAudioSeparation.from_pretrained,
    "a class": hubsep.ConvTasNetForAudioSeparation.from_pretrained,
    "AudioLDM 2": hubsep.AudioLDM2Pipeline.from_pretrained,
    "an adapter": read_adapter,
}


@pytest.mark.parametrize("opener", OPENERS)
def test_what_is_not_allowed_is_refused_before_it_is_fetched(opener: str, hub: HubServer, tmp_path: Path) -> None:
    folder = model_folder(tmp_path / "local", "no card")
    files = {path.name: path.read_bytes() for path in folder.iterdir()}
    for name, kind in (("someone/free", "no card"), ("someone/nc", "research by its README")):
        hub.repositories[name] = Repository()
        hub.repositories[name].commit("main", {**files, **card_files(kind), "model_index.json": b"{}"}, "x")
    names = [str(folder), "spleeter-small-2stems", "someone/free", "someone/nc", "haoheliu/audioldm2-full"]
    if opener == "text to audio":
        names = names[2:]  # it refuses the others as what they are: models that separate
    for name in names:
        with pytest.raises(CheckpointError, match=REFUSED):
            OPENERS[opener](name, commercial=True)
    assert not hub.seen(r"\.safetensors|\.pth|\.bin|/config.json"), "before any weights are fetched"


def test_what_is_allowed_opens(hub: HubServer, tmp_path: Path) -> None:
    folder = model_folder(tmp_path / "local", "allowed by its README")
    hub.repositories["someone/free"] = Repository()
    hub.repositories["someone/free"].commit("main", {path.name: path.read_bytes() for path in folder.iterdir()}, "x")
    for name in (folder, "someone/free"):
        separate = hubsep.pipeline("audio-separation", model=name, commercial=True, device="cpu")
        assert separate.model.config.model_type == "conv_tasnet"
        hubsep.ConvTasNetForAudioSeparation.from_pretrained(name, commercial=True)
    assert resolve_folder("audiosep-small", commercial=True).is_dir()


def test_a_loaded_model_needs_a_card_too(tmp_path: Path) -> None:
    model = tiny_conv_tasnet()[0]
    with pytest.raises(CheckpointError, match="not loaded from a folder with a card"):
        hubsep.pipeline("audio-separation", model=model, commercial=True, device="cpu")
    folder = model_folder(tmp_path, "allowed by its README")
    loaded = hubsep.ConvTasNetForAudioSeparation.from_pretrained(folder)
    assert hubsep.pipeline("audio-separation", model=loaded, commercial=True, device="cpu").model is loaded


@pytest.mark.parametrize(
    "words",
    [
        "separate talk.wav --model spleeter-small-2stems",
        "separate talk.wav --model local", "separate talk.wav --model good --adapter local",
        "separate talk.wav --model someone/nc", "generate rain -o x.wav --model local",
        "generate rain -o x.wav --model cvssp/audioldm2", "evaluate spleeter-small-2stems --data data",
        "convert theirs out --licence cc-by-nc-4.0", "convert theirs out --licence unknown",
        "convert haoheliu/audioldm2-full out",
    ],
)  # fmt: skip
def test_commands_refuse_it(words: str, hub: HubServer, capsys: pytest.CaptureFixture[str]) -> None:
    model_folder(Path("local"), "no card")
    model_folder(Path("good"), "allowed by its README")
    for name in ("theirs", "data"):
        Path(name).mkdir()
    published_conv_tasnet.write_asteroid(Path("theirs/pytorch_model.bin"), published_conv_tasnet.tensors())
    sf.write("talk.wav", [0.1] * 8_000, 8_000)
    hub.repositories["someone/nc"] = Repository()
    hub.repositories["someone/nc"].commit("main", card_files("research by its README"), "x")
    before = {path.name for path in Path().iterdir()} | {"home"}
    assert main([*words.split(), "--commercial"]) == 2
    said = " ".join(capsys.readouterr().err.replace("│", " ").split())
    assert REFUSED in said, said
    assert COMMERCIAL not in os.environ, "an option holds for one command"
    assert {path.name for path in Path().iterdir()} <= before


REFUSED_SOURCES: dict[str, tuple[str, ...]] = {
    "a folder without a card": ("theirs",),
    "a file without a card": ("theirs/pytorch_model.bin",),
    "a file that has its licence typed": ("theirs/pytorch_model.bin", "cc-by-nc-4.0"),
    "a folder whose card forbids it": ("research",),
    "a repository": ("someone/nc",),
    **{name: (name,) for name, row in published().items() if row.commercial is not True},
}


@pytest.mark.parametrize("way", ["argument", "environment"])
@pytest.mark.parametrize("output", [None, "out"])
def test_python_converts_only_what_is_allowed(
    way: str, output: str | None, hub: HubServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    options: dict[str, Any] = {"output": output}
    if way == "argument":
        options["commercial"] = True
    else:
        monkeypatch.setenv(COMMERCIAL, "1")
    for name, licence in (("theirs", None), ("research", "cc-by-nc-4.0"), ("free", "mit")):
        Path(name).mkdir()
        published_conv_tasnet.write_asteroid(Path(name, "pytorch_model.bin"), published_conv_tasnet.tensors())
        if licence is not None:
            Path(name, "README.md").write_text(
                f"---\nlicense: {licence}\ntags: [asteroid, ConvTasNet]\n---\n", encoding="utf-8"
            )
    hub.repositories["someone/nc"] = Repository()
    files = {path.name: path.read_bytes() for path in Path("research").iterdir()}
    hub.repositories["someone/nc"].commit("main", files, "x")
    for kind, (name, *said) in REFUSED_SOURCES.items():
        with pytest.raises(CheckpointError, match=REFUSED):
            hubsep.convert(name, **options, licence=said[0] if said else None)
        assert not Path("out").exists(), kind
    with pytest.raises(CheckpointError, match=REFUSED):
        hubsep.convert("conv_tasnet", "theirs/pytorch_model.bin", **options, licence="unknown")
    assert not hub.seen(r"pytorch_model\.bin|\.pth|\.safetensors|\.json"), "before any weights are fetched"
    assert hubsep.convert("free", **options).config.model_type == "conv_tasnet"
    monkeypatch.delenv(COMMERCIAL, raising=False)
    wrong: Any = "yes"
    with pytest.raises(CheckpointError, match="commercial"):
        hubsep.convert("theirs", commercial=wrong)
    assert hubsep.convert("theirs").config.model_type == "conv_tasnet"


def test_the_environment_holds_for_transformers_pipelines_and_processes(
    hub: HubServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import transformers

    monkeypatch.setenv(COMMERCIAL, "1")
    folder = model_folder(tmp_path / "local", "no card")
    files = {path.name: path.read_bytes() for path in folder.iterdir()}
    hub.repositories["someone/nc"] = Repository()
    hub.repositories["someone/nc"].commit("main", {**files, **card_files("research by its README")}, "x")
    names = [str(folder), "spleeter-small-2stems", "someone/nc", "haoheliu/audioldm2-full"]
    for name in names:
        task = "text-to-audio" if "audioldm2" in name else "audio-separation"
        with pytest.raises(ValueError, match=REFUSED):  # transformers puts its own around ours
            transformers.pipeline(task, model=name)
    assert not hub.seen(r"\.safetensors|\.pth|\.bin"), "before any weights are fetched"
