# SPDX-License-Identifier: Apache-2.0
"""Songs as their stems: a folder with a `metadata.csv` whose column `stems` says how each song keeps them.

`drums bass other vocals` means that `path` is a folder with one recording of each, named like it.
`ch0=accompaniment ch1=vocals` means that `path` is one recording whose channels are stems, mono each. `group` names an
artist or a singer, whose songs are never split between training and validation. Stems are kept as 16-bit integers at
the model's rate: a quarter of an hour of four stems in stereo at 44.1 kHz is 635 MB.
"""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from tqdm.auto import tqdm

from ..audio.reader import SPLIT_IT, open_audio, read_audio, resample
from ..errors import DataError
from .recordings import heldout_groups, read_metadata
from .tables import inside, is_file


Waveform = NDArray[np.float32]
AUDIO_FILES = (".wav", ".flac", ".ogg", ".mp3")
FULL_SCALE = np.float32(32_768)


@dataclass(frozen=True)
class Song:
    """A song: its stems by name, (channels, samples) each and of one length, and where it comes from."""

    stems: Mapping[str, NDArray[np.int16]]
    group: str
    corpus: str
    path: str

    @property
    def samples(self) -> int:
        """How long it is."""
        return next(iter(self.stems.values())).shape[-1]

    def source(self, names: Sequence[str], start: int = 0, samples: int | None = None) -> Waveform:
        """The sum of some stems from `start` on as float32, (channels, samples)."""
        stop = None if samples is None else start + samples
        parts = [self.stems[name][:, start:stop] for name in names]
        total = parts[0].astype(np.float32)
        for part in parts[1:]:
            total += part
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
    path, words = Path(row["path"]), row["stems"].split()
    with open_audio(str(path if _in_channels(words) else _file_of(path, words[0] if words else ""))) as reader:
        return reader.sampling_rate


def read_song(row: dict[str, str], sampling_rate: int) -> Song:
    """Reads the song of a row of `metadata.csv`; errors are those of `load_songs`."""
    words = row["stems"].split()
    if _in_channels(words):
        stems = _channels(Path(row["path"]), words, sampling_rate)
    else:
        stems = {name: _read(_file_of(Path(row["path"]), name), sampling_rate) for name in words}
    lengths = {name: stem.shape[-1] for name, stem in stems.items()}
    if len(set(lengths.values())) != 1:
        raise DataError(f"the stems of {row['path']} must be there and of one length in samples, got {lengths}")
    return Song(stems, row["group"], row.get("corpus") or "", row["path"])


def _in_channels(words: list[str]) -> bool:
    return bool(words) and all(word.startswith("ch") and "=" in word for word in words)


def _channels(path: Path, words: list[str], sampling_rate: int) -> dict[str, NDArray[np.int16]]:
    """The stems of a recording that has one in each channel."""
    waveform = _read(path, sampling_rate)
    names: dict[str, int] = {}
    for word in words:
        number, _, name = word[2:].partition("=")
        if not number.isdecimal() or int(number) >= len(waveform) or not name:
            raise DataError(f"{path} has {len(waveform)} channels; stems says {word!r}")
        names[name] = int(number)
    return {name: waveform[number : number + 1] for name, number in names.items()}


def _file_of(folder: Path, stem: str) -> Path:
    """The recording of a stem, whatever its format."""
    for suffix in AUDIO_FILES:
        path = inside(folder, f"{stem}{suffix}", f"the stems of {folder}")
        if is_file(path):
            return path
    raise DataError(f"{folder} has no recording of {stem}; it is looked for as {stem}{', '.join(AUDIO_FILES)}")


def _read(path: Path, sampling_rate: int) -> NDArray[np.int16]:
    recording = read_audio(str(path), way_out=SPLIT_IT)
    waveform = resample(recording.waveform, recording.sampling_rate, sampling_rate)
    return (np.clip(waveform, -1, 1 - 2**-15) * FULL_SCALE).astype(np.int16)


__all__ = ["Song", "assign_stems", "choose_songs", "load_songs", "read_song", "song_rate", "split_songs"]
