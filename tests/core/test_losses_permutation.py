# SPDX-License-Identifier: Apache-2.0
"""Losses under the best permutation: golden vectors, silence, thresholds, many sources, mixtures of mixtures."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from hubsep import losses as losses_permutation
from hubsep.errors import DataError
from hubsep.losses import (
    LOSSES,
    assign,
    mixit_assignment,
    mixit_loss,
    pairwise_si_snr,
    permutation,
    pit_si_snr,
    pit_snr,
    pit_snr_silence,
    reorder,
)


GOLDEN = Path(__file__).parents[1] / "golden" / "losses"
DB = 1e-4  # a relative error of eps * sqrt(samples) of two sums of squares, 4.3 dB for each


def golden(sources: int) -> dict[str, Tensor]:
    return load_file(GOLDEN / f"pit_{sources}_io.safetensors")


def noise(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("count", [2, 3])
def test_golden_losses(count: int):
    case = golden(count)
    labels, sources = case["ref"].unsqueeze(2), case["est"].unsqueeze(2)
    pairs = -pairwise_si_snr(sources, labels)
    torch.testing.assert_close(pairs, case["asteroid_pairwise_neg_sisdr"], atol=DB, rtol=0)
    order = permutation(sources, labels)
    assert torch.equal(order, case["speechbrain_perms"])
    assert torch.equal(order, case["perm_used"].argsort(dim=1))
    assert torch.equal(reorder(sources, order).squeeze(2), case["asteroid_reordered_est"])
    loss = pit_si_snr(sources, labels)
    torch.testing.assert_close(loss, case["asteroid_pit_neg_sisdr_mean"].squeeze(), atol=DB, rtol=0)
    for i, expected in enumerate(case["speechbrain_pit_neg_sisnr"]):
        item = pit_si_snr(sources[i : i + 1], labels[i : i + 1])
        torch.testing.assert_close(item, expected, atol=DB, rtol=0)


@pytest.mark.parametrize("name", ["pit_si_snr", "pit_snr", "pit_snr_silence"])
def test_the_order_of_outputs_does_not_matter(name: str):
    labels, sources = noise(3, 4, 1, 500), noise(3, 4, 1, 500, seed=1)
    mixture = labels.sum(dim=1)
    shuffled = sources[:, [2, 0, 3, 1]]
    loss = LOSSES[name]
    torch.testing.assert_close(loss(sources, labels, mixture), loss(shuffled, labels, mixture))
    assert loss(labels[:, [2, 0, 3, 1]], labels, mixture) < -29


def test_the_first_best_permutation_wins_a_tie():
    same = noise(2, 1, 1, 100).expand(-1, 3, -1, -1)
    assert permutation(same, same).tolist() == [[0, 1, 2]] * 2


def test_the_solver_finds_what_trying_all_finds(monkeypatch: pytest.MonkeyPatch):
    scores = noise(50, 4, 4)
    tried = assign(scores)
    monkeypatch.setattr(losses_permutation, "EXHAUSTIVE_SOURCES", 1)
    assert torch.equal(assign(scores), tried)


def test_seven_sources_are_put_back_in_order():
    labels = noise(2, 7, 1, 400)
    order = torch.stack([torch.randperm(7, generator=torch.Generator().manual_seed(i)) for i in range(2)])
    found = permutation(reorder(labels, order) + 0.1 * noise(2, 7, 1, 400, seed=3), labels)
    assert torch.equal(found, order.argsort(dim=1))


def test_items_beyond_the_threshold_are_left_out():
    labels = noise(2, 2, 1, 500)
    sources = labels + torch.tensor([1e-3, 1.0]).view(2, 1, 1, 1) * noise(2, 2, 1, 500, seed=1)
    sources.requires_grad_()
    kept = pit_si_snr(sources, labels, threshold_db=-30.0)
    torch.testing.assert_close(kept, pit_si_snr(sources[1:], labels[1:]))
    kept.backward()
    assert sources.grad is not None
    assert not sources.grad[0].any()
    assert sources.grad[1].any()
    none_left = pit_si_snr(sources[:1], labels[:1], threshold_db=-30.0)
    assert none_left.item() == 0
    none_left.backward()


def test_snr_knows_levels_and_silence():
    labels = noise(1, 2, 1, 1_000)
    labels[:, 1] = 0
    mixture = labels.sum(dim=1)
    right = pit_snr(labels, labels, mixture)
    torch.testing.assert_close(right, torch.tensor(-22.5), atol=1e-3, rtol=0)  # -30 for the voice, -15 for silence
    swapped = pit_snr(labels.flip(1), labels, mixture)
    torch.testing.assert_close(swapped, right)
    assert pit_snr(0.5 * labels, labels, mixture) > right + 10, "half the level is wrong"
    leak = labels.clone()
    leak[:, 1] = 0.3 * mixture
    torch.testing.assert_close(pit_snr(leak, labels, mixture), torch.tensor(-19.58), atol=0.01, rtol=0)
    both_on_one = torch.stack([mixture, mixture], dim=1).requires_grad_()
    pit_snr(both_on_one, labels, mixture).backward()
    assert both_on_one.grad is not None
    assert both_on_one.grad.isfinite().all()


def test_silence_is_rewarded_down_to_where_an_output_no_longer_counts():
    labels = noise(1, 2, 1, 1_000)
    labels[:, 1] = 0
    mixture = labels.sum(dim=1)
    losses = []
    for level_db in (-20.0, -30.0, -60.0):
        sources = labels.clone()
        sources[:, 1] = 10 ** (level_db / 20) * mixture
        losses.append([loss(sources, labels, mixture).item() for loss in (pit_snr_silence, pit_snr)])
    assert losses[0][0] - losses[1][0] == pytest.approx(4.8, abs=0.3)  # half of 10 dB, less what the limit of 40 takes
    assert losses[2][0] == pytest.approx(-35.0, abs=0.1)  # the voice is worth 30
    assert losses[0][1] - losses[1][1] < 0.6, "to others a limit of 15 dB is enough"


def test_gradients_are_those_of_the_best_pairs():
    labels, sources = noise(2, 2, 1, 300), noise(2, 2, 1, 300, seed=1)
    first, second = sources.clone().requires_grad_(), sources.clone().requires_grad_()
    pit_si_snr(first, labels).backward()
    pairs = pairwise_si_snr(second, labels)
    straight, crossed = pairs[:, [0, 1], [0, 1]].mean(1), pairs[:, [0, 1], [1, 0]].mean(1)
    (-torch.maximum(straight, crossed).mean()).backward()
    torch.testing.assert_close(first.grad, second.grad)


def test_mixit_deals_the_outputs_to_their_mixtures():
    parts = noise(3, 5, 1, 600)
    first = torch.tensor([[1, 0, 0, 1, 0], [0, 0, 1, 1, 1], [1, 1, 1, 1, 1]]).float()
    mixtures = torch.stack([(parts * w[..., None, None]).sum(dim=1) for w in (first, 1 - first)], dim=1)
    assert torch.equal(mixit_assignment(parts, mixtures), first)
    # the third item's second mixture is silent and nothing is made of it
    torch.testing.assert_close(mixit_loss(parts[:2], mixtures[:2]), torch.tensor(-30.0), atol=1e-2, rtol=0)
    worse = mixit_loss(parts[:2] + 0.3 * noise(2, 5, 1, 600, seed=4), mixtures[:2])
    assert -15 < worse < -5
    shuffled = mixit_loss(parts[:2, [3, 1, 4, 0, 2]], mixtures[:2])
    torch.testing.assert_close(shuffled, mixit_loss(parts[:2], mixtures[:2]), atol=1e-4, rtol=0)


def test_shapes_that_do_not_fit():
    with pytest.raises(DataError, match="sources and labels must both be"):
        pit_si_snr(noise(1, 2, 1, 10), noise(1, 3, 1, 10))
    with pytest.raises(DataError, match="mixtures must be"):
        mixit_loss(noise(1, 2, 1, 10), noise(1, 3, 1, 10))
    with pytest.raises(DataError, match="at most 16 outputs"):
        mixit_loss(noise(1, 17, 1, 10), noise(1, 2, 1, 10))
