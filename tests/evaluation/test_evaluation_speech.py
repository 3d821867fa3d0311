# SPDX-License-Identifier: Apache-2.0
"""Metrics of speech separation, conversations with their truth, and what `hubsep evaluate` says of a separator."""

from __future__ import annotations

import json
import random
from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from speakers import speakers
from torch import Tensor

from hubsep import pipeline
from hubsep.cards import results_table
from hubsep.cards.card import conversations
from hubsep.cards.results import conditions_table
from hubsep.cli import main
from hubsep.data.conversations import TurnSettings, conversation
from hubsep.data.noisy import noisy_mixtures
from hubsep.data.recordings import Clip, load_clips
from hubsep.data.speech import by_speaker, speech_mixtures
from hubsep.errors import DataError
from hubsep.evaluation.speech import evaluate_mixtures, swap_rate
from hubsep.evaluation.speech_conditions import CONDITIONS, People, evaluate_conditions
from hubsep.metrics import filtered_sdr, match_outputs, separation_scores, si_snr
from hubsep.modeling import AudioSeparationOutput
from hubsep.models.conv_tasnet.configuration_conv_tasnet import ConvTasNetConfig
from hubsep.models.conv_tasnet.modeling_conv_tasnet import ConvTasNetForAudioSeparation


RATE = 8_000


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return speakers(tmp_path_factory.mktemp("data") / "speech", count=14)


@pytest.fixture(scope="module")
def clips(data: Path) -> list[Clip]:
    return load_clips([data], RATE)


@pytest.fixture(scope="module")
def model() -> ConvTasNetForAudioSeparation:
    torch.manual_seed(0)
    config = ConvTasNetConfig(
        num_filters=16, bottleneck_channels=8, hidden_channels=8, skip_channels=8, num_blocks=2, num_repeats=1,
        segment_samples=8_000, overlap_samples=2_000,
    )  # fmt: skip
    return ConvTasNetForAudioSeparation(config).eval()


