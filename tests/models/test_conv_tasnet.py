# SPDX-License-Identifier: Apache-2.0
"""Conv-TasNet: what every model promises, its fast path, streaming, and its forms."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from promises_model import ModelPromises, noise
from rounding import TINY_MODEL, assert_same
from tiny_conv_tasnet import tiny_conv_tasnet
from torch import Tensor, nn

from hubsep import ConvTasNetConfig, ConvTasNetForAudioSeparation, ConvTasNetStream, SepFormerConfig
from hubsep.errors import AudioError, CheckpointError
from hubsep.layers import overlap_add
from hubsep.models.conv_tasnet import modeling_conv_tasnet as inference_conv_tasnet
from hubsep.models.conv_tasnet.configuration_conv_tasnet import LOSSES
from hubsep.models.conv_tasnet.modeling_conv_tasnet import ConvTasNetNorm, NormState


def published() -> Any:
    return tiny_conv_tasnet(loss="pit_snr")  # the promise to learn begins at what SI-SNR calls perfect


def causal() -> Any:
    return tiny_conv_tasnet(causal=True, norm="cgln", pad_edges=False, loss="pit_snr")


def enhancement() -> Any:
    return tiny_conv_tasnet(
        num_sources=1, skip_channels=0, encoder_activation="relu", norm="cln", conv_kernel_size=5, kernel_size=15,
        stride=4, mask_activation="sigmoid", loss="sdr",
    )  # fmt: skip


class TestPublishedForm(ModelPromises):
    build = staticmethod(published)


class TestCausalForm(ModelPromises):
    build = staticmethod(causal)


class TestEnhancementForm(ModelPromises):
    build = staticmethod(enhancement)


def by_autograd(model: ConvTasNetForAudioSeparation, mixture: Tensor) -> Tensor:
    """What the model computes when something might be learnt."""
    with torch.enable_grad():
        return model(mixture).sources.detach()


FORMS: list[dict[str, Any]] = [
    {},
    {"pad_edges": False, "skip_channels": 0, "mask_activation": "softmax", "num_sources": 3},
    {"causal": True, "conv_kernel_size": 4, "stride": 6},
    {"conv_kernel_size": 1, "num_blocks": 1, "num_repeats": 1, "mask_activation": "tanh"},
    {"num_blocks": 9, "num_repeats": 1, "conv_kernel_size": 7},  # looks back farther than the recording is long
    {"causal": True, "norm": "cln"},
    {"causal": True, "norm": "cgln"},
]


@torch.no_grad()
@pytest.mark.parametrize("strip_bytes", [1, 2**20])
@pytest.mark.parametrize("fields", FORMS, ids=str)
def test_strips_give_what_the_whole_gives(fields: dict[str, Any], strip_bytes: int, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(inference_conv_tasnet, "STRIP_BYTES", strip_bytes)
    model, _ = tiny_conv_tasnet(**fields)
    for module in model.modules():
        if isinstance(module, nn.PReLU):
            module.weight.copy_(noise(1, seed=4))  # negative slopes among them
    for samples in (16, 1_001, 4_001):
        mixture = noise(2, 1, samples) + 0.05
        expected = by_autograd(model, mixture)
        assert_same(model(mixture).sources, expected, **TINY_MODEL)


@torch.no_grad()
def test_the_fast_path_stands_back(monkeypatch: pytest.MonkeyPatch):
    model, _ = tiny_conv_tasnet()
    assert inference_conv_tasnet.can_fuse(model)
    with torch.enable_grad():
        assert not inference_conv_tasnet.can_fuse(model)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert not inference_conv_tasnet.can_fuse(model)
    assert not inference_conv_tasnet.can_fuse(model.train())
    model.eval()
    block: Any = model.masker.blocks[1]
    adapter = nn.Sequential(block.project, nn.Identity())
    adapter.weight, adapter.bias = block.project.weight, block.project.bias
    block.project = adapter
    assert not inference_conv_tasnet.can_fuse(model)


@torch.no_grad()
@pytest.mark.parametrize("fields", [{}, {"causal": True, "norm": "cgln"}], ids=str)
def test_autocast_changes_rounding_only(fields: dict[str, Any]):
    model, _ = tiny_conv_tasnet(**fields)
    mixture = noise(1, 1, 4_000)
    reference = model(mixture).sources
    with torch.autocast("cpu", dtype=torch.bfloat16):
        sources = model(mixture).sources
    assert sources.dtype == torch.float32
    assert (sources - reference).norm() < 0.05 * reference.norm()  # bfloat16 has steps of 0.0078


@pytest.mark.slow
def test_a_compiled_masker_learns_the_same():
    model, _ = tiny_conv_tasnet(num_blocks=2, num_repeats=1)
    mixture, labels = noise(2, 1, 2_000), noise(2, 2, 1, 2_000, seed=1)
    gradients = []
    for backend in (None, "aot_eager"):
        if backend:
            model.masker.compile(backend=backend, fullgraph=True)
        model.zero_grad()
        model.train()(mixture, labels=labels).loss.backward()
        gradients.append([p.grad.clone() for p in model.parameters() if p.grad is not None])
    for expected, got in zip(*gradients, strict=True):
        torch.testing.assert_close(got, expected, atol=1e-5 * expected.abs().max().item(), rtol=1e-4)


@torch.no_grad()
def test_the_end_of_a_recording():
    """Without padding, samples that no whole frame holds are zero; with it every sample is seen."""
    mixture = noise(1, 1, 4_007)
    assert tiny_conv_tasnet(pad_edges=False)[0](mixture).sources[..., 4_000:].abs().max() == 0
    assert tiny_conv_tasnet()[0](mixture).sources[..., 4_000:].abs().min() > 0


def test_the_published_loss_learns():
    model, _ = tiny_conv_tasnet()
    assert model.config.loss == "pit_si_snr"
    labels = noise(2, 2, 1, 2_000)
    mixture, losses = labels.sum(dim=1), []
    optimizer = torch.optim.Adam(model.train().parameters(), lr=3e-3)
    for _ in range(10):
        loss = model(mixture, labels=labels.flip(1)).loss
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss.item())
    assert losses[-1] < losses[0] - 1  # in dB


def test_frames_add_up_by_hand():
    frames = torch.tensor([[1.0, 2, 3], [10, 20, 30], [100, 200, 300]])[None, :, None]
    assert overlap_add(frames, 2)[0, 0].tolist() == [1, 2, 13, 20, 130, 200, 300]
    assert overlap_add(frames, 1)[0, 0].tolist() == [1, 12, 123, 230, 300]
    assert overlap_add(frames, 3)[0, 0].tolist() == [1, 2, 3, 10, 20, 30, 100, 200, 300]


@torch.no_grad()
def decibels(found: Tensor, exact: Tensor) -> float:
    return float(10 * torch.log10(exact.square().sum() / (found - exact).square().sum()))


@pytest.mark.parametrize("deviation", [1.0, 1e-1, 1e-2, 1e-3])
@pytest.mark.parametrize("strips", [1, 3])
@pytest.mark.parametrize("kind", ["gln", "cgln"])
def test_variance_is_exact_far_from_zero(kind: str, strips: int, deviation: float):
    """As a sigmoid leaves a quiet recording. 0.5 has a step of 6e-8 in float32, which is all that is lost."""
    x = 0.5 + deviation * noise(2, 60, 8)
    norm, state = ConvTasNetNorm(8, kind), NormState()
    if kind == "gln":
        found, (axis, mean) = norm(x), ((1, 2), x.double().mean(dim=(1, 2), keepdim=True))
        variance = (x.double() - mean).square().mean(dim=axis, keepdim=True)
    else:
        found = torch.cat([norm(part, state) for part in x.chunk(strips, dim=1)], dim=1)
        parts = [x[:, : count + 1].double() for count in range(60)]
        mean = torch.stack([part.mean(dim=(1, 2)) for part in parts], dim=1)[..., None]
        variance = torch.stack([part.var(dim=(1, 2), correction=0) for part in parts], dim=1)[..., None]
    exact = (x.double() - mean) * (variance + 1e-8).rsqrt()
    assert decibels(found.double(), exact) > 125 + 20 * math.log10(deviation)


@pytest.mark.parametrize(("level", "bar"), [(1.0, 110), (0.1, 90), (0.01, 70)])  # measured: 118, 98, 79
def test_quiet_recordings_after_a_sigmoid_are_the_same_both_ways(level: float, bar: float):
    model, _ = tiny_conv_tasnet(encoder_activation="sigmoid")
    mixture = level * noise(1, 1, 4_000)
    plain = model(mixture).sources.detach().double()
    with torch.no_grad():
        fast = model(mixture).sources.double()
    assert decibels(fast, plain) > bar


@pytest.mark.parametrize("offset", [0.0, 1.0, 30.0])
def test_moments_of_strips_are_exact_far_from_zero(offset: float):
    x = (offset + 0.1 * noise(5, 1_000)).float()
    statistics = inference_conv_tasnet.Statistics()
    for strip in x:
        statistics.add(strip)
    mean, variance = statistics.moments_of_all()
    assert mean.item() == pytest.approx(x.double().mean().item(), rel=1e-6, abs=1e-7)
    assert variance.item() == pytest.approx(x.double().var(correction=0).item(), rel=1e-5)


@torch.no_grad()
def test_norms_by_hand():
    x = noise(2, 50, 24) + 0.1
    for kind in ("gln", "cln", "cgln"):
        model, _ = tiny_conv_tasnet(norm=kind)
        block: Any = model.masker.blocks[0]
        norm = block.norm1
        norm.weight.copy_(1 + noise(24))
        norm.bias.copy_(noise(24, seed=1))
        result = (norm(x) - norm.bias) / norm.weight
        for frame in (0, 20, 49):
            seen = {"gln": slice(0, 50), "cln": slice(frame, frame + 1), "cgln": slice(0, frame + 1)}[kind]
            part = x[:, seen].double()
            variance, mean = torch.var_mean(part, dim=(1, 2), correction=0, keepdim=True)
            expected = (x[:, frame] - mean[:, 0]) / (variance[:, 0] + 1e-8).sqrt()
            assert_same(result[:, frame].double(), expected, terms=50 * 24)


STREAMED: list[dict[str, Any]] = [
    {"norm": "cgln", "pad_edges": False},
    {"norm": "cln"},
    {"norm": "cgln", "kernel_size": 15, "stride": 4, "conv_kernel_size": 4},
    {"norm": "cln", "kernel_size": 10, "stride": 10, "skip_channels": 0},
]
BLOCKS = [(4_003,), (1, 0, 15, 1, 700, 3_286), (160,) * 25 + (3,)]


@torch.no_grad()
@pytest.mark.parametrize("blocks", BLOCKS, ids=len)
@pytest.mark.parametrize("fields", STREAMED, ids=str)
def test_a_stream_gives_what_the_whole_gives(fields: dict[str, Any], blocks: tuple[int, ...]):
    model, _ = tiny_conv_tasnet(causal=True, **fields)
    mixture = noise(2, 1, 4_003)
    expected = by_autograd(model, mixture)
    stream = ConvTasNetStream(model)
    for _ in range(2):  # a stream can be used again
        parts = [stream.process(block) for block in mixture.split(list(blocks), dim=-1)]
        sources = torch.cat([*parts, stream.flush()], dim=-1)
        assert_same(sources, expected, **TINY_MODEL)


@torch.no_grad()
@pytest.mark.parametrize("fields", STREAMED, ids=str)
def test_the_latency_of_a_stream_is_what_it_says(fields: dict[str, Any]):
    """Sample by sample: never later than stated, that late somewhere, and never before the model could know."""
    model, _ = tiny_conv_tasnet(causal=True, **fields)
    mixture = noise(1, 1, 300)
    stream, given, late = ConvTasNetStream(model), 0, []
    for heard in range(1, 301):
        given += stream.process(mixture[..., heard - 1 : heard]).shape[-1]
        late.append(heard - given)
    assert max(late) == stream.latency_samples == model.config.kernel_size - 1
    changed = mixture.clone()
    changed[..., 200:] += 1
    differs = (model(changed).sources - model(mixture).sources).abs().amax(dim=(0, 1, 2)) > 1e-6
    assert 200 - stream.latency_samples <= int(differs.nonzero()[0]) <= 200


@torch.no_grad()
def test_streams_that_cannot_be():
    for fields in ({}, {"causal": True}, {"norm": "cln"}):
        with pytest.raises(AudioError, match="cannot be streamed"):
            ConvTasNetStream(tiny_conv_tasnet(**fields)[0])
    stream = ConvTasNetStream(causal()[0])
    with pytest.raises(AudioError, match="heard 0 samples"):
        stream.flush()
    with pytest.raises(AudioError, match=r"waveform must be \(batch, 1, samples\)"):
        stream.process(noise(1, 2, 100))
    stream.process(noise(2, 1, 10))
    with pytest.raises(AudioError, match="heard 10 samples; a frame needs at least 16"):
        stream.flush()
    with pytest.raises(AudioError, match="began with a batch of 2, this block has 1"):
        stream.process(noise(1, 1, 10))


def test_what_the_pipeline_asks_a_configuration():
    config = ConvTasNetConfig()
    assert config.source_names == ("speaker 1", "speaker 2")
    assert (config.unordered_sources, config.free_scale, config.is_text_queried) == (True, True, False)
    alone = ConvTasNetConfig(num_sources=1)
    assert (alone.source_names, alone.unordered_sources) == (("speech",), False)


@pytest.mark.parametrize("config_class", [ConvTasNetConfig, SepFormerConfig])
def test_a_loss_that_knows_levels_leaves_them_alone(config_class: type[Any]):
    free = {loss for loss in LOSSES if config_class(loss=loss).free_scale}
    assert free == {"pit_si_snr", "si_sdr"}, "gains fitted afterwards would bring a silent output back"


@pytest.mark.parametrize(
    ("field", "value", "says"),
    [
        ("num_sources", 0, "num_sources is 0"),
        ("num_filters", 10**9, "num_filters is 1000000000"),
        ("stride", 17, "stride is 17"),
        ("kernel_size", "16", "kernel_size must be a whole number"),
        ("conv_kernel_size", 4, "without causal it must be odd"),
        ("num_blocks", 60, "num_blocks is 60"),
        ("num_repeats", 10**6, "num_repeats is 1000000"),
        ("norm", "bn", "norm is 'bn'"),
        ("mask_activation", "elu", "mask_activation is 'elu'"),
        ("encoder_activation", None, "encoder_activation is None"),
        ("causal", 1, "causal must be true or false"),
        ("loss", "mse", "loss is 'mse'"),
        ("overlap_samples", 80_000, "overlap_samples is 80000"),
        ("segment_samples", 8, "segment_samples is 8"),
        ("hidden_chanels", 3, "no field 'hidden_chanels'"),
    ],
)
def test_absurd_configurations_are_refused(field: str, value: Any, says: str):
    with pytest.raises(CheckpointError, match=says):
        ConvTasNetConfig(**{field: value})


@pytest.mark.parametrize("fields", [{}, {"skip_channels": 0, "num_sources": 3}], ids=str)
def test_the_published_size_and_its_estimate(fields: dict[str, Any]):
    config = ConvTasNetConfig(**fields)
    with torch.device("meta"):
        model = ConvTasNetForAudioSeparation(config)
    if not fields:
        assert model.num_parameters() == 4_984_881
    assert config.estimated_parameters() == pytest.approx(model.num_parameters(), rel=0.03)
