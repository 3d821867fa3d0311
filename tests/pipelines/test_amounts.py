# SPDX-License-Identifier: Apache-2.0
"""More sound at once than is made is refused before any work, and memory that is not there is one clear error."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from tiny_audioldm2 import tiny_audio_mae, tiny_components
from tiny_conv_tasnet import tiny_conv_tasnet

import hubsep
from hubsep import AudioLDM2Pipeline
from hubsep.batch.explain import explain
from hubsep.errors import HubsepError, QueryError, TooLittleMemoryError
from hubsep.pipelines.amounts import memory_errors


RATE = 16_000
TONE = (0.3 * np.sin(np.arange(RATE // 5) / 9)).astype(np.float32)
LONG = np.tile(TONE, 5 * 60)  # a minute


@pytest.fixture(scope="module")
def pipe() -> Any:
    pipe = AudioLDM2Pipeline(**tiny_components(), audio_mae=tiny_audio_mae())
    pipe.set_progress_bar_config(disable=True)
    return pipe


ASKED: dict[str, tuple[Callable[[Any], Any], str]] = {
    "candidates": (
        lambda pipe: pipe("rain", num_waveforms_per_prompt=64, seconds=100),
        "1 prompts with num_waveforms_per_prompt=64 of 100 seconds are 6400 s",
    ),
    "prompts": (
        lambda pipe: pipe(["rain"] * 37, seconds=100),
        "37 prompts with num_waveforms_per_prompt=1 of 100 seconds are 3700 s",
    ),
    "both": (
        lambda pipe: pipe(["rain"] * 10, num_waveforms_per_prompt=10, audio_length_in_s=36.5),
        "10 prompts with num_waveforms_per_prompt=10 of 36.5 seconds are 3650 s",
    ),
    "a million prompts": (lambda pipe: pipe(["rain"] * 1_000_000), "1000000 prompts with .* s of sound at once"),
    "embeddings": (
        lambda pipe: pipe(
            prompt_embeds=torch.zeros(400, 2, 4), generated_prompt_embeds=torch.zeros(400, 2, 4), seconds=10
        ),
        "400 prompts with",
    ),
    "a batch": (
        lambda pipe: hubsep.pipeline("text-to-audio", model=pipe)(["rain"] * 40, batch_size=40, seconds=100),
        "40 prompts with num_waveforms_per_prompt=1 of 100 seconds are 4000 s",
    ),
    "variations": (
        lambda pipe: pipe.vary(LONG, variations=64, sampling_rate=RATE),
        "variations=64 of a recording of 60 seconds are 3840 s",
    ),
    "weights": (
        lambda pipe: pipe.interpolate("rain", "wind", [0.5] * 400, seconds=10),
        "400 weights of 10 seconds are 4000 s",
    ),
}


@pytest.mark.parametrize("kind", ASKED)
def test_more_sound_at_once_than_is_made(kind: str, pipe: Any) -> None:
    ask, says = ASKED[kind]
    with pytest.raises(QueryError, match=f"{says}.*at most 3600 are made: ask for fewer or shorter ones") as caught:
        ask(pipe)
    assert "\n" not in str(caught.value)


def test_as_much_as_is_made_at_once_is_not_refused(pipe: Any) -> None:
    pipe.check_together(["rain"] * 6, None, 6, 100.0)
    pipe.check_together("rain", None, 1, 3_600)
    assert pipe(["rain"] * 2, num_inference_steps=1, seconds=0.1).audios.shape == (2, RATE // 10)


class Ends(Exception):
    """Raised by a callback."""


def too_much(*arguments: object) -> None:
    """Asks PyTorch's allocator for more than any computer has."""
    torch.empty(2**55, dtype=torch.uint8)


QUICK: dict[str, Any] = {"num_inference_steps": 1, "callback_on_step_end": too_much}
WORK: dict[str, Callable[[Any], Any]] = {
    "prompt": lambda pipe: pipe("rain", seconds=0.1, **QUICK),
    "stream": lambda pipe: list(pipe.stream("rain", seconds=0.1, **QUICK)),
    "vary": lambda pipe: pipe.vary(TONE, sampling_rate=RATE, **QUICK),
    "continue": lambda pipe: pipe.continue_audio(TONE, seconds=0.1, sampling_rate=RATE, **QUICK),
    "inpaint": lambda pipe: pipe.inpaint(TONE, 0.05, 0.1, sampling_rate=RATE, **QUICK),
    "interpolate": lambda pipe: pipe.interpolate("rain", "wind", [0.5], seconds=0.1, **QUICK),
    "text-to-audio": lambda pipe: hubsep.pipeline("text-to-audio", model=pipe)("rain", seconds=0.1, **QUICK),
}
SEPARATION = ["call", "several", "stream", "file"]


def refused(work: Callable[[], Any]) -> None:
    with pytest.raises(
        TooLittleMemoryError, match=r"there is not enough memory for this .*; make less at once: "
    ) as caught:
        work()
    assert isinstance(caught.value, HubsepError | MemoryError)
    assert "\n" not in str(caught.value)
    assert explain(caught.value).endswith("or --low-memory"), "a command names its own options"


@pytest.mark.parametrize("kind", WORK)
def test_too_little_memory_to_make_sounds(kind: str, pipe: Any) -> None:
    refused(lambda: WORK[kind](pipe))


@pytest.mark.parametrize("kind", SEPARATION)
def test_too_little_memory_to_separate(kind: str, tmp_path: Any) -> None:
    model = tiny_conv_tasnet()[0]
    separate = hubsep.pipeline("audio-separation", model=model)
    rate = model.config.sampling_rate
    source = {"array": TONE[None], "sampling_rate": rate}
    work: dict[str, Callable[[], Any]] = {
        "call": lambda: separate(source, on_progress=too_much),
        "several": lambda: list(separate(iter([source]), on_progress=too_much)),
        "stream": lambda: list(separate.stream(source, on_progress=too_much)),
        "file": lambda: separate.separate_file(source, tmp_path, on_progress=too_much),
    }
    refused(work[kind])
    assert not list(tmp_path.iterdir())


def test_other_errors_stay_what_they_are(pipe: Any) -> None:
    def ends(*arguments: object) -> None:
        raise Ends

    with pytest.raises(Ends):
        pipe("rain", num_inference_steps=1, seconds=0.1, callback_on_step_end=ends)
    for error in (RuntimeError("another one"), KeyError("memory"), QueryError("out of memory")):
        with pytest.raises(type(error)) as caught, memory_errors():
            raise error
        assert caught.value is error
    with pytest.raises(TooLittleMemoryError, match="MemoryError"), memory_errors():
        raise MemoryError
