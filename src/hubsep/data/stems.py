# SPDX-License-Identifier: Apache-2.0
"""Songs as their stems: a folder with a `metadata.csv` whose column `stems` says how each song keeps them.

`drums bass other vocals` means that `path` is a folder with one recording of each, named like it.
`ch0=accompaniment ch1=vocals` means that `path` is one recording whose channels are stems, mono each. `group` names an
artist or a singer, whose songs are never split between training and validation. Stems are kept as 16-bit integers at
the model's rate: a quarter of an hour of four stems in stereo at 44.1 kHz is 635 MB. A stem that goes above full scale
is kept at a lower gain, which is undone when it is heard; so stems still add up.
"""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tqdm.auto import tqdm

from ..audio.reader import SPLIT_IT, open_audio, read_audio, resample
from ..errors import DataError
from .recordings import heldout_groups, quantise, read_metadata
from .tables import inside, is_file, stem_channels, unnamed_channel


Waveform = NDArray[np.float32]
AUDIO_FILES = (".wav", ".flac", ".ogg", ".mp3")
FULL_SCALE = np.float32(32_768)


@dataclass(frozen=True)
class Song:
    """A song: its stems by name, (channels, samples) each and of one length, and where it comes from.

    `scales` says what the largest number of a stem stands for, where that is more than 1.
    """

    stems: Mapping[str, NDArray[np.int16]]
    group: str
    corpus: str
    path: str
    scales: Mapping[str, float] = field(default_factory=dict)

    @property
    def samples(self) -> int:
        """How long it is."""
        return next(iter(self.stems.values())).shape[-1]

    def source(self, names: Sequence[str], start: int = 0, samples: int | None = None) -> Waveform:
        """The sum of some stems from `start` on as float32, (channels, samples)."""
        stop = None if samples is None else start + samples
        total: Any = np.float32(0)
        for name in names:
            scale = np.float32(self.scales.get(name, 1.0))
            total = total + self.stems[name][:, start:stop].astype(np.float32) * scale
        return total / FULL_SCALE

    def sources(self, assigned: Sequence[Sequence[str]], channels: int) -> Waveform:
        """All of what `assign_stems` gave, (num_sources, channels, samples); a mono stem is given to every channel."""
        waveforms = [self.source(names) for names in assigned]
        return np.stack([np.broadcast_to(wave, (channels, self.samples)) for wave in waveforms])


def assign_stems(available: Iterable[str], wanted: Sequence[str]) -> list[tuple[str, ...]]:
    """Which stems of a song add up to each source of a model.

    A source is the stem of the same name. One source may have none: it is the sum of all that the others leave, as
    "accompaniment" is of drums, bass and other.

    Raises:
        DataError: if a song has no such stem, or would lose one.
    """
    names = list(available)
    missing = [name for name in wanted if name not in names]
    rest = tuple(name for name in names if name not in wanted)
    if len(missing) > 1 or bool(missing) != bool(rest):
        raise DataError(
            f"a song with the stems {', '.join(names)} cannot teach a model of {', '.join(wanted)}: each must be a "
            "stem of it, but for one that is all the others together; name the corpora that can in corpora"
        )
    return [(name,) if name in names else rest for name in wanted]


def load_songs(
    folders: Iterable[Path], sampling_rate: int, *, corpora: Sequence[str] = (), commercial_only: bool = False
) -> list[Song]:
    """Reads every song of the folders, with the channels it has, at one rate.

    Args:
        folders: folders with a `metadata.csv`.
        sampling_rate: of the result, in Hz. What a recording of a lower rate lacks above its band stays missing.
        corpora: which of the folders' corpora to read; all if none is named.
        commercial_only: whether weights trained on them may be used commercially.

    Raises:
        DataError: if a folder does not keep the contract, a corpus is in none of them, or they hold songs whose
            `commercial` is not True although only such are to be used: leaving out a part of them in silence would
            change what a recipe means.
        AudioError: if a recording cannot be read.
    """
    rows = [row for folder in folders for row in read_metadata(folder, columns=("path", "stems", "group"))]
    corpus_names = sorted({row.get("corpus") or "" for row in rows})
    unknown = sorted(set(corpora) - set(corpus_names))
    if unknown:
        raise DataError(f"corpora names {unknown[0]!r}; the songs are of {', '.join(corpus_names)}")
    rows = [row for row in rows if not corpora or row.get("corpus") in corpora]
    barred = [row for row in rows if row.get("commercial", "").lower() != "true"]
    if commercial_only and barred:
        raise DataError(
            f"{len(barred)} of {len(rows)} songs are not for commercial use, {barred[0]['path']} for one (licence: "
            f"{barred[0].get('licence') or 'none stated'}); set commercial_only to false, and say so wherever the "
            "weights are named, or leave their corpus out"
        )
    return [read_song(row, sampling_rate) for row in tqdm(rows, desc="reading songs", leave=False)]


