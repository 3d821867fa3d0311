# SPDX-License-Identifier: Apache-2.0
"""What `hubsep evaluate` says of a separator of named stems: on our own data, on MUSDB18, and what it refuses."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile as sf
from numpy.typing import NDArray
from songs import BAND, KARAOKE, STEMS, songs
from tiny_spleeter import tiny_spleeter

from hubsep.cards import results_table
from hubsep.cli import main
from hubsep.data.multitracks import Entry, Multitrack, assign_targets, heldout_songs, musdb_songs
from hubsep.data.stems import load_songs, split_songs
from hubsep.errors import AudioError, DataError
from hubsep.evaluation.music import evaluate_levels, evaluate_songs, format_songs, format_table
from hubsep.metrics.bss_eval import METRICS


RATE = 8_000
TWO = ("vocals", "accompaniment")
ALL = ("mixture", *STEMS)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return songs(tmp_path_factory.mktemp("data") / "music", seconds=1.1)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A Spleeter of four stems, at the rate of the songs."""
    path = tmp_path_factory.mktemp("model") / "spleeter-tiny"
    tiny_spleeter(stems=["vocals", "drums", "bass", "other"], sampling_rate=RATE)[0].save_pretrained(path)
    return path


def waveforms(seconds: float = 2.2, sampling_rate: int = RATE, seed: int = 0) -> dict[str, NDArray[np.float32]]:
    """Four stereo stems of noise and tones, and their sum."""
    rng = np.random.default_rng(seed)
    time = np.arange(int(seconds * sampling_rate)) / sampling_rate
    stems = {}
    for number, name in enumerate(STEMS):
        tones = np.sin(2 * np.pi * (200 + 300 * number) * time) * (1 + np.sin(2 * np.pi * (2 + number) * time)) / 2
        rough = rng.standard_normal((2, len(time)))
        stems[name] = (0.1 * tones + 0.02 * rough).astype(np.float32)
    return {"mixture": np.sum(list(stems.values()), axis=0, dtype=np.float32), **stems}


class Oracle:
    """In place of a pipeline: hands out true stems with some of the mixture in them, so that scores are known."""

    def __init__(self, truth: dict[str, NDArray[np.float32]], leak: float):
        self.truth, self.leak = truth, leak

    def __call__(self, recording: dict[str, Any]) -> list[dict[str, Any]]:
        mixture = recording["array"]
        return [{"label": n, "audio": (1 - self.leak) * w + self.leak * mixture} for n, w in self.truth.items()]


def write_musdb_hq(root: Path, names: tuple[str, ...] = ("One - First", "Two - Second")) -> Path:
    """In mono, which takes an eighth of the time to measure."""
    for seed, name in enumerate(names):
        path = root / "test" / name
        path.mkdir(parents=True)
        for stem, waveform in waveforms(seed=seed).items():
            sf.write(path / f"{stem}.wav", waveform[0], RATE, subtype="PCM_16")
    return root


def write_stem_mp4(path: Path, streams: tuple[str, ...] = ALL) -> dict[str, NDArray[np.float32]]:
    """A file as MUSDB18 has them: a cover, and an AAC stream for the mixture and each stem."""
    av = pytest.importorskip("av", reason="PyAV is not installed")
    if "aac" not in av.codecs_available:
        pytest.skip("this PyAV has no AAC encoder")
    path.parent.mkdir(parents=True, exist_ok=True)
    rate = 44_100
    written = waveforms(sampling_rate=rate)
    with av.open(str(path), "w", format="mp4") as container:
        outputs = [container.add_stream("aac", rate=rate, layout="stereo", bit_rate=256_000) for _ in streams]
        for name, output in zip(streams, outputs, strict=True):
            frame = av.AudioFrame.from_ndarray(written[name], format="fltp", layout="stereo")
            frame.sample_rate = rate
            frame.pts = 0
            container.mux([*output.encode(frame), *output.encode(None)])
    return written


