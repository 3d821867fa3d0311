# SPDX-License-Identifier: Apache-2.0
"""Datasets, mixtures on the fly, and the words for sounds."""

from __future__ import annotations

import random
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile as sf
import torch
from sounds import corpus

from hubsep.audio.reader import resample
from hubsep.data.contract import read_clips, read_rows
from hubsep.data.mixing import ClipSampler, MixingSettings, MixtureDataset, excerpt, rms
from hubsep.data.pairs import answer
from hubsep.data.prompts import (
    absent_labels,
    canonical_label,
    catalogue,
    foreign_heldout,
    foreign_phrases,
    group_of,
    heldout_phrases,
    languages,
    near_labels,
    phrases,
    random_prompt,
    taught_absent,
)
from hubsep.data.recordings import Clip, groups_of, held_out, load_clips, read_metadata, split_clips
from hubsep.data.speech import speech_excerpt
from hubsep.errors import DataError
from hubsep.evaluation import evaluate_pairs, pair_mixtures
from hubsep.pipelines import pipeline


RATE = 8_000
MAX_KNOWN, MIN_UNTAUGHT = 23, 220  # held-out phrases of taught words alone; words only they have


@pytest.fixture
def clips(tmp_path: Path) -> list[Clip]:
    return load_clips([corpus(tmp_path / "sounds")], RATE)


def dataset(clips: list[Clip], **settings: Any) -> MixtureDataset:
    return MixtureDataset(ClipSampler(clips, {}), MixingSettings(RATE, seconds=0.5, **settings), 200)


def test_an_item_depends_on_the_seed_and_its_number_and_there_are_no_others(clips: list[Clip]):
    items = dataset(clips)
    again = dataset(clips)
    _ = again[3]
    assert torch.equal(items[7]["input_values"], again[7]["input_values"])
    for index in (-1, len(items)):
        with pytest.raises(IndexError, match=f"item {index} of 200"):
            items[index]


def test_too_few_sources_to_hold_one_out(clips: list[Clip], tmp_path: Path):
    training, validation = held_out(clips, tmp_path)
    assert (training, validation) == split_clips(clips)
    few = [clip for clip in clips if clip.group in sorted({clip.group for clip in clips})[:5]]
    for part in (few, []):
        with pytest.raises(DataError, match=f"{len(part)} recordings of .* six sources of a label are needed"):
            held_out(part, tmp_path)


def test_heldout_phrases_are_not_taught():
    known = catalogue()
    taught = {phrase.lower() for e in [*known["sounds"].values(), *known["others"].values()] for phrase in e["words"]}
    for label in known["sounds"]:
        assert heldout_phrases(label)
        assert taught.isdisjoint(phrase.lower() for phrase in heldout_phrases(label))


def test_words_of_heldout_phrases_are_not_taught():
    known = catalogue()
    entries = [*known["sounds"].values(), *known["others"].values()]
    taught = stems(
        [*(p for e in entries for p in e["words"]), *(p for words in known["groups"].values() for p in words)]
    )
    heldout = [stems([phrase]) for label in known["sounds"] for phrase in heldout_phrases(label)]
    assert sum(not words - taught for words in heldout) <= MAX_KNOWN, "a held-out phrase lost its last untaught word"
    assert len(set().union(*heldout) - taught) >= MIN_UNTAUGHT, "a word of a held-out phrase is taught"


def stems(texts: list[str]) -> set[str]:
    """Words without their usual endings: "yaps" and "yapping" are one."""
    words = {word for text in texts for word in re.findall(r"\w+", text.lower())}
    return {re.sub(r"(?<=...)(ings?|ers?|ies|ied|es|ed|ly|s|y|e)$", "", word) for word in words}


def test_labels_of_datasets_find_their_class():
    assert canonical_label("bd haus") == "bass drum"
    assert canonical_label("drum snare soft") == "snare drum"
    assert canonical_label("mehackit robot3") == "robot voice"
    assert canonical_label("rain") == "rain"
    assert canonical_label("theremin") == "theremin"


@pytest.mark.parametrize("label", ["electric shaver", "guitar", "bass", "ambience", "snoring"])
def test_a_prefix_of_a_label_ends_with_a_word(label: str):
    """The names of one set of samples are no rule for words that begin with the same letters."""
    assert canonical_label(label) == label


