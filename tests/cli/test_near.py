# SPDX-License-Identifier: Apache-2.0
"""Mistyped names are answered with the one that was meant: models, options, repositories fetched before."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tiny_audiosep import tiny_audiosep

from hubsep.errors import CheckpointError
from hubsep.hub import resolve_folder
from hubsep.pipelines import AudioSeparationPipeline
from hubsep.pipelines.separation.options import SYNONYMS, SeparationOptions
from hubsep.shipped import SHIPPED
from hubsep.texts import did_you_mean, near


@pytest.mark.parametrize(
    ("name", "meant"),
    [
        ("conv-tasnet-smal", "conv-tasnet-small"), ("convtasnet-small", "conv-tasnet-small"),
        ("conv_tasnet_small", "conv-tasnet-small"), ("Audiosep-Small", "audiosep-small"),
        ("audiosep", "audiosep-small"), ("spleeter-small-2stem", "spleeter-small-2stems"),
        ("audioldm2", "audioldm2-tiny"), ("demucs", None), ("gpt2", None), ("", None), ("/", None),
    ],
)  # fmt: skip
def test_the_model_that_was_meant(name: str, meant: str | None):
    assert near(name, SHIPPED) == meant


def test_nothing_is_guessed_where_nothing_is_near():
    assert did_you_mean("xyzzy", SHIPPED) == ""
    assert did_you_mean("steps", ["num_inference_steps"], {"steps": "num_inference_steps"}) == (
        " Did you mean num_inference_steps?"
    )


def test_a_mistyped_model_is_no_matter_of_the_network():
    with pytest.raises(CheckpointError, match=r"no model 'conv-tasnet-smal'\. Did you mean conv-tasnet-small\?"):
        resolve_folder("conv-tasnet-smal")


def test_a_repository_that_was_fetched_before_is_suggested(tmp_path: Path):
    (tmp_path / "models--somebody--great-separator").mkdir()
    with pytest.raises(CheckpointError, match=r"Did you mean somebody/great-separator\?"):
        resolve_folder("somebody/great-seperator", cache_dir=tmp_path, local_files_only=True)


@pytest.mark.parametrize(
    ("option", "meant"),
    [("query", "queries"), ("text", "queries"), ("stems", "sources"), ("sr", "sampling_rate"), ("qeries", "queries")],
)
def test_a_mistyped_option_names_the_one_that_was_meant(option: str, meant: str):
    model, processor = tiny_audiosep()
    separate: Any = AudioSeparationPipeline(model=model, processor=processor, device="cpu", queries="rain")
    mixture = {"array": np.zeros((1, 9_000), np.float32), "sampling_rate": 8_000}
    for call in (separate, separate.stream):
        with pytest.raises(TypeError, match=rf"unknown option {option}\. Did you mean {meant}\?"):
            call(mixture, **{option: "rain"})
    with pytest.raises(TypeError, match=rf"Did you mean {meant}\?"):
        AudioSeparationPipeline(model=model, processor=processor, device="cpu", **{option: "rain"})


def test_every_synonym_stands_for_an_option():
    assert set(SYNONYMS.values()) <= set(SeparationOptions.__dataclass_fields__)
    assert not set(SYNONYMS) & set(SeparationOptions.__dataclass_fields__)
