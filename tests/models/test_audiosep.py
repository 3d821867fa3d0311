# SPDX-License-Identifier: Apache-2.0
"""AudioSep: what every model promises, and what only a text-queried one does."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from promises_model import ModelPromises, noise
from rounding import TINY_MODEL, assert_same, rounding
from tiny_audiosep import tiny_audiosep

from hubsep import AudioSepConfig, AudioSepForAudioSeparation
from hubsep.errors import CheckpointError, QueryError
from hubsep.losses import l1_loss, sdr_loss, si_sdr_loss
from hubsep.models.audiosep.modeling_audiosep import frames_heard


def queries(number: int = 2) -> torch.Tensor:
    return torch.nn.functional.normalize(noise(number, 16, seed=3), dim=-1)


def published() -> tuple[AudioSepForAudioSeparation, dict[str, Any]]:
    return tiny_audiosep()[0], {"query_embeds": queries()}


def stereo() -> tuple[AudioSepForAudioSeparation, dict[str, Any]]:
    return tiny_audiosep(num_channels=2)[0], {"query_embeds": queries()}


def small() -> tuple[AudioSepForAudioSeparation, dict[str, Any]]:
    model, _ = tiny_audiosep(
        input_features="compressed", frequency_fold=2, film_gain=True, normalize_input=True, presence_head=True,
        query_pooling="mean", loss="sdr",
    )  # fmt: skip
    return model, {"query_embeds": queries()}


def classifying() -> tuple[AudioSepForAudioSeparation, dict[str, Any]]:
    fields = {"query_hidden_size": 8, "query_classes": ["dog", "rain", "anything else"], "film_gain": True}
    return tiny_audiosep(**fields)[0], {"query_embeds": queries()}


class TestPublishedForm(ModelPromises):
    build = staticmethod(published)


class TestStereo(ModelPromises):
    build = staticmethod(stereo)


class TestSmallForm(ModelPromises):
    build = staticmethod(small)


class TestClassifyingForm(ModelPromises):
    build = staticmethod(classifying)


@torch.no_grad()
@pytest.mark.parametrize("build", [published, small])
def test_several_queries_are_each_alone(build: Any):
    model, _ = build()
    mixture, embeds = noise(2, 1, 4_000), queries(3)
    together = model(mixture, query_embeds=embeds).sources
    for i in range(3):
        alone = model(mixture, query_embeds=embeds[i : i + 1]).sources
        assert_same(together[:, i : i + 1], alone, **TINY_MODEL)
    per_item = model(mixture, query_embeds=torch.stack([embeds, embeds.flip(0)])).sources
    assert_same(per_item[1], together[1].flip(0), **TINY_MODEL)


@torch.no_grad()
def test_queries_of_one_class_have_one_effect():
    model, conditions = classifying()
    network: Any = model.query_network
    mixture = noise(1, 1, 4_000)
    network.linear2.bias[1] = 100.0  # sure that every query means rain
    first, second = model(mixture, **conditions).sources[0]
    assert_same(first, second, **TINY_MODEL)
    network.linear2.bias[1] = 0.0
    first, second = model(mixture, **conditions).sources[0]
    assert (first - second).abs().max() > 1e-3


@torch.no_grad()
@torch.no_grad()
def test_shares_of_classes_are_what_words_are_turned_into():
    model, inputs = classifying()
    mixture, embeds = noise(2, 1, 2_000), inputs["query_embeds"]
    weights = model.classify_queries(embeds)
    by_words = model(mixture, query_embeds=embeds).sources
    torch.testing.assert_close(model(mixture, class_weights=weights).sources, by_words)
    assert weights is not None
    each = weights.expand(2, -1, -1)
    torch.testing.assert_close(model(mixture, class_weights=each).sources, by_words)
    with pytest.raises(QueryError, match=r"class_weights must be \(batch, queries, 3\)"):
        model(mixture, class_weights=weights[:, :2])
    with pytest.raises(QueryError, match="models with query_classes"):
        small()[0](mixture, class_weights=weights)


def test_frames_in_which_a_target_is_heard():
    labels = torch.zeros(1, 2, 1, 35)
    labels[0, 0, 0, :10] = 1.0
    labels[0, 0, 0, 10:20] = 0.05  # 26 dB below: says neither
    labels[0, 0, 0, 20:30] = 0.001
    heard, counts = frames_heard(labels, 10, 4)
    assert heard.tolist() == [[[1, 0, 0, 0], [0, 0, 0, 0]]]
    assert counts.tolist() == [[[1, 0, 1, 1], [1, 1, 1, 1]]]


def test_what_two_queries_share_costs_the_sum():
    model, _ = small()
    mixture, embeds = noise(1, 1, 4_000), queries()
    labels = torch.stack([mixture * 0.7, mixture * 0.3], dim=1)
    plain = model(mixture, query_embeds=embeds, labels=labels)
    model.config.sum_weight = 0.5
    whole = sdr_loss(plain.sources.sum(dim=1, keepdim=True), labels.sum(dim=1, keepdim=True), mixture)
    torch.testing.assert_close(model(mixture, query_embeds=embeds, labels=labels).loss, plain.loss + 0.5 * whole)
    model.config.sum_weight, model.config.frame_presence_weight = 0.0, 1.0
    assert model(mixture, query_embeds=embeds, labels=labels).loss > plain.loss


def test_several_texts_a_mixture():
    model, processor = tiny_audiosep()
    tokens = processor(text=["dog", "rain", "dog barking", "bell"])
    mixture = noise(2, 1, 4_000)
    ids, mask = tokens["input_ids"].unflatten(0, (2, 2)), tokens["attention_mask"].unflatten(0, (2, 2))
    together = model(mixture, input_ids=ids, attention_mask=mask).sources
    for i in range(2):
        embeds = model.encode_text(ids[i], mask[i])
        assert_same(model(mixture[i : i + 1], query_embeds=embeds).sources[0], together[i], **TINY_MODEL)


@torch.no_grad()
def test_output_scales_with_a_normalised_input():
    model, conditions = small()
    mixture = noise(1, 1, 4_000)
    reference = model(mixture, **conditions).sources
    for gain in (1e-2, 1e2):
        torch.testing.assert_close(
            model(mixture * gain, **conditions).sources, reference * gain, atol=2e-6 * gain, rtol=1e-3
        )


@torch.no_grad()
def test_negative_queries_take_their_direction_out():
    model, _ = published()
    condition = model._condition(queries(2), queries(3)[2:], 1)[0]
    assert (condition @ queries(3)[2]).abs().max() <= rounding(1.0, terms=16, layers=3)
    torch.testing.assert_close(condition.norm(dim=-1), torch.ones(2))


def test_a_query_is_needed_and_must_fit():
    model, _ = published()
    with pytest.raises(QueryError, match="pass query_embeds or input_ids"):
        model(noise(1, 1, 4_000))
    with pytest.raises(QueryError, match=r"must be \(batch, queries, 16\) or \(queries, 16\), got \(2, 8\)"):
        model(noise(1, 1, 4_000), query_embeds=noise(2, 8))


@torch.no_grad()
def test_texts_and_sounds_share_one_space():
    model, processor = tiny_audiosep()
    tokens = processor(text=["dog barking", "rain"])
    text = model.encode_text(tokens["input_ids"], tokens["attention_mask"])
    sound = model.encode_audio(processor(audio=noise(2, 8_000).numpy(), sampling_rate=16_000)["input_features"])
    assert text.shape[1] == sound.shape[1] == 16
    for embeds in (text, sound):
        torch.testing.assert_close(embeds.norm(dim=-1), torch.ones(len(embeds)))
    padded = processor(text=["rain", "dog barking bell car"])
    again = model.encode_text(padded["input_ids"], padded["attention_mask"])
    assert_same(again[0], text[1], terms=64, layers=12)


def test_training_leaves_the_query_encoder_alone():
    model, conditions = small()
    model.train()
    assert not model.query_encoder.training
    mixture = noise(2, 1, 4_000)
    model(mixture, labels=noise(2, 2, 1, 4_000), **conditions).loss.backward()
    assert all(parameter.grad is None for parameter in model.query_encoder.parameters())


@pytest.mark.slow
def test_the_presence_head_learns_what_is_there():
    model, _ = small()
    embeds, mixture = queries(2), noise(4, 1, 4_000)
    labels = torch.stack([mixture, torch.zeros_like(mixture)], dim=1)
    model.train()
    optimizer = torch.optim.Adam([p for p in model.parameters() if p.requires_grad], lr=1e-2)
    for _ in range(15):
        output = model(mixture, query_embeds=embeds, labels=labels)
        output.loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    assert (output.presence_logits[:, 0] > output.presence_logits[:, 1] + 1).all()


def test_a_new_model_starts_from_the_phase_of_the_mixture():
    model, _ = small()
    head: Any = model.unet.head
    bias = head.bias.unflatten(0, (3, -1))
    assert torch.equal(bias[1], torch.full_like(bias[1], 2.0))
    assert not bias[[0, 2]].any()
    gains = [module.gain for module in model.modules() if getattr(module, "gain", None) is not None]
    assert len(gains) > 10
    assert not any(gain.weight.any() for gain in gains)


def test_losses_by_hand():
    target = noise(1, 1, 1, 1_000)
    mixture, error = noise(1, 1, 1_000, seed=1), noise(1, 1, 1, 1_000, seed=2)
    error = error * target.norm() / error.norm() * 10 ** (-10 / 20)
    # 10 dB against a soft limit of 30 dB: 10 log10(0.1 + 0.001)
    assert sdr_loss(target + error, target, mixture).item() == pytest.approx(-9.957, abs=1e-3)
    assert sdr_loss(2 * target, target, mixture).item() == pytest.approx(0.004, abs=1e-3)
    assert si_sdr_loss(2 * target, target, mixture).item() == pytest.approx(-30, abs=1e-3)
    assert l1_loss(target + 0.5, target, mixture).item() == pytest.approx(0.5, abs=1e-6)
    silent = torch.zeros_like(target)
    # the level of the output against the mixture's, with a soft limit of 15 dB: 10 log10(1 + 0.0316)
    assert sdr_loss(mixture[:, None], silent, mixture).item() == pytest.approx(0.135, abs=1e-3)
    assert sdr_loss(0.1 * mixture[:, None], silent, mixture).item() == pytest.approx(-13.806, abs=1e-3)


@pytest.mark.parametrize(
    ("field", "value", "says"),
    [
        ("n_fft", 10**9, "n_fft is 1000000000"),
        ("n_fft", 700, "must divide by"),
        ("n_fft", "2048", "n_fft must be a whole number"),
        ("hop_length", 0, "hop_length is 0"),
        ("encoder_channels", [32] * 10**5, "encoder_channels has 100000 entries"),
        ("encoder_channels", [32, 64.5], "encoder_channels"),
        ("encoder_strides", [[2, 2]], "encoder_strides has 1 entries"),
        ("encoder_strides", [[2, 2, 2]] * 6, "encoder_strides"),
        ("input_features", "mel", "input_features is 'mel'"),
        ("loss", "mse", "loss is 'mse'"),
        ("overlap_samples", 10**6, "overlap_samples is 1000000"),
        ("known_sounds", [1], "known_sounds"),
        ("sampling_rate", float("nan"), "sampling_rate must be a whole number"),
    ],
)
def test_absurd_configurations_are_refused(field: str, value: Any, says: str):
    with pytest.raises(CheckpointError, match=says):
        AudioSepConfig(**{field: value})


def test_the_published_size():
    with torch.device("meta"):
        model = AudioSepForAudioSeparation(AudioSepConfig())
    separator = sum(p.numel() for n, p in model.named_parameters() if not n.startswith("query_encoder."))
    # 26,447,941 trainable in the original, 824,000 of them never used
    assert separator == 26_447_941 - 824_000