def test_absent_labels_are_nowhere_near_what_is_present():
    absent = absent_labels({"rain", "speech"})
    assert "rain" not in absent
    assert "thunder" not in absent, "rain and thunder come together"
    assert "baby crying" not in absent, "in the same group as speech"
    assert {"chainsaw", "siren", "piano"} <= set(absent)


def test_taught_sounds_asked_for_in_vain_are_surely_missing():
    strangers, family = taught_absent([("violin or fiddle",), ("rain",)])
    assert {"cello", "flute", "piano"} <= set(family)
    assert {"dog barking", "chainsaw"} <= set(strangers)
    everything = {*strangers, *family}
    assert everything <= set(catalogue()["sounds"])
    assert everything.isdisjoint({"violin or fiddle", "rain", "thunder", "water"}), "thunder and water go with rain"
    assert "a woman talking" in taught_absent([("speech", "a man talking")])[1]
    strangers, family = taught_absent([("speech",)])
    assert {"a woman talking", "a man talking"}.isdisjoint([*strangers, *family]), "it may be one of them who speaks"


def test_near_sounds_are_near_both_ways():
    near = near_labels()
    assert all(one in near[other] for one, others in near.items() for other in others)
    assert all(one != other for one, others in near.items() for other in others)


def test_every_sound_has_words_in_every_language():
    known, others = catalogue()["sounds"], languages()
    assert set(others["sounds"]) == set(known)
    for sound in known:
        assert set(foreign_phrases(sound)) == set(others["templates"])
        for code, words in foreign_phrases(sound).items():
            assert len(words) >= 3, (sound, code)
            assert foreign_heldout(sound)[code].lower() not in {word.lower() for word in words}


def test_no_phrase_means_two_sounds():
    known = catalogue()["sounds"]
    owner: dict[tuple[str, str], str] = {}
    for sound in known:
        for code, words in {"en": phrases(sound), **foreign_phrases(sound)}.items():
            for word in words:
                assert owner.setdefault((code, word.lower()), sound) == sound, (code, word)


def test_prompts_hold_the_phrase():
    rng = random.Random(0)
    prompts = {random_prompt("helicopter", rng).lower().rstrip(".") for _ in range(200)}
    assert len(prompts) > 100
    taught = [phrase.lower() for phrase in phrases("helicopter")]
    assert all(any(phrase in prompt for phrase in taught) for prompt in prompts)


def test_labels_of_speakers(clips: list[Clip]):
    labels = {clip.labels for clip in clips}
    assert labels == {("dog barking",), ("rain",), ("speech", "a man talking"), ("speech", "a woman talking")}


def test_commercial_rows_only(tmp_path: Path):
    folder = corpus(tmp_path)
    assert len(read_metadata(folder)) - len(read_metadata(folder, commercial_only=True)) == 3


@pytest.mark.parametrize("column", ["path", "file_name", "file"])
def test_every_reader_takes_every_name_of_the_column_of_files(column: str, tmp_path: Path):
    """`datasets` calls it file_name; a folder that it reads is read by training, evaluation and mixing alike."""
    folder = corpus(tmp_path)
    expected = [row["path"] for row in read_metadata(folder)]
    table = folder / "metadata.csv"
    head, _, rows = table.read_text(encoding="utf-8").partition("\n")
    table.write_text(",".join(column if name == "path" else name for name in head.split(",")) + "\n" + rows)
    assert [row["path"] for row in read_metadata(folder)] == expected
    assert [row["path"] for row in read_rows(folder, "sounds")] == expected
    assert sorted(clip.path for clip in load_clips([folder], RATE)) == sorted(expected)


def test_training_and_validation_share_no_group(clips: list[Clip]):
    training, validation = split_clips(clips, 0.3)
    assert {clip.group for clip in training}.isdisjoint(clip.group for clip in validation)
    assert len(training) + len(validation) == len(clips)
    assert {clip.labels[0] for clip in validation} >= {"dog barking", "rain"}
    assert split_clips(clips, 0.3)[1] == validation


