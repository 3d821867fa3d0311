# SPDX-License-Identifier: Apache-2.0
"""Songs with their true stems, to measure separation on: the part of our own data held out of training, and MUSDB18.

Songs are read one at a time, when they are needed, and at the rate they were recorded at: brought to a higher one they
would have an empty band, in which distortion filters are free to be anything. The mixture of our own data is the sum
of its stems; MUSDB18 has a mixture of its own, which is used, although lossy coding makes it differ from the sum.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ..audio.av import AVSource
from ..audio.reader import SPLIT_IT, AudioLimits, AudioReader, read_audio
from ..errors import DataError
from .recordings import heldout_groups, read_metadata
from .stems import FULL_SCALE, read_song, song_rate


Waveform = NDArray[np.float32]
Names = tuple[str, ...]
MUSDB = ("mixture", "drums", "bass", "other", "vocals")  # the order of the audio streams of a .stem.mp4
SUFFIX = ".stem.mp4"
SLACK_SAMPLES = 2_048  # an AAC encoder may end a stream up to two frames earlier than another


@dataclass(frozen=True)
class Multitrack:
    """A mixture (channels, samples) and its true stems by name, each of the same shape."""

    mixture: Waveform
    stems: Mapping[str, Waveform]
    sampling_rate: int


@dataclass(frozen=True)
class Entry:
    """A song that can be read."""

    name: str
    corpus: str
    read: Callable[[], Multitrack]


def holds_songs(folders: Iterable[Path]) -> bool:
    """Whether the `metadata.csv` of each folder says of what stems songs are made."""
    tables = [folder for folder in folders if (folder / "metadata.csv").is_file()]
    return bool(tables) and all("stems" in read_metadata(folder, columns=("path",))[0] for folder in tables)


def heldout_songs(folders: Iterable[Path], *, all_recordings: bool = False) -> list[Entry]:
    """The songs of folders with a `metadata.csv` that training holds out by `split_songs`.

    Args:
        folders: as `load_songs` takes.
        all_recordings: all songs instead, of data no training saw.

    Raises:
        DataError: if a folder does not keep the contract, or nothing is held out.
    """
    rows = [row for folder in folders for row in read_metadata(folder, columns=("path", "stems", "group"))]
    held = heldout_groups((row.get("corpus") or "", row["group"]) for row in rows)
    chosen = rows if all_recordings else [row for row in rows if row["group"] in held]
    if not chosen:
        raise DataError(
            "no corpus of the data has six artists, so none is held out of training; pass --all-recordings for data "
            "that no training saw"
        )
    return [Entry(Path(row["path"]).name, row.get("corpus") or "", partial(_read_row, row)) for row in chosen]


def musdb_songs(folder: Path, part: str = "test") -> list[Entry]:
    """The songs of a MUSDB18 folder (`test/NAME.stem.mp4`) or a MUSDB18-HQ folder (`test/NAME/vocals.wav` and so on).

    Raises:
        DataError: if it is neither.
    """
    root = folder / part
    children = sorted(root.iterdir()) if root.is_dir() else []
    coded = [Entry(p.name.removesuffix(SUFFIX), "MUSDB18", partial(_read_coded, p)) for p in children if _is_coded(p)]
    plain = [Entry(p.name, "MUSDB18-HQ", partial(_read_plain, p)) for p in children if (p / "mixture.wav").is_file()]
    if not coded + plain:
        raise DataError(
            f"{root} holds no song of MUSDB18; what is looked for is {part}/NAME{SUFFIX}, or the folders "
            f"{part}/NAME with {', '.join(f'{stem}.wav' for stem in MUSDB)}"
        )
    return coded + plain


def assign_targets(made: Iterable[str], true: Iterable[str]) -> dict[str, tuple[Names, Names]]:
    """What is measured: for each target, the sources of the model and the stems of the song that add up to it.

    A name that both have is a target. What either has beyond these is summed up: in `other` if both have one, as a
    piano is in songs that do not know it; else as `accompaniment` against the other side's.

    Raises:
        DataError: if they have no name in common, or something is left on one side only.
    """
    made, true = list(made), list(true)
    targets: dict[str, tuple[Names, Names]] = {name: ((name,), (name,)) for name in true if name in made}
    more, left = (tuple(name for name in names if name not in targets) for names in (made, true))
    if "other" in targets:
        targets["other"] = (("other", *more), ("other", *left))
    elif more and left and targets:
        targets["accompaniment"] = (more, left)
    elif more or left or not targets:
        raise DataError(
            f"a model of {', '.join(made) or 'nothing'} cannot be measured on songs of {', '.join(true)}: the names "
            "must agree, but for one source on either side that is the sum of several"
        )
    return targets


def _read_row(row: dict[str, str]) -> Multitrack:
    rate = song_rate(row)
    song = read_song(row, rate)
    stems = {name: song.source((name,)) for name in song.stems}
    return Multitrack(song.source(tuple(song.stems)), stems, rate)


def _is_coded(path: Path) -> bool:
    return path.name.endswith(SUFFIX) and not path.name.startswith(".")


def _read_plain(folder: Path) -> Multitrack:
    recordings = {name: read_audio(str(folder / f"{name}.wav"), way_out=SPLIT_IT) for name in MUSDB}
    waveforms = {name: recording.waveform for name, recording in recordings.items()}
    rates = {recording.sampling_rate for recording in recordings.values()}
    if len(rates) > 1 or len({waveform.shape for waveform in waveforms.values()}) > 1:
        shapes = ", ".join(f"{name} {waveform.shape}" for name, waveform in waveforms.items())
        raise DataError(f"the recordings in {folder} must be of one rate, length and number of channels: {shapes}")
    return Multitrack(waveforms.pop("mixture"), waveforms, rates.pop())


def _read_coded(path: Path) -> Multitrack:
    """All streams, rounded to 16 bits: such was the decoded dataset that published figures were measured on."""
    limits, rate = AudioLimits(), 0
    waveforms: dict[str, Waveform] = {}
    for number, name in reversed(list(enumerate(MUSDB))):
        source = AVSource(path.open("rb"), path.name, "mp4", limits, stream=number)
        with AudioReader(source, "raise", limits) as reader:
            waveform = reader.whole(SPLIT_IT)
            rate = reader.sampling_rate
        waveforms[name] = np.clip(np.rint(waveform * 32_768), -32_768, 32_767).astype(np.float32) / FULL_SCALE
    lengths = [waveform.shape[1] for waveform in waveforms.values()]
    if max(lengths) - min(lengths) > SLACK_SAMPLES or len({len(waveform) for waveform in waveforms.values()}) > 1:
        shapes = ", ".join(f"{name} {waveform.shape}" for name, waveform in waveforms.items())
        raise DataError(f"the streams of {path} must be of one length and number of channels: {shapes}")
    cut = {name: waveform[:, : min(lengths)] for name, waveform in waveforms.items()}
    return Multitrack(cut.pop("mixture"), cut, rate)


__all__ = ["Entry", "Multitrack", "assign_targets", "heldout_songs", "holds_songs", "musdb_songs"]
