# SPDX-License-Identifier: Apache-2.0
"""Over the wire, against a Hub on 127.0.0.1: what is pushed is what is loaded, whatever goes wrong on the way.

The weights that come back are the weights that went, bit by bit. In waveforms made with them the
order of sums may differ: where the weights lie in memory decides it.
"""

from __future__ import annotations

import logging
import os
import re
import subprocess
import sys
import traceback
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile as sf
import torch
import transformers
from hub_client import environment, log_in
from hub_server import READER, WRITER, HubServer
from huggingface_hub import HfApi, ModelCard, constants, snapshot_download
from promises_pipeline import audio, recording
from rounding import TINY_MODEL, assert_same
from tiny_audiosep import tiny_audiosep
from tiny_conv_tasnet import tiny_conv_tasnet
from tiny_spleeter import tiny_spleeter

import hubsep
from hubsep import AudioSeparationPipeline, AutoModelForAudioSeparation, ConvTasNetForAudioSeparation
from hubsep.cli import main
from hubsep.errors import CheckpointError, UnreachableError
from hubsep.hub import verify_manifest
from hubsep.hub.resolve import resolve_folder
from hubsep.hub.wire import wire_errors


NAME = "org/separator"
WEIGHTS = rf"/{NAME}/resolve/\w+/model.safetensors"
WRONG = "hf_wrongWRONGwrong"
SECRET = re.compile("|".join((READER, WRITER, WRONG)))
Build = Callable[[], tuple[Any, Any]]


def filled(value: float) -> Any:
    """A model whose weights are all the same, so that a mixture of two pushes shows."""
    model, _ = tiny_conv_tasnet()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.fill_(value)
    return model


def value_of(model: Any) -> float:
    values = {float(value) for parameter in model.parameters() for value in parameter.detach().unique()}
    assert len(values) == 1, f"a mixture of {values}"
    return values.pop()


def new_cache(monkeypatch: pytest.MonkeyPatch, place: Path) -> None:
    """Go on as on another computer."""
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(place))


@pytest.mark.parametrize("build", [tiny_spleeter, tiny_audiosep])
def test_model_comes_back_as_it_went_in_one_commit_with_its_card(hub: HubServer, build: Build) -> None:
    model, _ = build()
    address = model.push_to_hub(NAME)
    repository = hub.repositories[NAME]
    assert repository.messages == ["first", "Upload model"]
    assert address == f"{hub.url}/{NAME}/commit/{repository.sha('main')}"
    assert {"README.md", "config.json", "manifest.json", "model.safetensors"} < set(repository.files())
    for kind in (type(model), AutoModelForAudioSeparation):
        loaded = kind.from_pretrained(NAME)
        assert type(loaded) is type(model)
        assert all(torch.equal(held, loaded.state_dict()[name]) for name, held in model.state_dict().items())
    verify_manifest(resolve_folder(NAME))
    card = ModelCard.load(NAME)
    assert (card.data.library_name, card.data.pipeline_tag) == ("hubsep", "audio-to-audio")
    assert card.data.tags == ["audio-separation"]


@pytest.mark.slow
@pytest.mark.parametrize("build", [tiny_conv_tasnet, tiny_spleeter, tiny_audiosep])
def test_whole_pipeline_comes_back_through_either_function(hub: HubServer, build: Build) -> None:
    model, processor = build()
    channels = 1 if build is not tiny_spleeter else 2
    queried = build is tiny_audiosep
    processor = processor if queried else None
    call = {"sampling_rate": model.config.sampling_rate, "residual": True}
    if queried:
        call["queries"] = ["dog barking", "rain"]
    mixture = recording(6_000, channels)
    local = AudioSeparationPipeline(model=model, processor=processor, device="cpu")
    expected = local(mixture, **call)
    local.push_to_hub(NAME)
    assert hub.repositories[NAME].messages == ["first", "Upload model"]
    for function in (hubsep.pipeline, transformers.pipeline):
        found = function("audio-separation", model=NAME, device="cpu")(mixture, **call)
        assert [source["label"] for source in found] == [source["label"] for source in expected]
        assert_same(audio(found), audio(expected), **TINY_MODEL, peak=1.0)