def test_scores_of_estimates_that_are_known():
    """Stems with a tenth of the mixture in them: what is wrong is a tenth of the others, and all interference."""
    truth = waveforms()
    mixture = truth.pop("mixture")
    entries = [Entry("song", "made up", lambda: Multitrack(mixture, truth, RATE))]
    done: list[int] = []
    result = evaluate_songs(Oracle(truth, 0.1), entries, taps=64, on_progress=lambda: done.append(1))
    assert len(done) == 1
    assert list(result["classes"]) == list(STEMS)
    for name, row in result["classes"].items():
        assert row["songs"] == 1
        assert row["sdr"] - row["sdr_mixture"] == pytest.approx(20, abs=0.02) == row["sdri"]
        rest = mixture - truth[name]
        levels = [np.square(x[:, RATE : 2 * RATE]).sum() for x in (truth[name], rest)]
        assert row["sdr_mixture"] == pytest.approx(10 * np.log10(levels[0] / levels[1]), abs=0.3)
        assert row["sir"] == pytest.approx(row["sdr"], abs=1)
        assert row["sar"] > 40
    assert result["by_song"][0]["seconds"] == 2.2
    perfect = evaluate_songs(Oracle(truth, 0.0), entries, taps=64)
    assert perfect["classes"]["bass"]["sdr"] is None, "JSON knows no infinity"
    json.dumps(perfect, allow_nan=False)


def test_songs_that_say_nothing_are_left_out():
    truth = waveforms()
    mixture = truth.pop("mixture")
    quiet = {**truth, "vocals": np.zeros_like(truth["vocals"])}
    entries = [
        Entry("song", "made up", lambda: Multitrack(mixture, truth, RATE)),
        Entry("instrumental", "made up", lambda: Multitrack(mixture - truth["vocals"], quiet, RATE)),
    ]
    result = evaluate_songs(Oracle(truth, 0.1), entries, taps=64)
    assert [row["songs"] for row in result["classes"].values()] == [1, 1, 1, 1]
    assert result["by_song"][1]["stems"]["drums"]["sdr"] is None
    assert "-" in format_songs(result).splitlines()[2]
    nothing = evaluate_songs(Oracle(truth, 0.1), entries[1:], taps=64)
    assert nothing["classes"]["drums"] == {
        "songs": 0,
        **dict.fromkeys([*METRICS, "sdr_mean", "sdr_mixture", "sdri", "sdr_ci"]),
    }
    assert "drums" in format_table(nothing)


def test_targets():
    assert assign_targets(TWO, STEMS) == {
        "vocals": (("vocals",), ("vocals",)), "accompaniment": (("accompaniment",), ("drums", "bass", "other")),
    }  # fmt: skip
    four = assign_targets(["vocals", "drums", "bass", "other"], TWO)
    assert four["accompaniment"] == (("drums", "bass", "other"), ("accompaniment",))
    five = assign_targets(["vocals", "piano", "drums", "bass", "other"], STEMS)
    assert list(five) == list(STEMS)
    assert five["other"] == (("other", "piano"), ("other",))
    assert five["vocals"] == (("vocals",), ("vocals",))
    with pytest.raises(DataError, match="a model of speech cannot be measured on songs of drums, bass, other, vocals"):
        assign_targets(["speech"], STEMS)
    with pytest.raises(DataError, match="the names must agree"):
        assign_targets(["vocals", "drums"], ["vocals"])


def test_a_song_turned_down_is_judged_at_every_level():
    """What depends on the level of a song is seen where the same songs are given at several."""
    truth = waveforms()

    class Deaf(Oracle):
        """Hears nothing of what is softer than a tenth of full scale."""

        def __call__(self, recording: dict[str, Any]) -> list[dict[str, Any]]:
            heard = np.abs(recording["array"]).max() / np.abs(truth["mixture"]).max()
            entries = super().__call__({**recording, "array": recording["array"] / np.float32(heard)})
            return [{**e, "audio": e["audio"] * np.float32(heard if heard > 0.05 else 0)} for e in entries]

    song = Multitrack(truth["mixture"], {name: truth[name] for name in STEMS}, RATE)
    rows = evaluate_levels(Deaf({name: truth[name] for name in STEMS}, 0.1), [Entry("one", "", lambda: song)])
    for stem in STEMS:
        full, tenth, hundredth = (rows[f"{stem}, level {level}"]["sdr_mean"] for level in ("1", "0.1", "0.01"))
        assert full == pytest.approx(tenth, abs=0.02)
        assert hundredth == pytest.approx(0.0, abs=0.01), "silence"
        assert full > 5
        assert rows[f"{stem}, level 1"]["songs"] == 1


