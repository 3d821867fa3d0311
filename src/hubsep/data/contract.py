# SPDX-License-Identifier: Apache-2.0
"""What a folder of recordings must hold to fine-tune a model on it: the one place that says so, and checks it.

A folder holds a `metadata.csv` with one row a recording; a `datasets` dataset has the same columns, and the recordings
themselves in a column `audio`.

| column | for | meaning |
|---|---|---|
| `path`, `file_name` or `file` | all | the recording, relative to the folder; of songs it may be a folder of stems |
| `label` | models asked with text | what is heard, in the words people will ask for it with |
| `speaker` | models of speakers | who is heard, and nobody else |
| `stems` | models of named sources | `drums bass other vocals`, or `ch0=accompaniment ch1=vocals` |
| `source_id` or `group` | optional | recordings of one source or speaker stay in one part: training or validation |
| `licence`, `corpus`, `attribution` | optional; `licence` to push | what the card says of the recordings |
| `commercial` | optional | False for recordings that weights for commercial use must not be trained on |

Decisions: every row is checked before the first recording is read, so that a wrong row costs a second and not an
hour. Nothing is left out in silence. Unlike in the corpora of our own recipes, a label is taken as it is written.
"""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from tqdm.auto import tqdm

from ..audio.reader import SPLIT_IT, read_audio, resample
from ..errors import DataError
from .recordings import SPEECH, Clip, groups_of, quantise
from .tables import file_column, inside, is_file, is_folder, read_table, stem_channels


KINDS = {"sounds": "label", "speakers": "speaker", "songs": "stems"}  # the column each kind of model cannot do without
Row = dict[str, Any]


def read_rows(data: Any, kind: str) -> list[Row]:
    """The rows of a folder or of a dataset, checked.

    Args:
        data: a folder with `metadata.csv`, or a sequence of rows such as a `datasets` dataset.
        kind: "sounds", "speakers" or "songs".

    Returns:
        Rows as text, with `path` absolute, or `audio` the recording itself.

    Raises:
        DataError: naming the row and the column, for each way in which the contract may be broken.
    """
    rows = _table(Path(data), kind) if isinstance(data, str | Path) else _dataset(data, kind)
    needed = KINDS[kind]
    for number, row in enumerate(rows):
        if not row[needed]:
            line = getattr(row, "line", number)
            raise DataError(f"row {line} ({row['path']}): {needed} is empty; say what is heard, or remove the row")
        if kind == "songs":
            stem_channels(row[needed], f"row {getattr(row, 'line', number)} ({row['path']})")
    return rows


def _table(folder: Path, kind: str) -> list[Row]:
    table, needed = folder / "metadata.csv", KINDS[kind]
    if not folder.is_dir():
        raise DataError(f"there is no folder {folder}")
    if not table.is_file():
        raise DataError(f"{folder} has no metadata.csv; write one with the columns path and {needed}")
    rows = read_table(table)
    named = file_column(table, rows[0], [needed])
    root = folder.resolve()
    for row in rows:
        path = inside(root, row[named], f"{table}, row {row.line}")
        if not row[named] or not (is_file(path) or (kind == "songs" and is_folder(path))):
            raise DataError(f"{table}, row {row.line}: there is no {row[named]!r} in {folder}")
        row["path"] = str(path)
    return list[Row](rows)


def _dataset(data: Any, kind: str) -> list[Row]:
    """Rows of a `datasets` dataset, or of any sequence of mappings; class numbers become their names."""
    features = getattr(data, "features", None) or {}
    rows, needed = [], KINDS[kind]
    if kind == "songs":
        raise DataError("songs are read from a folder with metadata.csv: a dataset's column holds one recording")
    for number in range(len(data)):
        item = data[number]
        missing = sorted({"audio", needed} - set(item))
        if missing:
            raise DataError(f"the dataset needs the columns audio and {needed}; row {number} has {', '.join(item)}")
        names = {name: getattr(features.get(name), "int2str", str) for name in item if name != "audio"}
        row: Row = {name: "" if item[name] is None else names[name](item[name]) for name in names}
        rows.append({"path": f"recording {number}", **row, "audio": item["audio"]})
    if not rows:
        raise DataError("the dataset has no rows")
    return rows


def read_clips(rows: Sequence[Row], kind: str, sampling_rate: int, corpus: str) -> list[Clip]:
    """The recordings of rows, mixed down to mono by averaging, at one rate.

    Raises:
        AudioError: if a recording cannot be read.
        DataError: if nothing is to be heard in one.
    """
    clips = []
    for row, group in tqdm(list(zip(rows, groups_of(rows), strict=True)), desc="reading recordings", leave=False):
        recording = read_audio(row.get("audio", row["path"]), way_out=SPLIT_IT)
        mono = recording.waveform.mean(axis=0, keepdims=True)
        mono = resample(mono, recording.sampling_rate, sampling_rate)[0]
        samples, scale = quantise(mono)
        if not samples.any():
            raise DataError(f"{row['path']} is silent; remove its row")
        label = SPEECH if kind == "speakers" else row["label"].strip()
        group = row["speaker"] if kind == "speakers" else group
        clips.append(Clip(samples, (label,), group, corpus, row["path"], row.get("gender") or "", scale=scale))
    return clips


def hold_out(named: Iterable[tuple[str, str]], fraction: float, least: int, what: str = "sources") -> set[str]:
    """Which groups are held out of training, from the class and the group of every recording.

    As in our own corpora the groups of a class are ordered by a hash of their name, but of each class at least `least`
    groups are held out, and as many stay.

    Raises:
        DataError: if a class has fewer than twice `least` groups.
    """
    classes: dict[str, set[str]] = defaultdict(set)
    for name, group in named:
        classes[name].add(group)
    held: set[str] = set()
    for name, groups in sorted(classes.items()):
        if len(groups) < 2 * least:
            raise DataError(
                f"{name!r} has recordings of {len(groups)} {what}; at least {2 * least} are needed, of which {least} "
                "are held out to measure on. Recordings with the same source_id, group or speaker are of one"
            )
        ordered = sorted(groups, key=lambda group: hashlib.sha256(group.encode()).hexdigest())
        held.update(ordered[: max(least, round(fraction * len(ordered)))])
    return held


def check_commercial(rows: Iterable[Row], allowed: bool) -> bool:
    """Whether all recordings may go into weights for commercial use.

    Raises:
        DataError: if some may not, and `allowed` does not say that this is known.
    """
    listed = list(rows)
    barred = [row for row in listed if str(row.get("commercial", "")).lower() in ("false", "no", "0")]
    if barred and not allowed:
        raise DataError(
            f"{len(barred)} of {len(listed)} recordings are not for commercial use, {Path(barred[0]['path']).name} "
            f"for one (licence: {barred[0].get('licence') or 'none stated'}); pass --non-commercial, and the card "
            "will say so, or remove their rows"
        )
    return not barred


__all__ = ["KINDS", "Row", "check_commercial", "hold_out", "read_clips", "read_rows"]