def test_processor_goes_by_itself_and_leaves_the_model_in_its_place(hub: HubServer) -> None:
    model, processor = tiny_audiosep()
    processor.push_to_hub(NAME)  # transformers' own: an empty repository gets a card by transformers
    model.push_to_hub(NAME)
    loaded = transformers.AutoProcessor.from_pretrained(NAME)
    assert type(loaded) is type(processor)
    assert loaded("rain")["input_ids"].tolist() == processor("rain")["input_ids"].tolist()
    separate = hubsep.pipeline(model=NAME, device="cpu")
    assert [source["label"] for source in separate(recording(4_000), sampling_rate=8_000, queries="rain")] == ["rain"]
    assert ModelCard.load(NAME).data.library_name == "hubsep"


@pytest.mark.slow
def test_revisions(hub: HubServer) -> None:
    for value in (1.0, 2.0):
        filled(value).push_to_hub(NAME)
    filled(3.0).push_to_hub(NAME, revision="trial")
    repository = hub.repositories[NAME]
    (_, first, second, _), trial = list(repository.commits), repository.branches["trial"]
    load = AutoModelForAudioSeparation.from_pretrained
    wanted = {None: 2.0, "main": 2.0, first: 1.0, second: 2.0, "trial": 3.0, trial: 3.0}
    assert {revision: value_of(load(NAME, revision=revision)) for revision in wanted} == wanted
    assert value_of(ConvTasNetForAudioSeparation.from_pretrained(NAME, revision=first)) == 1.0
    for function in (hubsep.pipeline, transformers.pipeline):
        assert value_of(function("audio-separation", model=NAME, revision="trial", device="cpu").model) == 3.0
    with pytest.raises(CheckpointError, match="Revision"):
        load(NAME, revision="no-such-branch")


def upload_card(text: str) -> None:
    """As somebody would in a browser; `ModelCard.push_to_hub` asks the real Hub first in huggingface_hub 1."""
    HfApi().upload_file(path_or_fileobj=text.encode(), path_in_repo="README.md", repo_id=NAME)


