# SPDX-License-Identifier: Apache-2.0
"""Speech mixtures, and training on them: the same items in any order, and runs that go on to the same bits."""

from __future__ import annotations

import json
import random
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from sounds import corpus
from speakers import speakers
from tiny_audioslots import tiny_audioslots
from tiny_conv_tasnet import tiny_conv_tasnet

from hubsep import AutoModelForAudioSeparation
from hubsep.cli import main
from hubsep.data.mixing import rms
from hubsep.data.recordings import Clip, load_clips, split_clips
from hubsep.data.speech import SpeechMixtureDataset, SpeechSettings, by_speaker, change_speed, fade, speech_mixtures
from hubsep.data.voices import SpeakerSampler, SpeakerSettings
from hubsep.errors import DataError
from hubsep.modeling import AudioSeparationOutput
from hubsep.training.recipe import load_recipe
from hubsep.training.separators import speech


RATE = 8_000
TINY = {
    "sampling_rate": RATE, "encoder_kernel_size": 16, "encoder_stride": 8, "encoder_channels": 16, "hidden_size": 8,
    "num_blocks": 1, "num_intra_layers": 1, "num_inter_layers": 1, "num_attention_heads": 2, "intermediate_size": 16,
    "chunk_size": 20,
}  # fmt: skip


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("data")
    speakers(folder / "speech")
    corpus(folder / "noise", clips=6)
    return folder


@pytest.fixture(scope="module")
def clips(data: Path) -> list[Clip]:
    return load_clips([data / "speech"], RATE)


def dataset(clips: list[Clip], noises: list[Clip] | None = None, **settings: Any) -> SpeechMixtureDataset:
    return SpeechMixtureDataset(clips, SpeechSettings(RATE, **{"seconds": 0.7, **settings}), 100, noises=noises)


def run_settings(**changes: Any) -> dict[str, Any]:
    return {
        "model_type": "sepformer", "model": TINY, "folders": ["speech"], "mixing": {"seconds": 0.25}, "batch_size": 2,
        "validation_fraction": 0.3, "validation_mixtures": 4, "validation_seconds": 0.5, "steps": 4, "save_every": 2,
        "eval_every": 2, "warmup_steps": 1, "bf16": False, "average_decay": 0.9, **changes,
    }  # fmt: skip


def test_an_item_depends_on_its_number_alone(clips: list[Clip]):
    options: dict[str, Any] = {"partial_probability": 0.5, "noise_probability": 0.5, "noises": clips[:2]}
    first, again = dataset(clips, **options), dataset(clips, **options)
    forwards = [first[i] for i in range(20)]
    for i in reversed(range(20)):
        assert all(torch.equal(again[i][name], forwards[i][name]) for name in ("input_values", "labels"))
    assert not torch.equal(forwards[0]["labels"], forwards[1]["labels"])
    with pytest.raises(IndexError):
        first[100]


def test_sources_add_up_at_their_levels(clips: list[Clip]):
    data = dataset(clips, num_sources=3, level_range_db=2.0)
    levels = []
    for i in range(40):
        item = data[i]
        torch.testing.assert_close(item["labels"].sum(dim=0), item["input_values"], atol=1e-6, rtol=0)
        assert item["labels"].shape == (3, 1, data.samples)
        assert item["input_values"].abs().max() < 0.951
        levels.append(20 * np.log10([rms(source.numpy()) for source in item["labels"]]))
    spread = np.ptp(levels, axis=1)
    assert 2 < spread.max() < 4.01, "each may be moved by 2 dB either way"
    loudness = 20 * np.log10([rms(data[i]["input_values"].numpy()) for i in range(40)])
    assert -33.1 < loudness.min() < loudness.max() < -17.9


def test_noise_belongs_to_no_source(data: Path, clips: list[Clip]):
    noises = load_clips([data / "noise"], RATE)
    items = dataset(clips, noises, noise_probability=1.0, noise_snr_db=(10.0, 10.0))
    for i in range(10):
        item = items[i]
        clean = item["labels"].sum(dim=0)
        ratio = 20 * np.log10(rms(clean.numpy()) / rms((item["input_values"] - clean).numpy()))
        assert ratio == pytest.approx(10, abs=0.1)


def test_some_speakers_are_heard_for_a_part_or_not_at_all(clips: list[Clip]):
    items = dataset(clips, partial_probability=1.0, partial_range=(0.3, 0.6))
    for i in range(10):
        for source in items[i]["labels"][:, 0]:
            heard = source.nonzero()[:, 0]
            assert heard.max() <= 0.6 * items.samples or heard.min() >= 0.4 * items.samples - 1
    items = dataset(clips, num_sources=3, num_outputs=4, fewer_probability=0.5)
    counts = [int(items[i]["labels"].any(dim=-1).sum()) for i in range(40)]
    assert set(counts) == {1, 2, 3}
    assert items[0]["labels"].shape[0] == 4


