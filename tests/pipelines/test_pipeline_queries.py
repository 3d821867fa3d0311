# SPDX-License-Identifier: Apache-2.0
"""Queries of the audio-separation pipeline: texts, recordings, embeddings, negatives, scores, and what is refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile as sf
import torch
from promises_pipeline import audio, recording
from rounding import TINY_MODEL, assert_same
from tiny_audiosep import tiny_audiosep, tiny_audiosep_with_presence
from torch import Tensor, nn

from hubsep.errors import CheckpointError, QueryError
from hubsep.pipelines import AudioSeparationPipeline
from hubsep.pipelines.separation.scores import Scores


@pytest.fixture
def separate() -> AudioSeparationPipeline:
    model, processor = tiny_audiosep()
    return AudioSeparationPipeline(model=model, processor=processor, device="cpu")


def embeddings(separate: Any, texts: list[str]) -> Tensor:
    with torch.no_grad():
        return separate.model.encode_text(**separate.processor(text=texts, return_tensors="pt"))


def test_options_of_the_pipeline_are_defaults_of_its_calls():
    model, processor = tiny_audiosep()
    separate = AudioSeparationPipeline(
        model=model,
        processor=processor,
        device="cpu",
        queries="rain",
        residual=True,
        sampling_rate=8_000,
        batch_size=2,
    )
    mixture = recording(9_000)
    labels = lambda **options: [source["label"] for source in separate(mixture, **options)]  # noqa: E731
    assert labels() == ["rain", "residual"]
    assert labels(residual=False) == ["rain"]
    assert labels(queries=["bell", "car"]) == ["bell", "car", "residual"]
    assert labels(query_embeds=nn.functional.normalize(torch.ones(16), dim=0)) == ["query 1", "residual"]
    with pytest.raises(TypeError, match="unknown option query"):
        AudioSeparationPipeline(model=model, processor=processor, device="cpu", query="rain")


def test_queries_of_all_kinds_in_one_call(separate: AudioSeparationPipeline, tmp_path: Path):
    sf.write(tmp_path / "my bell.wav", recording(6_000, 2, seed=5).T, 16_000)
    rain, dog = embeddings(separate, ["rain", "dog barking"])
    mixture = {"array": recording(9_000), "sampling_rate": 8_000}
    sources = separate(
        mixture,
        queries=["rain", "dog barking"],
        query_audio=[tmp_path / "my bell.wav", {"array": recording(4_000, seed=6), "sampling_rate": 8_000}],
        query_embeds={"given": dog.numpy()},
    )
    assert [source["label"] for source in sources] == ["rain", "dog barking", "my bell", "example 2", "given"]
    waveforms = audio(sources)
    assert np.array_equal(waveforms[1], waveforms[4]), "the same embedding, once as text and once as numbers"
    for first in range(4):
        for second in range(first):
            assert np.abs(waveforms[first] - waveforms[second]).max() > 1e-5, "two queries gave the same"
    stacked = separate(mixture, query_embeds=torch.stack([rain, dog]))
    assert [source["label"] for source in stacked] == ["query 1", "query 2"]
    assert_same(audio(stacked), waveforms[:2], **TINY_MODEL, peak=1.0)
    named = separate(mixture, query_audio={"ding": tmp_path / "my bell.wav"})
    assert named[0]["label"] == "ding"
    assert_same(named[0]["audio"], waveforms[2], **TINY_MODEL, peak=1.0)
    alone = separate(mixture, queries="rain")
    assert_same(alone[0]["audio"], waveforms[0], **TINY_MODEL, peak=1.0)


def test_negative_queries_change_every_source(separate: AudioSeparationPipeline):
    mixture = {"array": recording(9_000), "sampling_rate": 8_000}
    plain = audio(separate(mixture, queries=["rain", "bell"]))
    without = audio(separate(mixture, queries=["rain", "bell"], negative_queries="car horn"))
    assert (np.abs(plain - without).max(axis=(1, 2)) > 1e-5).all()
    embeds = embeddings(separate, ["rain", "bell", "car horn"])
    with torch.no_grad():
        direct = separate.model(torch.from_numpy(recording(9_000)[None, :, :4_000]), embeds[:2], embeds[2:]).sources
    called = separate(
        {"array": recording(9_000)[:, :4_000], "sampling_rate": 8_000},
        queries=["rain", "bell"],
        negative_queries=["car horn"],
    )
    assert_same(audio(called), direct[0], **TINY_MODEL, peak=1.0)


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({}, "dog barking, rain"),
        ({"negative_queries": "rain"}, "pass queries"),
        ({"queries": []}, "empty list"),
        ({"queries": ["rain", ""]}, "a list of texts"),
        ({"queries": 5}, "a list of texts"),
        ({"queries": ["rain", "Rain "]}, "asked for twice"),
        ({"queries": ["rain", "residual"], "residual": True}, "asked for twice"),
        ({"queries": "rain", "query_embeds": {"rain": torch.eye(16)[0]}}, "asked for twice"),
        ({"query_embeds": torch.ones(16)}, "divide it by its norm"),
        ({"query_embeds": torch.full((16,), torch.nan)}, "length nan"),
        ({"query_embeds": torch.zeros(1, 1, 16)}, r"\(num_queries, dim\)"),
        ({"query_embeds": torch.eye(8)[0]}, "16"),
        ({"query_embeds": torch.eye(8)[0], "queries": "rain"}, "8 and 16"),
        ({"query_embeds": {3: torch.eye(16)[0]}}, "must be a text"),
        ({"query_audio": []}, "query_audio is empty"),
        ({"queries": "rain " * 40}, "tokens"),
    ],
)
def test_queries_that_cannot_be_answered(separate: AudioSeparationPipeline, options: dict[str, Any], says: str):
    with pytest.raises(QueryError, match=says):
        separate(recording(9_000), sampling_rate=8_000, **options)


def test_queries_are_checked_before_anything_is_read(separate: AudioSeparationPipeline):
    with pytest.raises(QueryError, match="pass queries"):
        separate.stream("there is no such file.wav")
    with pytest.raises(QueryError, match="pass queries"):
        separate(iter(["there is no such file.wav"]))


def test_a_processor_is_needed_for_texts_only():
    separate = AudioSeparationPipeline(model=tiny_audiosep()[0], device="cpu")
    with pytest.raises(CheckpointError, match="without a processor"):
        separate(recording(9_000), sampling_rate=8_000, queries="rain")
    assert separate(recording(9_000), sampling_rate=8_000, query_embeds=torch.eye(16)[0])[0]["label"] == "query 1"


def test_scores_say_what_the_model_is_surest_of():
    model, processor = tiny_audiosep_with_presence()
    separate = AudioSeparationPipeline(model=model, processor=processor, device="cpu")
    mixture = recording(8_000)
    with torch.no_grad():
        embeds = model.encode_text(**processor(text=["rain"], return_tensors="pt"))
        rows = [torch.from_numpy(mixture[None, :, start : start + 4_096]) for start in (0, 3_072, 6_144)]
        expected = torch.sigmoid(max(model(row, embeds).presence_logits[0, 0] for row in rows))
    found = separate(mixture, sampling_rate=8_000, queries="rain", residual=True)
    share = np.square(found[0]["audio"]).sum() / np.square(mixture).sum()  # in the one second there is
    assert found[0]["score"] == pytest.approx(float(expected) * share / (share + 1e-3), abs=1e-6)
    share = np.square(found[1]["audio"]).sum() / np.square(mixture).sum()
    assert found[1]["score"] == pytest.approx(min(1.0, share), rel=1e-5)


@pytest.mark.parametrize("block", [10**6, 777])
def test_what_is_nearly_silent_is_not_there(block: int):
    rng, presence = np.random.default_rng(0), torch.tensor([3.0])
    mixture, bark = np.zeros((1, 30_000), np.float32), np.zeros((1, 30_000), np.float32)
    mixture[:] = 0.1 * rng.standard_normal(mixture.shape)
    mixture[:, :8_000] = 0  # digital silence: nothing can be said of it
    bark[:, 16_000:24_000] = mixture[:, 16_000:24_000]  # all of the third second

    def score(level_db: float) -> float:
        scores = Scores(1, 8_000, residual=False, unordered=False)
        for start in range(0, mixture.shape[1], block):
            span = slice(start, start + block)
            scores.add(mixture[:, span], 10 ** (level_db / 20) * bark[None, :, span], presence)
        return scores.values()[0]

    said = float(torch.sigmoid(presence))
    expected = [said * share / (share + 1e-3) for share in (1.0, 1e-2, 1e-3, 1e-6)]
    assert [score(level) for level in (0, -20, -30, -60)] == pytest.approx(expected, rel=1e-4)
