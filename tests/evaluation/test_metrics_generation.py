# SPDX-License-Identifier: Apache-2.0
"""Metrics of generated audio against cases worked out by hand, and against other ways to the same number."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from tiny_audiomae import tiny_audiomae
from torch import Tensor

from hubsep.errors import AudioError, DataError
from hubsep.metrics.generation import (
    audiomae_embedding,
    clap_audio_embedding,
    clap_score,
    clap_text_embeddings,
    class_divergence,
    embed,
    frechet_audio_distance,
    frechet_distance,
)
from hubsep.models.audiomae.feature_extraction_audiomae import AudioMAEFeatureExtractor


def noise(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def test_frechet_distance_of_two_lines_by_hand():
    # means 1 and 4; variances 2 and 8 (unbiased): 9 + 2 + 8 - 2 * sqrt(16)
    first, second = torch.tensor([[0.0], [2.0]]), torch.tensor([[2.0], [6.0]])
    assert frechet_distance(first, second) == pytest.approx(11.0)
    assert frechet_distance(first, first) == 0.0
    assert frechet_distance(first, first + 3) == pytest.approx(9.0)


def test_frechet_distance_of_crossed_covariances_by_hand():
    # covariances diag(2, 0) and diag(0, 2) share nothing: 0 + 2 + 2 - 0; with themselves they are nothing apart
    first, second = torch.tensor([[-1.0, 0.0], [1.0, 0.0]]), torch.tensor([[0.0, -1.0], [0.0, 1.0]])
    assert frechet_distance(first, second) == pytest.approx(4.0)
    assert frechet_distance(first, first.flip(0)) == pytest.approx(0.0, abs=1e-12)


@pytest.mark.parametrize(("count", "other"), [(300, 400), (5, 400), (5, 4), (2, 2)])
def test_frechet_distance_is_the_one_with_a_matrix_root(count: int, other: int):
    linalg = pytest.importorskip("scipy.linalg")
    mixing = noise(12, 12, seed=1)
    first, second = noise(count, 12, seed=2) @ mixing, noise(other, 12, seed=3) + 0.3
    covariances = [np.cov(rows.numpy(), rowvar=False) for rows in (first, second)]
    # of a product of covariances the eigenvalues are real and not negative, however singular
    values = np.clip(linalg.eigvals(covariances[0] @ covariances[1]).real, 0, None)
    means = [rows.numpy().mean(axis=0) for rows in (first, second)]
    traces = np.trace(covariances[0]) + np.trace(covariances[1])
    expected = np.sum((means[0] - means[1]) ** 2) + traces - 2 * np.sqrt(values).sum()
    # the root of a rounding error of 1e-16 is 1e-8, once for each eigenvalue that is zero
    assert frechet_distance(first, second) == pytest.approx(expected, rel=1e-9, abs=1e-5)
    assert frechet_distance(first, second) == pytest.approx(frechet_distance(second, first), rel=1e-9)


def test_frechet_distance_knows_neither_order_nor_rotation():
    first, second = noise(50, 6, seed=1), 2 * noise(40, 6, seed=2)
    rotation = torch.linalg.qr(noise(6, 6)).Q
    expected = frechet_distance(first, second)
    assert frechet_distance(first.flip(0) @ rotation, second @ rotation) == pytest.approx(expected, rel=1e-10)
    assert frechet_distance(first.float(), second.float()) == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize(
    ("first", "second", "says"),
    [
        (torch.zeros(1, 3), torch.zeros(4, 3), r"embeddings must be \(count, size\) with a count of 2 or more, got"),
        (torch.zeros(4, 3), torch.zeros(3), "references must be"),
        (torch.zeros(4, 3), torch.zeros(4, 2), "embeddings have 3 numbers, references 2"),
        (torch.zeros(4, 3), torch.full((4, 3), torch.nan), "references hold NaN"),
    ],
)
def test_sets_without_a_distance_are_refused(first: Tensor, second: Tensor, says: str):
    with pytest.raises(DataError, match=says):
        frechet_distance(first, second)


def test_any_function_can_be_the_embedding():
    def levels(waveform: Tensor, sampling_rate: int) -> Tensor:
        return waveform.unfold(1, sampling_rate, sampling_rate).square().mean(dim=-1).T

    quiet, loud = [noise(1, 30, seed=i) for i in range(3)], [2 * noise(1, 20, seed=i) for i in range(3)]
    rows = embed(quiet, 10, levels)
    assert rows.shape == (9, 1)
    assert rows.dtype == torch.float64
    assert frechet_audio_distance(quiet, loud, 10, levels) == frechet_distance(rows, embed(loud, 10, levels))
    assert embed(quiet, 10, lambda waveform, rate: waveform[0, :4]).shape == (3, 4)
    with pytest.raises(DataError, match="no recordings"):
        embed([], 10, levels)
    with pytest.raises(DataError, match=r"got \(1, 1, 30\)"):
        embed(quiet, 10, lambda waveform, rate: waveform[None])


def test_class_divergence_by_hand():
    probabilities = torch.tensor([[0.5, 0.25, 0.25], [0.1, 0.1, 0.8]]).double()
    targets = torch.tensor([[0.25, 0.5, 0.25], [0.1, 0.1, 0.8]]).double()
    divergence = class_divergence(probabilities.log(), targets.log() + 7)  # logits have no origin
    by_hand = 0.25 * math.log(0.5) + 0.5 * math.log(2)
    assert divergence[0].item() == pytest.approx(by_hand, abs=1e-5)
    assert divergence[1].item() == pytest.approx(0, abs=4e-6)  # 1e-6 is added to each of three classes
    assert divergence[0] != class_divergence(targets.log(), probabilities.log())[0]
    certain = class_divergence(torch.tensor([[0.0, 500.0]]), torch.tensor([[500.0, 0.0]]))
    assert certain.item() == pytest.approx(-math.log(1e-6))
    sigmoids = class_divergence(torch.zeros(1, 2), torch.tensor([[0.0, math.log(3)]]), several_labels=True)
    assert sigmoids.item() == pytest.approx(0.75 * math.log(1.5), abs=1e-5)


def test_class_divergence_is_that_of_torch():
    logits, references = noise(6, 20), 3 * noise(6, 20, seed=1)
    expected = torch.nn.functional.kl_div(
        (logits.softmax(dim=1) + 1e-6).log(), references.softmax(dim=1), reduction="none"
    ).sum(dim=1)
    torch.testing.assert_close(class_divergence(logits, references), expected)


def test_clap_score_by_hand():
    audio = torch.tensor([[3.0, 4.0], [1.0, 0.0], [-2.0, 0.0]])
    text = torch.tensor([[30.0, 40.0], [0.0, 5.0], [1.0, 0.0]])
    assert clap_score(audio, text).tolist() == pytest.approx([1, 0, -1])
    assert clap_score(audio[:1], torch.tensor([[1.0, 0.0]])).item() == pytest.approx(0.6)


@pytest.mark.parametrize("bad", [torch.zeros(2, 3), torch.full((2, 3), torch.inf), torch.ones(3, 3), torch.ones(2)])
def test_embeddings_without_a_direction_or_a_partner_are_refused(bad: Tensor):
    with pytest.raises(DataError):
        clap_score(torch.ones(2, 3), bad)
    with pytest.raises(DataError):
        class_divergence(torch.ones(2, 4), bad)


@torch.no_grad()
def test_audiomae_as_the_embedding():
    model, extractor = tiny_audiomae(), AudioMAEFeatureExtractor(num_frames=96, num_mel_bins=64)
    embedding, sound = audiomae_embedding(model, extractor), 0.1 * noise(2, 8_000).float()
    rows = embed([sound, sound[:, :6_000]], 16_000, embedding)
    hidden = model(extractor(sound.mean(dim=0), 16_000)["input_features"]).last_hidden_state[0, 1:]
    # 48 frames are 6 steps of 8 patches
    torch.testing.assert_close(rows[0], hidden[:48].mean(dim=0).double())
    assert rows.shape == (2, 16)
    with pytest.raises(AudioError, match="there is place for 96"):
        embedding(torch.ones(1, 32_000), 16_000)


def tiny_clap() -> Any:
    text = {"vocab_size": 40, "hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2,
            "intermediate_size": 16}  # fmt: skip
    sound = {"window_size": 4, "num_mel_bins": 16, "spec_size": 64, "patch_size": 4, "patch_stride": [4, 4],
             "hidden_size": 16, "patch_embeds_hidden_size": 8, "depths": [1, 1], "num_hidden_layers": 2,
             "num_attention_heads": [2, 2]}  # fmt: skip
    config = transformers.ClapConfig(text_config=text, audio_config=sound, projection_dim=12)
    torch.manual_seed(0)
    return transformers.ClapModel(config).eval()


def test_clap_as_the_embedding():
    model = tiny_clap()
    extractor = transformers.ClapFeatureExtractor(
        feature_size=16, sampling_rate=8_000, hop_length=40, fft_window_size=256, max_length_s=1, frequency_max=4_000,
        padding="repeatpad", truncation="rand_trunc",
    )  # fmt: skip
    letters = "abcdefghijklmnopqrstuvwxyz"
    words = {word: i for i, word in enumerate(["<s>", "<pad>", "</s>", "<unk>", "<mask>", "Ġ", *letters])}
    tokenizer = transformers.RobertaTokenizer(vocab=words, merges=[], model_max_length=64)
    audio = embed([0.1 * noise(1, 8_000, seed=i) for i in range(2)], 8_000, clap_audio_embedding(model, extractor))
    text = clap_text_embeddings(model, tokenizer, ["rain", "a dog"])
    scores = clap_score(audio, text)
    assert audio.shape == text.shape == (2, 12)
    assert scores.abs().max() <= 1
    assert torch.equal(scores[1:], clap_score(audio[1:], text[1:]))
