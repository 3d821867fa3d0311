# SPDX-License-Identifier: Apache-2.0
"""AudioSlots: what every model promises, and what a set of slots does."""

from __future__ import annotations

import itertools
from typing import Any

import pytest
import torch
from promises_model import ModelPromises, noise
from rounding import TINY_MODEL, assert_same, rounding
from tiny_audioslots import tiny_audioslots
from torch import Tensor

from hubsep.auto import AutoModelForAudioSeparation
from hubsep.errors import AudioError, CheckpointError
from hubsep.metrics import si_sdr
from hubsep.models.audioslots.configuration_audioslots import AudioSlotsConfig
from hubsep.models.audioslots.modeling_audioslots import (
    AudioSlotsSlots,
    BroadcastDecoder,
    position_code,
    unfold_patches,
)
from hubsep.models.audioslots.stitching_audioslots import (
    align,
    count_sources,
    cross_fade,
    cut,
    least,
    match,
    matching_loss,
    pairwise_error,
    reorder,
)


SMALL = {"slot_init": "learned", "refinement": True, "decoder_patch": [4, 8], "waveform_weight": 0.05}


def small() -> tuple[Any, dict[str, Any]]:
    return tiny_audioslots(**SMALL)


def sequential() -> tuple[Any, dict[str, Any]]:
    return tiny_audioslots(sequential=True, slot_init="learned", slot_encoder="slot_attention")


def magnitudes() -> tuple[Any, dict[str, Any]]:
    return tiny_audioslots(reconstruct="magnitude", slot_init="learned", num_sources=3)


class TestPaperForm(ModelPromises):
    build = staticmethod(tiny_audioslots)

    def test_it_learns(self, model: Any, conditions: dict[str, Any], mixture: Tensor):
        # Slots are drawn anew in each step, which moves the loss by more than three steps do: one draw for all.
        def draw_the_same(*_: Any) -> None:
            torch.manual_seed(0)

        model.register_forward_pre_hook(draw_the_same)
        with torch.random.fork_rng():
            super().test_it_learns(model, conditions, mixture)


class TestSmallForm(ModelPromises):
    build = staticmethod(small)


class TestSequentialForm(ModelPromises):
    build = staticmethod(sequential)


class TestMagnitudeForm(ModelPromises):
    build = staticmethod(magnitudes)


def tones(batch: int = 4, samples: int = 2_048) -> Tensor:
    """Two sources with a tone each that is on and off, (batch, 2, 1, samples); every item has its own pitches."""
    time = torch.arange(samples) / 8_000
    low = 300 + 150 * torch.arange(batch)[:, None]
    sources = torch.stack([(2 * torch.pi * low * time).sin(), (2 * torch.pi * (low * 1.7 + 900) * time).sin()], dim=1)
    gates = (time * 9).floor() % 3
    return (0.1 * sources * torch.stack([gates < 2, gates > 0])).unsqueeze(2)


# what the network does


@torch.no_grad()
def test_the_decoder_and_the_encoder_do_not_know_the_number_of_a_slot():
    for fields in ({}, {"slot_encoder": "slot_attention"}, {"sequential": True}, {"refinement": True}):
        model, _ = tiny_audioslots(num_sources=3, **fields)
        if model.refiner is not None:
            model.refiner.kernel.weight.normal_(generator=torch.Generator().manual_seed(1))
        features = noise(2, 3, model.config.chunk_frames, 33).abs()
        start = model.slots.start(2, 3)
        slots, magnitude = model.generate(features, start)
        order = [2, 0, 1]
        again_slots, again = model.generate(features, start[:, order])
        assert_same(again_slots, slots[:, :, order], **TINY_MODEL)
        assert_same(again, magnitude[:, :, order], **TINY_MODEL)
        assert (magnitude - magnitude[:, :, order]).abs().max() > 1e-3, "the slots differ at all"


