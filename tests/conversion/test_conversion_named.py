# SPDX-License-Identifier: Apache-2.0
"""What is converted named alone: files and folders that are recognised, and names from a Hub on 127.0.0.1."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import published_audiomae
import published_audiosep
import published_conv_tasnet
import published_meta_tasnet
import published_sepformer
import published_spleeter
import pytest
import torch
from hub_server import HubServer
from safetensors.torch import save_file
from tiny_conv_tasnet import tiny_conv_tasnet

import hubsep
from hubsep.cli.main import main
from hubsep.conversion.named import find_source
from hubsep.conversion.sources import recognised
from hubsep.errors import HubsepError
from hubsep.hub.published import published


CARD = "---\nlicense: apache-2.0\n---\n# theirs\n"
SEPFORMER = "speechbrain/sepformer-wsj03mix"


def asteroid_folder(place: Path) -> Path:
    place.mkdir()
    published_conv_tasnet.write_asteroid(place / "pytorch_model.bin", published_conv_tasnet.tensors())
    return place


def key_file(name: str, *keys: str, **facts: Any) -> Callable[[Path], Path]:
    """A file of tensors by these names."""

    def write(place: Path) -> Path:
        state = {key: torch.zeros(1) for key in keys}
        if name.endswith(".safetensors"):
            save_file(state, place / name)
        else:
            torch.save({**facts, "state_dict": state}, place / name)
        return place / name

    return write


def spleeter_tensors(place: Path) -> Path:
    return key_file("spleeter.safetensors", "conv2d.kernel", "batch_normalization_3.gamma")(place)


KNOWN: dict[str, tuple[str, Callable[[Path], Path]]] = {
    "SpeechBrain's folder": ("sepformer", lambda place: published_sepformer.golden_folder(place)),
    "SpeechBrain's tensors": ("sepformer", lambda place: published_sepformer.write_file(
        place / "all.ckpt", published_sepformer.golden_tensors()
    )),
    "asteroid's folder": ("conv_tasnet", lambda place: asteroid_folder(place / "asteroid")),
    "torchaudio's file": ("conv_tasnet", lambda place: published_conv_tasnet.write(place / "base.pt", "torchaudio")),
    "AudioSep's file": ("audiosep", lambda place: published_audiosep.write_lightning(
        place / "audiosep.ckpt", published_audiosep.whole()
    )),
    "Spleeter's archive": ("spleeter", lambda place: published_spleeter.write_archive(
        place / "2stems.tar.gz", published_spleeter.golden_files()
    )),
    "Spleeter's folder": ("spleeter", lambda place: published_spleeter.write_folder(
        place / "2stems", published_spleeter.golden_files()
    )),
    "Spleeter's tensors": ("spleeter", spleeter_tensors),
    "Meta-TasNet's file": ("meta_tasnet", lambda place: published_meta_tasnet.write(
        place / "best_model.pt", published_meta_tasnet.tensors()
    )),
    "AudioMAE's file": ("audiomae", lambda place: published_audiomae.write(
        place / "pretrained.pth", published_audiomae.tensors()
    )),
    "AudioLDM 2's file": ("audioldm2", key_file("audioldm2.pth", "model.diffusion_model.out.2.weight")),
}  # fmt: skip


@pytest.mark.parametrize("kind", KNOWN)
def test_a_published_layout_is_recognised(kind: str, tmp_path: Path) -> None:
    system, make = KNOWN[kind]
    assert recognised(make(tmp_path))[0] == system


def pointer(place: Path) -> Path:
    (place / "pytorch_model.bin").write_bytes(b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n")
    return place


def text(place: Path) -> Path:
    (place / "notes.txt").write_text("nothing")
    return place / "notes.txt"


def several(place: Path) -> Path:
    for name in ("a.pth", "b.pth"):
        key_file(name, "x")(place)
    return place


def own(place: Path) -> Path:
    tiny_conv_tasnet()[0].save_pretrained(place / "mine")
    return place / "mine"


def broken(place: Path) -> Path:
    (place / "config.json").write_text("{")
    return place


OTHERS: dict[str, tuple[str, Callable[[Path], Path]]] = {
    "a text": ("was not opened: it is damaged", text),
    "an empty folder": ("SYSTEM SOURCE OUTPUT.*audiosep, sepformer, conv_tasnet, spleeter", lambda place: place),
    "tensors of nobody": ("SYSTEM SOURCE OUTPUT.*audiosep, sepformer, conv_tasnet", key_file("x.ckpt", "a.b")),
    "holidays": ("is not recognised", lambda place: published_spleeter.write_archive(place / "x.tar.gz", {"a": b""})),
    "asteroid's DPRNN": ("is a DPRNN, which hubsep does not have", key_file("x.bin", "a", model_name="DPRNNTasNet")),
    "another DPRNN": ("is a DPRNN or DPTNet of asteroid, which hubsep does not", key_file("x.pt", "masker.net.0.a")),
    "Demucs": ("is a Demucs, which hubsep does not have", key_file("x.th.safetensors", "crosstransformer.norm_in.w")),
    "a pointer": ("is a pointer of Git LFS.*git lfs pull", pointer),
    "several files": ("holds 2 files of weights: 'a.pth', 'b.pth'", several),
    "one file of many": ("name the folder", lambda place: published_sepformer.golden_folder(place) / "masknet.ckpt"),
    "a model of hubsep": ("is a hubsep model already", own),
    "a broken configuration": ("config.json", broken),
}  # fmt: skip


@pytest.mark.parametrize("kind", OTHERS)
def test_what_is_not_recognised_is_one_error_with_the_way_out(kind: str, tmp_path: Path) -> None:
    says, make = OTHERS[kind]
    with pytest.raises(HubsepError, match=f"(?s){says}"):
        recognised(make(tmp_path))


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="there are no pipes here")
def test_a_pipe_is_not_waited_for(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    os.mkfifo(tmp_path / "pipe.pth")
    with pytest.raises(HubsepError, match="is not a file"):
        recognised(tmp_path / "pipe.pth")
    assert main(["convert", str(tmp_path / "pipe.pth"), str(tmp_path / "out"), "--licence", "mit"]) == 2
    assert "is a pipe or a device" in " ".join(capsys.readouterr().err.split())


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("", "is no name"), ("a\0b", "is no name"), ("x" * 5_000, "is no name"), ("\udcff", "is no"),
        ("nobody/nothing", "no file or folder 'nobody/nothing'"), ("speechbrain/sepformer-wsj2mix", "Did you mean"),
        ("https://example.com/x.ckpt", "is no address.*curl"), ("ftp://a", "is no address"),
        ("spleeter", "which checkpoint of spleeter"), ("audiosep-small", "a model of hubsep already"),
        ("../x", "no file or folder"),
    ],
)  # fmt: skip
def test_a_name_of_nothing_is_one_error(name: str, says: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(HubsepError, match=says):
        find_source(name)


def test_a_checkpoint_is_found_by_its_address() -> None:
    row = find_source("spleeter:2stems").row
    assert row is not None
    for address in ("https://huggingface.co/speechbrain/sepformer-wham/", str(row.address)):
        source = find_source(address)
        assert source.row is not None
        assert source.row.place == address.rstrip("/")
        assert source.licence == source.row.licence


def test_a_folder_with_a_card_needs_no_licence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    asteroid_folder(tmp_path / "theirs")
    for words in (["theirs", "out"], ["theirs/pytorch_model.bin", "out"]):
        assert main(["convert", *words]) == 2
        assert "--licence" in capsys.readouterr().err
    Path("theirs/README.md").write_text(CARD)
    assert main(["convert", "theirs", "out", "--licence", "mit"]) == 2
    assert "under apache-2.0" in capsys.readouterr().err
    assert not Path("out").exists()
    assert main(["convert", "theirs", "out"]) == 0
    assert "licence apache-2.0" in capsys.readouterr().out
    assert "license: apache-2.0" in Path("out/README.md").read_text()
    before = {path: path.read_bytes() for path in Path("out").iterdir()}
    assert main(["convert", "theirs", "out"]) == 2
    assert "--overwrite" in capsys.readouterr().err
    assert {path: path.read_bytes() for path in Path("out").iterdir()} == before
    assert main(["convert", "theirs", "out", "--overwrite", "--licence", "unknown"]) == 0
    assert type(hubsep.convert("theirs")).__name__ == "ConvTasNetForAudioSeparation"


def publish(hub: HubServer, name: str, folder: Path, **others: bytes) -> None:
    files = {path.name: path.read_bytes() for path in folder.iterdir()}
    hub.publish(name, {**files, **others})


@pytest.mark.slow
def test_a_published_name_converts_with_its_system_and_licence(
    hub: HubServer, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    folder = published_sepformer.golden_folder(tmp_path)
    for words, says in (
        ([SEPFORMER, "out", "--licence", "mit"], "are under apache-2.0"),
        (["spleeter", SEPFORMER, "out"], "is a checkpoint of sepformer, not of spleeter"),
        (["pfnet-research/meta-tasnet", "out"], "where no program can fetch it"),
    ):
        assert main(["convert", *words]) != 0
        said = " ".join(capfd.readouterr().err.replace("│", " ").split())
        assert says in said, said
    assert not hub.requests, "refused before anything is fetched"
    publish(hub, SEPFORMER, folder, **{"evil.py": b"raise SystemExit"})
    assert main(["convert", SEPFORMER.upper(), "made/out", "--set", "segment_samples=64000"]) == 0
    assert not hub.seen("evil.py|optimizer.ckpt"), "only what the table names is fetched"
    hubsep.convert("sepformer", folder, "own", licence="apache-2.0", segment_samples=64_000)
    about = {"README.md", "card.json", "manifest.json"}  # these name the repository, if there is one
    made, own = (
        {path.name: path.read_bytes() for path in Path(folder).iterdir() if path.name not in about}
        for folder in ("made/out", "own")
    )
    assert made == own
    assert f"base_model: {SEPFORMER}" in Path("made/out/README.md").read_text(encoding="utf-8")
    capfd.readouterr()
    assert main(["convert", SEPFORMER, "made/out"]) == 2
    assert "--overwrite" in capfd.readouterr().err


# a name of each system, what is set wrongly, and what is said of it
WRONG_SETTINGS = [
    *((name, "nonsense=1", "there is no 'nonsense' to set") for name in {
        row.system: row.name for row in published().values() if not row.opens
    }.values()),
    (SEPFORMER, "sampling_rat=8000", "Did you mean sampling_rate?"),
    (SEPFORMER, "sampling_rate=loud", "sampling_rate"),
    ("spleeter:2stems", "stems=3", "stems"),
    ("audo/AudioSep", "query_config=3", "query_config must be a table"),
    ("audo/AudioSep", "query_config={audio: 3}", "query_config may set entries of text_config and audio_config"),
    ("audo/AudioSep", "clap=absent.pt", "'absent.pt' is not a file"),
    ("audo/AudioSep", "tokenizer=absent", "tokenizer must be a folder or a repository"),
    ("facebookresearch/AudioMAE", "encoder_only=3", "encoder_only must be true or false"),
    ("haoheliu/audioldm2-full", "unet={nonsense: 1}", "unet has no 'nonsense' to set"),
    ("haoheliu/audioldm2-full", "text_encoder_2={nonsense: 1}", "text_encoder_2 has no 'nonsense' to set"),
    ("haoheliu/audioldm2-full", "audio_mae={nonsense: 1}", "there is no 'nonsense' to set"),
    ("haoheliu/audioldm2-full", "clap=both", "clap must be conditioning or ranking"),
    ("haoheliu/audioldm2-full", "ema=3", "ema must be true or false"),
    ("cvssp/audioldm2", "nonsense=1", "there is no 'nonsense' to set"),
    ("cvssp/audioldm2", "ema=true", "is in diffusers' layout already"),
]  # fmt: skip


@pytest.mark.parametrize(("name", "setting", "says"), WRONG_SETTINGS)
def test_what_cannot_be_set_is_said_before_anything_is_fetched_as_of_a_local_file(
    name: str, setting: str, says: str, hub: HubServer, capfd: pytest.CaptureFixture[str]
) -> None:
    Path("weights.pth").write_bytes(b"nothing")
    row = published()[name]
    sources = [[name]] if row.opens or "tokenizer" in setting else [[name], [row.system, "weights.pth"]]
    errors = set()
    for words in sources:
        assert main(["convert", *words, "out", "--licence", row.licence, "--set", setting]) != 0
        errors.add(" ".join(capfd.readouterr().err.replace("│", " ").split()).rpartition("Error ")[2])
    assert len(errors) == 1, errors
    assert says in errors.pop()
    assert not hub.requests, "before anything is fetched"
    assert {path.name for path in Path().iterdir()} <= {"weights.pth", "home"}


def test_a_way_back_that_is_none_is_refused_before_the_folder_is_fetched(hub: HubServer) -> None:
    with pytest.raises(HubsepError, match="is in diffusers' layout already"):
        hubsep.convert("cvssp/audioldm2", output="folder")
    assert not hub.requests


def test_what_is_set_wrongly_is_said_in_python_too(hub: HubServer) -> None:
    with pytest.raises(HubsepError, match="there is no 'nonsense' to set"):
        hubsep.convert(SEPFORMER, output="out", nonsense=1)
    assert not hub.requests


@pytest.mark.slow
def test_a_published_name_converts_in_python(hub: HubServer, tmp_path: Path) -> None:
    publish(hub, SEPFORMER, published_sepformer.golden_folder(tmp_path))
    model = hubsep.convert(SEPFORMER, output="out")
    assert model.config.model_type == "sepformer"
    assert Path("out/README.md").is_file()
    assert hubsep.convert(SEPFORMER).config.model_type == "sepformer"