def test_a_lone_speaker_and_nobody_leave_outputs_silent(data: Path, clips: list[Clip]):
    noises = load_clips([data / "noise"], RATE)
    items = dataset(clips, fewer_probability=0.5, nobody_probability=0.2, hum_probability=0.5)
    heard = [int(items[i]["labels"].any(dim=-1).sum()) for i in range(60)]
    assert {count: heard.count(count) > 5 for count in (0, 1, 2)} == {0: True, 1: True, 2: True}
    quiet = dataset(clips, noises, nobody_probability=1.0, noise_probability=0.5)
    for i in range(10):
        assert rms(quiet[i]["input_values"].numpy()) > 1e-3, "something is heard"
        assert not quiet[i]["labels"].any()


def test_a_hum_is_as_far_below_as_it_should_be_and_nobodys(clips: list[Clip]):
    items = dataset(clips, hum_probability=1.0, hum_snr_db=(20.0, 20.0))
    for i in range(5):
        clean = items[i]["labels"].sum(dim=0)
        ratio = 20 * np.log10(rms(clean.numpy()) / rms((items[i]["input_values"] - clean).numpy()))
        assert ratio == pytest.approx(20, abs=0.1)


@pytest.mark.parametrize("change", ["room_probability", "equaliser_probability"])
def test_rooms_and_microphones_are_part_of_the_speakers(clips: list[Clip], change: str):
    plain = dataset(clips, speed_probability=0.0)
    settings: dict[str, Any] = {change: 1.0}
    changed = dataset(clips, speed_probability=0.0, **settings)
    for i in range(5):
        item = changed[i]
        torch.testing.assert_close(item["labels"].sum(dim=0), item["input_values"], atol=1e-6, rtol=0)
        first, before = item["labels"][0, 0], plain[i]["labels"][0, 0]
        likeness = torch.nn.functional.cosine_similarity(first, before, dim=0).abs()
        assert likeness < 0.999


def test_who_speaks_together(clips: list[Clip]):
    def kinds(**settings: float) -> list[tuple[str, ...]]:
        sampler = SpeakerSampler(by_speaker(clips), RATE, SpeakerSettings(**settings))
        drawn = [sampler.draw(2, random.Random(i)) for i in range(200)]
        assert all(first[0].group != second[0].group for first, second in drawn)
        return [tuple(sorted(speaker[0].gender for speaker in pair)) for pair in drawn]

    assert set(kinds(women=1.0)) == {("f", "f")}
    assert set(kinds(men=1.0)) == {("m", "m")}
    assert kinds(women=0.4).count(("f", "f")) > kinds().count(("f", "f")) + 20
    assert len(SpeakerSampler(by_speaker(clips[:2]), RATE, SpeakerSettings(women=1.0)).draw(1, random.Random(0))) == 1


def test_speakers_of_one_corpus_and_those_who_say_little(clips: list[Clip]):
    seconds = len(clips[0].samples) / RATE
    few = by_speaker(clips)["speaker-1"][:1]
    both = [*few, *(Clip(c.samples, c.labels, c.group + "b", "other", c.path, c.gender) for c in clips), *clips[10:]]
    speakers = by_speaker(both)
    sampler = SpeakerSampler(speakers, RATE, SpeakerSettings(one_corpus=1.0, full_seconds=4 * seconds))
    pairs = [sampler.draw(2, random.Random(i)) for i in range(400)]
    assert all(first[0].corpus == second[0].corpus for first, second in pairs)
    weights = dict(zip(sampler.pools["", ""].names, np.diff([0, *sampler.pools["", ""].totals]), strict=True))
    assert weights["speaker-1"] == pytest.approx(0.5)  # a quarter of what counts in full
    assert weights["speaker-1b"] == pytest.approx(0.5**0.5)


def test_mixtures_of_mixtures(clips: list[Clip]):
    plain, halves = (dataset(clips, num_sources=4, mixit=mixit)[3] for mixit in (False, True))
    assert torch.equal(plain["input_values"], halves["input_values"])
    torch.testing.assert_close(halves["labels"], plain["labels"].unflatten(0, (2, 2)).sum(dim=1))


def test_speed_changes_pitch():
    tone = np.sin(2 * np.pi * 400 * np.arange(8_000) / RATE).astype(np.float32)
    faster = change_speed(tone, 1.25)
    assert len(faster) == 6_399
    expected = np.sin(2 * np.pi * 500 * np.arange(6_399) / RATE)
    assert np.abs(faster - expected).max() < 0.02  # linear interpolation of 16 samples a period: (2 pi / 16)^2 / 8


