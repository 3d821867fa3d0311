# SPDX-License-Identifier: Apache-2.0
"""Songs as stems, and mixtures of them: they add up, in any order the same, and nothing is left out in silence."""

from __future__ import annotations

import csv
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile as sf
import torch
from songs import BAND, KARAOKE, STEMS, songs

from hubsep.data.multitracks import heldout_songs
from hubsep.data.music import MusicMixtureDataset, MusicSettings, song_mixtures
from hubsep.data.stems import Song, assign_stems, choose_songs, load_songs, read_song, split_songs
from hubsep.errors import DataError


RATE = 8_000
TWO = ("vocals", "accompaniment")
AS_THEY_ARE: dict[str, Any] = {f"{kind}_probability": 0.0 for kind in ("shuffle", "silent", "swap", "speed")}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return songs(tmp_path_factory.mktemp("data") / "music")


@pytest.fixture(scope="module")
def loaded(folder: Path) -> list[Song]:
    return load_songs([folder], RATE)


@pytest.fixture(scope="module")
def band(loaded: list[Song]) -> list[Song]:
    return [song for song in loaded if song.corpus == BAND]


def dataset(rows: list[Song], stems: tuple[str, ...] = TWO, **settings: Any) -> MusicMixtureDataset:
    return MusicMixtureDataset(rows, MusicSettings(RATE, stems, **{"seconds": 0.25, **settings}), 100)


def test_both_ways_of_keeping_stems(folder: Path, loaded: list[Song]):
    assert len(loaded) == 21
    song, karaoke = loaded[0], loaded[-1]
    assert tuple(song.stems) == STEMS
    assert {stem.shape for stem in song.stems.values()} == {(2, 4_800)}
    expected, _ = sf.read(Path(song.path) / "vocals.wav", dtype="int16")
    assert np.array_equal(song.stems["vocals"], expected.T)
    assert tuple(karaoke.stems) == ("accompaniment", "vocals")
    assert {stem.shape for stem in karaoke.stems.values()} == {(1, 4_800)}, "twice the rate it is stored at"
    spectrum = np.abs(np.fft.rfft(karaoke.source(["vocals"])[0]))
    assert np.argmax(spectrum) * RATE / 4_800 == pytest.approx(960, abs=2), "900 Hz and 10 a singer"


def test_what_a_source_is_made_of(band: list[Song]):
    assert assign_stems(STEMS, TWO) == [("vocals",), ("drums", "bass", "other")]
    assert assign_stems(STEMS, STEMS[::-1]) == [(name,) for name in STEMS[::-1]]
    for available, wanted in ((TWO, STEMS), (STEMS, ("vocals", "other")), (("vocals",), TWO)):
        with pytest.raises(DataError, match="cannot teach a model of"):
            assign_stems(available, wanted)
    total = band[0].source(("drums", "bass", "other"))
    parts = [band[0].stems[name].astype(np.float32) for name in ("drums", "bass", "other")]
    np.testing.assert_allclose(total, sum(parts) / 32_768, atol=1e-6)


def test_an_item_depends_on_its_number_alone(loaded: list[Song]):
    first, again = dataset(loaded), dataset(loaded)
    forwards = [first[i] for i in range(20)]
    for i in reversed(range(20)):
        assert all(torch.equal(again[i][name], forwards[i][name]) for name in ("input_values", "labels"))
    assert not torch.equal(forwards[0]["labels"], forwards[1]["labels"])
    with pytest.raises(IndexError):
        first[100]


@pytest.mark.parametrize(("stems", "channels"), [(TWO, 2), (STEMS, 2), (STEMS, 1)])
def test_sources_add_up(band: list[Song], stems: tuple[str, ...], channels: int):
    data = dataset(band, stems, channels=channels)
    for i in range(30):
        item = data[i]
        assert item["labels"].shape == (len(stems), channels, 2_000)
        torch.testing.assert_close(item["labels"].sum(dim=0), item["input_values"], atol=1e-6, rtol=0)


