# SPDX-License-Identifier: Apache-2.0
"""Published test sets: tables of captions, LibriMix; intervals, pictures, and the card they are written into."""

from __future__ import annotations

import csv
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile as sf
import torch
from numpy.typing import NDArray
from tiny_audiosep import tiny_audiosep
from tiny_conv_tasnet import tiny_conv_tasnet
from torch import Tensor

from hubsep.cards import read_card, render_card, write_card
from hubsep.cli import main
from hubsep.data.recordings import check_heard, load_clips
from hubsep.errors import DataError
from hubsep.evaluation.librimix import evaluate_items, find_set, list_items, read_metadata
from hubsep.evaluation.report import format_silent
from hubsep.evaluation.tables import Row, evaluate_rows, read_table
from hubsep.hub import verify_manifest
from hubsep.metrics.separation import interval
from hubsep.modeling import AudioSeparationOutput


RATE = 8_000
CARD = {
    "name": "tiny", "model_type": "conv_tasnet", "system": "Conv-TasNet", "paper": "https://arxiv.org/abs/1809.07454",
    "pipeline_tag": "audio-to-audio", "tags": ["audio-separation", "speech-separation"], "licence": "CC-BY-4.0",
    "commercial": True, "summary": "Random weights.", "use": "pass", "limits": ["It separates nothing."],
    "evaluation_command": "another command", "measured_on": "On something else.",
}  # fmt: skip


def noise(seed: int, seconds: float = 0.5, channels: int = 1) -> NDArray[np.float32]:
    return np.random.default_rng(seed).normal(0, 0.1, (int(seconds * RATE), channels)).astype(np.float32)