def test_what_is_measured_is_what_training_holds_out(data: Path):
    """At the rate of each corpus, whatever the rate it is trained at."""
    heldout = heldout_songs([data])
    expected = split_songs(load_songs([data], RATE))[1]
    assert sorted(song.name for song in heldout) == sorted(Path(song.path).name for song in expected)
    assert {song.corpus for song in heldout} == {BAND, KARAOKE}
    for song in heldout:
        track = song.read()
        assert track.sampling_rate == (RATE if song.corpus == BAND else RATE // 2)
        assert set(track.stems) == set(STEMS if song.corpus == BAND else TWO)
        np.testing.assert_allclose(sum(track.stems.values()), track.mixture, atol=1e-6)
    assert len(heldout_songs([data], all_recordings=True)) == 21


@pytest.mark.slow
def test_the_command_measures_on_songs_held_out(
    data: Path, folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    report = tmp_path / "result.json"
    command = ["evaluate", str(folder), "--data", str(data.parent), "--folder", "music", "--limit", "1"]
    assert main([*command, "--json", str(report)]) == 0
    printed = capsys.readouterr().out
    result = json.loads(report.read_text())
    assert result["command"] == "hubsep evaluate spleeter-tiny --data DATA --folder music --limit 1"
    labels = [*(f"{BAND}: {stem}" for stem in STEMS), f"{KARAOKE}: vocals", f"{KARAOKE}: accompaniment"]
    assert sorted(result["classes"]) == sorted(labels)
    for label, row in result["classes"].items():
        assert row["songs"] == 1
        assert f"\n{label} " in printed
        assert row["sdri"] == pytest.approx(row["sdr"] - row["sdr_mixture"], abs=0.011)
        assert row["sdr_mean"] == row["sdr"]
    table = results_table(result)
    assert table.startswith("| class | songs | SDR, dB | ISR, dB | SIR, dB | SAR, dB | mean SDR, dB | SDR of the mix")
    assert "**all**" not in table


@pytest.mark.slow
def test_the_command_measures_on_musdb_hq(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    root, report = write_musdb_hq(tmp_path / "musdb"), tmp_path / "result.json"
    command = ["evaluate", str(folder), "--dataset", "musdb", "--data", str(root), "--json", str(report)]
    assert main(command) == 0
    printed = capsys.readouterr().out
    result = json.loads(report.read_text())
    assert list(result["classes"]) == list(STEMS)
    assert [song["name"] for song in result["by_song"]] == ["One - First", "Two - Second"]
    for song in result["by_song"]:
        assert song["name"] in printed
        assert str(song["stems"]["vocals"]["sdr"]) in printed
    scores = [song["stems"]["vocals"]["sdr"] for song in result["by_song"]]
    assert result["classes"]["vocals"]["sdr"] == pytest.approx(sum(scores) / 2, abs=0.011)
    assert main([*command, "--limit", "1", "--overwrite"]) == 0
    again = json.loads(report.read_text())
    assert again["by_song"] == result["by_song"][:1]
    assert again["command"] == "hubsep evaluate spleeter-tiny --data DATA --dataset musdb --limit 1"


def test_streams_of_a_stem_mp4_are_the_stems(tmp_path: Path):
    """AAC at 256 kbit/s keeps noise at some 10 dB; a wrong stem, or one moved by a frame, would be far below 0."""
    written = write_stem_mp4(tmp_path / "test" / "Band - Song.stem.mp4")
    (song,) = musdb_songs(tmp_path)
    assert (song.name, song.corpus) == ("Band - Song", "MUSDB18")
    track = song.read()
    assert track.sampling_rate == 44_100
    assert list(track.stems) == list(reversed(STEMS))
    for name, waveform in [("mixture", track.mixture), *track.stems.items()]:
        samples = written[name].shape[1]
        assert 0 <= waveform.shape[1] - samples < 2_048
        error = waveform[:, :samples] - written[name]
        assert 10 * np.log10(np.square(written[name]).sum() / np.square(error).sum()) > 6, name
        steps = waveform.astype(np.float64) * 32_768
        np.testing.assert_array_equal(steps, np.rint(steps))
    write_stem_mp4(tmp_path / "short" / "Cut.stem.mp4", ALL[:3])
    (cut,) = musdb_songs(tmp_path, "short")
    with pytest.raises(AudioError, match="only 3 of the 5 audio streams"):
        cut.read()


def test_what_is_no_dataset_is_refused(data: Path, folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    with pytest.raises(DataError, match=r"holds no song of MUSDB18; what is looked for is test/NAME\.stem\.mp4"):
        musdb_songs(data)
    few = songs(tmp_path / "few", artists=2)
    with pytest.raises(DataError, match="pass --all-recordings"):
        heldout_songs([few])
    root = write_musdb_hq(tmp_path / "musdb", ("One",))
    sf.write(root / "test" / "One" / "bass.wav", np.zeros(100), RATE)
    with pytest.raises(DataError, match=r"must be of one rate, length and number of channels: .*bass \(1, 100\)"):
        musdb_songs(root)[0].read()
    assert main(["evaluate", "audiosep-small", "--dataset", "musdb", "--data", str(root)]) == 1
    assert "asked in words has no stems" in capsys.readouterr().err
