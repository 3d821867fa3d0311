# SPDX-License-Identifier: Apache-2.0
"""Published checkpoints opened by the names their authors gave them, from a Hub and addresses on 127.0.0.1."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import published_audioldm2
import published_audiosep
import published_conv_tasnet
import published_sepformer
import published_spleeter
import pytest
import torch
import transformers
from file_server import Files, serving
from hub_server import HubServer
from huggingface_hub import constants

from hubsep import AudioLDM2Pipeline, AutoModelForAudioSeparation, __version__, pipeline
from hubsep.conversion import convert
from hubsep.errors import CheckpointError
from hubsep.hub.opening import COMMERCIAL, kept_at, open_published
from hubsep.hub.published import Published, find_published


SEPFORMER = "speechbrain/sepformer-wsj03mix"
SPEECH = "haoheliu/audioldm2-speech-ljspeech"
CONV_TASNET = "JorisCos/ConvTasNet_Libri2Mix_sepclean_16k"
NAMES = [SEPFORMER, CONV_TASNET]


def row_of(name: str) -> Published:
    row = find_published(name)
    assert row is not None
    return row


def sepformer_folder(folder: Path) -> Path:
    return published_sepformer.golden_folder(folder / "sepformer")


def conv_tasnet_folder(folder: Path, **facts: Any) -> Path:
    (folder / "conv_tasnet").mkdir()
    state = published_conv_tasnet.tensors()
    note = {"licenses": [], **facts}
    published_conv_tasnet.write_asteroid(folder / "conv_tasnet" / "pytorch_model.bin", state, facts=note)
    return folder / "conv_tasnet"


MAKE: dict[str, Callable[[Path], Path]] = {SEPFORMER: sepformer_folder, CONV_TASNET: conv_tasnet_folder}


def publish(hub: HubServer, name: str, folder: Path, **others: bytes) -> None:
    """Puts the files of a folder, and others, into a repository."""
    files = {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file()}
    hub.publish(name, {**files, "README.md": b"---\n---\n", **others})


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_a_published_name_opens_everywhere_and_is_fetched_once(
    name: str, hub: HubServer, tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = MAKE[name](tmp_path)
    publish(hub, name, folder, **{"evil.py": b"raise SystemExit", "other.ckpt": b"not named in the table"})
    mixture = {"array": np.random.default_rng(0).uniform(-0.3, 0.3, 4_000).astype("f"), "sampling_rate": 8_000}
    found = pipeline("audio-separation", model=name.upper(), device="cpu")(mixture)
    said = capfd.readouterr().err
    row = row_of(name)
    for part in (row.authors, row.licence, row.place, str(kept_at(row).model)):
        assert part in said, "said at the first opening"
    assert not hub.seen("evil.py|other.ckpt"), "only what the table names is fetched"
    convert(row.system, folder, tmp_path / "own", licence="unknown")  # type: ignore[call-overload]
    expected = pipeline("audio-separation", model=str(tmp_path / "own"), device="cpu")(mixture)
    for source, other in zip(found, expected, strict=True):
        assert np.array_equal(source["audio"], other["audio"])
    requests = len(hub.requests)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    AutoModelForAudioSeparation.from_pretrained(name)
    AutoModelForAudioSeparation.from_pretrained(name.rpartition("/")[2])
    build: Any = transformers.pipeline
    for source, other in zip(build("audio-separation", model=name, device="cpu")(mixture), expected, strict=True):
        assert np.array_equal(source["audio"], other["audio"]), "transformers opens it too"
    assert len(hub.requests) == requests, "what is kept asks nobody"
    assert row.authors not in capfd.readouterr().err


@pytest.mark.slow
def test_a_text_queried_model_brings_its_tokenizer(hub: HubServer, tmp_path: Path) -> None:
    row = replace(row_of("audo/AudioSep"), options=published_audiosep.OVERRIDES)
    published = tmp_path / "published"
    published.mkdir()
    published_audiosep.write_lightning(published / row.files[0], published_audiosep.whole())
    publish(hub, "audo/AudioSep", published)
    publish(hub, row.companions["tokenizer"], published_audiosep.write_tokenizer(tmp_path / "tokenizer"))
    separate = pipeline(model=str(open_published(row)), device="cpu")
    mixture = {"array": np.random.default_rng(0).uniform(-0.3, 0.3, 4_000).astype("f"), "sampling_rate": 8_000}
    assert [source["label"] for source in separate(mixture, queries=["rain"])] == ["rain"]


@pytest.mark.slow
@pytest.mark.parametrize(("name", "kind"), [("haoheliu/audioldm2-full", "base"), (SPEECH, "speech")])
def test_a_generator_brings_its_tokenizers(name: str, kind: str, hub: HubServer, tmp_path: Path) -> None:
    row = replace(row_of(name), options=published_audioldm2.told(kind))
    published = tmp_path / "published"
    published.mkdir()
    published_audioldm2.write(published / row.files[0], published_audioldm2.tensors(kind))
    publish(hub, str(row.repository), published)
    folders = published_audioldm2.tokenizers(tmp_path / "tokenizers", speech=kind == "speech")
    for part, place in row.companions.items():
        repository, folder = "/".join(place.split("/")[:2]), place.split("/")[2:]
        files = {"/".join([*folder, path.name]): path.read_bytes() for path in Path(folders[part]).iterdir()}
        hub.publish(repository, files)
    pipe = AudioLDM2Pipeline.from_pretrained(open_published(row))
    said: dict[str, Any] = {"transcription": "hi", "max_new_tokens": 8} if kind == "speech" else {}
    assert np.isfinite(pipe("rain", num_inference_steps=1, seconds=0.5, **said).audios).all()


@pytest.mark.slow
def test_what_is_published_and_changes_is_an_error_with_both_hashes(hub: HubServer, tmp_path: Path) -> None:
    folder = conv_tasnet_folder(tmp_path)
    publish(hub, CONV_TASNET, folder)
    row = row_of(CONV_TASNET)
    first = open_published(row)
    before = {path: path.read_bytes() for path in first.iterdir()}
    changed = published_conv_tasnet.tensors()
    changed["encoder.filterbank._filters"] = changed["encoder.filterbank._filters"] + 1
    published_conv_tasnet.write_asteroid(folder / "pytorch_model.bin", changed, facts={"licenses": []})
    publish(hub, CONV_TASNET, folder)
    assert open_published(row) == first, "what is kept stays"
    with pytest.raises(CheckpointError, match=r"has changed since it was opened first: its SHA-256 was \w{64} and is"):
        open_published(row, force_download=True)
    assert {path: path.read_bytes() for path in first.iterdir()} == before
    assert open_published(row, revision="main") == first
    newest = hub.repositories[CONV_TASNET].branches["main"]
    assert open_published(row, revision=newest) != first, "who names a commit gets that one"


class Evil:
    def __reduce__(self) -> Any:
        return (open, ("executed", "w"))


# a conversion is a process, which takes seconds to import PyTorch: most tests of several of them are slow
LIES: dict[str, tuple[Callable[[Path], object], str]] = {
    "a pickle that runs code": (lambda path: torch.save({"state_dict": Evil()}, path), "cannot be converted"),
    "a pointer in place of the file": (
        lambda path: path.write_bytes(b"version https://git-lfs.github.com/spec/v1\n"), "cannot be converted"
    ),
    "another system": (lambda path: torch.save({"a": torch.zeros(3)}, path), "cannot be converted"),
    "too much": (lambda path: path.write_bytes(bytes(120 << 20)), "more than"),
    "nothing": (lambda path: path.unlink(), "does not hold pytorch_model.bin"),
}  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("kind", LIES)
def test_a_repository_that_lies_leaves_nothing_that_opens(kind: str, hub: HubServer, tmp_path: Path) -> None:
    folder = conv_tasnet_folder(tmp_path)
    lie, says = LIES[kind]
    lie(folder / "pytorch_model.bin")
    publish(hub, CONV_TASNET, folder)
    with pytest.raises(CheckpointError, match=says) as caught:
        AutoModelForAudioSeparation.from_pretrained(CONV_TASNET)
    assert CONV_TASNET in str(caught.value)
    assert not Path("executed").exists()
    assert not kept_at(row_of(CONV_TASNET)).is_complete
    assert not kept_at(row_of(CONV_TASNET)).model.exists()
    (tmp_path / "again").mkdir()
    publish(hub, CONV_TASNET, conv_tasnet_folder(tmp_path / "again"))
    AutoModelForAudioSeparation.from_pretrained(CONV_TASNET)


@pytest.mark.slow
def test_licences(
    hub: HubServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    folder = conv_tasnet_folder(tmp_path, licenses=[{"license": "CC BY-NC 4.0", "non_commercial": True}])
    publish(hub, CONV_TASNET, folder)
    kept = open_published(row_of(CONV_TASNET))
    assert "its licence is taken as unknown: " in capfd.readouterr().err
    assert "license: unknown" in (kept / "README.md").read_text()
    monkeypatch.setenv(COMMERCIAL, "1")
    with pytest.raises(CheckpointError, match="may not be used commercially"):
        open_published(row_of(CONV_TASNET))
    requests = len(hub.requests)
    for name in ("pfnet-research/meta-tasnet", "haoheliu/audioldm2-full", "cvssp/audioldm2"):
        with pytest.raises(CheckpointError, match=r"may not be used commercially|where no program can fetch it"):
            AutoModelForAudioSeparation.from_pretrained(name)
    assert len(hub.requests) == requests, "refused before anything is fetched"


def test_without_a_connection_the_first_opening_says_so(hub: HubServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(CheckpointError, match="was not opened before on this computer"):
        AutoModelForAudioSeparation.from_pretrained(SEPFORMER)
    assert not hub.requests


@pytest.fixture
def address() -> Iterator[tuple[str, type[Files]]]:
    with serving() as place:
        yield place


@pytest.mark.slow
def test_an_archive_at_an_address_goes_on_where_it_broke_off(
    address: tuple[str, type[Files]], hub: HubServer, tmp_path: Path
) -> None:
    url, handler = address
    archive = published_spleeter.write_archive(tmp_path / "x.tar.gz", published_spleeter.golden_files())
    handler.content, handler.cuts = archive.read_bytes(), 2
    row = replace(row_of("spleeter:2stems"), address=url)
    model = AutoModelForAudioSeparation.from_pretrained(open_published(row))
    assert model.config.model_type == "spleeter"
    assert [each is not None for each in handler.ranges] == [False, True, True]
    assert set(handler.agents) == {f"hubsep/{__version__}"}
    with pytest.raises(CheckpointError, match="more than the"):
        open_published(replace(row, address=f"{url}?", megabytes=-70))


@pytest.mark.slow
def test_no_code_of_the_current_folder_runs(
    address: tuple[str, type[Files]], hub: HubServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    url, handler = address
    archive = published_spleeter.write_archive(tmp_path / "x.tar.gz", published_spleeter.golden_files())
    handler.content = archive.read_bytes()
    (tmp_path / "recordings").mkdir()
    monkeypatch.chdir(tmp_path / "recordings")
    for name in ("socket", "json", "torch", "resource"):
        Path(f"{name}.py").write_text("open('executed', 'w')")
    open_published(replace(row_of("spleeter:2stems"), address=url))
    assert not Path("executed").exists()


def test_places_and_revisions_that_are_none_are_one_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    wrong: list[dict[str, Any]] = [{"cache_dir": 3}, {"cache_dir": tmp_path / "file"}, {"revision": tmp_path}]
    for options in wrong:
        with pytest.raises(CheckpointError):
            open_published(row_of(SEPFORMER), **options)


@pytest.mark.slow
def test_processes_that_ask_at_once_convert_once(hub: HubServer, tmp_path: Path) -> None:
    publish(hub, CONV_TASNET, conv_tasnet_folder(tmp_path))
    results: list[Path] = []
    asking = [threading.Thread(target=lambda: results.append(open_published(row_of(CONV_TASNET)))) for _ in range(3)]
    for thread in asking:
        thread.start()
    for thread in asking:
        thread.join(240)
    assert len(set(results)) == 1
    assert len(results) == 3
    assert len(hub.seen("GET .*/pytorch_model.bin")) == 1