@pytest.fixture(scope="module")
def table(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("benchmark")
    rows = []
    for number in range(4):
        target, other = noise(number), noise(100 + number)
        for name, samples in (("mix", target + other), ("target", target)):
            sf.write(folder / f"{name}{number}.wav", samples, RATE, "FLOAT")
        row = {"mixture": f"mix{number}.wav", "target": f"target{number}.wav", "caption": "dog barking"}
        rows.append({**row, "label": "dog" if number < 3 else "rain"})
    write_rows(folder / "set.csv", rows)
    return folder / "set.csv"


def write_rows(path: Path, rows: list[dict[str, str]]) -> Path:
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    return path


@pytest.fixture(scope="module")
def librimix(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("Libri2Mix")
    folder = root / "wav8k" / "min" / "test"
    for part in ("s1", "s2", "noise", "mix_clean", "mix_both", "mix_single"):
        (folder / part).mkdir(parents=True)
    for number in range(3):
        parts = {"s1": noise(number), "s2": noise(10 + number), "noise": 0.1 * noise(20 + number)}
        parts["mix_clean"] = parts["s1"] + parts["s2"]
        parts["mix_both"] = parts["mix_clean"] + parts["noise"]
        parts["mix_single"] = parts["s1"] + parts["noise"]
        for name, samples in parts.items():
            sf.write(folder / name / f"{number}.wav", samples, RATE, "FLOAT")
    return root


class Oracle(torch.nn.Module):
    """Hands out the sources of a set, each with a little of the mixture, in the wrong order."""

    device = torch.device("cpu")

    def __init__(self, truth: list[Tensor], leak: float):
        super().__init__()
        self.truth, self.leak = truth, leak
        self.config = type("Config", (), {"sampling_rate": RATE, "num_sources": 2, "num_channels": 1})

    def forward(self, mixture: Tensor) -> AudioSeparationOutput:
        sources = next(t for t in self.truth if torch.allclose(t.sum(dim=0), mixture[0, 0], atol=0.2))
        return AudioSeparationOutput(sources=(sources + self.leak * mixture[0]).flip(0)[None, :, None])


def test_intervals_hold_what_they_should():
    sample = np.random.default_rng(3).normal(5, 2, 400)
    low, high = interval(sample.tolist()) or (0, 0)
    # the textbook's interval of a mean, 1.96 standard errors either way
    assert low == pytest.approx(sample.mean() - 1.96 * sample.std() / 20, abs=0.03)
    assert high == pytest.approx(sample.mean() + 1.96 * sample.std() / 20, abs=0.03)
    assert interval(sample.tolist()) == [low, high], "the same numbers have the same interval"
    skewed = np.exp(sample).tolist()
    below, above = interval(skewed, "median") or (0, 0)
    assert below < np.median(skewed) < above < np.mean(skewed)
    assert interval([1.0]) is None
    assert interval([1.0, float("inf")]) is None


def test_rows_are_measured_as_audiosep_does(table: Path):
    """An estimate that is the target and a tenth of the rest, at twice the level, for which every figure is known."""
    rows = read_table(table)
    waveforms = {row.mixture: (sf.read(row.mixture)[0], sf.read(row.target)[0]) for row in rows}

    class Model(torch.nn.Module):
        device = torch.device("cpu")
        config = type("Config", (), {"sampling_rate": RATE, "query_classes": (), "num_channels": 1})

        def encode_text(self, *tokens: Tensor) -> Tensor:
            return torch.zeros(1, 1)

        def classify_queries(self, query_embeds: Tensor) -> None:
            return None

        def forward(self, mixture: Tensor, query_embeds: Tensor) -> AudioSeparationOutput:
            pairs = ((torch.tensor(m).float(), torch.tensor(t).float()) for m, t in waveforms.values())
            target = next(t for m, t in pairs if torch.allclose(m, mixture[0, 0], atol=1e-6))
            return AudioSeparationOutput(sources=2 * (target + 0.1 * (mixture[0, 0] - target))[None, None, None])

    def process(text: list[str], return_tensors: str) -> dict[str, Tensor]:
        assert text == ["dog barking"]
        return dict.fromkeys(("input_ids", "attention_mask"), torch.zeros(1, 1))

    result = evaluate_rows(Model(), process, rows)
    expected = []
    for mixture, target in waveforms.values():
        other = mixture - target
        # the evaluator's formulas, by hand: powers floored, no means removed
        sdr = -10 * np.log10(np.mean((target + 0.2 * other) ** 2) / np.mean(target**2))
        before = -10 * np.log10(np.mean(other**2) / np.mean(target**2))
        scale = np.sum(target * (target + 0.1 * other)) / np.sum(target**2)
        absolute = 10 * np.log10(np.sum((scale * target) ** 2) / np.sum((target + 0.1 * other - scale * target) ** 2))
        expected.append((sdr - before, absolute))
    sdri, si_sdr = np.array(expected).T
    assert result["mixtures"] == 4
    assert result["sdri"] == pytest.approx(sdri.mean(), abs=0.006)
    assert result["si_sdr"] == pytest.approx(si_sdr.mean(), abs=0.006)
    assert result["si_sdri"] == pytest.approx(20, abs=0.1), "the rest is a tenth of what it was"
    assert result["classes"]["dog"]["sdri"] == pytest.approx(sdri[:3].mean(), abs=0.006)
    assert result["sdri_class_mean"] == pytest.approx((sdri[:3].mean() + sdri[3]) / 2, abs=0.006)
    assert result["sdri_class_median"] == pytest.approx((np.median(sdri[:3]) + sdri[3]) / 2, abs=0.006)
    assert result["classes"]["rain"]["sdri_ci"] is None, "one row says nothing about others"


def test_tables_that_do_not_keep_the_layout_are_refused(table: Path, tmp_path: Path):
    good = {"mixture": "mix0.wav", "target": "target0.wav", "caption": "dog"}
    for change, reason in (
        ({"mixture": "gone.wav"}, "line 2: there is no recording"),
        ({"caption": " "}, "line 2: the caption is empty"),
    ):
        with pytest.raises(DataError, match=reason):
            read_table(write_rows(tmp_path / "bad.csv", [{**good, **change}]), table.parent)
    (tmp_path / "blank.csv").write_text("mixture,target,caption\n\n\ngone.wav,target0.wav,dog\n")
    with pytest.raises(DataError, match="line 4: there is no recording"):
        read_table(tmp_path / "blank.csv", table.parent)
    with pytest.raises(DataError, match="it lacks caption"):
        read_table(write_rows(tmp_path / "bad.csv", [{"mixture": "a", "target": "b"}]))
    with pytest.raises(DataError, match=r"is the \.csv with mixture, target, caption"):
        read_table(tmp_path)
    sf.write(tmp_path / "short.wav", noise(0, 0.2), RATE)
    rows = [Row(table.parent / "mix0.wav", tmp_path / "short.wav", "dog", "")]
    model, processor = tiny_audiosep(sampling_rate=RATE)
    with pytest.raises(DataError, match="must be of one length"):
        evaluate_rows(model, processor, rows)


def test_librimix_is_found_from_any_of_its_folders(librimix: Path):
    leaf = librimix / "wav8k" / "min" / "test"
    for place in (librimix, librimix / "wav8k", librimix / "wav8k" / "min", leaf):
        assert find_set(place, RATE, "min", "test") == leaf
    with pytest.raises(DataError, match=r"or in wav16k/min/test"):
        find_set(librimix, 16_000, "min", "test")
    assert [len(item.sources) for item in list_items(leaf, "mix_clean")] == [2, 2, 2]
    assert [len(item.sources) for item in list_items(leaf, "mix_single")] == [1, 1, 1]
    with pytest.raises(DataError, match="LibriMix has mix_clean, mix_both, mix_single"):
        list_items(leaf, "s1")


def test_librimix_is_measured_in_the_best_order(librimix: Path):
    leaf = librimix / "wav8k" / "min" / "test"
    truth = [
        torch.stack([torch.from_numpy(sf.read(leaf / name / f"{n}.wav")[0]).float() for name in ("s1", "s2")])
        for n in range(3)
    ]
    result = evaluate_items(Oracle(truth, 0.0101), list_items(leaf, "mix_clean"))
    # a hundredth of the other speaker is left: 40 dB below, from 0 dB
    for name in ("si_snri", "si_sdri", "sdri"):
        assert result[name] == pytest.approx(40, abs=0.8), name
    columns = {"mixture_path": "mix_clean/0.wav", "source_1_path": "s1/0.wav", "source_2_path": "s2/0.wav"}
    metadata = write_rows(librimix / "mixture_test_mix_clean.csv", [{"mixture_ID": "0", **columns}])
    assert read_metadata(metadata, leaf) == list_items(leaf, "mix_clean")[:1]
    with pytest.raises(DataError, match="--root says what paths start from"):
        read_metadata(metadata, None)


def test_silent_targets_are_in_no_mean_and_named(tmp_path: Path):
    """A ratio to silence is of the floors of the computation, some -90 dB, and drowned the means of what is heard."""
    silence = np.zeros((RATE // 2, 1), np.float32)
    for name in ("s1", "s2", "mix_clean"):
        (tmp_path / name).mkdir()
    for number, part in (("0", noise(0)), ("1", silence)):
        for name, samples in (("s1", part), ("s2", noise(10)), ("mix_clean", part + noise(10))):
            sf.write(tmp_path / name / f"{number}.wav", samples, RATE, "FLOAT")
    items = list_items(tmp_path, "mix_clean")
    oracle = Oracle([torch.tensor(np.stack([noise(0), noise(10)])[..., 0])], 0.0101)
    result = evaluate_items(oracle, items)
    assert result["mixtures"] == 1
    assert result["si_snri"] == evaluate_items(oracle, items[:1])["si_snri"]
    assert result["silent"] == ["s1/1.wav"]
    assert format_silent(result["silent"]) == ["1 mixture was left out, because the target is silent: s1/1.wav"]
    assert format_silent([]) == []
    with pytest.raises(DataError, match=r"all 1 mixtures have a silent target, the first is s1/1\.wav"):
        evaluate_items(oracle, items[1:])
    model, processor = tiny_audiosep(sampling_rate=RATE)
    heard, silent = (Row(tmp_path / "s2" / "0.wav", tmp_path / "s1" / f"{n}.wav", "dog", "") for n in (0, 1))
    both, one = (evaluate_rows(model, processor, rows) for rows in ([silent, heard], [heard]))
    assert both == {**one, "silent": ["s1/1.wav"]}
    with pytest.raises(DataError, match="all 1 mixtures have a silent target"):
        evaluate_rows(model, processor, [silent])


def test_a_silent_recording_to_make_mixtures_of_is_refused(tmp_path: Path):
    rows = [{"path": f"{n}.wav", "label": f"sound {n}", "source_id": str(n), "commercial": "True"} for n in range(2)]
    sf.write(tmp_path / "0.wav", noise(0), RATE)
    sf.write(tmp_path / "1.wav", 0 * noise(0), RATE)
    write_rows(tmp_path / "metadata.csv", rows)
    with pytest.raises(DataError, match=r"1\.wav is silent; remove its row"):
        check_heard(load_clips([tmp_path], RATE))


def test_what_does_not_fit_the_model_is_refused(librimix: Path, tmp_path: Path):
    leaf = librimix / "wav8k" / "min" / "test"
    shutil.copytree(leaf, tmp_path / "set")
    sf.write(tmp_path / "set" / "s1" / "0.wav", noise(0), 2 * RATE)
    items = list_items(tmp_path / "set", "mix_clean")
    with pytest.raises(DataError, match="at 16000 Hz; the model takes one at 8000 Hz"):
        evaluate_items(Oracle([], 0), items)
    sf.write(tmp_path / "set" / "s1" / "0.wav", noise(0, 0.2), RATE)
    with pytest.raises(DataError, match="they must agree"):
        evaluate_items(Oracle([], 0), items)
    (tmp_path / "set" / "s2" / "0.wav").unlink()
    with pytest.raises(DataError, match=r"has no s2/0\.wav"):
        list_items(tmp_path / "set", "mix_clean")


@pytest.fixture
def speakers_model(tmp_path: Path) -> Path:
    folder = tmp_path / "tiny-tasnet"
    tiny_conv_tasnet(num_sources=2, sampling_rate=RATE)[0].save_pretrained(folder)
    write_card(folder, CARD)
    return folder


def test_the_command_writes_numbers_picture_and_card(
    librimix: Path, speakers_model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    command = ["evaluate", str(speakers_model), "--dataset", "librimix", "--data", str(librimix)]
    command += ["--mixture", "mix_clean", "--mixture", "mix_both", "--limit", "2"]
    outputs = ["--json", str(tmp_path / "result.json"), "--picture", str(tmp_path / "result.png")]
    assert main([*command, *outputs, "--write-card", "--benchmark", "org/Libri2Mix:test"]) == 0
    printed = capsys.readouterr().out
    result = json.loads((tmp_path / "result.json").read_text())
    assert result["command"] == (
        "hubsep evaluate tiny-tasnet --data DATA --dataset librimix --limit 2 --mixture mix_clean --mixture mix_both"
    )
    assert set(result["classes"]) == {"mix_clean", "mix_both"}
    for row in result["classes"].values():
        assert row["mixtures"] == 2
        assert row["si_sdri_ci"][0] <= row["si_sdri"] <= row["si_sdri_ci"][1]
        assert str(row["si_sdri"]) in printed
    assert (tmp_path / "result.png").stat().st_size > 8_000
    verify_manifest(speakers_model)
    assert read_card(speakers_model)["results"] == result
    text = (speakers_model / "README.md").read_text(encoding="utf-8")
    assert text == render_card(speakers_model)
    assert f"```bash\n{result['command']}\n```" in text
    assert "wav8k/min/test, every mixture separated whole" in text
    assert "On something else." not in text, "that is said of another command"
    assert f"value: {result['classes']['mix_both']['sdri']}\n" in text.split("---")[1]
    entries = (speakers_model / ".eval_results" / "hubsep.yaml").read_text(encoding="utf-8")
    assert "id: org/Libri2Mix\n" in entries
    assert f"value: {result['classes']['mix_clean']['si_snri']}\n" in entries


def test_the_command_measures_tables_of_captions(table: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    model, processor = tiny_audiosep(sampling_rate=RATE)
    model.save_pretrained(tmp_path / "model")
    processor.save_pretrained(tmp_path / "model")
    command = ["evaluate", str(tmp_path / "model"), "--dataset", "csv", "--data", str(table)]
    assert main([*command, "--json", str(tmp_path / "result.json")]) == 0
    result: dict[str, Any] = json.loads((tmp_path / "result.json").read_text())
    assert result["command"] == "hubsep evaluate model --data DATA/set.csv --dataset csv"
    assert "mean of the classes' medians" in capsys.readouterr().out
    assert result["measured_on"].startswith("On 4 mixtures of set.csv, mono at 8000 Hz")
    assert main([*command, "--write-card"]) == 2
    assert "is none with a card.json" in capsys.readouterr().err
    assert main([*command, "--json", str(tmp_path / "gone" / "result.json")]) == 2
    assert "there is no folder" in capsys.readouterr().err
    assert main([*command, "--benchmark", "org/set"]) == 2
    assert "it must be DATASET:TASK" in capsys.readouterr().err


def test_models_and_sets_that_do_not_go_together(
    table: Path, librimix: Path, speakers_model: Path, capsys: pytest.CaptureFixture[str]
):
    assert main(["evaluate", str(speakers_model), "--dataset", "csv", "--data", str(table)]) == 1
    assert "takes none; see hubsep list" in capsys.readouterr().err
    assert main(["evaluate", "audiosep-small", "--dataset", "librimix", "--data", str(librimix)]) == 1
    assert "see --dataset csv" in capsys.readouterr().err