@torch.no_grad()
def test_the_first_layer_in_parts_is_the_one_on_slot_and_position_together():
    model, _ = tiny_audioslots()
    decoder: BroadcastDecoder = model.decoder
    slots = noise(3, 16, seed=5)
    rows, columns = decoder.shape
    time = position_code(rows, 4, slots)[:, None].expand(-1, columns, -1)
    frequency = position_code(columns, 4, slots).expand(rows, -1, -1)
    positions = torch.cat([time, frequency], dim=-1).expand(3, -1, -1, -1)
    inputs = torch.cat([slots[:, None, None].expand(-1, rows, columns, -1), positions], dim=-1)
    weight = torch.cat([decoder.slot.weight, decoder.time.weight, decoder.frequency.weight], dim=1)
    hidden = torch.relu(torch.nn.functional.linear(inputs, weight, decoder.slot.bias))
    expected = decoder.head(torch.relu(decoder.layers[0](hidden))).squeeze(-1)
    assert_same(decoder(slots), expected, terms=32, layers=3)


def test_patches_of_the_decoder_lie_where_their_position_is():
    patches = torch.arange(2 * 3 * 4.0).reshape(1, 2, 3, 4)
    assert unfold_patches(patches, (2, 2))[0].tolist() == [
        [0, 1, 4, 5, 8, 9],
        [2, 3, 6, 7, 10, 11],
        [12, 13, 16, 17, 20, 21],
        [14, 15, 18, 19, 22, 23],
    ]


@torch.no_grad()
def test_refinement_starts_as_no_change_and_changes_only_magnitudes():
    model, _ = tiny_audioslots(refinement=True)
    plain, _ = tiny_audioslots()
    plain.load_state_dict({name: value for name, value in model.state_dict().items() if "refiner" not in name})
    mixture = noise(2, 1, 4_000)
    before, expected = model(mixture), plain(mixture)
    assert torch.equal(before.sources, expected.sources)
    refiner: Any = model.refiner
    refiner.kernel.weight.normal_(generator=torch.Generator().manual_seed(1))
    after = model(mixture)
    assert torch.equal(after.slots, before.slots)
    assert (after.masks - before.masks).abs().max() > 1e-2
    assert torch.equal(after.masks.isfinite(), torch.ones_like(after.masks, dtype=torch.bool))
    torch.testing.assert_close(after.sources.sum(1), mixture, atol=1e-6, rtol=0)


# matching


def test_the_loss_does_not_depend_on_the_order_of_sources():
    for count in (3, 5):
        model, _ = tiny_audioslots(num_sources=count, waveform_weight=0.1)
        labels = noise(2, count, 1, 4_000, seed=2)
        orders = list(range(count)), [2, 0, 1, 4, 3][:count]
        losses = [model(labels.sum(1), labels=labels[:, order]).loss for order in orders]
        assert_same(losses[0], losses[1], **TINY_MODEL)


def test_the_best_of_all_assignments_is_found():
    for count in (2, 4, 6):
        cost = torch.rand(3, count, count, generator=torch.Generator().manual_seed(count))
        totals = [
            sum(item[row, column] for row, column in enumerate(order))
            for item, order in ((item, order) for item in cost for order in itertools.permutations(range(count)))
        ]
        best = torch.stack(totals).reshape(3, -1).min(dim=1).values
        torch.testing.assert_close(cost.gather(2, least(cost).unsqueeze(2)).sum(dim=(1, 2)), best)


def test_errors_of_pairs_by_hand():
    first, second = noise(2, 3, 5, 7), noise(2, 4, 5, 7, seed=1)
    expected = (first[:, :, None] - second[:, None]).square().mean(dim=(3, 4))
    # found as a square less a product: what rounds is larger than what is left
    torch.testing.assert_close(pairwise_error(first, second), expected, atol=rounding(0.1, terms=35), rtol=0)


def test_chunks_are_matched_by_themselves_and_sequences_as_one():
    targets = noise(1, 4, 2, 9, 5).abs()
    magnitude = targets.clone()
    magnitude[:, 1] = magnitude[:, 1].flip(1)  # one of four chunks has its slots exchanged
    order = match(magnitude, targets, whole=False)
    assert order[0].tolist() == [[0, 1], [1, 0], [0, 1], [0, 1]]
    assert matching_loss(magnitude, targets, order) == 0
    assert match(magnitude, targets, whole=True)[0].tolist() == [[0, 1]] * 4