def test_a_song_that_is_not_shuffled_is_itself_at_other_levels(band: list[Song]):
    data = dataset(band[:1], STEMS, seconds=0.7, **AS_THEY_ARE)  # longer than the song: silence around it
    levels = []
    for i in range(20):
        for name, source in zip(STEMS, data[i]["labels"].numpy(), strict=True):
            start = int(np.flatnonzero(source.any(axis=0))[0]) if name == "other" else None
            expected = band[0].source([name])
            gain = np.abs(source).max() / np.abs(expected).max()
            levels.append(gain)
            if start is not None:
                np.testing.assert_allclose(source[:, start : start + 4_799], gain * expected[:, -4_799:], atol=2e-4)
    assert 0.25 <= min(levels) < 0.4
    assert 1.1 < max(levels) <= 1.2501


def test_channels_change_places_and_stems_fall_silent(band: list[Song]):
    plain = dataset(band, STEMS, **AS_THEY_ARE)
    swapped = dataset(band, STEMS, **{**AS_THEY_ARE, "swap_probability": 1.0})
    silent = dataset(band, STEMS, **{**AS_THEY_ARE, "silent_probability": 0.5})
    for i in range(5):
        assert torch.equal(plain[i]["labels"].flip(dims=(1,)), swapped[i]["labels"])
    heard = torch.stack([silent[i]["labels"].flatten(1).any(dim=1) for i in range(40)]).float().mean(dim=0)
    assert (heard > 0.2).all()
    assert (heard < 0.8).all()


def test_speed_changes_pitch(loaded: list[Song]):
    voices = dataset(loaded[-1:], seconds=0.5, **{**AS_THEY_ARE, "speed_probability": 1.0})
    found = [np.abs(np.fft.rfft(voices[i]["labels"][0, 0].numpy())).argmax() * 2 for i in range(20)]
    assert 860 < min(found) < 930, "a tenth below 960 Hz at most"
    assert 990 < max(found) < 1_060


def test_stems_are_shuffled_within_a_corpus(loaded: list[Song]):
    """One corpus is mono, so that a mixture of both would have stems of both kinds."""
    data = dataset(loaded, **{**AS_THEY_ARE, "shuffle_probability": 1.0})
    mono = []
    for i in range(60):
        labels = data[i]["labels"]
        same = [bool(torch.equal(source[0], source[1])) for source in labels]
        assert len(set(same)) == 1, "one stem is of the mono corpus, the other is not"
        mono.append(same[0])
    assert 10 < sum(mono) < 50
    weighted = dataset(loaded, corpus_weights={KARAOKE: 0.0})
    assert not any(torch.equal(weighted[i]["labels"][0, 0], weighted[i]["labels"][0, 1]) for i in range(20))
    with pytest.raises(DataError, match="corpus_weights names 'jazz'; the songs are of band, karaoke"):
        dataset(loaded, corpus_weights={"jazz": 1.0})


def test_training_and_validation_share_no_artist(loaded: list[Song]):
    training, validation = split_songs(loaded, 0.2)
    assert {song.group for song in training}.isdisjoint(song.group for song in validation)
    assert len(training) + len(validation) == len(loaded)
    assert {song.corpus for song in validation} == {BAND, KARAOKE}
    chosen = choose_songs(loaded, 3)
    assert [song.corpus for song in chosen] == [BAND] * 3 + [KARAOKE] * 3
    assert len({song.group for song in chosen}) == 6, "another artist each, while there is one"
    assert choose_songs(loaded[::-1], 3) == chosen
    mixtures = song_mixtures(chosen, TWO, 2)
    assert [corpus for corpus, _ in mixtures] == [song.corpus for song in chosen]
    assert {tuple(sources.shape) for _, sources in mixtures} == {(2, 2, 4_800)}


