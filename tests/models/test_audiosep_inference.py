# SPDX-License-Identifier: Apache-2.0
"""AudioSep without gradients: folded norms and strips of frames give what the modules give one after the other."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from promises_model import noise
from rounding import TINY_MODEL, assert_same
from tiny_audiosep import tiny_audiosep

from hubsep import AudioSepForAudioSeparation
from hubsep.models.audiosep import modeling_audiosep as inference_audiosep


SMALL = {"input_features": "compressed", "film_gain": True, "normalize_input": True, "presence_head": True}
SAMPLES = 60_000  # 3,751 frames


def lively(**fields: Any) -> AudioSepForAudioSeparation:
    """A model whose norms have seen something, so that folding them is not folding the identity."""
    model, _ = tiny_audiosep(**fields)
    generator = torch.Generator().manual_seed(1)
    for name, tensor in model.state_dict().items():
        if ".norm." in name and tensor.ndim:
            tensor.copy_(torch.empty_like(tensor).uniform_(0.3, 1.5, generator=generator))
    return model


@pytest.mark.parametrize(
    ("fields", "batch"),
    [
        ({}, 1),
        (SMALL, 2),
        ({"encoder_strides": [[4, 2], [3, 2]]}, 1),
        ({"frequency_fold": 2, "query_hidden_size": 8}, 1),
    ],
    ids=["published", "small", "strides", "fold"],
)
def test_strips_and_folded_norms_change_nothing(fields: dict[str, Any], batch: int, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(inference_audiosep, "STRIP_BYTES", 2**19)
    model, mixture, embeds = lively(**fields), noise(batch, 1, SAMPLES), noise(2, 16, seed=3)
    frames = SAMPLES // model.config.hop_length
    bins = model.config.n_fft // 2 // model.config.frequency_fold
    assert batch * frames * bins * model.config.encoder_channels[0] * 4 > 2**19, "there is only one strip"
    plain = model(mixture, query_embeds=embeds)
    with torch.no_grad():
        fused = model(mixture, query_embeds=embeds)
    assert plain.sources.requires_grad
    assert plain.sources.abs().max() > 1e-2
    assert_same(fused.sources, plain.sources, **TINY_MODEL)
    if plain.presence_logits is not None:
        assert_same(fused.presence_logits, plain.presence_logits, **TINY_MODEL)


def test_changed_weights_are_seen_at_once():
    model, mixture, embeds = lively(), noise(1, 1, 4_000), noise(1, 16, seed=3)
    with torch.no_grad():
        before = model(mixture, query_embeds=embeds).sources
        model.get_buffer("unet.decoder.0.block.film2.norm.running_var").mul_(4)
        after = model(mixture, query_embeds=embeds).sources
    assert (after - before).abs().max() > 1e-4
    assert_same(model(mixture, query_embeds=embeds).sources, after, **TINY_MODEL)
