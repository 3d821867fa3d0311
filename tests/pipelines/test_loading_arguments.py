# SPDX-License-Identifier: Apache-2.0
"""What loading, saving, pushing and converting are told in Python: values of the wrong kind are one error of ours."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from tiny_conv_tasnet import tiny_conv_tasnet

import hubsep
from hubsep.errors import HubsepError


build: Any = hubsep.pipeline


FIXED, WORDS, SOUNDS = "conv-tasnet-small", "audiosep-small", "audioldm2-tiny"
PLACES: list[Any] = [3, 1.5, b"conv-tasnet-small", [], {}, (), object(), True]
PRECISIONS: list[Any] = ["nonsense", "int8", torch.int32, 3, np.float32, "complex64", torch.complex64, "float8_e4m3fn"]
DEVICES: list[Any] = ["x", "", "gpu", 999, "cuda:99", "meta", [], 1.5, True]
MAPS: list[Any] = ["x", -1, 999, [], {"": "cuda:99"}, {3: "cpu"}]
OPTIONS: list[Any] = [3, "x", [], {1: 2}]
# each is wrong for every model that separates, and said to be so with its name and value
WRONG: dict[str, list[Any]] = {
    "dtype": PRECISIONS,
    "torch_dtype": PRECISIONS,
    "device": DEVICES,
    "device_map": MAPS,
    "model_kwargs": OPTIONS,
    "revision": ["x", 3],
    "token": [3],
    "cache_dir": [3],
    "local_files_only": ["x", 3],
    "force_download": ["x"],
    "commercial": ["x"],
    "adapter": PLACES,
    "adapter_revision": ["x"],
    "processor": ["nope", 3],
    "tokenizer": ["x"],
    "feature_extractor": ["x"],
    "config": ["x"],
    "pipeline_class": [print],
    "use_fast": [3],
}


def refusal(call: Callable[[], Any]) -> str:
    """What is said of a call, in one line."""
    with pytest.raises(HubsepError) as caught:
        call()
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 700
    return str(caught.value)


@pytest.mark.parametrize("value", PLACES, ids=lambda value: type(value).__name__)
def test_models_that_are_no_names_are_refused_as_such(value: Any) -> None:
    for load in (
        lambda: build(model=value),
        lambda: build("text-to-audio", value),
        lambda: hubsep.AutoModelForAudioSeparation.from_pretrained(value),
        lambda: hubsep.AudioLDM2Pipeline.from_pretrained(value),
        lambda: hubsep.AudioSepProcessor.from_pretrained(value),
        lambda: hubsep.convert(value),
        lambda: hubsep.convert("spleeter", value),
        lambda: hubsep.convert("spleeter", "here", value, licence="mit"),
    ):
        assert f"({type(value).__name__})" in refusal(load)


@pytest.mark.parametrize("name", WRONG)
def test_arguments_of_the_wrong_kind_and_those_nothing_uses_are_refused_by_their_names(name: str) -> None:
    for value in WRONG[name]:
        assert name in refusal(partial(build, model=FIXED, **{name: value})), value
    if name not in ("adapter", "adapter_revision", "processor", "tokenizer", "feature_extractor", "torch_dtype"):
        for value in WRONG[name]:
            sounds: Any = {name: value}
            assert name in refusal(partial(build, "text-to-audio", SOUNDS, **sounds)), value


def test_folders_on_this_computer_have_no_revision(tmp_path: Path) -> None:
    tiny_conv_tasnet()[0].save_pretrained(tmp_path / "model")
    here = str(tmp_path / "model")
    for load in (
        lambda **how: build(model=here, **how),
        lambda **how: build(model=here, adapter=here, adapter_revision=how["revision"]),
        lambda **how: hubsep.AutoModelForAudioSeparation.from_pretrained(here, **how),
        lambda **how: hubsep.ConvTasNetForAudioSeparation.from_pretrained(FIXED, **how),
        lambda **how: hubsep.AudioSepProcessor.from_pretrained(WORDS, **how),
        lambda **how: hubsep.AudioLDM2Pipeline.from_pretrained(SOUNDS, **how),
    ):
        assert "revision='v1' is of a repository of the Hub" in refusal(partial(load, revision="v1"))
    hubsep.AutoModelForAudioSeparation.from_pretrained(here, revision="main")


def test_what_is_about_loading_is_refused_for_a_model_that_is_loaded() -> None:
    model = tiny_conv_tasnet()[0]
    options: list[dict[str, Any]] = [
        {"dtype": "float16"}, {"device_map": "cpu"}, {"model_kwargs": {"strict": False}}, {"revision": "main"}
    ]  # fmt: skip
    for option in options:
        says = refusal(partial(build, model=model, **option))
        assert "loaded already" in says
        assert next(iter(option)) in says
    build(model=model, device="cpu", dtype="auto")


@pytest.mark.parametrize(
    ("task", "says"),
    [
        ("audio-seperation", "Did you mean audio-separation"),
        ("source-separation", "Did you mean audio-separation"),
        ("text-to-adio", "Did you mean text-to-audio"),
        ("", "task is ''"),
        (FIXED, f"pass it as model='{FIXED}'"),
        (None, "task must be a text, got None"),
        (3, "task must be a text, got 3"),
    ],
)
def test_tasks_that_there_are_not(task: Any, says: str) -> None:
    assert says in refusal(lambda: build(task))


def test_the_older_name_of_the_precision_holds() -> None:
    assert build(model=FIXED, torch_dtype="float16", device="cpu").model.dtype == torch.float16
    assert "leave torch_dtype out" in refusal(lambda: build(model=FIXED, torch_dtype="float16", dtype="float32"))


def test_arguments_of_from_pretrained_that_transformers_cannot_do() -> None:
    load: Any = hubsep.AutoModelForAudioSeparation.from_pretrained
    options: list[dict[str, Any]] = [
        {"nonsense": 3}, {"subfolder": 3}, {"attn_implementation": "flash_attention_2"}, {"quantization_config": {}},
        {"dtype": "int8"}, {"device_map": "x"}, {"token": 3},
    ]  # fmt: skip
    for option in options:
        refusal(partial(load, FIXED, **option))
    sounds: Any = hubsep.AudioLDM2Pipeline.from_pretrained
    for option in ({"unet": 3}, {"vae": "x"}, {"variant": 3}, {"strict": "x"}, {"on_demand": 3}, {"device_map": []}):
        assert next(iter(option)) in refusal(partial(sounds, SOUNDS, **option))


def test_devices_that_are_not_there_are_refused_for_the_pipeline_of_transformers_too() -> None:
    build: Any = transformers.pipeline
    assert "device='cuda:99'" in refusal(
        lambda: build("audio-separation", model=tiny_conv_tasnet()[0], device=torch.device("cuda:99"))
    )


def test_arguments_of_saving_and_pushing(tmp_path: Path) -> None:
    model: Any = tiny_conv_tasnet()[0]
    separate: Any = build(model=model, device="cpu")
    places: tuple[Any, ...] = (3, None, b"x", [], "a\0b")
    for place in places:
        for owner in (model, separate):
            assert "save_directory" in refusal(partial(owner.save_pretrained, place))
    sizes: tuple[Any, ...] = ("x", [], -1, "15", 1.5, None)
    for size in sizes:
        says = refusal(partial(model.save_pretrained, tmp_path / "model", max_shard_size=size))
        assert "max_shard_size" in says
    assert "variant" in refusal(lambda: model.save_pretrained(tmp_path / "model", variant=3))
    assert not list(tmp_path.iterdir())
    options: list[dict[str, Any]] = [
        {"card": 3}, {"token": 3}, {"private": "x"}, {"revision": 3}, {"tags": 3}, {"tags": [3]},
        {"commit_message": 3}, {"create_pr": "x"},
    ]  # fmt: skip
    for option in options:
        assert refusal(partial(model.push_to_hub, "a/b", **option)).startswith(next(iter(option)))
