# SPDX-License-Identifier: Apache-2.0
"""Meta-TasNet: what every model promises, the original's numbers, its losses, its forms, new instruments."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path
from typing import Any

import published_meta_tasnet as published
import pytest
import torch
import torch.nn.functional as F
from promises_model import ModelPromises, noise
from published_meta_tasnet import SUMS, TOLERANCE, assert_stages
from rounding import assert_same
from safetensors.torch import load_file
from tiny_meta_tasnet import tiny_meta_tasnet
from torch import Tensor, nn

from hubsep import MetaTasNetConfig, MetaTasNetForAudioSeparation
from hubsep.conversion import convert
from hubsep.errors import AudioError, CheckpointError, QueryError
from hubsep.models.meta_tasnet import modeling_meta_tasnet as losses
from hubsep.models.meta_tasnet import products_meta_tasnet
from hubsep.models.meta_tasnet.configuration_meta_tasnet import NORM_GROUPS
from hubsep.models.meta_tasnet.layers_meta_tasnet import decimate, scale_and_shift
from hubsep.models.meta_tasnet.modeling_meta_tasnet import least_squares_gains
from hubsep.models.meta_tasnet.products_meta_tasnet import channel_moments, depthwise
from hubsep.pipelines import AudioSeparationPipeline
from hubsep.pipelines.separation.levels import rescale


CASES = ("meta_tasnet", "meta_tasnet-biased", "meta_tasnet-independent")


def generated() -> Any:
    return tiny_meta_tasnet()


def independent() -> Any:
    return tiny_meta_tasnet(generated=False, residual_bias=True, rescale=True, num_stages=1, sampling_rate=8_000)


class TestGeneratedForm(ModelPromises):
    build = staticmethod(generated)


class TestIndependentForm(ModelPromises):
    build = staticmethod(independent)


def golden_model(shared: Path, case: str, tmp_path: Path) -> tuple[Any, dict[str, Tensor]]:
    folder = shared / "golden" / case
    source = published.write(tmp_path / "best_model.pt", load_file(folder / "state_dict.safetensors"), folder)
    return convert("meta_tasnet", source), load_file(folder / "io.safetensors")


def assert_training(model: Any, golden: dict[str, Tensor]) -> None:
    labels = [golden[f"train_sep_stage{stage}"][:, :, 0].transpose(0, 1) for stage in range(model.config.num_stages)]
    mixtures = [label.sum(dim=0) for label in labels]
    loss, statistics = model.stage_losses(model.separate_stages(mixtures), mixtures, labels)
    for stage, got in enumerate(statistics):
        # ratios of -50 dB: of what is left, whose rounding is 50 dB nearer to it
        torch.testing.assert_close(got, golden[f"train_stats_stage{stage}"], atol=2e-3, rtol=0)
    torch.testing.assert_close(loss, golden["train_loss"][0], atol=5e-3, rtol=0)  # a weighted sum of them


@torch.no_grad()
@pytest.mark.parametrize("learning", [False, True])
def test_the_sources_and_the_loss_of_the_original(learning: bool, tmp_path: Path):
    model = convert("meta_tasnet", published.write(tmp_path / "best_model.pt", published.tensors()))
    golden = load_file(published.GOLDEN / "biased_io.safetensors")
    with torch.set_grad_enabled(learning):
        assert_stages(model, golden)
        assert_training(model, {**golden, **load_file(published.GOLDEN / "biased_training.safetensors")})


@pytest.mark.needs_shared
@torch.no_grad()
@pytest.mark.parametrize("case", CASES)
def test_every_stage_of_the_golden_cases(case: str, shared: Path, tmp_path: Path):
    model, golden = golden_model(shared, case, tmp_path)
    assert_stages(model, golden)
    assert_training(model, golden)
    if model.config.generated:
        assert_stages(model.materialised(), golden)


def in_chunks(model: Any, mixtures: list[Tensor], chunks: int, context: int) -> list[Tensor]:
    """The original's way through long recordings: (1, samples) a stage to (num_sources, 1, samples) a stage."""
    total = mixtures[0].shape[-1]
    borders = [int(total * chunk / chunks + 0.5) for chunk in range(chunks + 1)]
    parts: list[list[Tensor]] = [[] for _ in mixtures]
    for start, stop in pairwise(borders):
        low, high = max(start - context, 0), min(stop + context, total)
        rest = (high - low) % 20
        low, high = (low, high - rest) if low == 0 else (low + rest, high)
        outputs = model.separate_stages([mix[:, low * 2**i : high * 2**i] for i, mix in enumerate(mixtures)])
        for i, output in enumerate(outputs):
            parts[i].append(output.sources[..., (start - low) * 2**i : (stop - low) * 2**i])
    return [torch.cat(part, dim=-1) for part in parts]