def noise(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def test_metrics_are_those_of_torchmetrics():
    audio = pytest.importorskip("torchmetrics.functional.audio")
    reference = torch.nn.functional.avg_pool1d(noise(3, 8_000), 5, 1)
    estimate = 0.5 * reference + 0.2 * torch.roll(reference, 3, dims=1) + 0.1 * noise(3, 7_996, seed=1)
    expected = audio.signal_distortion_ratio(estimate.double(), reference.double())
    torch.testing.assert_close(filtered_sdr(estimate, reference), expected, atol=1e-6, rtol=0)
    expected = audio.scale_invariant_signal_noise_ratio(estimate + 0.2, reference)
    torch.testing.assert_close(si_snr(estimate + 0.2, reference), expected, atol=1e-5, rtol=0)
    assert (filtered_sdr(estimate, reference) > si_snr(estimate, reference) + 2.5).all(), "the echo is forgiven"


def test_perfect_and_impossible_estimates_have_a_number():
    tone = torch.sin(torch.arange(4_000) * 0.1)[None]
    assert filtered_sdr(tone, tone).item() > 60
    assert filtered_sdr(torch.zeros_like(tone), tone).item() == pytest.approx(-100)
    assert filtered_sdr(tone, torch.zeros_like(tone)).item() == pytest.approx(-100)


def test_scores_do_not_depend_on_the_order_of_outputs():
    references = noise(2, 4_000)
    outputs = torch.cat([noise(1, 4_000, seed=7), references.flip(0) + 0.1 * noise(2, 4_000, seed=3)])
    scores = separation_scores(outputs, references, references.sum(dim=0))
    assert scores["order"].tolist() == match_outputs(outputs, references).tolist() == [2, 1]
    assert scores["si_snr"].tolist() == pytest.approx([20, 20], abs=0.3)
    assert scores["si_snri"].tolist() == pytest.approx([20, 20], abs=1)
    mixture = references.sum(dim=0)
    unchanged = separation_scores(torch.stack([mixture, mixture]), references, mixture)
    assert unchanged["si_snri"].abs().max() < 1e-4
    assert unchanged["sdri"].abs().max() < 1e-4


def test_conversations_have_turns_pauses_and_overlaps(clips: list[Clip]):
    turns = TurnSettings(turn_s=(1.0, 3.0), overlap_s=(0.3, 1.0), overlap_probability=0.7)
    talk = conversation(clips, RATE, minutes=1.0, settings=turns, one_gender=False)
    assert talk.sources.shape == (2, 60 * RATE)
    speaking = talk.sources.unflatten(1, (-1, RATE // 10)).any(dim=-1)
    share = {count: (speaking.sum(dim=0) == count).float().mean().item() for count in (0, 1, 2)}
    assert share[0] > 0.05
    assert share[1] > 0.5
    assert share[2] > 0.02
    for row in speaking:
        assert sum(a != b for a, b in pairwise(row.tolist())) > 8
    torch.testing.assert_close(talk.mixture, talk.sources.sum(dim=0))
    assert talk.mixture.abs().max() < 0.951
    again = conversation(clips, RATE, minutes=1.0, settings=turns, one_gender=False)
    assert torch.equal(again.sources, talk.sources)
    assert again.speakers == talk.speakers
    genders = {clip.group: clip.gender for clip in clips}
    assert len({genders[name] for name in talk.speakers}) == 2
    with pytest.raises(DataError, match="3 speakers of both genders cannot be made of 2 speakers"):
        conversation(clips[:4], RATE, num_sources=3, one_gender=False)


def test_swaps_are_counted(clips: list[Clip]):
    talk = conversation(clips, RATE, minutes=1.0, settings=TurnSettings(turn_s=(1.0, 3.0)))
    right = swap_rate(talk.sources, talk.sources, RATE)
    assert right == {"seconds": right["seconds"], "swaps": 0, "swaps_per_minute": 0, "wrong_seconds": 0}
    assert 40 < right["seconds"] <= 60
    assert swap_rate(talk.sources.flip(0), talk.sources, RATE) == right, "the other order is as good"
    swapped = talk.sources.clone()
    swapped[:, 20 * RATE : 30 * RATE] = talk.sources[:, 20 * RATE : 30 * RATE].flip(0)
    counted = swap_rate(swapped, talk.sources, RATE)
    assert counted["swaps"] == 2
    assert 5 / 60 < counted["wrong_seconds"] <= 10 / 40
    noisy = swapped + 0.01 * noise(*swapped.shape)
    assert swap_rate(noisy, talk.sources, RATE)["swaps"] == 2
    both = torch.stack([talk.mixture, talk.mixture])
    assert swap_rate(both, talk.sources, RATE)["swaps"] == 0, "the same on both outputs says nothing"
    spare = torch.cat([torch.zeros(1, swapped.shape[1]), swapped])
    assert swap_rate(spare, talk.sources, RATE)["swaps"] == 2


def test_silence_has_no_swaps():
    nothing = torch.zeros(2, 5 * RATE)
    assert swap_rate(nothing, nothing, RATE) == {
        "seconds": 0, "swaps": 0, "swaps_per_minute": 0, "wrong_seconds": 0,
    }  # fmt: skip


def test_genders_are_told_apart(clips: list[Clip], model: ConvTasNetForAudioSeparation):
    mixtures = speech_mixtures(clips, RATE, count=6, seconds=0.5)
    done: list[int] = []
    result = evaluate_mixtures(model, mixtures, on_progress=lambda: done.append(1))
    assert len(done) == result["mixtures"] == 6
    assert {name: row["mixtures"] for name, row in result["classes"].items()} == {"same gender": 3, "mixed gender": 3}
    means = [row["si_snri"] for row in result["classes"].values()]
    assert result["si_snri"] == pytest.approx(sum(means) / 2, abs=0.011)
    assert result["si_snri"] < 3, "random weights cannot separate"


@pytest.mark.slow
def test_the_command_measures_separators_of_speakers(
    data: Path, model: ConvTasNetForAudioSeparation, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    model.save_pretrained(tmp_path / "model")
    command = [
        "evaluate",
        str(tmp_path / "model"),
        "--data",
        str(data.parent),
        "--folder",
        "speech",
        "--mixtures",
        "4",
    ]
    command += ["--all-recordings", "--seconds", "0.5", "--json", str(tmp_path / "result.json")]
    assert main([*command, "--conversation-minutes", "0.2"]) == 0
    printed = capsys.readouterr().out
    result = json.loads((tmp_path / "result.json").read_text())
    for word in ("same gender", "mixed gender", "si_snri_median", "swaps_per_minute", str(result["sdri"])):
        assert word in printed
    assert set(result["conversations"]) == {"same gender", "mixed gender"}
    told = result["conversations"]["same gender"]
    assert told["minutes"] == 0.2
    assert told["memory_mb"] > 100
    assert 0 <= told["memory_added_mb"] < told["memory_mb"]
    assert f"{told['wrong_s']} of {told['seconds']} spoken seconds on the wrong output" in printed
    assert "| **all** | 4 |" in results_table(result)
    assert "Conversation of 0.2 minutes, same gender" in conversations(result)[0]
    (tmp_path / "link.json").symlink_to(tmp_path / "nowhere.json")
    assert main([*command, "--json", str(tmp_path / "link.json")]) == 2
    assert "is there already" in capsys.readouterr().err
    assert main([*command, "--speakers", "3", "--overwrite"]) != 0
    assert "for 3 the model has 2 outputs" in capsys.readouterr().err
    for place in (data / "metadata.csv", data / "0_0.wav", tmp_path / "model" / "config.json"):
        before = place.read_bytes()
        for option in ("--json", "--picture"):
            assert main([*command, option, str(place), "--overwrite"]) == 2
            assert "which is read; write to another place" in " ".join(capsys.readouterr().err.split())
        assert place.read_bytes() == before
    rows = result["conditions"]
    assert {"nobody, a hum", "a lone speaker", "two women", "two men", "two speakers in a room"} <= set(rows)
    assert "two speakers, another sound 5 dB below" not in rows, "no other sound was given"
    assert "| two women | 1 |" in conditions_table(result)[1]


def test_speakers_are_judged_where_it_is_not_easy(clips: list[Clip], model: ConvTasNetForAudioSeparation):
    sounds = np.random.default_rng(0)
    noises = [Clip((sounds.standard_normal(RATE) * 3_000).astype(np.int16), ("rain",), "rain", "", "rain.wav")]
    rows = evaluate_conditions(pipeline("audio-separation", model=model), clips, noises, RATE, count=2, seconds=0.5)
    assert list(rows) == list(CONDITIONS)
    for name, row in rows.items():
        assert row["mixtures"] == 2
        assert row["counted"] in (0.0, 0.5, 1.0)
        assert ("si_snri" in row) == (name.startswith("two") or "and" in name), name
    assert "kept" in rows["a lone speaker"]
    assert set(rows["nobody, a hum"]) == {"mixtures", "counted"}


def test_conditions_of_speakers_are_of_whom_they_name(clips: list[Clip]):
    people = People(by_speaker(clips), [], RATE, RATE // 2)
    women = [name for name in people.speakers if people.kind(name) == "woman"]
    assert 2 <= len(women) < len(people.speakers)
    for seed in range(10):
        item = CONDITIONS["a lone speaker"](people, random.Random(seed))
        assert item is not None
        torch.testing.assert_close(item.mixture, item.speakers[0])
        assert item.mixture.square().mean().sqrt().item() == pytest.approx(0.1, rel=1e-3)
    few = People({women[0]: people.speakers[women[0]]}, [], RATE, RATE // 2)
    assert CONDITIONS["two women"](few, random.Random(0)) is None
    assert CONDITIONS["a woman and a man"](few, random.Random(0)) is None
    assert CONDITIONS["two speakers, another sound 5 dB below"](people, random.Random(0)) is None


@pytest.fixture(scope="module")
def enhancer(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("enhancer")
    torch.manual_seed(0)
    config = ConvTasNetConfig(
        num_sources=1, num_filters=16, bottleneck_channels=8, hidden_channels=8, skip_channels=8, num_blocks=2,
        num_repeats=1,
    )  # fmt: skip
    ConvTasNetForAudioSeparation(config).save_pretrained(folder)
    return folder


def test_noise_lies_over_speech_at_the_level_asked_for(clips: list[Clip]):
    mixtures = noisy_mixtures(clips[:10], clips[10:], RATE, count=8, seconds=0.5, snr_db=(-5.0, 15.0))
    assert [item.kind for item in mixtures[:2]] == ["-5 to 5 dB", "5 to 15 dB"]
    for item in mixtures:
        ratio = 10 * torch.log10(item.sources.square().mean() / item.noise.square().mean()).item()
        low, high = (float(part) for part in item.kind.removesuffix(" dB").split(" to "))
        assert low - 0.01 <= ratio <= high + 0.01
        assert item.mixture.dtype == torch.float32
        assert item.mixture.square().mean().sqrt().item() == pytest.approx(0.1, rel=1e-4)
    again = noisy_mixtures(clips[:10], clips[10:], RATE, count=2, seconds=0.5, snr_db=(-5.0, 15.0))
    assert torch.equal(again[1].mixture, mixtures[1].mixture)
    with pytest.raises(DataError, match="got 5 speakers and 0 noises"):
        noisy_mixtures(clips[:10], [], RATE)


def test_the_command_measures_models_that_take_noise_away(
    data: Path, enhancer: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    command = ["evaluate", str(enhancer), "--data", str(data), "--all-recordings", "--mixtures", "4"]
    command += ["--seconds", "0.5"]
    assert main([*command, "--noise", str(data), "--json", str(tmp_path / "result.json")]) == 0
    result = json.loads((tmp_path / "result.json").read_text())
    assert set(result["classes"]) == {"0 to 5 dB", "5 to 10 dB"}
    assert result["classes"]["0 to 5 dB"]["mixtures"] == 2
    assert result["si_snri"] < 3, "random weights take nothing away"
    for wrong in ([], ["--noise", str(data), "--conversation-minutes", "1"]):
        assert main([*command, *wrong]) != 0
        assert "name a folder of it with --noise" in capsys.readouterr().err


def test_what_a_perfect_model_gains_is_what_the_noise_cost(clips: list[Clip]):
    class Oracle(torch.nn.Module):
        device = torch.device("cpu")
        config = SimpleNamespace(num_channels=1)

        def forward(self, mixture: Tensor) -> AudioSeparationOutput:
            item = next(item for item in mixtures if torch.equal(item.mixture, mixture[0, 0]))
            return AudioSeparationOutput(sources=(item.sources + 1e-3 * item.noise)[None, :, None])

    mixtures = noisy_mixtures(clips[:10], clips[10:], RATE, count=4, seconds=0.5)
    result = evaluate_mixtures(Oracle(), mixtures)
    assert result["si_snri"] == pytest.approx(60, abs=1)  # the noise is a thousandth of what it was
