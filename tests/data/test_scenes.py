# SPDX-License-Identifier: Apache-2.0
"""Scenes asked about by class, what a place does to a sound, and the conditions a text-queried model is judged in."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from sounds import corpus
from tiny_audiosep import tiny_audiosep

from hubsep import pipeline
from hubsep.data.effects import equaliser, filtered, low_pass, room_response, steady_noise
from hubsep.data.mixing import rms
from hubsep.data.pools import PoolDataset
from hubsep.data.prompts import group_of, near_labels
from hubsep.data.recordings import Clip, load_clips
from hubsep.data.scenes import SceneDataset, SceneSettings, SoundSampler, apart
from hubsep.errors import DataError
from hubsep.evaluation import evaluate_pairs, pair_mixtures
from hubsep.evaluation.conditions import evaluate_conditions, format_table
from hubsep.evaluation.trials import CONDITIONS, Trials, material
from hubsep.models.audiosep.classes_audiosep import add_query_classes
from hubsep.models.audiosep.modeling_audiosep import smooth_maximum
from hubsep.training.separators import listener


RATE = 8_000
TAUGHT = ["dog barking", "rain", "crow", "rooster crowing", "thunder", "speech", "a man talking", "a woman talking"]
CLASSES = [*TAUGHT, "any animal", "any nature", "any human", "anything else"]


@pytest.fixture
def clips() -> list[Clip]:
    """Six recordings of every taught sound, and of two that have no class."""
    noise = np.random.default_rng(0)
    rows = []
    for label in [*TAUGHT, "guitar", "impact"]:
        labels = ("speech", label) if "talking" in label else (label,)
        for number in range(6):
            samples = (noise.standard_normal(RATE) * 3_000).astype(np.int16)
            rows.append(Clip(samples, labels, f"{label}-{number}", "made up", f"{label}-{number}.wav"))
    return rows


def scenes(clips: list[Clip], **settings: Any) -> SceneDataset:
    sampler = SoundSampler(clips, CLASSES, {})
    return SceneDataset(sampler, SceneSettings(RATE, **{"seconds": 0.5, "doubt": 0.0, **settings}), CLASSES, 400)


PLAIN = {"noise": 0.0, "band": 0.0, "room": 0.0, "equaliser": 0.0, "untaught": 0.0, "together": 0.0, "group": 0.0}


def test_a_scene_depends_on_its_number_alone(clips: list[Clip]):
    first, again = scenes(clips), scenes(clips)
    forwards = [first[i] for i in range(12)]
    for i in reversed(range(12)):
        for name, tensor in again[i].items():
            assert torch.equal(tensor, forwards[i][name]), name


def test_both_sounds_of_a_scene_are_asked_for_and_add_up(clips: list[Clip]):
    data = scenes(clips, lone=0.0, third=0.0, nothing=0.0, **PLAIN)
    for i in range(40):
        item = data[i]
        assert item["labels"].shape == (3, 1, RATE // 2)
        assert not item["labels"][2].any(), "the third is asked for in vain"
        asked = [CLASSES[number] for number in item["class_weights"].argmax(dim=1)]
        if "speech" in asked:
            continue  # it may be said of both
        assert len(set(asked)) == 3
        torch.testing.assert_close(item["labels"].sum(dim=0), item["input_values"], atol=1e-6, rtol=0)


def test_sounds_asked_for_in_vain_are_taught_and_half_of_a_family_that_is_there(clips: list[Clip]):
    data = scenes(clips, lone=0.0, third=0.0, nothing=0.0, **PLAIN)
    relatives = 0
    for i in range(200):
        item = data[i]
        there = [CLASSES[number] for number in item["class_weights"][:2].argmax(dim=1)]
        missing = CLASSES[int(item["class_weights"][2].argmax())]
        assert missing in TAUGHT
        for label in there:
            assert missing != label
            if label != "speech":
                assert missing not in near_labels().get(label, ())
        relatives += group_of(missing) in {group_of(label) for label in there}
    assert 60 <= relatives <= 150


def test_half_of_the_scenes_are_of_one_family(clips: list[Clip]):
    share = {}
    for wanted in (0.0, 1.0):
        data = scenes(clips, family=wanted, lone=0.0, third=0.0, **PLAIN)
        groups = [{group_of(clip.labels[-1]) for clip in data._clips(random.Random(i))} for i in range(200)]
        share[wanted] = sum(len(group) == 1 for group in groups) / 200
    assert share[1.0] > 0.55, "some have nobody of their family who may stand beside them"
    assert share[0.0] < share[1.0] - 0.2


def test_sounds_that_may_hold_each_other_are_not_mixed(clips: list[Clip]):
    data = scenes(clips, third=0.5)
    for i in range(200):
        rows = data._clips(random.Random(i))
        for one in rows:
            for other in rows:
                if one is not other:
                    assert apart(one.labels[-1], other.labels)
                    assert one.group != other.group
    assert not apart("thunder", ("rain",))
    assert not apart("a man talking", ("speech",)), "it may be a man who speaks"
    assert apart("a man talking", ("speech", "a woman talking"))


def test_several_sounds_and_groups_are_sums(clips: list[Clip]):
    data = scenes(clips, **{**PLAIN, "together": 1.0}, lone=0.0, third=0.0)
    both = [data[i] for i in range(40)]
    sums = [item for item in both if torch.allclose(item["labels"][2], item["input_values"], atol=1e-6)]
    assert sums, "both of two sounds are the mixture"
    assert all(float(item["class_weights"][2].max()) == 0.5 for item in both)
    data = scenes(clips, **{**PLAIN, "group": 1.0}, lone=0.0, third=0.0, family=1.0)
    whole = sum(torch.allclose(data[i]["labels"][2], data[i]["input_values"], atol=1e-6) for i in range(40))
    assert whole >= 15, "both sounds of a family are what is meant by it"


def test_a_room_begins_with_the_direct_sound():
    for seed in range(10):
        response = room_response(random.Random(seed), RATE)
        assert response[0] >= 1.0
        assert 0.02 * RATE < len(response) < RATE
        assert np.square(response[len(response) // 2 :]).sum() < 0.2 * np.square(response).sum()
    impulse = np.zeros(4_000, np.float32)
    impulse[0] = 1.0
    heard = filtered(impulse, response=response)
    size = min(len(response), 4_000)
    np.testing.assert_allclose(heard[:size], response[:size], atol=1e-5)


def test_a_narrow_band_holds_nothing_above_it():
    waveform = steady_noise(random.Random(0), 8_000)
    assert rms(waveform) == pytest.approx(1.0, rel=1e-4)
    narrow = filtered(waveform, low_pass(1_000, RATE, 4_001))
    spectrum = np.abs(np.fft.rfft(narrow))
    assert spectrum[1_100:].max() < 1e-3 * spectrum[:900].max()
    np.testing.assert_allclose(spectrum[8:900], np.abs(np.fft.rfft(waveform))[8:900], rtol=1e-3, atol=0.05)
    gains = equaliser(random.Random(1), 4_001, 8.0)
    assert gains.max() <= 10**0.4 + 1e-6
    assert gains.min() >= 10**-0.4 - 1e-6
    assert np.ptp(gains) > 0.1


def test_a_pool_says_what_every_sound_of_it_is(clips: list[Clip]):
    settings = SceneSettings(RATE, seconds=0.5, untaught=0.3, noise=0.5)
    data = PoolDataset(SoundSampler(clips, CLASSES, {}), settings, CLASSES, 20, pool=7, mixtures=30)
    pool = data[3]
    assert all(torch.equal(tensor, data[3][name]) for name, tensor in pool.items())
    assert pool["sources"].shape == (7, RATE // 2)
    torch.testing.assert_close(pool["sources"].square().mean(dim=1), torch.ones(7), rtol=1e-3, atol=0)
    assert not pool["there"][-1].any(), "noise is nothing"
    assert not (pool["there"] * pool["unclear"])[:, : len(TAUGHT)].any()
    for i in range(20):
        pool = data[i]
        for row in pool["there"][:-1]:
            names = {CLASSES[number] for number in row.nonzero().flatten()}
            sounds = names & set(TAUGHT)
            assert names == sounds | {f"any {group_of(label)}" for label in sounds}
        inside = pool["gains"][:, :-1] > 0
        assert ((inside.sum(dim=1) >= 1) & (inside.sum(dim=1) <= 3)).all()
        # nothing that is surely there in a mixture is in doubt because of another sound of it
        there = inside.float() @ pool["there"][:-1]
        assert (there[:, : len(TAUGHT)] <= 2).all()


@pytest.mark.slow
def test_a_listener_learns_and_is_calibrated(clips: list[Clip], tmp_path: Path):
    fields = {"query_hidden_size": 8, "query_classes": CLASSES, "known_sounds": TAUGHT, "presence_head": True}
    model, processor = tiny_audiosep(**fields)
    model.save_pretrained(tmp_path / "model")
    processor.save_pretrained(tmp_path / "model")
    data = corpus(tmp_path / "sounds", clips=12)
    settings = {
        "model": {"listener_channels": [4, 8], "listener_size": 8}, "initial_model": str(tmp_path / "model"),
        "scenes": {"seconds": 0.5}, "pool": 4, "mixtures": 4, "batch_size": 2, "steps": 4, "save_every": 2,
        "eval_every": 2, "warmup_steps": 1, "bf16": False, "validation_mixtures": 2, "average_decay": 0.5,
    }  # fmt: skip
    told = listener.main(None, data, tmp_path / "run", **settings)
    assert {"order", "stranger", "relative", "listener", "head", "level", "offset"} <= set(told)
    after = type(model).from_pretrained(tmp_path / "run" / "model").eval()
    assert torch.equal(after.unet.head.weight, model.unet.head.weight), "the separator stays as it is"
    assert after.config.presence_gate
    mix = [told[name] for name in ("listener", "head", "level", "offset")]
    assert list(after.config.presence_mix) == mix
    again = {**settings, "steps": 0, "listener_from": str(tmp_path / "run" / "model")}
    told = listener.main(None, data, tmp_path / "again", **again)
    assert [told[name] for name in ("listener", "head", "level", "offset")] == pytest.approx(mix, rel=1e-3, abs=1e-3)
    few, _ = tiny_audiosep(**{**fields, "query_classes": [*TAUGHT, "a unicorn"]})
    few.save_pretrained(tmp_path / "few")
    processor.save_pretrained(tmp_path / "few")
    with pytest.raises(DataError, match="no listener for a unicorn"):
        listener.main(None, data, tmp_path / "other", **{**again, "initial_model": str(tmp_path / "few")})
    with pytest.raises(DataError, match="no listener"):
        listener.main(None, data, tmp_path / "other", **{**settings, "model": {}})
    with pytest.raises(DataError, match="initial_model"):
        listener.main(None, data, tmp_path / "other", **{**settings, "initial_model": ""})


@torch.no_grad()
def test_what_a_listener_does_not_hear_is_turned_down():
    fields = {"query_hidden_size": 8, "query_classes": ["dog", "rain", "anything else"], "listener_channels": [4, 8]}
    model: Any = tiny_audiosep(**fields, presence_head=True, presence_mix=[3.0, 0.0, 0.0, 0.0])[0]
    mixture = torch.randn(2, 1, 4_000, generator=torch.Generator().manual_seed(0))
    weights = torch.eye(3)
    plain = model(mixture, class_weights=weights)
    heard = smooth_maximum(model.listener(mixture[:, 0]).transpose(1, 2))
    torch.testing.assert_close(plain.presence_logits, 3 * heard, atol=1e-4, rtol=1e-4)
    model.config.presence_gate = True
    gated = model(mixture, class_weights=weights)
    gate = torch.sigmoid(2 * plain.presence_logits)[..., None, None]
    torch.testing.assert_close(gated.sources, plain.sources * gate)
    half = model(mixture, class_weights=torch.tensor([[0.5, 0.5, 0.0]]))
    chances = plain.presence_logits.sigmoid()
    torch.testing.assert_close(half.presence_logits.sigmoid()[:, 0], chances[:, :2].mean(dim=1), atol=1e-5, rtol=1e-4)
    # a class it was not taught is spoken of by the presence head alone, and not turned down
    model.config.presence_mix = [0.0, 1.0, 0.0, 0.0]
    said = model(mixture, class_weights=weights).presence_logits[:, :1]
    add_query_classes(model, ["bell"])
    model.query_network.values.weight.data[:, 3] = model.query_network.values.weight.data[:, 0]
    model.config.presence_mix = [3.0, 0.0, 0.0, -50.0]
    new = model(mixture, class_weights=torch.eye(4)[3:])
    torch.testing.assert_close(new.presence_logits, said, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(new.sources, plain.sources[:, :1])
    # level says nothing, and what is shorter than a frame is heard too
    louder = smooth_maximum(model.listener(mixture[:, 0] * 100).transpose(1, 2))
    torch.testing.assert_close(louder, heard, atol=1e-3, rtol=1e-3)
    assert model.listener(mixture[:, 0, :300]).shape == (2, 1, 3)


def trials(clips: list[Clip], known: list[str] | None = None, per_class: int = 2) -> Trials:
    return Trials(material(clips, TAUGHT if known is None else known, RATE, 0.5), per_class)


def test_conditions_change_one_thing(clips: list[Clip]):
    made = {name: list(trials(clips).of(name)) for name in CONDITIONS if name != "a second in a minute"}
    assert {name for name, rows in made.items() if not rows} == set()
    for name, rows in made.items():
        for trial in rows:
            assert rms(trial.mixture.numpy()) == pytest.approx(0.1, rel=1e-3), name
            if trial.target is not None and name != "two of three, in one query":
                assert trial.query in TAUGHT
    levels = {"two sounds": 0.0, "10 dB below the other": -10.0, "10 dB above the other": 10.0}
    for name, level in levels.items():
        for trial in made[name]:
            assert trial.target is not None
            target, rest = trial.target.numpy(), (trial.mixture - trial.target).numpy()
            assert 20 * np.log10(rms(target) / rms(rest)) == pytest.approx(level, abs=0.01)
    for trial in made["8 kHz"]:
        spectrum = torch.fft.rfft(trial.mixture).abs()
        assert spectrum[-5:].max() < 1e-3 * spectrum.max()  # half of 8 kHz is all there is here
    for trial in made["two of three, in one query"]:
        assert trial.query is not None
        assert set(trial.query.split(" and ")) <= set(TAUGHT)
        assert trial.target is not None
        rest = (trial.mixture - trial.target).numpy()
        assert rms(trial.target.numpy()) / rms(rest) == pytest.approx(2**0.5, rel=0.2)


def test_what_is_asked_in_vain_is_not_there(clips: list[Clip]):
    families = {}
    for name in ("in vain: taught, of another family", "in vain: taught, of a family that is there"):
        rows = list(trials(clips).of(name))
        assert all(trial.in_vain in TAUGHT and trial.query is None for trial in rows)
        families[name] = len(rows)
    assert families["in vain: taught, of another family"] == 2 * len(TAUGHT)
    unknown = [trial.in_vain for trial in trials(clips).of("in vain: never taught")]
    assert unknown
    assert not set(unknown) & set(TAUGHT)
    # a model that knows two sounds is asked for these alone
    few = list(trials(clips, ["dog barking", "rain"]).of("two sounds"))
    assert {trial.query for trial in few} == {"dog barking", "rain"}


def test_a_second_in_a_minute_is_judged_where_it_is():
    noise = np.random.default_rng(0)
    rows = [
        Clip((noise.standard_normal(RATE) * 3_000).astype(np.int16), (label,), f"{label}-{n}", "", f"{label}-{n}")
        for label in ("dog barking", "rain")
        for n in range(2)
    ]
    (trial, _) = Trials(material(rows, ["dog barking", "rain"], RATE, 0.5), 1).of("a second in a minute")
    assert trial.target is not None
    assert trial.event is not None
    assert trial.mixture.shape == (60 * RATE,)
    start, stop = trial.event
    assert stop - start == int(1.5 * RATE)
    assert not trial.target[:start].any()
    assert not trial.target[stop:].any()
    assert trial.target[start:stop].any()


@pytest.mark.slow
def test_every_condition_is_measured_through_a_pipeline(clips: list[Clip]):
    model, processor = tiny_audiosep(presence_head=True, known_sounds=TAUGHT)
    separator = pipeline("audio-separation", model=model, processor=processor)
    kept = [clip for clip in clips if clip.labels[-1] in ("dog barking", "rain", "crow", "rooster crowing")]
    counts = []
    result = evaluate_conditions(separator, trials(kept, TAUGHT, 1), on_progress=lambda: counts.append(1))
    assert list(result) == list(CONDITIONS)
    assert sum(row["mixtures"] for row in result.values()) == len(counts)
    for name, row in result.items():
        assert ("sdri" in row) == (not name.startswith("in vain")), name
        assert ("false_alarms" in row) == ("in one query" not in name), name
    assert "leak" in result["a second in a minute"]
    assert len(format_table(result).splitlines()) == 1 + len(CONDITIONS)


def test_absent_queries_of_the_benchmark_are_taught(tmp_path: Path):
    """Asking in vain for what was never taught flatters: a model that takes any sound it knows is caught by this."""
    clips = load_clips([corpus(tmp_path / "sounds")], RATE)
    model, processor = tiny_audiosep(presence_head=True, known_sounds=["dog barking", "rain", "chainsaw"])
    asked: list[str] = []

    def listening(text: list[str], **options: Any) -> Any:
        asked.extend(text)
        return processor(text=text, **options)

    pairs = pair_mixtures(clips, RATE, per_class=2, seconds=0.5)
    evaluate_pairs(model, listening, pairs)
    for pair, word in zip(pairs, asked[1::2], strict=True):
        assert word not in pair.present
        assert word in ("dog barking", "rain", "chainsaw")