def test_what_shares_a_speaker_or_a_source_stays_together():
    rows = [
        {"path": "a", "speaker": "ann", "source_id": "book 1"},
        {"path": "b", "speaker": "ann", "source_id": "book 2"},
        {"path": "c", "speaker": "bob", "source_id": "book 3"},
        {"path": "d", "speaker": "", "source_id": "book 2"},
        {"path": "f", "speaker": "cid", "group": "choir"},
        {"path": "g", "speaker": "dan", "group": "choir"},
        {"path": "h"},
        {"path": "i"},
    ]
    groups = groups_of(rows)
    assert groups == ["ann", "ann", "bob", "ann", "cid", "cid", "h", "i"]
    assert groups_of(rows[1:]) == groups[1:], "names do not hang on how many rows there are"


def test_a_folder_more_moves_nothing_of_the_others(tmp_path: Path):
    first, second = corpus(tmp_path / "a", clips=12), corpus(tmp_path / "b", clips=12)
    alone = {clip.path for clip in split_clips(load_clips([first], RATE), 0.3)[1]}
    together = split_clips(load_clips([first, second], RATE), 0.3)[1]
    assert {clip.path for clip in together if Path(clip.path).is_relative_to(first.resolve())} == alone


def test_an_item_depends_on_its_number_alone(clips: list[Clip]):
    first, again = dataset(clips), dataset(clips)
    forwards = [first[i] for i in range(20)]
    for i in reversed(range(20)):
        item = again[i]
        assert item["text"] == forwards[i]["text"]
        assert torch.equal(item["input_values"], forwards[i]["input_values"])


def test_targets_are_part_of_their_mixture(clips: list[Clip]):
    items = [dataset(clips, third_probability=0.0, absent_probability=0.0, level_range_db=0.0)[i] for i in range(50)]
    for item in items:
        mixture, target = item["input_values"][0].numpy(), item["labels"][0, 0].numpy()
        rest = mixture - target
        assert abs(mixture).max() <= 0.951
        if rms(rest) > 1e-5:
            assert rms(rest) == pytest.approx(rms(target), rel=1e-3)


def test_both_sources_of_a_mixture_are_asked_for(clips: list[Clip]):
    data = dataset(clips, queries=2, lone_probability=0.2, third_probability=0.0, absent_probability=0.0)
    for i in range(30):
        item = data[i]
        assert item["labels"].shape == (2, 1, item["input_values"].shape[-1])
        assert len(item["text"]) == 2
        torch.testing.assert_close(item["labels"].sum(dim=0), item["input_values"], atol=1e-6, rtol=0)
    alone = [not data[i]["labels"][1].any() for i in range(60)]
    assert any(alone)
    assert not all(alone)


def test_absent_targets_are_silent_and_named_otherwise(clips: list[Clip]):
    data = dataset(clips, absent_probability=1.0, lone_probability=0.0)
    for i in range(30):
        item = data[i]
        assert not item["labels"].any()
        assert item["input_values"].abs().max() > 0.001


def test_benchmark_mixtures_are_at_zero_db(clips: list[Clip]):
    pairs = pair_mixtures(clips, RATE, per_class=3, seconds=0.5)
    assert {pair.label for pair in pairs} == {"dog barking", "rain", "a man talking", "a woman talking"}
    for pair in pairs:
        assert rms(pair.target.numpy()) == pytest.approx(rms(pair.interferer.numpy()), rel=1e-4)
        assert pair.label in pair.present
        assert len(pair.present) >= 2
    again = pair_mixtures(clips, RATE, per_class=3, seconds=0.5)
    assert all(torch.equal(a.mixture, b.mixture) for a, b in zip(pairs, again, strict=True))


def test_evaluation_of_a_model_that_does_nothing(clips: list[Clip]):
    from tiny_audiosep import tiny_audiosep

    model, processor = tiny_audiosep(presence_head=True)
    pairs = pair_mixtures(clips, RATE, per_class=2, seconds=1.0)
    result = evaluate_pairs(model, processor, pairs, unseen=True)
    assert result["mixtures"] == len(pairs)
    assert set(result["classes"]) == {pair.label for pair in pairs}
    assert result["sdri"] < 5, "random weights cannot separate"
    assert 0 <= result["score_absent"] <= 1
    row = result["classes"]["rain"]  # two mixtures, so that the median says how many of them are above a half
    for name, score, wrong in (("missed", "score_present", -1), ("false_alarms", "score_absent", 1)):
        assert row[name] in (0.0, 0.5, 1.0)
        if row[name] != 0.5:
            assert (wrong * (row[score] - 0.5) >= 0) == (row[name] == 1.0)
    assert result["missed"] == pytest.approx(sum(row["missed"] for row in result["classes"].values()) / 4)
    mean = sum(row["sdri"] for row in result["classes"].values()) / len(result["classes"])
    assert result["sdri"] == pytest.approx(mean, abs=0.02)


