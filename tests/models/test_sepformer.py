# SPDX-License-Identifier: Apache-2.0
"""SepFormer: what every model promises, and what its chunks, filterbanks and short cuts have to give."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from promises_model import ModelPromises, noise
from rounding import TINY_MODEL, assert_same
from tiny import recompute
from tiny_sepformer import tiny_sepformer
from torch import Tensor

from hubsep.errors import CheckpointError
from hubsep.layers import overlap_add
from hubsep.models.sepformer import modeling_sepformer
from hubsep.models.sepformer.configuration_sepformer import SepFormerConfig
from hubsep.models.sepformer.modeling_sepformer import AttentionInputs, SepFormerForAudioSeparation, position_table


def two_speakers() -> tuple[SepFormerForAudioSeparation, dict[str, Any]]:
    return tiny_sepformer(loss="sdr")  # the promise of learning has nothing for a loss that is blind to scale


def enhancer() -> tuple[SepFormerForAudioSeparation, dict[str, Any]]:
    return tiny_sepformer(num_sources=1, sampling_rate=16_000, loss="l1")


def wide_filters() -> tuple[SepFormerForAudioSeparation, dict[str, Any]]:
    return tiny_sepformer(num_sources=3, encoder_kernel_size=32, encoder_stride=16, hidden_size=24, loss="si_sdr")


class TestTwoSpeakers(ModelPromises):
    build = staticmethod(two_speakers)


class TestEnhancement(ModelPromises):
    build = staticmethod(enhancer)


class TestThreeSpeakers(ModelPromises):
    build = staticmethod(wide_filters)


def both_ways(model: SepFormerForAudioSeparation, mixture: Tensor) -> tuple[Tensor, Tensor]:
    """Sources when nothing is learnt, and as in training."""
    with torch.no_grad():
        sources = model(mixture).sources
    return sources, model(mixture).sources.detach()


@pytest.mark.parametrize("rows", [1, 30, 2_000])
def test_groups_in_place_give_what_training_gives(rows: int, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(modeling_sepformer.GROUP_ROWS, "cpu", rows)
    model, _ = tiny_sepformer()
    mixture = noise(3, 1, 1_000)
    before = mixture.clone()
    assert_same(*both_ways(model, mixture), **TINY_MODEL)
    assert torch.equal(mixture, before)


def test_statistics_of_half_precision_are_taken_in_pieces(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(modeling_sepformer, "PIECE_ELEMENTS", 100)
    x = (100 + noise(2, 50, 7, 4)).to(torch.bfloat16)
    mean, variance = modeling_sepformer._moments(x, in_pieces=True)
    exact = x.double().flatten(1)
    assert_same(mean.flatten(), exact.mean(dim=1).float(), terms=50 * 7 * 4)
    assert_same(variance.flatten(), exact.var(dim=1, correction=0).float(), terms=50 * 7 * 4)


@pytest.mark.parametrize("attention", ["eager", "sdpa"])
def test_attention_implementations_agree(attention: str):
    model, _ = tiny_sepformer()
    mixture = noise(1, 1, 3_000)
    expected = both_ways(model, mixture)[0]
    model.set_attn_implementation(attention)
    assert_same(both_ways(model, mixture)[0], expected, **TINY_MODEL)


@torch.no_grad()
def test_attention_as_two_products_is_the_fused_one(monkeypatch: pytest.MonkeyPatch):
    model, mixture = tiny_sepformer()[0].to(torch.bfloat16), noise(2, 1, 3_000)
    sources = model(mixture).sources
    monkeypatch.setattr(modeling_sepformer, "UNFUSED_LENGTH", 0)
    fused = model(mixture).sources
    assert not torch.equal(sources, fused), "there is one way only"
    error = (sources - fused).square().sum() / fused.square().sum()
    assert -10 * torch.log10(error) > 35  # dB, the rounding of bfloat16


def test_more_chunks_than_the_original_has_positions():
    model, _ = tiny_sepformer(chunk_size=4, encoder_kernel_size=4, encoder_stride=2, num_blocks=1)
    mixture = noise(1, 1, 12_000)
    chunks = model.masker._chunks(torch.zeros(1, 5_999, 16))
    assert chunks.shape[1] > 2_990
    sources, as_trained = both_ways(model, mixture)
    assert_same(sources, as_trained, **TINY_MODEL)
    with torch.no_grad():
        shorter = model(mixture[..., :11_000]).sources
    assert (sources[..., :11_000] - shorter).abs().max() > 0, "the whole recording is seen at once"


def test_positions():
    table = position_table(4_000, 6)
    for place in (0, 1, 2_499, 3_999):
        for pair in range(3):
            angle = place / 10_000 ** (2 * pair / 6)
            expected = torch.tensor([math.sin(angle), math.cos(angle)])
            torch.testing.assert_close(table[place, 2 * pair : 2 * pair + 2], expected, atol=2e-4, rtol=0)


@pytest.mark.parametrize("frames", [1, 9, 10, 15, 20, 30, 31])
def test_every_frame_is_in_two_chunks(frames: int):
    masker = tiny_sepformer()[0].masker
    x = 1 + noise(2, frames, 16).abs()  # positive: the activation leaves it alone
    chunks = masker._chunks(x)
    gap = 20 - (10 + frames) % 20
    padded = F.pad(x, (0, 0, 10, gap + 10))
    assert chunks.shape[1] == 2 * (frames + gap + 10) // 20
    for number in range(chunks.shape[1]):
        assert torch.equal(chunks[:, number], padded[:, 10 * number : 10 * number + 20])
    assert torch.equal(masker._frames(chunks, frames), 2 * x)


@pytest.mark.parametrize(("kernel_size", "stride"), [(16, 8), (16, 4), (12, 12)])
def test_filterbanks_are_convolutions(kernel_size: int, stride: int):
    model, _ = tiny_sepformer(encoder_kernel_size=kernel_size, encoder_stride=stride)
    waveform = noise(2, 1_003)
    features = model.encoder(waveform)
    expected = F.relu(F.conv1d(waveform[:, None], model.encoder.weight[:, None], stride=stride))
    assert_same(features, expected.transpose(1, 2), terms=16)
    samples = (features.shape[1] - 1) * stride + kernel_size
    decoded = overlap_add(model.decoder(features.unsqueeze(2)), stride)[:, 0]
    expected = F.conv_transpose1d(features.transpose(1, 2), model.decoder.weight.T[:, None], stride=stride)[:, 0]
    assert decoded.shape[-1] == samples
    assert_same(decoded, expected, terms=64)
    assert not model(waveform[:, None]).sources[..., samples:].any()


def test_training_in_bfloat16_with_checkpointing():
    model, _ = tiny_sepformer()
    mixture = noise(2, 1, 3_000)
    labels = torch.stack([mixture, -mixture.flip(2)], dim=1)
    gradients = []
    for checkpointing in (False, True):
        if checkpointing:
            recompute(model)
        model.train().zero_grad()
        with torch.autocast("cpu", dtype=torch.bfloat16):
            output = model(mixture, labels=labels)
        assert output.sources.dtype == torch.float32
        output.loss.backward()
        gradients.append([parameter.grad for parameter in model.parameters()])
    assert all(torch.equal(first, second) for first, second in zip(*gradients, strict=True))


def test_it_learns_in_any_order_of_the_speakers():
    model, _ = tiny_sepformer()
    speakers = noise(1, 2, 1, 2_000)
    mixture = speakers.sum(dim=1)
    swapped = model(mixture, labels=speakers.flip(1)).loss
    assert torch.equal(model(mixture, labels=speakers).loss, swapped)
    optimizer = torch.optim.Adam(model.train().parameters(), lr=3e-3)
    for _ in range(10):
        loss = model(mixture, labels=speakers).loss
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    assert loss < swapped - 1  # dB


def test_a_new_model_has_xavier_weights_in_front_of_attention():
    model, _ = tiny_sepformer()
    attention = [module for module in model.modules() if isinstance(module, AttentionInputs)]
    assert attention
    for module in attention:
        bound = (6 / (module.in_features + module.out_features)) ** 0.5
        assert 0.9 * bound < module.weight.abs().max() <= bound


def test_names_and_order_of_the_sources():
    assert SepFormerConfig(num_sources=1).source_names == ("speech",)
    assert not SepFormerConfig(num_sources=1).unordered_sources
    assert SepFormerConfig(num_sources=3).source_names == ("speaker 1", "speaker 2", "speaker 3")
    assert SepFormerConfig().unordered_sources


@pytest.mark.parametrize(
    ("field", "value", "says"),
    [
        ("num_sources", 0, "num_sources is 0"),
        ("encoder_kernel_size", 10**9, "encoder_kernel_size is 1000000000"),
        ("encoder_stride", 7, "encoder_kernel_size is 16; it must divide by 7"),
        ("encoder_stride", 17, "encoder_stride is 17"),
        ("hidden_size", "256", "hidden_size must be a whole number"),
        ("num_attention_heads", 7, "hidden_size is 256; it must divide by 7"),
        ("chunk_size", 125, "chunk_size is 125; it must divide by 2"),
        ("num_intra_layers", 10**6, "num_intra_layers is 1000000"),
        ("layer_norm_eps", 0.0, "layer_norm_eps is 0.0"),
        ("global_norm_eps", float("nan"), "global_norm_eps is nan"),
        ("overlap_samples", 10**6, "overlap_samples is 1000000"),
        ("loss", "mse", "loss is 'mse'"),
        ("speakers", 2, "has no field 'speakers'"),
    ],
)
def test_absurd_configurations_are_refused(field: str, value: Any, says: str):
    with pytest.raises(CheckpointError, match=says):
        SepFormerConfig(**{field: value})


def test_an_odd_width_is_refused():
    with pytest.raises(CheckpointError, match="hidden_size is 15"):
        SepFormerConfig(hidden_size=15, num_attention_heads=5)


@pytest.mark.parametrize(("num_sources", "parameters"), [(1, 25_613_569), (2, 25_679_361), (3, 25_745_153)])
def test_the_published_sizes(num_sources: int, parameters: int):
    config = SepFormerConfig(num_sources=num_sources)
    with torch.device("meta"):
        model = SepFormerForAudioSeparation(config)
    assert model.num_parameters() == config.estimated_parameters() == parameters
