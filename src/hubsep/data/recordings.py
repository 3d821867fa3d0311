# SPDX-License-Identifier: Apache-2.0
"""The dataset contract: a folder with a `metadata.csv`, and the recordings it names, held in memory at one rate.

`metadata.csv` has at least `path` or `file_name`, relative to the folder, and `label`. `speaker`, `source_id` or
`group` tells which recordings belong together and must not be split between training and validation; `commercial`,
`licence` and `corpus` say what may be done with them. `gender` and `age` of a speaker add labels. Recordings are kept
as 16-bit integers, a quarter of an hour in 58 MB at 32 kHz.
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

from ..audio.reader import SPLIT_IT, read_audio, resample
from ..errors import DataError
from .prompts import canonical_label
from .tables import Row, file_column, inside, read_table, stem_channels


SPEECH = "speech"  # the label of a recording of which only the speaker is named
GROUPING = ("speaker", "source_id", "group")  # columns whose value two recordings of one group share


@dataclass(frozen=True)
class Clip:
    """One mono recording with everything that may be said of it; `labels[0]` is its class, `gender` a speaker's.

    `scale` is what the largest number of `samples` stands for: 1, or more where the recording goes above full scale.
    """

    samples: NDArray[np.int16]
    labels: tuple[str, ...]
    group: str
    corpus: str
    path: str
    gender: str = ""
    folder: str = ""
    scale: float = 1.0

    def waveform(self, start: int = 0, length: int | None = None) -> NDArray[np.float32]:
        """Samples from `start` on as float32, (samples,)."""
        stop = None if length is None else start + length
        return self.samples[start:stop].astype(np.float32) / np.float32(32_768 / self.scale)


def quantise(waveform: NDArray[np.floating]) -> tuple[NDArray[np.int16], float]:
    """A recording as 16-bit integers, and what the largest of them stands for.

    One that goes above full scale, as recordings of floating point may and resampled ones do, is kept at a lower gain
    and not cut off. All others are at their own level.
    """
    scale = max(1.0, float(np.abs(waveform).max(initial=0.0)))
    return (np.clip(waveform / np.float32(scale), -1, 1 - 2**-15) * 32_768).astype(np.int16), scale


def read_metadata(
    folder: Path, *, commercial_only: bool = False, columns: tuple[str, ...] = ("path", "label")
) -> list[Row]:
    """The rows of a folder's `metadata.csv`, with `path` (or what `file_name` names) made absolute.

    Args:
        folder: that holds the file.
        commercial_only: whether to leave out rows whose `commercial` is not True.
        columns: that must be there; where a speaker is named, the label need not be, and is "speech".

    Raises:
        DataError: if the file, a column or a recording is missing, a path leaves the folder, or `stems` is asked for
            and says nothing that can be meant.
    """
    table = folder / "metadata.csv"
    if not table.is_file():
        raise DataError(f"{folder} has no metadata.csv; write one with the columns {' and '.join(columns)}")
    rows = read_table(table)
    if "label" in columns and "speaker" in rows[0]:
        for row in rows:
            row.setdefault("label", SPEECH)
    named = file_column(table, rows[0], [name for name in columns if name != "path"])
    root = folder.resolve()
    for row in rows:
        row["path"] = str(inside(root, row[named], f"{table}, row {row.line}"))
        if "stems" in columns:
            stem_channels(row["stems"], f"{table}, row {row.line} ({row[named]})")
    return [row for row in rows if not commercial_only or row.get("commercial", "").lower() == "true"]


def labels_of(row: dict[str, str]) -> tuple[str, ...]:
    """The class of a row and what else it may be called: a speaker is a man, a woman or a child as well."""
    label = canonical_label(row["label"])
    if not row.get("gender"):
        return (label,)
    age = row.get("age") or "99"
    if not age.isdecimal():
        raise DataError(f"{row['path']}: age must be a whole number of years or empty, got {age!r}")
    if int(age[:3]) <= 13:
        return (label, "a child talking")
    return (label, "a man talking" if row["gender"] == "m" else "a woman talking")


def groups_of(rows: Sequence[Mapping[str, str]]) -> list[str]:
    """What each recording must not be parted from: all that share its speaker, its source or its group, by one name.

    A speaker may be heard in several sources, and a source may hold several speakers; whatever hangs together stays
    together. The name is the first recording's speaker, else its source, group or path.
    """
    members: dict[tuple[str, str], list[int]] = defaultdict(list)
    for number, row in enumerate(rows):
        for column in GROUPING:
            if row.get(column):
                members[column, row[column]].append(number)
    names: dict[int, str] = {}
    for first, row in enumerate(rows):
        name = next((row[column] for column in GROUPING if row.get(column)), row["path"])
        waiting = [] if first in names else [first]
        while waiting:
            number = waiting.pop()
            names[number] = name
            for column in GROUPING:
                waiting += members.pop((column, rows[number].get(column) or ""), [])
    return [names[number] for number in range(len(rows))]


def load_clips(folders: Iterable[Path], sampling_rate: int, *, commercial_only: bool = False) -> list[Clip]:
    """Reads every recording of the folders, mixed down to mono by averaging, at one rate.

    Args:
        folders: folders with a `metadata.csv`.
        sampling_rate: of the clips, in Hz.
        commercial_only: whether to leave out rows whose `commercial` is not True.

    Raises:
        DataError: if a folder does not keep the contract.
        AudioError: if a recording cannot be read.
    """
    clips = []
    rows: list[tuple[Path, dict[str, str], str]] = []
    for folder in folders:
        listed = read_metadata(folder, commercial_only=commercial_only)
        rows += [(folder, row, group) for row, group in zip(listed, groups_of(listed), strict=True)]
    for folder, row, group in tqdm(rows, desc="reading recordings", leave=False):
        recording = read_audio(row["path"], way_out=SPLIT_IT)
        mono = recording.waveform.mean(axis=0, keepdims=True)
        mono = resample(mono, recording.sampling_rate, sampling_rate)[0]
        samples, scale = quantise(mono)
        facts = row.get("corpus", ""), row["path"], row.get("gender") or ""
        clips.append(Clip(samples, labels_of(row), group, *facts, folder=str(folder), scale=scale))
    return clips


def check_heard(clips: Iterable[Clip]) -> None:
    """Refuses recordings that hold nothing but zeros, of which no mixture can be made.

    Raises:
        DataError: naming the first.
    """
    for clip in clips:
        if not clip.samples.any():
            raise DataError(f"{clip.path} is silent; remove its row")


def split_clips(clips: list[Clip], fraction: float = 0.15) -> tuple[list[Clip], list[Clip]]:
    """Training and validation parts that share no group; classes of fewer than six groups stay in training.

    Folders are split one by one: a folder more moves nothing of the others from one part to the other, so a model that
    was trained on some of them can be trained on with more, and be judged on what it never heard.
    """
    folders: dict[str, list[Clip]] = defaultdict(list)
    for clip in clips:
        folders[clip.folder].append(clip)
    held: set[str] = set()
    for part in folders.values():
        held |= heldout_groups(((clip.labels[-1], clip.group) for clip in part), fraction)
    return [c for c in clips if c.group not in held], [c for c in clips if c.group in held]


def held_out(
    clips: list[Clip], data: Path, fraction: float = 0.15, *, commercial_only: bool = False
) -> tuple[list[Clip], list[Clip]]:
    """Training and validation clips as `split_clips` parts them, some of both.

    Args:
        clips: that may be used.
        data: where they are, for the error.
        fraction: of the clips of each class, held out.
        commercial_only: whether others were left out, for the error.

    Raises:
        DataError: if nothing is left for either.
    """
    training, validation = split_clips(clips, fraction)
    if not training or not validation:
        sources = len({clip.group for clip in clips})
        raise DataError(
            f"{data} has {len(clips)} recordings of {sources} sources that may be used; six sources of a label are "
            f"needed to hold one out (commercial_only is {commercial_only})"
        )
    return training, validation


def heldout_groups(rows: Iterable[tuple[str, str]], fraction: float = 0.15) -> set[str]:
    """Which groups are held out of training, from the class and the group of every recording.

    The groups of a class are ordered by a hash of their name and held out until they hold `fraction` of its clips, so
    the split depends on nothing else and a grown dataset keeps most of it. Classes of fewer than six groups stay.
    """
    groups: dict[str, dict[str, int]] = defaultdict(lambda: defaultdict(int))
    for label, group in rows:
        groups[label][group] += 1
    held: set[str] = set()
    for counts in groups.values():
        if len(counts) < 6:
            continue
        wanted, taken = fraction * sum(counts.values()), 0
        for name in sorted(counts, key=lambda name: hashlib.sha256(name.encode()).hexdigest()):
            if taken < wanted:
                held.add(name)
                taken += counts[name]
    return held


__all__ = [
    "Clip", "groups_of", "held_out", "heldout_groups", "labels_of", "load_clips", "quantise", "read_metadata",
    "split_clips",
]  # fmt: skip