def test_songs_that_may_not_be_used(folder: Path):
    with pytest.raises(DataError, match=r"19 of 21 songs are not for commercial use.*licence: for research"):
        load_songs([folder], RATE, commercial_only=True)
    with pytest.raises(DataError, match="corpora names 'jazz'; the songs are of band, karaoke"):
        load_songs([folder], RATE, corpora=["jazz"])
    assert {song.corpus for song in load_songs([folder], RATE, corpora=[KARAOKE])} == {KARAOKE}


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"stems": "drums kazoo"}, "no recording of kazoo"),
        ({"stems": ""}, r"metadata.csv, row 2 .*stems is empty; name them"),
        ({"stems": "drums bass drums"}, "row 2 .*stems names 'drums' twice"),
        ({"stems": "ch0=vocals ch1=vocals"}, "row 2 .*stems names 'vocals' twice"),
        ({"stems": "ch0=vocals ch0=drums"}, "row 2 .*stems names channel 0 2 times"),
        ({"stems": "ch0=vocals drums"}, "row 2 .*stems says 'drums', in 'ch0=vocals drums'"),
        ({"stems": "ch0=vocals ch1="}, "row 2 .*stems says 'ch1='"),
        ({"stems": "ch-1=vocals"}, "row 2 .*stems says 'ch-1=vocals'"),
        ({"path": "karaoke 0.wav", "stems": "ch0=accompaniment ch2=vocals"}, "row 2 .*does not name channel 1"),
        ({"path": "karaoke 0.wav", "stems": "ch1=vocals"}, r"does not name channel 0, .*ch0=\.\.\."),
        ({"path": "karaoke 0.wav", "stems": "ch0=vocals"}, "karaoke 0.wav has 2 channels: .* not name channel 1"),
        ({"stems": "drums twice"}, "2 recordings of twice, twice.wav and twice.flac"),
        ({"stems": "drums short"}, "of one length in samples"),
        ({"stems": "drums ../x"}, "leaves the folder"),
        ({"path": "karaoke 0.wav", "stems": "ch0=drums ch1=bass ch2=vocals"}, "2 channels; stems says 'ch2=vocals'"),
        ({"path": "../music"}, "leaves the folder"),
    ],
)
def test_folders_that_do_not_keep_the_contract(folder: Path, tmp_path: Path, change: dict[str, str], says: str):
    (tmp_path / "x.wav").write_bytes(b"")
    copy = tmp_path / "copy"
    shutil.copytree(folder, copy, ignore=shutil.ignore_patterns("[1-9]*", "karaoke [1-9]*"))
    sf.write(copy / "0 - song 0" / "short.wav", np.zeros((100, 2)), RATE)
    for ending in ("wav", "flac"):
        sf.write(copy / "0 - song 0" / f"twice.{ending}", np.zeros((4_800, 2)), RATE)
    with (copy / "metadata.csv").open(newline="") as file:
        row = next(csv.DictReader(file))
    with (copy / "metadata.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, row.keys())
        writer.writeheader()
        writer.writerow({**row, **change})
    with pytest.raises(DataError, match=says):
        load_songs([copy], RATE)


@pytest.mark.parametrize("peak", [0.5, 1.5, 40.0])
def test_stems_above_full_scale_are_not_cut_off_and_still_add_up(peak: float, tmp_path: Path):
    rng = np.random.default_rng(0)
    loud, quiet = (rng.uniform(-1, 1, (2, 900)).astype(np.float32) for _ in range(2))
    loud *= np.float32(peak) / np.abs(loud).max()
    for name, waveform in (("loud", loud), ("quiet", quiet)):
        sf.write(tmp_path / f"{name}.wav", waveform.T, RATE, subtype="FLOAT")
    row = {"path": str(tmp_path), "stems": "loud quiet", "group": "x"}
    song = read_song(row, RATE)
    np.testing.assert_allclose(song.source(["loud"]), loud, atol=2 * max(1.0, peak) / 2**15)
    np.testing.assert_allclose(song.source(["quiet"]), quiet, atol=2 / 2**15)
    np.testing.assert_array_equal(song.source(["loud", "quiet"]), song.source(["loud"]) + song.source(["quiet"]))
    sf.write(tmp_path / "both.wav", np.stack([loud[0], quiet[0]], axis=1), RATE, subtype="FLOAT")
    channels = read_song({**row, "path": str(tmp_path / "both.wav"), "stems": "ch0=loud ch1=quiet"}, RATE)
    np.testing.assert_allclose(channels.source(["loud"]), loud[:1], atol=2 * max(1.0, peak) / 2**15)
    (tmp_path / "metadata.csv").write_text("path,stems,group\n.,loud quiet,x\n")
    track = heldout_songs([tmp_path], all_recordings=True)[0].read()
    np.testing.assert_array_equal(track.mixture, track.stems["loud"] + track.stems["quiet"])
    assert np.abs(track.stems["loud"]).max() == pytest.approx(peak, rel=1e-4)


def test_no_songs_and_no_column(tmp_path: Path):
    with pytest.raises(DataError, match="there is no song"):
        dataset([])
    (tmp_path / "metadata.csv").write_text("path,label\na.wav,rain\n")
    with pytest.raises(DataError, match=r"columns path \(or file_name\) and stems and group, got path, label"):
        load_songs([tmp_path], RATE)