@pytest.mark.slow
@pytest.mark.needs_shared
@torch.no_grad()
@pytest.mark.parametrize(("case", "chunks"), [("meta_tasnet", 3), ("meta_tasnet-biased", 2)])
def test_chunks_as_the_original_cuts_them(case: str, chunks: int, shared: Path, tmp_path: Path):
    """Our segments replace them: with a cross-fade, and in memory that does not grow."""
    model, golden = golden_model(shared, case, tmp_path)
    mixtures = [golden[f"mix_stage{stage}"][:, 0] for stage in range(model.config.num_stages)]
    for stage, sources in enumerate(in_chunks(model, mixtures, chunks, 800)):
        expected = golden[f"est_chunk_stage{stage}"][:, :, 0].transpose(0, 1)
        torch.testing.assert_close(sources, expected, atol=TOLERANCE, rtol=0)


@pytest.mark.needs_shared
def test_losses_of_the_original(shared: Path):
    golden = load_file(shared / "golden" / "meta_tasnet-losses" / "io.safetensors")
    estimates, sources = (golden[name][:, :, 0].transpose(0, 1) for name in ("est", "ref"))
    presence, latents = golden["presence"][..., 0].T, golden["latents_masked"]
    close = torch.testing.assert_close
    close(losses.si_sdr(estimates, sources, presence), golden["sdr_masked"])
    close(losses.si_sdr(estimates, sources), golden["sdr_nomask"])
    close(losses.dissimilarity(latents, presence)[None], golden["dissimilarity"])
    close(losses.similarity(latents, presence)[None], golden["similarity"])
    reconstruction, mixture = golden["recon_est"][:, 0], golden["recon_ref"][:, 0]
    close(losses.si_sdr(reconstruction[None], mixture[None]), golden["recon_sdr"])
    statistics = losses.stage_statistics(estimates, sources, reconstruction, mixture, golden["latents"])
    close(statistics, golden["stats"])
    close(losses.weighted_loss(statistics, 0.05, 3.0, 2.0)[None], golden["total_loss"])


def test_losses_by_hand():
    one, two = torch.tensor([1.0, 0.0]), torch.tensor([0.0, -1.0])
    latents = torch.stack([one, two])[:, None, None].expand(2, 2, 3, 2)
    present = torch.ones(2, 2)
    assert losses.dissimilarity(latents, present) == 0
    assert losses.similarity(latents, present) == 1
    assert losses.dissimilarity(latents[[0, 0]], present).item() == pytest.approx(1)
    assert losses.similarity(latents * torch.tensor([1.0, -1.0])[:, None, None], present) == -1
    source = torch.tensor([[[1.0, 1.0, -1.0, -1.0]]])
    other = torch.tensor([[[1.0, -1.0, 1.0, -1.0]]])
    assert losses.si_sdr(-3 * source + 0.3 * other, source).item() == pytest.approx(20, abs=1e-4)
    absent = torch.zeros(1, 1)
    assert losses.si_sdr(other, 0 * source, absent) == 0


@torch.no_grad()
def test_written_out_weights_give_the_same_and_are_fewer():
    model, _ = tiny_meta_tasnet(residual_bias=True, generator_size=5)
    mixture = noise(2, 1, 4_001)
    plain = model.materialised()
    assert (plain.config.generated, model.config.generated) == (False, True)
    assert_same(plain(mixture).sources, model(mixture).sources, **SUMS)
    assert plain.num_parameters() < model.num_parameters()
    with pytest.raises(QueryError, match="no embeddings"):
        plain.materialised()


