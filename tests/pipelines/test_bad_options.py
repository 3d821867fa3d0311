# SPDX-License-Identifier: Apache-2.0
"""Every option of every method of the pipelines, with values of the wrong kind: taken, or refused in our words."""

from __future__ import annotations

import inspect
import warnings
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch
from tiny_audioldm2 import tiny_audio_mae, tiny_components

import hubsep
from hubsep.errors import HubsepError


WRONG: list[Any] = [
    None, 3, -1, 10**9, 1.5, float("nan"), "", "x", b"x", True, [], [None], ["a", 3], {}, {"a": 1}, object(),
    np.zeros(3, np.float32), torch.zeros(2, 3),
]  # fmt: skip
SOUND = np.random.default_rng(0).standard_normal(4_000).astype(np.float32) / 10
QUICK = {"num_inference_steps": 1}
HEARD = {"audio": SOUND, "prompt": "rain", "sampling_rate": 16_000, **QUICK}
GENERATE: dict[str, dict[str, Any]] = {
    "__call__": {"prompt": "rain", "seconds": 0.05, **QUICK},
    "stream": {"prompt": "rain", "seconds": 0.05, **QUICK},
    "vary": HEARD,
    "continue_audio": {**HEARD, "seconds": 0.05},
    "inpaint": {**HEARD, "start": 0.05, "stop": 0.1},
    "super_resolve": {**HEARD, "cutoff": 4_000},
    "interpolate": {"first": "rain", "second": "dog", "weights": [0, 1], "seconds": 0.05, **QUICK},
}
SEPARATE = {"inputs": SOUND, "queries": ["rain"], "sampling_rate": 16_000}
# what takes a value of any kind, or is long where it is right
LEFT_OUT = {"return_dict", "unknown"}
LONG = {"seconds": (None, 3, True, 1.5), "audio_length_in_s": (None, 3, True, 1.5)}


@pytest.fixture(scope="module")
def generator() -> Any:
    pipe = hubsep.AudioLDM2Pipeline(**tiny_components(), audio_mae=tiny_audio_mae())
    pipe.set_progress_bar_config(disable=True)
    return pipe


@pytest.fixture(scope="module")
def separator() -> Any:
    return hubsep.pipeline(model="audiosep-small")


def options(method: Any) -> list[str]:
    return [name for name in inspect.signature(method).parameters if name not in LEFT_OUT]


def attempt(method: Any, arguments: dict[str, Any]) -> None:
    """A call, which may be refused by hubsep and by nobody else."""
    message = "taken"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            made = method(**arguments)
            if isinstance(made, Iterator):
                list(made)
        except HubsepError as error:
            message = str(error)
    assert message.isprintable()
    assert 0 < len(message) < 1_000


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "option"),
    [(name, option) for name in GENERATE for option in options(getattr(hubsep.AudioLDM2Pipeline, name))[1:]],
)
def test_every_option_of_generation_is_checked(generator: Any, name: str, option: str) -> None:
    for value in WRONG:
        if not any(value is long for long in LONG.get(option, ())):
            attempt(getattr(generator, name), {**GENERATE[name], option: value})


@pytest.mark.parametrize("option", ["prompt", "negative_prompt", "latents", "max_new_tokens", "generator", "solver"])
@pytest.mark.parametrize("value", [3, [None], object(), np.zeros(3)], ids=["3", "[None]", "object", "array"])
def test_options_of_generation_are_refused_in_our_words(generator: Any, option: str, value: Any) -> None:
    if isinstance(value, int) and option == "max_new_tokens":
        value = -value
    with pytest.raises(HubsepError):
        generator(**{**GENERATE["__call__"], option: value})


@pytest.mark.slow
def test_every_option_of_separation_is_checked(separator: Any) -> None:
    names = options(separator.__call__)
    assert {"residual", "segment_s", "query_embeds"} <= set(names)
    for option in names:
        for value in WRONG:
            attempt(separator, {**SEPARATE, option: value})


@pytest.mark.parametrize(
    ("option", "value", "message"),
    [
        ("residual", 3, "residual must be True or False, got 3"),
        ("rescale", "no", "rescale must be True or False"),
        ("model_options", [1], "model_options must be a dict"),
        ("on_progress", "x", "on_progress must be a function"),
        ("segment_s", "10", "segment_s must be a length in seconds, got '10'"),
        ("batch_size", 1.5, "batch_size must be a whole number from 1 on, got 1.5"),
        ("query_embeds", ["x"], "query_embeds must be numbers"),
    ],
)
def test_options_of_separation_are_refused_in_our_words(separator: Any, option: str, value: Any, message: str) -> None:
    arguments = {**SEPARATE, option: value}
    if option == "query_embeds":
        del arguments["queries"]
    with pytest.raises(HubsepError, match=message):
        separator(**arguments)


def test_a_segment_longer_than_any_recording_takes_the_memory_of_the_recording() -> None:
    pipe = hubsep.pipeline(model="conv-tasnet-small")
    whole = pipe(SOUND, sampling_rate=16_000, segment_s=1e9)
    usual = pipe(SOUND, sampling_rate=16_000)
    for one, other in zip(whole, usual, strict=True):
        np.testing.assert_array_equal(one["audio"], other["audio"])