@pytest.mark.slow
def test_evaluation_asks_as_a_pipeline_does():
    separator = pipeline(model="audiosep-small")
    clips = torch.randn(1, 32_000, generator=torch.Generator().manual_seed(0)) * 0.1
    queries = ["dog barking and rain", "rain", "a quantum of solace"]
    sources, scores = answer(separator.model, separator.processor, clips[0], queries)
    entries = separator({"array": clips.numpy(), "sampling_rate": 32_000}, queries=queries)
    assert scores is not None
    for entry, source, score in zip(entries, sources, scores, strict=True):
        torch.testing.assert_close(torch.from_numpy(entry["audio"][0]), source, atol=1e-4, rtol=0)
        assert entry["score"] == pytest.approx(score.item(), abs=1e-3)
    alone, _ = answer(separator.model, separator.processor, clips[0], ["dog barking", "rain"])
    torch.testing.assert_close(sources[0], alone.sum(dim=0), atol=1e-4, rtol=0)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        (None, "no metadata.csv"),
        ("recording,label\na.wav,rain\n", "columns path .* and label"),
        ("path,label\n../outside.wav,rain\n", "leaves the folder"),
        ("path,label\n", "no rows"),
    ],
)
def test_folders_that_do_not_keep_the_contract(tmp_path: Path, text: str | None, says: str):
    if text is not None:
        (tmp_path / "metadata.csv").write_text(text)
    with pytest.raises(DataError, match=says):
        load_clips([tmp_path], RATE)


@pytest.mark.parametrize("peak", [0.5, 1.5, 40.0])
@pytest.mark.parametrize("rate", [8_000, 16_000])
def test_recordings_above_full_scale_are_not_cut_off(peak: float, rate: int, tmp_path: Path):
    """At another rate a recording at full scale may go above it."""
    waveform = np.random.default_rng(0).uniform(-1, 1, 4_000).astype(np.float32)
    waveform *= np.float32(peak) / np.abs(waveform).max()
    sf.write(tmp_path / "loud.wav", waveform, 8_000, subtype="FLOAT")
    sf.write(tmp_path / "quiet.wav", waveform / 100, 8_000, subtype="FLOAT")
    table = "path,label,speaker\nloud.wav,speech,a\nquiet.wav,speech,a\n"
    (tmp_path / "metadata.csv").write_text(table)
    expected = resample(waveform[None], 8_000, rate)[0]
    for clips in (load_clips([tmp_path], rate), read_clips(read_rows(tmp_path, "speakers"), "speakers", rate, "own")):
        rounding = 2 * max(1.0, float(np.abs(expected).max())) / 2**15
        np.testing.assert_allclose(clips[0].waveform(), expected, atol=rounding)
        np.testing.assert_allclose(clips[1].waveform(), expected / 100, atol=2 / 2**15)
        np.testing.assert_allclose(excerpt(clips[0], len(expected), random.Random(0)), expected, atol=rounding)
        parts = speech_excerpt(clips, 4 * len(expected), random.Random(0)).reshape(4, -1)
        assert {int(np.argmin([np.abs(part - clip.waveform()).max() for clip in clips])) for part in parts} == {0, 1}
        assert all(min(np.abs(part - clip.waveform()).max() for clip in clips) <= rounding for part in parts)


def test_groups_name_known_groups():
    assert {group_of(label) for label in catalogue()["sounds"]} <= set(catalogue()["groups"])


def test_who_names_speakers_need_not_say_that_it_is_speech(tmp_path: Path) -> None:
    (tmp_path / "metadata.csv").write_text("path,speaker\na.wav,Ann\nb.wav,Bob\n")
    assert [row["label"] for row in read_metadata(tmp_path)] == ["speech", "speech"]
    (tmp_path / "metadata.csv").write_text("path,source_id\na.wav,1\n")
    with pytest.raises(DataError, match=r"must have the columns path .* and label"):
        read_metadata(tmp_path)