def test_fades_leave_the_middle_alone():
    faded = fade(np.ones(100, np.float32), 20, 60, 10)
    assert not faded[:21].any()
    assert not faded[59:].any()
    assert (faded[30:50] == 1).all()
    assert (fade(np.ones(100, np.float32), 0, 100, 10) == 1).all()


def test_fixed_mixtures_are_of_one_gender_and_of_two(clips: list[Clip]):
    mixtures = speech_mixtures(clips, RATE, count=10, seconds=2.5)
    genders = {name: rows[0].gender for name, rows in by_speaker(clips).items()}
    for number, item in enumerate(mixtures):
        assert item.sources.shape == (2, 20_000)
        assert item.same_gender is (number % 2 == 0)
        assert (len({genders[name] for name in item.speakers}) == 1) is item.same_gender
        first, second = (20 * np.log10(rms(source.numpy())) for source in item.sources)
        assert -0.01 < first - second < 2.51
    again = speech_mixtures(clips, RATE, count=10, seconds=2.5)
    assert all(torch.equal(a.sources, b.sources) for a, b in zip(mixtures, again, strict=True))
    unknown = [Clip(c.samples, c.labels, c.group, c.corpus, c.path) for c in clips]
    assert {item.same_gender for item in speech_mixtures(unknown, RATE, count=3)} == {None}


def test_too_few_speakers_and_no_noise(clips: list[Clip], data: Path, tmp_path: Path):
    with pytest.raises(DataError, match="3 speakers need as many, got 1"):
        dataset(clips[:1], num_sources=3)
    with pytest.raises(DataError, match="as many held-out ones, got 1"):
        speech_mixtures(clips[:1], RATE)
    with pytest.raises(DataError, match="there is no noise"):
        dataset(clips, noise_probability=0.5)
    few = speakers(tmp_path / "few", count=4)
    with pytest.raises(DataError, match=r"recordings of 3 sources that may be used; six sources of a label"):
        speech.main(None, few, tmp_path / "run", **run_settings(folders=["."]))


@pytest.mark.slow
def test_a_killed_run_goes_on_to_the_same_bits(data: Path, tmp_path: Path):
    noisy = run_settings(noise_folders=["noise"], mixing={"seconds": 0.25, "noise_probability": 0.5})
    whole = speech.main(None, data, tmp_path / "whole", **noisy)
    shutil.copytree(tmp_path / "whole", tmp_path / "resumed")
    for name in ("checkpoint-4", "model", "best"):
        shutil.rmtree(tmp_path / "resumed" / name)
    resumed = speech.main(None, data, tmp_path / "resumed", **noisy)
    weights = [load_file(tmp_path / n / "model" / "model.safetensors") for n in ("whole", "resumed")]
    assert all(torch.equal(weights[0][name], weights[1][name]) for name in weights[0])
    last = load_file(tmp_path / "whole" / "checkpoint-4" / "model.safetensors")
    assert not all(torch.equal(weights[0][name], last[name]) for name in last), "the mean is saved, not the last step"
    assert {**whole, "minutes": 0} == {**resumed, "minutes": 0}
    curve = json.loads((tmp_path / "resumed" / "curve.json").read_text())
    assert [point["step"] for point in curve] == [2, 4]
    assert {"si_snri", "same_gender", "mixed_gender", "train_loss", "minutes"} <= curve[0].keys()
    assert (tmp_path / "resumed" / "curve.png").stat().st_size > 1_000


@pytest.mark.slow
def test_a_run_may_stop_by_the_clock_and_go_on_with_more_steps(data: Path, tmp_path: Path):
    point = speech.main(None, data, tmp_path / "run", **run_settings(minutes=1e-6))
    assert point["step"] == 1
    assert (tmp_path / "run" / "checkpoint-1" / "averaged.safetensors").is_file()
    point = speech.main(None, data, tmp_path / "run", **run_settings(steps=3, schedule="constant_with_warmup"))
    assert point["step"] == 3


@pytest.mark.slow
def test_a_run_starts_from_another_model_and_learns(data: Path, tmp_path: Path):
    settings = run_settings(steps=16, eval_every=8, batch_size=4, learning_rate=0.01, average_decay=0.0)
    point = speech.main(None, data, tmp_path / "first", **settings)
    curve = json.loads((tmp_path / "first" / "curve.json").read_text())
    assert point["train_loss"] < 20
    best = AutoModelForAudioSeparation.from_pretrained(tmp_path / "first" / "best")
    training, heldout = split_clips(load_clips([data / "speech"], RATE, commercial_only=True), 0.3)
    assert {clip.group for clip in training}.isdisjoint(clip.group for clip in heldout)
    again = speech.validate(best.eval(), speech_mixtures(heldout, RATE, count=4, seconds=0.5))
    assert again["si_snri"] == pytest.approx(max(p["si_snri"] for p in curve), abs=0.01)
    start = {"initial_model": str(tmp_path / "first" / "model"), "model": {"loss": "si_sdr"}}
    model = speech.build_model(load_recipe(speech.SpeechRecipe, None, **run_settings(**start)))
    assert model.config.loss == "si_sdr"
    saved = load_file(tmp_path / "first" / "model" / "model.safetensors")
    assert all(torch.equal(tensor, saved[name]) for name, tensor in model.state_dict().items() if name in saved)