def test_slots_without_a_source_are_charged_for_sound():
    model, _ = tiny_audioslots(num_sources=3)
    mixture = noise(2, 1, 4_000)
    output = model(mixture, labels=mixture[:, None])
    silent = torch.cat([mixture[:, None], torch.zeros(2, 2, 1, 4_000)], dim=1)
    torch.testing.assert_close(output.loss, model(mixture, labels=silent).loss)


# chunks and stitching


@pytest.mark.parametrize("frames", [3, 9, 10, 17, 40])
@pytest.mark.parametrize("hop", [4, 8])
def test_chunks_put_together_are_what_was_cut(frames: int, hop: int):
    whole = noise(2, 3, frames, 5)
    chunks = cut(whole, 9, hop).transpose(1, 2)
    assert_same(cross_fade(chunks, hop, frames), whole, terms=9)


@torch.no_grad()
@pytest.mark.parametrize("count", [2, 3, 5])
def test_stitching_undoes_known_exchanges_of_oracle_outputs(count: int):
    generator = torch.Generator().manual_seed(count)
    frames, size, hop, chunks = 400, 17, 8, 48
    speaking = torch.rand(1, count, frames // 20, 1, generator=generator).repeat_interleave(20, dim=2) > 0.2
    sources = torch.rand(1, count, frames, 12, generator=generator) * speaking
    pieces = cut(sources, size, hop).transpose(1, 2)[:, :chunks]
    orders = torch.stack([torch.randperm(count, generator=generator) for _ in range(chunks)])[None]
    voices = torch.nn.functional.one_hot(orders, 8)
    embeddings = voices + 0.3 * torch.rand(1, chunks, count, 8, generator=generator)
    features = cut(sources.sum(1), size, hop)[:, :chunks]
    found = align(reorder(pieces, orders), embeddings, features, hop, memory=8.0)
    back = orders.gather(2, found)
    assert torch.equal(back, back[:, :1].expand_as(back))


@torch.no_grad()
def test_across_a_pause_stitching_remembers_voices():
    size, hop = 17, 8
    sources = torch.rand(1, 2, 200, 6, generator=torch.Generator().manual_seed(0))
    sources[:, :, 80:130] = 0  # five chunks of silence
    pieces, features = cut(sources, size, hop).transpose(1, 2), cut(sources.sum(1), size, hop)
    chunks = pieces.shape[1]
    orders = torch.tensor([[0, 1]] * 12 + [[1, 0]] * (chunks - 12))[None]  # exchanged while nothing was heard
    embeddings = torch.nn.functional.one_hot(orders, 4).float()
    found = align(reorder(pieces, orders), embeddings, features, hop, memory=8.0)
    back = orders.gather(2, found)
    assert torch.equal(back, back[:, :1].expand_as(back))
    blind = align(reorder(pieces, orders), torch.ones_like(embeddings), features, hop, memory=8.0)
    assert blind[0, 11:14].tolist() == [[0, 1]] * 3, "with nothing to go by, the order stays"


@torch.no_grad()
def test_oracle_magnitudes_give_the_sources_back():
    model, _ = tiny_audioslots()
    sources = tones(2)  # apart in frequency, so that masks can take them apart
    mixture = sources.sum(1)

    def oracle(features: Tensor, start: Tensor, previous: Tensor | None = None) -> tuple[Tensor, Tensor]:
        level = mixture.square().mean(dim=(1, 2), keepdim=True).sqrt().unsqueeze(1)
        exact = model._targets(sources / level, model.config.half_frames)
        return start.unsqueeze(1).expand(-1, features.shape[1], -1, -1), exact.clamp_min(1e-4)

    model.generate = oracle  # type: ignore[method-assign]
    for reconstruct, decibels in (("mask", 25.0), ("magnitude", 25.0)):
        model.config.reconstruct = reconstruct
        assert si_sdr(model(mixture).sources, sources).min() > decibels


# learning


def trained(model: Any, labels: Tensor, steps: int) -> list[float]:
    optimizer, losses = torch.optim.Adam(model.train().parameters(), lr=1e-2), []
    with torch.random.fork_rng():
        torch.manual_seed(0)
        for _ in range(steps):
            loss = model(labels.sum(1), labels=labels).loss
            loss.backward()
            optimizer.step()
            optimizer.zero_grad()
            losses.append(loss.item())
    model.eval()
    return losses


def test_four_mixtures_can_be_learned_by_heart():
    model, _ = tiny_audioslots(**SMALL)
    labels, levels = tones(), []
    for steps in (0, 40):
        trained(model, labels, steps)
        with torch.no_grad():
            output = model(labels.sum(1), labels=labels, stitching="labels")
        levels.append(si_sdr(output.sources, labels).mean())
    assert levels[1] > levels[0] + 3  # dB; 5.5 to 31 over five seeds


@pytest.mark.slow
def test_an_unused_slot_learns_silence_and_sources_are_counted():
    model, _ = tiny_audioslots(**SMALL, num_sources=3)
    labels = tones()
    trained(model, labels, steps=60)
    with torch.no_grad():
        output = model(labels.sum(1))
    assert output.num_sources.tolist() == [2, 2, 2, 2]
    assert (output.num_sources_score > 0.9).all()
    assert (output.presence_logits.amin(dim=1) < -8).all(), "24 dB below the threshold of -25 dB"


@pytest.mark.slow
def test_mixtures_of_mixtures_teach():
    for fields in ({}, {"sequential": True}):
        model, _ = tiny_audioslots(num_sources=4, slot_init="learned", loss="mixit", refinement=True, **fields)
        mixtures = tones()
        losses = trained(model, mixtures, steps=12)
        assert losses[-1] < losses[0] - 3


def test_the_best_deal_of_a_mixture_of_mixtures_does_not_depend_on_their_order():
    model, _ = tiny_audioslots(num_sources=4, loss="mixit")
    mixtures = noise(2, 2, 1, 4_000)
    losses = [model(mixtures.sum(1), labels=labels).loss for labels in (mixtures, mixtures.flip(1))]
    torch.testing.assert_close(losses[0], losses[1])


# the number of slots, sequences, silence


@torch.no_grad()
def test_the_number_of_slots_can_change():
    model, _ = tiny_audioslots()
    mixture = noise(2, 1, 4_000)
    for count in (1, 2, 5):
        output = model(mixture, num_sources=count)
        assert output.sources.shape == (2, count, 1, 4_000)
        torch.testing.assert_close(output.sources.sum(1), mixture, atol=1e-6, rtol=0)
    model.config.num_sources = 3
    assert model(mixture).sources.shape[1] == len(model.config.source_names) == 3
    learned, _ = tiny_audioslots(slot_init="learned")
    with pytest.raises(AudioError, match=r"has learned 2 slots and cannot separate 3 .* \"gaussian\" takes any"):
        learned(mixture, num_sources=3)
    with pytest.raises(AudioError, match="1 to 32"):
        model(mixture, num_sources=33)


@torch.no_grad()
def test_a_sequence_in_two_calls_is_the_sequence_in_one():
    model, _ = tiny_audioslots(sequential=True)
    features = noise(2, 6, model.config.chunk_frames, 33).abs()
    start = model.slots.start(2, 2)
    slots, magnitude = model.generate(features, start)
    first_slots, first = model.generate(features[:, :4], start)
    rest_slots, rest = model.generate(features[:, 4:], start, first_slots[:, -1])
    assert_same(torch.cat([first_slots, rest_slots], dim=1), slots, **TINY_MODEL)
    assert_same(torch.cat([first, rest], dim=1), magnitude, **TINY_MODEL)
    assert (model.generate(features[:, 4:], start)[1] - rest).abs().max() > 1e-4, "the past matters"


@torch.no_grad()
def test_sequential_mode_leaves_slots_on_their_outputs():
    model, _ = tiny_audioslots(sequential=True)
    output = model(noise(1, 1, 6_000))
    assert output.permutations[0].tolist() == [[0, 1]] * output.slots.shape[1]
    again = model(noise(1, 1, 6_000, seed=1), previous_slots=output.slots[:, -1])
    assert (again.sources - model(noise(1, 1, 6_000, seed=1)).sources).abs().max() > 1e-6


@torch.no_grad()
def test_silence_holds_no_source():
    for fields in ({}, {"reconstruct": "magnitude"}):
        model, _ = tiny_audioslots(**fields)
        mixture = torch.cat([torch.zeros(1, 1, 4_000), noise(1, 1, 4_000)])
        output = model(mixture)
        assert output.sources[0].abs().max() == 0
        assert output.num_sources[0] == 0
        assert output.num_sources_score[0] > 0.99


@torch.no_grad()
def test_output_scales_with_input():
    model, _ = tiny_audioslots()
    mixture = noise(1, 1, 4_000)
    reference = model(mixture).sources
    for gain in (1e-2, 1e2):
        torch.testing.assert_close(model(mixture * gain).sources, reference * gain, atol=2e-7 * gain, rtol=1e-3)


def test_the_count_and_its_score_by_hand():
    count, score = count_sources(torch.tensor([[2.0, 2.0, -2.0]]))
    there = torch.sigmoid(torch.tensor(2.0)).item()
    assert count.tolist() == [2]
    assert score.item() == pytest.approx(there**3 + 2 * there * (1 - there) ** 2, abs=1e-6)


@torch.no_grad()
def test_draws_of_slots():
    slots: AudioSlotsSlots = tiny_audioslots()[0].slots
    shared = slots.start(3, 2)
    assert torch.equal(shared[0], shared[2])
    drawn = slots.start(3, 2, torch.Generator().manual_seed(1))
    assert not torch.equal(drawn[0], drawn[2])
    assert torch.equal(drawn, slots.start(3, 2, torch.Generator().manual_seed(1)))


# refusals


def test_what_does_not_fit_is_refused():
    model, _ = tiny_audioslots()
    mixture = noise(2, 1, 4_000)
    for labels in (noise(2, 3, 1, 4_000), noise(2, 2, 1, 3_999), noise(2, 2, 4_000), noise(1, 2, 1, 4_000)):
        with pytest.raises(AudioError, match="labels must be"):
            model(mixture, labels=labels)
    with pytest.raises(AudioError, match="previous_slots are for models in sequential mode"):
        model(mixture, previous_slots=noise(2, 2, 16))
    with pytest.raises(AudioError, match="overlap, labels, none"):
        model(mixture, stitching="best")
    with pytest.raises(AudioError, match="needs labels"):
        model(mixture, stitching="labels")
    with pytest.raises(AudioError, match=r"previous_slots must be \(2, 2, 16\), got \(2, 2, 8\)"):
        tiny_audioslots(sequential=True)[0](mixture, previous_slots=noise(2, 2, 8))


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("num_sources", 33),
        ("chunk_samples", 100),
        ("root_kernel", [2, 3]),
        ("root_stride", [2]),
        ("backbone_strides", [[1, 1]]),
        ("backbone_channels", [64, 100, 256, 512]),
        ("num_heads", 5),
        ("compression", 0.0),
        ("sequential", "yes"),
        ("slot_init", "zeros"),
        ("chunk_samples", 2**22),
        ("decoder_patch", [0, 1]),
    ],
)
def test_a_configuration_that_cannot_be_is_refused(field: str, value: Any):
    with pytest.raises(CheckpointError):
        AudioSlotsConfig(**{field: value})


def test_the_default_is_the_size_it_says():
    with torch.device("meta"):
        model = AutoModelForAudioSeparation.from_config(AudioSlotsConfig())
    assert sum(parameter.numel() for parameter in model.parameters()) == pytest.approx(43e6, rel=0.1)
