# SPDX-License-Identifier: Apache-2.0
"""The pipeline with a model in sequential mode: slots go from segment to segment, and no further."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from promises_pipeline import audio, recording
from tiny_audioslots import tiny_audioslots

from hubsep.pipelines import AudioSeparationPipeline
from hubsep.pipelines.separation.order import Carrier


RATE, CHUNK = 8_000, 1_024
TWO_CHUNKS = 2 * CHUNK / RATE


def sequential(**fields: Any) -> tuple[Any, None]:
    """A tiny model in which the past matters: slots grow apart, and what they hold moves the masks."""
    model, _ = tiny_audioslots(sequential=True, slot_encoder="slot_attention", **fields)
    assert model.slots.carry is not None
    with torch.no_grad():
        for layer in model.decoder.parameters():
            layer.mul_(1.5)
        model.slots.carry.weight.mul_(4)
    return model, None


@pytest.fixture
def separate() -> AudioSeparationPipeline:
    return AudioSeparationPipeline(model=sequential()[0], device="cpu")


def even(blocks: int, channels: int = 1, seed: int = 0) -> np.ndarray:
    """A recording whose every half chunk is as loud, so that all segments get the gain of the whole."""
    parts = recording(blocks * CHUNK // 2, channels, seed).reshape(channels, blocks, -1)
    return (0.1 * parts / np.sqrt(np.square(parts).mean(axis=-1, keepdims=True))).reshape(channels, -1)


@torch.no_grad()
def whole(separate: AudioSeparationPipeline, mixture: np.ndarray) -> np.ndarray:
    return separate.model(torch.from_numpy(mixture)[None].float()).sources[0].numpy()


@pytest.mark.parametrize("options", [{}, {"segment_s": 3 * TWO_CHUNKS}, {"batch_size": 4}])
def test_segments_give_what_the_whole_recording_gives(separate: AudioSeparationPipeline, options: dict[str, Any]):
    """Cut where chunks start, with two chunks of overlap: only the edges of the Fourier transform differ."""
    mixture = even(41).astype(np.float32)
    sources = audio(separate(mixture, sampling_rate=RATE, overlap_s=TWO_CHUNKS, **options))
    expected = whole(separate, mixture)
    # 3.3e-4 of 0.27 is what the edges make; an order of slots lost would make 0.27
    assert np.abs(sources - expected).max() <= 1e-3


def test_without_the_past_it_is_another_result(separate: AudioSeparationPipeline, monkeypatch: pytest.MonkeyPatch):
    mixture = even(41).astype(np.float32)
    monkeypatch.setattr(separate.model, "slots_at", lambda slots, samples: 0 * slots[:, 0])
    sources = audio(separate(mixture, sampling_rate=RATE, overlap_s=TWO_CHUNKS))
    assert np.abs(sources - whole(separate, mixture)).max() > 1e-2


def test_recordings_and_channels_have_a_past_of_their_own(separate: AudioSeparationPipeline):
    recordings = [even(25, seed=seed).astype(np.float32) for seed in (1, 2)]
    inputs = [{"array": array, "sampling_rate": RATE} for array in (*recordings, np.concatenate(recordings))]
    first, second, both = (audio(result) for result in separate(inputs, batch_size=3))
    assert np.array_equal(audio(separate(inputs[1])), second)
    assert np.array_equal(both[:, :1], first)
    apart = np.abs(np.sort(both[:, 1], axis=0) - np.sort(second[:, 0], axis=0)).max()
    assert apart <= 5e-3  # of 0.27; the order of the second channel is found segment by segment, so fades may cross


def test_a_silent_channel_waits():
    model, _ = sequential()
    carrier = Carrier(model, 2 * CHUNK)
    calls: list[dict[str, torch.Tensor]] = []

    @torch.no_grad()
    def forward(inputs: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        calls.append(inputs)
        output = model(**inputs)
        return {"sources": output.sources, "slots": output.slots}

    rows = torch.from_numpy(recording(4 * CHUNK, 2))[:, None]
    heard, unheard = torch.tensor([True, True]), torch.tensor([True, False])
    for number, audible in enumerate((heard, unheard, heard)):
        found = carrier.forward(forward, rows, audible)
        assert found["sources"].shape == (int(audible.sum()), 2, 1, 4 * CHUNK)
        assert number or all("previous_slots" not in call for call in calls)
    with torch.no_grad():
        slots = model(rows[1:]).slots
    assert torch.equal(calls[-1]["previous_slots"], model.slots_at(slots, 2 * CHUNK))
    carrier.end()
    carrier.forward(forward, rows, heard)
    assert "previous_slots" not in calls[-1]


def test_the_slots_of_a_later_start_are_those_of_the_chunk_before_it():
    model, _ = sequential()
    slots = torch.arange(7.0)[None, :, None, None].expand(1, 7, 2, 16)
    for samples, chunk in ((0, 0), (CHUNK // 2, 0), (CHUNK, 1), (2 * CHUNK, 3), (2 * CHUNK + 100, 3), (9 * CHUNK, 6)):
        assert model.slots_at(slots, samples).unique().tolist() == [chunk]
