# SPDX-License-Identifier: Apache-2.0
"""The pipeline and the command with fixed-source models whose sources come in any order and at any level."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile as sf
import torch
from promises_pipeline import PipelinePromises, audio, recording
from rounding import assert_same
from tiny_conv_tasnet import tiny_conv_tasnet
from tiny_shuffler import ShufflerConfig, ShufflerForAudioSeparation, shuffler

from hubsep.cli import main
from hubsep.errors import AudioError, QueryError
from hubsep.pipelines import AudioSeparationPipeline
from hubsep.pipelines.separation.scores import Scores


RATE = 8_000


def voices(seconds: float, *, seed: int = 0, channels: int = 1) -> np.ndarray:
    """A low and a high voice that talk for a second or two and pause, (2, channels, samples), both panned."""
    rng = np.random.default_rng(seed)
    time = np.arange(int(seconds * RATE)) / RATE
    tracks = np.zeros((2, len(time)))
    for number, (pitch, harmonics) in enumerate([(120, range(1, 5)), (250, range(4, 14))]):
        wander = np.interp(
            time, np.arange(0, seconds + 1, 0.2), rng.uniform(0.95, 1.05, len(np.arange(0, seconds + 1, 0.2)))
        )
        phase = 2 * np.pi * np.cumsum(pitch * wander) / RATE
        start = rng.uniform(0, 0.5)
        while start < seconds:
            end = start + rng.uniform(0.7, 2)
            part = slice(int(start * RATE), int(end * RATE))
            faded = np.minimum(1, np.minimum(time[part] - start, end - time[part]) / 0.02)
            tracks[number, part] = 0.05 * faded * sum(np.cos(k * phase[part]) for k in harmonics)
            start = end + rng.uniform(0.2, 2)
    pans = np.array([[1.0, 0.3, 0.7], [0.4, 0.9, 0.7]])[:, :channels]
    return (tracks[:, None] * pans[..., None]).astype(np.float32)


class TestConvTasNetPipeline(PipelinePromises):
    @staticmethod
    def build() -> tuple[Any, None]:
        return tiny_conv_tasnet(pad_edges=False)[0], None


class TestShufflerPipeline(PipelinePromises):
    @staticmethod
    def build() -> tuple[Any, None]:
        # sorted, because the promises ask for the same in half precision, where its key would be another
        return ShufflerForAudioSeparation(
            ShufflerConfig(sort=True, segment_samples=8_000, overlap_samples=2_000)
        ).eval(), None


def snr(reference: np.ndarray, estimate: np.ndarray) -> float:
    return 10 * np.log10(np.square(reference).sum() / np.square(reference - estimate).sum())


@pytest.mark.parametrize("channels", [1, 2, 3])
@pytest.mark.parametrize("options", [{}, {"batch_size": 3}, {"segment_s": 4.0, "overlap_s": 0.5}])
def test_voices_stay_on_their_outputs_at_their_own_level(channels: int, options: dict[str, Any]):
    truth = voices(30, channels=channels)
    found = shuffler()(truth.sum(axis=0), sampling_rate=RATE, **options)
    sources = audio(found)
    best = [int(np.argmax([snr(voice, source) for source in sources])) for voice in truth]
    assert len(set(best)) == 2
    # 57 dB for what the filter cuts off; one segment on another output leaves 13
    assert all(snr(voice, sources[i]) > 25 for voice, i in zip(truth, best, strict=True))
    active = [source for source in found if source["score"] > 0.5]
    assert sorted(source["label"] for source in active) == sorted(found[i]["label"] for i in best)
    assert snr(truth.sum(axis=0), sources.sum(axis=0)) > 40


@pytest.mark.parametrize("seed", [1, 2, 6, 11])
def test_two_voices_do_not_wake_a_third_output(seed: int):
    """Conversations in which a voice moved to the output nobody uses, while that cost less than memory could lose."""
    truth = voices(30, seed=seed)
    found = shuffler()(truth.sum(axis=0), sampling_rate=RATE)
    sources = audio(found)
    assert all(max(snr(voice, source) for source in sources) > 25 for voice in truth)
    assert sum(source["score"] > 0.5 for source in found) == 2


def test_without_rescaling_the_model_has_its_way():
    mixture = voices(3).sum(axis=0)
    raw = audio(shuffler()(mixture, sampling_rate=RATE, rescale=False, segment_s=4))
    level = np.abs(raw).max() / np.abs(mixture).max()
    assert not 0.5 < level < 2
    model = shuffler().model
    with torch.no_grad():
        expected = model(torch.from_numpy(mixture)[None]).sources[0].numpy()
    assert np.array_equal(raw, expected)
    rescaled = audio(shuffler()(mixture, sampling_rate=RATE, segment_s=4))
    assert np.abs(rescaled.sum(axis=0) - mixture).max() <= 1e-2 * np.abs(mixture).max()
    total = audio(shuffler()(mixture, sampling_rate=RATE, residual=True, rescale=False)).sum(axis=0)
    assert np.abs(total - mixture).max() <= 1e-4  # float32 next to sources 1000 times as large


@pytest.mark.slow
def test_a_stream_and_any_batch_give_the_samples_of_a_call():
    mixture = {"array": voices(20, channels=2, seed=1).sum(axis=0), "sampling_rate": RATE}
    separate = shuffler()
    called = audio(separate(mixture))
    streamed = np.concatenate([audio(block) for block in separate.stream(mixture)], axis=-1)
    assert np.array_equal(streamed, called)
    results = separate(iter([mixture, mixture]), batch_size=5)
    for result in results:
        assert_same(audio(result), called, terms=64, layers=4)


@pytest.mark.slow
@pytest.mark.parametrize(("speakers", "seconds"), [((), 6), ((0,), 6), ((1,), 6), ((0, 1), 6), ((0, 1), 60)])
def test_speakers_are_counted(speakers: tuple[int, ...], seconds: float):
    tracks = voices(seconds, seed=2)
    for number in {0, 1} - set(speakers):
        tracks[number] = 0
    if seconds > 30:
        tracks[1, :, 5 * RATE :] = 0  # who speaks for a few seconds of a minute counts
    found = shuffler()(tracks.sum(axis=0), sampling_rate=RATE)
    assert sum(source["score"] > 0.5 for source in found) == len(speakers)
    kept = shuffler()(tracks.sum(axis=0), sampling_rate=RATE, only_active=True, residual=True)
    assert [s["label"] for s in kept] == [s["label"] for s in found if s["score"] > 0.5] + ["residual"]


@pytest.mark.parametrize("channels", [1, 2])
def test_scores_do_not_hang_on_blocks_and_fall_with_level(channels: int):
    def score(level_db: float, block: int) -> float:
        talk = voices(7, seed=3, channels=channels)
        talk[1] *= 10 ** (level_db / 20)
        scores = Scores(2, RATE, residual=False, unordered=True)
        for start in range(0, talk.shape[-1], block):
            part = talk[..., start : start + block]
            scores.add(part.sum(axis=0), part, None)
        return scores.values()[1]

    assert score(0, 10**6) == pytest.approx(score(0, 777), rel=1e-9)
    found = [score(level, 5_000) for level in (0, -10, -20, -30, -40, -60)]
    assert found == sorted(found, reverse=True)
    assert found[1] > 0.8
    assert found[-2] < 0.1


def test_leakage_is_no_speaker():
    """A copy of the other voice, 10 dB lower, is never the loudest."""
    talk = voices(5, seed=4)[:1]
    scores = Scores(2, RATE, residual=False, unordered=True)
    scores.add(talk[0], np.concatenate([talk, 0.3 * talk]), None)
    assert scores.values()[0] > 0.99
    assert scores.values()[1] == 0


def test_active_outputs_alone(tmp_path: Path):
    separate = shuffler()
    mixture = {"array": voices(8, seed=5)[:1].sum(axis=0), "sampling_rate": RATE}
    written = separate.separate_file(mixture, tmp_path / "out", only_active=True)
    assert len(written) == 1
    assert [path.name for path in (tmp_path / "out").iterdir()] == [written[0]["path"].name]
    with pytest.raises(AudioError, match="end of a stream"):
        separate.stream(mixture, only_active=True)
    separate.model.config.unordered_sources = False
    with pytest.raises(QueryError, match="unknown number of speakers"):
        separate(mixture, only_active=True)


@pytest.fixture
def talk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """A recording, a model, and the command that separates one by the other."""
    monkeypatch.chdir(tmp_path)
    sf.write("talk.wav", voices(6, channels=2, seed=6).sum(axis=0).T, RATE, subtype="FLOAT")
    sf.write("one.wav", voices(6, seed=6)[0].T, RATE, subtype="FLOAT")
    shuffler().save_pretrained("model")
    return ["separate", "talk.wav", "--model", "model", "--no-check-voices"]


def test_command(talk: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*talk, "--residual", "--plot"]) == 0
    assert "talk.wav: 2 speakers\n" in capsys.readouterr().out
    outputs = sorted(path.name for path in Path("separated/talk").iterdir())
    speakers = [f"speaker_{n}.wav" for n in (1, 2, 3)]
    assert outputs == ["residual.wav", "separated.json", *speakers, "spectrograms.png"]
    total = sum(sf.read(f"separated/talk/{name}", dtype="float32")[0] for name in ["residual.wav", *speakers])
    assert np.abs(total - sf.read("talk.wav", dtype="float32")[0]).max() <= 1e-6
    assert main([*talk, "--residual", "--plot"]) == 0
    assert "1 of 1 inputs are finished already" in capsys.readouterr().out
    facts = json.loads(Path("separated/talk/separated.json").read_text())["outputs"]
    assert sum(fact.get("score", 0) > 0.5 for fact in facts if fact["label"] != "residual") == 2


def test_command_without_silent_outputs(talk: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    command = ["separate", "one.wav", "--model", "model", "--only-active", "--no-check-voices"]
    assert main(command) == 0
    said = capsys.readouterr().out
    assert "one.wav: 1 speaker; no file for speaker" in said
    assert len(list(Path("separated/one").glob("speaker_*.wav"))) == 1
    assert main(command) == 0
    assert "finished already" in capsys.readouterr().out
    sf.write("nobody.wav", np.zeros(4_000), RATE)
    assert main(["separate", "nobody.wav", "--model", "model", "--only-active", "--plot", "--no-check-voices"]) == 0
    assert "nobody.wav: 0 speakers; no file for speaker 1, speaker 2, speaker 3, silent" in capsys.readouterr().out


def test_command_takes_no_queries(talk: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*talk, "-q", "rain"]) == 2
    assert (
        "always separates speaker 1, speaker 2, speaker 3; leave out -q, --example and --negative"
        in capsys.readouterr().err
    )


def test_odd_inputs_keep_the_promises_of_level() -> None:
    """The tiny Conv-TasNet at random: outputs that are nearly copies of each other have no wild gains."""
    separate = AudioSeparationPipeline(model=tiny_conv_tasnet()[0], device="cpu")
    mixture = recording(30_000, 2)
    sources = audio(separate(mixture, sampling_rate=separate.model.config.sampling_rate))
    assert np.abs(sources).max() <= 3 * np.abs(mixture).max()
    assert np.square(mixture - sources.sum(axis=0)).sum() <= np.square(mixture).sum()