@pytest.mark.slow
def test_fine_tune_onto_the_same_repository(hub: HubServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """More shards, then fewer: what an earlier push left is not beside the new weights, and the card stays."""
    filled(1.0).push_to_hub(NAME)
    upload_card("---\nlicense: mit\nlibrary_name: hubsep\n---\n\n# My own words\n")
    repository = hub.repositories[NAME]
    for number, size in enumerate(["10KB", "20KB", "15MB", "10KB"], start=2):
        model = AutoModelForAudioSeparation.from_pretrained(NAME)
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.add_(1)
        before = len(repository.commits)
        model.push_to_hub(NAME, max_shard_size=size)
        assert len(repository.commits) == before + 1
        new_cache(monkeypatch, tmp_path / str(number))
        assert value_of(AutoModelForAudioSeparation.from_pretrained(NAME)) == number
        shards = [name for name in repository.files() if name.startswith("model") and name.endswith(".safetensors")]
        assert (shards == ["model.safetensors"]) == (size == "15MB")
        assert "My own words" in repository.files()["README.md"].decode()
        verify_manifest(resolve_folder(NAME))


def test_other_files_of_the_repository_stay(hub: HubServer) -> None:
    filled(1.0).push_to_hub(NAME)
    repository = hub.repositories[NAME]
    others = {"model.fp16.safetensors": b"", "adapter/model.safetensors": b"", "sounds/rain.flac": b"fLaC"}
    repository.commit("main", {**repository.files(), **others}, "by hand")
    filled(2.0).push_to_hub(NAME, max_shard_size="10KB")
    assert others.keys() < repository.files().keys()
    assert "model.safetensors" not in repository.files()


def test_private_repository(hub: HubServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    filled(1.0).push_to_hub(NAME, private=True)
    assert hub.repositories[NAME].private
    load = AutoModelForAudioSeparation.from_pretrained
    log_in(monkeypatch, None)
    for token in (None, False, READER, WRONG):
        readers: tuple[Any, ...] = (load, resolve_folder, partial(hubsep.pipeline, "audio-separation"))
        for read in readers:
            with pytest.raises(CheckpointError, match=r"private|Invalid|401") as caught:
                read(NAME, token=token)
            assert not SECRET.search("".join(traceback.format_exception(caught.value)))
    assert value_of(load(NAME, token=WRITER)) == 1.0
    for function in (hubsep.pipeline, transformers.pipeline):
        new_cache(monkeypatch, tmp_path / function.__module__)
        assert value_of(function("audio-separation", model=NAME, token=WRITER, device="cpu").model) == 1.0
    log_in(monkeypatch, WRITER)
    new_cache(monkeypatch, tmp_path / "logged in")
    assert value_of(load(NAME)) == 1.0


@pytest.mark.parametrize("token", [None, READER, WRONG])
def test_push_without_the_right_to(hub: HubServer, token: str | None, monkeypatch: pytest.MonkeyPatch) -> None:
    log_in(monkeypatch, None)
    with pytest.raises(CheckpointError, match=r"'org/separator' could not be pushed to.*40[13]") as caught:
        filled(1.0).push_to_hub(NAME, token=token)
    assert not SECRET.search("".join(traceback.format_exception(caught.value)))
    assert NAME not in hub.repositories


@pytest.mark.parametrize("where", [rf"POST /api/models/{NAME}/commit", "PUT /large"])
def test_upload_that_is_broken_off(hub: HubServer, where: str) -> None:
    """The connection is cut halfway, where huggingface_hub does not try again; elsewhere the Hub refuses."""
    filled(1.0).push_to_hub(NAME)
    repository = hub.repositories[NAME]
    before = (repository.sha("main"), dict(repository.files()))
    hub.fault(where, **({} if "commit" in where else {"status": 403}))
    with pytest.raises(CheckpointError, match="the old or all of the new"):
        filled(2.0).push_to_hub(NAME)
    assert (repository.sha("main"), repository.files()) == before
    assert value_of(AutoModelForAudioSeparation.from_pretrained(NAME)) == 1.0
    filled(2.0).push_to_hub(NAME)
    assert value_of(AutoModelForAudioSeparation.from_pretrained(NAME)) == 2.0


def test_cut_large_file_is_sent_again(hub: HubServer) -> None:
    hub.fault("PUT /large")
    filled(1.0).push_to_hub(NAME)
    assert len(hub.seen("PUT /large")) == 2
    assert value_of(AutoModelForAudioSeparation.from_pretrained(NAME)) == 1.0


def test_card_is_not_replaced_when_the_hub_does_not_say_what_it_is(hub: HubServer) -> None:
    """Neither by a short one nor by the one this computer remembers."""
    filled(1.0).push_to_hub(NAME)
    upload_card("---\nlibrary_name: hubsep\n---\n\nMy own words\n")
    before = hub.repositories[NAME].sha("main")
    hub.fault(r"HEAD .*/README.md", status=403, times=9)
    with pytest.raises(CheckpointError, match="could not be pushed"):
        filled(2.0).push_to_hub(NAME)
    assert hub.repositories[NAME].sha("main") == before


def test_cut_download_goes_on_where_it_was(hub: HubServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(constants, "DOWNLOAD_CHUNK_SIZE", 1_000)  # what was received of one is lost
    filled(1.0).push_to_hub(NAME)
    hub.fault(f"GET {WEIGHTS}")
    assert value_of(AutoModelForAudioSeparation.from_pretrained(NAME)) == 1.0
    half = len(hub.repositories[NAME].files()["model.safetensors"]) // 2
    assert [headers.get("range") for headers in hub.seen(f"GET {WEIGHTS}")] == [
        None,
        f"bytes={half // 1_000 * 1_000}-",
    ]


def test_download_that_is_broken_off(hub: HubServer, monkeypatch: pytest.MonkeyPatch) -> None:
    filled(1.0).push_to_hub(NAME)
    load = AutoModelForAudioSeparation.from_pretrained
    hub.fault(f"GET {WEIGHTS}", status=403)
    with pytest.raises(CheckpointError, match="403"):
        load(NAME)
    for options in ({"local_files_only": True}, {}):
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
        with pytest.raises(CheckpointError, match="could not be fetched"):  # what is there is not all of it
            load(NAME, **options)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    assert value_of(load(NAME)) == 1.0
    filled(2.0).push_to_hub(NAME)
    hub.fault(f"GET {WEIGHTS}", status=403)
    with pytest.raises(CheckpointError, match="403"):  # not the old one, which is complete
        load(NAME)
    assert value_of(load(NAME)) == 2.0


def test_offline_from_the_cache(hub: HubServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model, processor = tiny_audiosep()
    separate = AudioSeparationPipeline(model=model, processor=processor, device="cpu")
    separate.push_to_hub(NAME)
    call: dict[str, Any] = {"sampling_rate": 8_000, "queries": "rain"}
    expected = audio(separate(recording(4_000), **call))
    hubsep.pipeline(model=NAME, device="cpu")
    hub.stop()
    for offline in (False, True):  # not told, hubsep finds nobody there; transformers would try for minutes
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", offline)
        for function in (hubsep.pipeline, transformers.pipeline)[: 1 + offline]:
            again = function("audio-separation", model=NAME, device="cpu")
            assert_same(audio(again(recording(4_000), **call)), expected, **TINY_MODEL, peak=1.0)
        reason = "nothing may be fetched now" if offline else "there is no connection to it"
        with pytest.raises(UnreachableError, match=f"could not be fetched from the Hub: {reason}"):
            AutoModelForAudioSeparation.from_pretrained("org/never-seen")
        with pytest.raises(CheckpointError, match="could not be pushed"):
            model.push_to_hub(NAME)


@pytest.mark.parametrize("kind", [ConnectionError, RuntimeError])
def test_no_token_is_in_an_error_whatever_went_wrong(kind: type[Exception]) -> None:
    with pytest.raises(CheckpointError) as caught, wire_errors("x", "hf_secret"):
        raise kind("sent hf_secret")
    assert isinstance(caught.value, UnreachableError) == (kind is ConnectionError)
    assert caught.value.__cause__ is None
    assert "hf_secret" not in str(caught.value)


def test_nothing_secret_is_said(
    hub: HubServer,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    capfd: pytest.CaptureFixture[str],
) -> None:
    """Not in logs at their loudest, on the screen, in an error, in what is pushed, nor in the cache."""
    monkeypatch.setattr(constants, "HF_DEBUG", True)
    caplog.set_level(logging.DEBUG)
    for name in ("huggingface_hub", "transformers", "httpx2", "httpcore2"):
        caplog.set_level(logging.DEBUG, name)
        monkeypatch.setattr(logging.getLogger(name), "propagate", True)
    said: list[str] = []

    def attempt(work: Callable[..., Any], *arguments: Any, **options: Any) -> None:
        try:
            work(*arguments, **options)
        except CheckpointError as error:
            said.append("".join(traceback.format_exception(error)))

    for own, given in ((WRITER, None), (None, WRITER)):
        log_in(monkeypatch, own)
        attempt(filled(1.0).push_to_hub, NAME, token=given, private=True)
        attempt(hubsep.pipeline, model=NAME, token=given)
        attempt(filled(1.0).push_to_hub, "../x", token=given)
        hub.fault("/commit/")
        attempt(filled(2.0).push_to_hub, NAME, token=given)
    assert len(said) == 4
    for broken in (WRITER + "\n", "\x07" + WRITER, WRITER + "é"):
        log_in(monkeypatch, None)
        attempt(resolve_folder, "org/other", token=broken)
        attempt(filled(1.0).push_to_hub, NAME, token=broken)
        log_in(monkeypatch, broken)
        attempt(resolve_folder, "org/other")
        attempt(filled(1.0).push_to_hub, NAME, private=True)
    screen = capfd.readouterr()
    assert hub.seen("."), "requests were made"
    assert "http" in caplog.text, "the logs are loud"
    files = [path for path in tmp_path.rglob("*") if path.is_file()]
    kept = b"".join(path.read_bytes() for path in files)
    pushed = b"".join(b"".join(files.values()) for files in hub.repositories[NAME].commits.values())
    assert str(tmp_path).encode() not in pushed
    for text in (caplog.text, screen.out, screen.err, *said, kept.decode("latin1"), pushed.decode("latin1")):
        assert WRITER not in text


@pytest.mark.slow
def test_command_line_with_a_name_on_the_hub(
    hub: HubServer, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """In a process of its own, which finds the Hub by its environment."""
    tiny_conv_tasnet()[0].push_to_hub(NAME, private=True)
    sf.write("talk.wav", recording(4_000)[0], 8_000)
    command = ["separate", "talk.wav", "--model", NAME, "--device", "cpu"]
    done = subprocess.run(
        [sys.executable, "-m", "hubsep", *command, "-o", "theirs"],
        env={**os.environ, **environment(hub.url, tmp_path / "other-home", WRITER)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert WRITER not in done.stdout + done.stderr
    assert hub.seen(f"GET {WEIGHTS}")
    assert (tmp_path / "other-home/hub/models--org--separator").is_dir()
    assert main([*command, "-o", "ours"]) == 0
    names = [path.name for path in sorted(Path("ours/talk").glob("*.wav"))]
    assert len(names) == 2
    for name in names:
        ours, theirs = (sf.read(f"{folder}/talk/{name}")[0] for folder in ("ours", "theirs"))
        assert np.abs(ours - theirs).max() <= 1 / 32_768
    capsys.readouterr()
    assert main(["separate", "talk.wav", "--model", "org/no-such", "-o", "none"]) == 2
    assert "Error: there is no folder 'org/no-such', and it could not be fetched" in capsys.readouterr().err


def test_space(hub: HubServer, tmp_path: Path) -> None:
    """What the server is for beside models: the files of a demo."""
    app = tmp_path / "demo" / "app.py"
    app.parent.mkdir()
    app.write_text("print('a demo')\n")
    api = HfApi()
    api.create_repo("org/demo", repo_type="space", space_sdk="gradio")
    api.upload_folder(repo_id="org/demo", repo_type="space", folder_path=app.parent)
    assert hub.repositories["spaces/org/demo"].files()["app.py"] == app.read_bytes()
    assert Path(snapshot_download("org/demo", repo_type="space"), "app.py").read_bytes() == app.read_bytes()


@pytest.mark.slow
def test_diffusion_pipeline(hub: HubServer) -> None:
    """AudioLDM 2 in diffusers' layout: a folder a component, all of them in one commit."""
    from tiny_audioldm2 import CLOSE, SECONDS, tiny_components

    from hubsep import AudioLDM2Pipeline

    pipe = AudioLDM2Pipeline(**tiny_components())
    for _ in range(2):  # the second time there is nothing to push
        pipe.push_to_hub(NAME)
    repository = hub.repositories[NAME]
    assert len(repository.commits) == 2
    assert {"model_index.json", "README.md", "unet/config.json", "vocoder/model.safetensors"} < set(repository.files())
    loaded = AudioLDM2Pipeline.from_pretrained(NAME, revision="main")
    call: dict[str, Any] = {"num_inference_steps": 2, "audio_length_in_s": SECONDS}
    made = []
    for each in (pipe, loaded):
        each.set_progress_bar_config(disable=True)
        made.append(each("rain", generator=torch.Generator().manual_seed(0), **call).audios)
    assert np.abs(made[0] - made[1]).max() <= CLOSE
    assert ModelCard.load(NAME).data.pipeline_tag == "text-to-audio"