def test_a_lone_speaker_is_judged_as_a_pipeline_counts(clips: list[Clip]):
    class Copies(torch.nn.Module):
        """Gives the mixture, and so much of it on a second output."""

        def __init__(self, share: float):
            super().__init__()
            self.config = tiny_conv_tasnet(sampling_rate=RATE, loss="pit_snr_silence")[0].config
            self.share, self.device = share, torch.device("cpu")

        def forward(self, mixture: torch.Tensor) -> AudioSeparationOutput:
            sources = torch.stack([mixture, self.share * mixture.roll(RATE // 2, -1)], dim=1)
            return AudioSeparationOutput(sources=sources)

    mixtures = speech_mixtures(clips, RATE, count=4, seconds=1.0)
    quiet, loud = (speech.validate(Copies(share), mixtures) for share in (1e-4, 1.0))
    assert (quiet["lone_counted"], quiet["all_counted"]) == (1, 0)
    assert (loud["lone_counted"], loud["all_counted"]) == (0, 1)
    assert quiet["lone"] > 60


@pytest.mark.slow
def test_a_model_with_one_output_is_judged_under_noise(tmp_path: Path):
    data = tmp_path / "data"
    speakers(data / "speech")
    corpus(data / "noise")
    settings = run_settings(
        model_type="conv_tasnet", model=tiny_conv_tasnet(num_sources=1, sampling_rate=RATE)[0].config.to_diff_dict(),
        noise_folders=["noise"], mixing={"seconds": 0.25, "noise_probability": 1.0}, steps=2,
    )  # fmt: skip
    point = speech.main(None, data, tmp_path / "run", **settings)
    assert abs(point["si_snri"]) < 60
    assert not {"lone", "same_gender"} & point.keys()


def test_speakers_who_are_several_people_are_left_out(data: Path):
    recipe = load_recipe(speech.SpeechRecipe, None, **run_settings(left_out=["speaker-3", "speaker-4"]))
    training, validation, *_ = speech.load_speakers(recipe, data, RATE)
    names = {clip.group for clip in [*training, *validation]}
    assert not names & {"speaker-3", "speaker-4"}
    assert "speaker-5" in names


def test_parts_that_a_recipe_adds_start_anew(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    first, _ = tiny_audioslots(slot_init="learned")
    first.save_pretrained(tmp_path / "first")
    settings: dict[str, Any] = {"model_type": "audioslots", "initial_model": str(tmp_path / "first")}
    model = speech.build_model(speech.SpeechRecipe(**settings, model={"sequential": True}))
    assert model.config.sequential
    assert "start anew: slots.carry.weight, slots.carry.bias" in capsys.readouterr().out
    saved = first.state_dict()
    assert all(torch.equal(tensor, saved[name]) for name, tensor in model.state_dict().items() if "carry" not in name)
    with pytest.raises(DataError, match=r"no place for slots\.queries"):
        speech.build_model(speech.SpeechRecipe(**settings, model={"slot_init": "gaussian"}))
    with pytest.raises(DataError, match="does not fit the recipe's model"):
        speech.build_model(speech.SpeechRecipe(**settings, model={"hidden_size": 32}))


def test_systems_that_cannot_be_trained_here(data: Path, tmp_path: Path):
    with pytest.raises(DataError, match="model_type 'audiosep' cannot be trained on speakers"):
        speech.main(None, data, tmp_path / "run", **run_settings(model_type="audiosep"))


def test_the_command_line_knows_the_recipe(data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    assert main(["train", "speech", "--data", str(data), "--output", str(tmp_path), "--set", "no_such=1"]) != 0
    assert "unknown recipe setting 'no_such'" in capsys.readouterr().err


@pytest.mark.parametrize(
    "name",
    ["conv-tasnet-small", "conv-tasnet-live", "speech-separation-small", "sepformer-small", "audioslots-small"],
)
def test_shipped_recipes_can_be_read(name: str):
    path = Path(speech.__file__).parents[1] / "recipes" / f"{name}.yaml"
    recipe = load_recipe(speech.SpeechRecipe, path, minutes=1.0)
    assert speech.build_model(recipe).config.sampling_rate == 16_000
