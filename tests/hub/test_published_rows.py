# SPDX-License-Identifier: Apache-2.0
"""Every row of the table of published checkpoints is opened: from a file of its keys, at tiny shapes.

What the process that converts would be told is done here, without the process.
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import published_conv_tasnet
import pytest
import tiny_audioldm2
from hub_server import HubServer
from published_rows import INSTRUMENTS, MAKE, Tiny, command_words, rate_of, speakers_of, stems_of
from transformers import AutoConfig

from hubsep import AudioLDM2Pipeline
from hubsep.cli.main import main
from hubsep.conversion.apart import answer_of
from hubsep.hub.converting import job_of, options_of
from hubsep.hub.published import Published, published
from hubsep.registry import SYSTEMS, locate


FETCHED = [row for row in published().values() if row.page is None and not row.opens]
BY_HAND = [row for row in published().values() if row.page is not None]
AS_THEY_ARE = [row for row in published().values() if row.opens]
# what rows of these names differ in, beside sources and rate: all that hold
VARIANTS: list[tuple[str, dict[str, Any]]] = [
    ("torchaudio:", {"pad_edges": True, "norm": "gln"}),
    ("ConvTasNet_", {"pad_edges": False, "mask_activation": "relu"}),
    (r"spleeter:\dstems(-finetune)?$", {"num_bins": 1_024}),
    ("spleeter:.*16kHz", {"num_bins": 1_536}),
    ("spleeter:[24]stems", {"mask_activation": "sigmoid"}),
    ("spleeter:2stems", {"encoder_activation": "leaky_relu", "decoder_activation": "relu"}),
    ("spleeter:[45]stems", {"encoder_activation": "elu", "decoder_activation": "elu"}),
    ("spleeter:5stems", {"mask_activation": "softmax"}),
    ("AudioSep", {"is_text_queried": True}),
    ("meta-tasnet", {"num_stages": 3, "generated": True}),
]
pytestmark = pytest.mark.filterwarnings("ignore:the weights do not tell these")


def named(row: Published) -> str:
    return row.name


def converted(row: Published, tiny: Tiny, output: Path) -> dict[str, Any]:
    """What the process answers that converts by name."""
    options = options_of(row, {name: tiny.companions[name] for name in row.companions})
    job = job_of(row, tiny.files, output, {**options, **tiny.untold})
    return answer_of(json.loads(json.dumps(job)))


def assert_as_the_row_says(row: Published, folder: Path) -> None:
    system = SYSTEMS[row.system]
    model = locate(row.opened_with or system.model or system.pipeline or "").from_pretrained(folder)
    if row.system == "audioldm2":
        is_speech = getattr(model, "is_speech", False)
        assert (is_speech, model.vocoder.config.sampling_rate) == ("speech" in row.does, row.sampling_rate)
        return
    config = model.config
    assert (config.model_type, config.sampling_rate) == (row.system, row.sampling_rate)
    if row.system != "audiomae" and not config.is_text_queried:
        names = config.source_names
        assert names == row.sources if isinstance(row.sources, tuple) else len(names) == row.sources
    for words, fields in VARIANTS:
        if any(re.search(words, name) for name in (row.name, *row.aliases)):
            assert {name: getattr(config, name) for name in fields} == fields


@pytest.mark.parametrize("row", FETCHED, ids=named)
def test_a_row_that_opens_by_name(row: Published, tmp_path: Path) -> None:
    tiny = MAKE[row.system](row, tmp_path)
    assert converted(row, tiny, tmp_path / "model") == {"licence": row.licence}
    assert_as_the_row_says(row, tmp_path / "model")


@pytest.mark.parametrize("row", BY_HAND, ids=named)
def test_a_row_that_opens_after_the_command_it_names(
    row: Published, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    tiny = MAKE[row.system](row, tmp_path)
    words = command_words(row, tiny.files[0], tmp_path / "model", {**tiny.companions, **tiny.untold})
    assert main(words) == 0, capsys.readouterr().err
    assert_as_the_row_says(row, tmp_path / "model")


@pytest.fixture(scope="module")
def diffusers_folders(tmp_path_factory: pytest.TempPathFactory) -> dict[bool, dict[str, bytes]]:
    """Contents by path, without and with speech."""
    folders = {speech: tmp_path_factory.mktemp("theirs") / "folder" for speech in (False, True)}
    for speech, folder in folders.items():
        tiny_audioldm2.published_folder(folder, tiny_audioldm2.tiny_components(speech=speech))
    return {
        speech: {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}
        for speech, folder in folders.items()
    }


@pytest.mark.parametrize("row", AS_THEY_ARE, ids=named)
def test_a_row_that_opens_as_it_is(
    row: Published, hub: HubServer, diffusers_folders: dict[bool, dict[str, bytes]]
) -> None:
    speech = "speech" in row.does
    hub.publish(row.name, diffusers_folders[speech])
    pipe = AudioLDM2Pipeline.from_pretrained(row.name)
    assert (pipe.is_speech, pipe.vocoder.config.sampling_rate) == (speech, row.sampling_rate)


def test_sources_and_rates_are_those_of_the_names() -> None:
    for row in published().values():
        if row.system in ("sepformer", "conv_tasnet"):
            assert (row.sources, row.sampling_rate) == (speakers_of(row.name), rate_of(row.name)), row.name
        if row.system in ("spleeter", "meta_tasnet"):
            assert row.sources == (stems_of(row.name) if row.system == "spleeter" else INSTRUMENTS), row.name
        assert ("speech from noise" in row.does) == (row.sources == 1 and row.system != "audiosep"), row.name


@pytest.mark.parametrize(
    "name",
    ["speechbrain/sepformer-whamr16k", "JorisCos/ConvTasNet_Libri2Mix_sepclean_16k"],
    ids=["sepformer", "tasnet"],
)
def test_a_file_that_does_not_say_its_rate_has_that_of_its_row_and_one_that_says_another_is_refused(
    name: str, tmp_path: Path
) -> None:
    row = published()[name]
    for said in (None, 8_000):
        place = tmp_path / str(said)
        place.mkdir()
        tiny = MAKE[row.system](row, place)
        if row.system == "sepformer":
            text = (place / "published" / "hyperparams.yaml").read_text()
            line = "" if said is None else f"sample_rate: {said}"
            (place / "published" / "hyperparams.yaml").write_text(text.replace("sample_rate: 16000", line))
        else:
            stated: dict[str, Any] = {"sample_rate": ... if said is None else said}
            published_conv_tasnet.write_asteroid(tiny.files[0], published_conv_tasnet.tensors(), **stated)
        answer = converted(row, tiny, place / "model")
        if said is None:
            assert AutoConfig.from_pretrained(place / "model").sampling_rate == 16_000
        else:
            assert re.search("sampling_rate is 8000 in .*; it cannot be 16000", answer["error"])