@torch.no_grad()
@pytest.mark.parametrize("onednn", [True, False])
def test_what_is_overwritten_when_nothing_is_learnt(onednn: bool, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(torch.backends.mkldnn, "enabled", onednn)
    model, _ = tiny_meta_tasnet()
    mixture = noise(2, 1, 9_001)
    before, fast = mixture.clone(), model(mixture).sources
    with torch.enable_grad():
        slow = model(mixture).sources.detach()
    assert torch.equal(mixture, before)
    assert_same(fast, slow, **SUMS)


@torch.no_grad()
@pytest.mark.parametrize(("frames", "dilation"), [(3, 4), (50, 1), (50, 8)])
def test_a_norm_within_a_convolution_ends_at_the_edges(frames: int, dilation: int):
    x, scale, shift, kernel = noise(frames, 8), noise(8), noise(8) + 1, noise(8, 5)
    expected = F.conv1d((x * scale + shift).T, kernel[:, None], padding=2 * dilation, dilation=dilation, groups=8).T
    assert_same(depthwise(x, scale, shift, kernel, dilation), expected, terms=5)


@torch.no_grad()
@pytest.mark.parametrize("frames", [50, 3_000])
@pytest.mark.parametrize("offset", [0.0, 30.0, 1_000.0])
def test_variance_is_exact_far_from_zero(frames: int, offset: float, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(products_meta_tasnet, "STRIP_ELEMENTS", 10_000)
    x = offset + noise(frames, 8)
    affine = torch.tensor([[1.0], [0.0]]).expand(2, 8)[None]
    groups = x.double().unflatten(1, (NORM_GROUPS, -1))
    exact = groups.var(dim=(0, 2), correction=0).rsqrt().repeat_interleave(8 // NORM_GROUPS)
    for moments in (channel_moments(x.requires_grad_()), channel_moments(x.detach())):
        scale, _ = scale_and_shift(moments[:, None, None], affine)
        torch.testing.assert_close(scale.detach().flatten().double(), exact, rtol=1e-4, atol=0)


def test_an_adapter_around_a_layer_is_called():
    """Its weights are not taken past it when nothing is learnt."""
    model, _ = tiny_meta_tasnet()
    mixture = noise(1, 1, 4_000)
    decoder: Any = model.stages[-1].decoder
    before, decoder.expand = model(mixture).sources, nn.Sequential(decoder.expand)
    decoder.expand.weight = decoder.expand[0].weight
    assert_same(model(mixture).sources, before, **SUMS)
    decoder.expand.append(nn.Threshold(torch.inf, 0.0))
    assert model(mixture).sources.count_nonzero() == 0


@torch.no_grad()
def test_level_of_input_and_output():
    model, _ = tiny_meta_tasnet()
    mixture = noise(1, 1, 4_000)
    sources = model(mixture).sources
    torch.testing.assert_close(model(100 * mixture).sources, 100 * sources, atol=1e-3, rtol=0)
    model.config.normalise = False
    assert not torch.allclose(model(100 * mixture).sources, 100 * sources, rtol=0.1)
    model.config.normalise = model.config.rescale = True
    fitted = model(mixture).sources
    expected = torch.linalg.lstsq(sources[0, :, 0].double().T, mixture[0].double().T).solution
    torch.testing.assert_close(fitted[0, :, 0], (sources[0, :, 0].T * expected[:, 0]).T.float(), atol=1e-5, rtol=0)
    assert not model.config.free_scale
    assert least_squares_gains(torch.zeros(1, 8), torch.zeros(1, 3, 8)).tolist() == [[0, 0, 0]]


def test_lower_rates_hear_what_they_can():
    times = torch.arange(32_000, dtype=torch.float64) / 32_000
    low, high = (torch.sin(2 * torch.pi * rate * times) for rate in (1_000, 7_000))
    result = decimate(low + high, 4)
    assert result.shape == (8_000,)
    inner = slice(200, -200)
    torch.testing.assert_close(result[inner], low[::4][inner].float(), atol=2e-5, rtol=0)
    assert decimate(noise(2, 3, 4_001), 4).shape == (2, 3, 1_001)


@pytest.mark.parametrize("factor", [2, 4])
def test_lower_rates_are_the_same_alone_and_in_a_batch(factor: int):
    """Behind the filter's edge there is nothing but rounding, and the encoder takes its logarithm."""
    waveforms, threads = noise(4, 6_144), torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        assert torch.equal(decimate(waveforms, factor)[:1], decimate(waveforms[:1], factor))
    finally:
        torch.set_num_threads(threads)


@torch.no_grad()
def test_an_instrument_between_others():
    model, _ = tiny_meta_tasnet()
    mixture = noise(1, 1, 4_000)
    more = model.with_instrument("drone", {"drums": 0.25, "bass": 0.75})
    assert more.config.source_names == ("drums", "bass", "vocals", "drone")
    for stage in range(2):
        learnt, extended = (each.state_dict()[f"stages.{stage}.embedding"] for each in (model, more))
        assert torch.equal(extended[:3], learnt)
        torch.testing.assert_close(extended[3], 0.25 * learnt[0] + 0.75 * learnt[1])
    twin = model.with_instrument("bass too", {"bass": 1})(mixture).sources
    torch.testing.assert_close(twin[:, 1], twin[:, 3])
    assert more(mixture).sources.shape == (1, 4, 1, 4_000)
    with pytest.raises(QueryError, match=r"add up to 0\.5"):
        model.with_instrument("half", {"bass": 0.5})
    with pytest.raises(QueryError, match="no instrument 'kazoo'; there are drums, bass, vocals"):
        model.with_instrument("half", {"kazoo": 1})
    with pytest.raises(CheckpointError, match="every name must be there once"):
        model.with_instrument("bass", {"drums": 1})


def test_an_instrument_from_examples():
    model, _ = tiny_meta_tasnet(num_repeats=1)
    mixtures = noise(2, 1, 2_000)
    with torch.no_grad():  # something the network can do
        targets = model.with_instrument("hidden", {"drums": 1.6, "vocals": -0.6})(mixtures).sources[:, -1]
    fitted, course = model.fit_instrument("found", mixtures, targets, steps=15, learning_rate=0.1)
    assert len(course) == 16
    assert min(course) < course[0] - 0.5  # in dB
    for name, tensor in model.state_dict().items():
        got = fitted.state_dict()[name]
        assert torch.equal(got[:3] if name.endswith("embedding") else got, tensor), name
    assert all(parameter.requires_grad for parameter in fitted.parameters())
    with torch.no_grad():
        sources = fitted(mixtures).sources[:, -1]
        start = model.with_instrument("found", dict.fromkeys(model.config.source_names, 1 / 3))(mixtures).sources
    ratio = [losses.si_sdr(x[None, :, 0], targets[None, :, 0]).item() for x in (sources, start[:, -1])]
    assert ratio[0] > ratio[1]
    with pytest.raises(AudioError, match="they must match"):
        model.fit_instrument("found", mixtures, targets[:1])


@torch.no_grad()
def test_the_pipeline_separates_the_channels_of_a_song():
    """Each as the model does alone, at the level that the mixture says."""
    model, _ = tiny_meta_tasnet()
    song = noise(2, 4_000) * torch.tensor([[1.0], [0.1]])
    results = AudioSeparationPipeline(model=model)(song.numpy(), sampling_rate=16_000)
    assert [result["label"] for result in results] == ["drums", "bass", "vocals"]
    sources = torch.stack([torch.as_tensor(result["audio"]) for result in results], dim=1)
    expected = rescale(song, model(song[:, None]).sources[:, :, 0])
    torch.testing.assert_close(sources, expected, atol=1e-6, rtol=1e-4)


@torch.no_grad()
def test_stages_take_waveforms_that_fit():
    model, _ = tiny_meta_tasnet()
    with pytest.raises(AudioError, match=r"got \[400, 700\] samples"):
        model.separate_stages([noise(1, 400), noise(1, 700)])
    with pytest.raises(AudioError, match=r"got \[410, 820\] samples"):
        model.separate_stages([noise(1, 410), noise(1, 820)])
    with pytest.raises(AudioError, match="they take 2 waveforms"):
        model.separate_stages([noise(1, 400)])


@torch.no_grad()
def test_autocast_changes_rounding_only():
    model, _ = tiny_meta_tasnet()
    mixture = noise(1, 1, 4_000)
    reference = model(mixture).sources
    with torch.autocast("cpu", dtype=torch.bfloat16):
        sources = model(mixture).sources
    assert sources.dtype == torch.float32
    assert (sources - reference).norm() < 0.1 * reference.norm()


def test_what_the_pipeline_asks_a_configuration():
    config = MetaTasNetConfig()
    assert config.source_names == ("drums", "bass", "other", "vocals")
    assert (config.num_sources, config.num_channels, config.minimum_samples) == (4, 1, 2_049)
    assert (config.unordered_sources, config.free_scale, config.is_text_queried) == (False, True, False)


@pytest.mark.parametrize(
    ("field", "value", "says"),
    [
        ("instruments", [], "instruments is"),
        ("instruments", ["a", "a"], "every name must be there once"),
        ("instruments", ["a", "b\n"], "which is no name"),
        ("num_stages", 40, "num_stages is 40"),
        ("num_filters", 10**9, "num_filters is 1000000000"),
        ("num_filters", 441, "8 groups of a norm must divide it"),
        ("kernel_size", 21, "kernel_size is 21; it must be even"),
        ("stride", 22, "stride is 22"),
        ("n_fft", "1024", "n_fft must be a whole number"),
        ("conv_kernel_size", 4, "it must be odd"),
        ("num_blocks", 60, "num_blocks is 60"),
        ("generated", 1, "generated must be true or false"),
        ("similarity_weight", float("nan"), "similarity_weight is nan"),
        ("overlap_samples", 384_000, "overlap_samples is 384000"),
        ("num_mel", 3, "no field 'num_mel'"),
    ],
)
def test_absurd_configurations_are_refused(field: str, value: Any, says: str):
    with pytest.raises(CheckpointError, match=says):
        MetaTasNetConfig(**{field: value})


@pytest.mark.parametrize("generated", [True, False])
def test_the_published_size_and_its_estimate(generated: bool):
    config = MetaTasNetConfig(generated=generated)
    with torch.device("meta"):
        model = MetaTasNetForAudioSeparation(config)
    unused = 3 * ((8 + 1) * 5 + 160 * 160 * (5 + 1))  # the last residual products
    if generated:
        assert model.num_parameters() + unused == 45_531_260
    assert config.estimated_parameters() == pytest.approx(model.num_parameters(), rel=0.03)