def split_songs(songs: list[Song], fraction: float = 0.15) -> tuple[list[Song], list[Song]]:
    """Training and validation parts that share no group; corpora of fewer than six groups stay in training."""
    held = heldout_groups(((song.corpus, song.group) for song in songs), fraction)
    return [song for song in songs if song.group not in held], [song for song in songs if song.group in held]


def choose_songs(songs: list[Song], count: int) -> list[Song]:
    """At most `count` songs of each corpus, the groups in turn, in an order that depends on their names alone."""
    chosen: list[Song] = []
    for corpus in sorted({song.corpus for song in songs}):
        groups: dict[str, list[Song]] = defaultdict(list)
        for song in sorted(songs, key=lambda song: hashlib.sha256(Path(song.path).name.encode()).hexdigest()):
            if song.corpus == corpus:
                groups[song.group].append(song)
        turns = [(turn, group, song) for group, rows in groups.items() for turn, song in enumerate(rows)]
        chosen += [song for _, _, song in sorted(turns, key=lambda row: row[:2])[:count]]
    return chosen


def song_rate(row: dict[str, str]) -> int:
    """The sampling rate that the song of a row is recorded at, in Hz."""
    path, text = Path(row["path"]), row["stems"]
    in_channels = stem_channels(text, row["path"]) is not None
    with open_audio(str(path if in_channels else _file_of(path, text.split()[0]))) as reader:
        return reader.sampling_rate


def read_song(row: dict[str, str], sampling_rate: int) -> Song:
    """Reads the song of a row of `metadata.csv`; errors are those of `load_songs`."""
    path, text = Path(row["path"]), row["stems"]
    channels = stem_channels(text, row["path"])
    if channels is None:
        waveforms = {name: _read(_file_of(path, name), sampling_rate) for name in text.split()}
    else:
        waveforms = _channels(path, text, channels, sampling_rate)
    stems = {name: quantise(waveform) for name, waveform in waveforms.items()}
    lengths = {name: stem.shape[-1] for name, (stem, _) in stems.items()}
    if len(set(lengths.values())) != 1:
        raise DataError(f"the stems of {row['path']} must be there and of one length in samples, got {lengths}")
    scales = {name: scale for name, (_, scale) in stems.items() if scale > 1}
    integers = {name: stem for name, (stem, _) in stems.items()}
    return Song(integers, row["group"], row.get("corpus") or "", row["path"], scales)


def _channels(path: Path, text: str, channels: dict[str, int], sampling_rate: int) -> dict[str, Waveform]:
    """The stems of a recording that has one in each channel."""
    waveform = _read(path, sampling_rate)
    for name, number in channels.items():
        if number >= len(waveform):
            raise DataError(
                f"{path} has {len(waveform)} channels; stems says 'ch{number}={name}', and counts from ch0"
            )
    if len(waveform) > len(channels):
        raise unnamed_channel(len(channels), text, f"{path} has {len(waveform)} channels")
    return {name: waveform[number : number + 1] for name, number in channels.items()}


def _file_of(folder: Path, stem: str) -> Path:
    """The recording of a stem, whatever its format."""
    paths = [inside(folder, f"{stem}{suffix}", f"the stems of {folder}") for suffix in AUDIO_FILES]
    there = [path for path in paths if is_file(path)]
    if not there:
        raise DataError(f"{folder} has no recording of {stem}; it is looked for as {stem}{', '.join(AUDIO_FILES)}")
    if len(there) > 1:
        raise DataError(
            f"{folder} has {len(there)} recordings of {stem}, {there[0].name} and {there[1].name}; only one can be "
            "meant: move the other out of the folder"
        )
    return there[0]


def _read(path: Path, sampling_rate: int) -> Waveform:
    recording = read_audio(str(path), way_out=SPLIT_IT)
    return resample(recording.waveform, recording.sampling_rate, sampling_rate)


__all__ = ["Song", "assign_stems", "choose_songs", "load_songs", "read_song", "song_rate", "split_songs"]
