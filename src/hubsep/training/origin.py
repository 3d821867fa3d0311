# SPDX-License-Identifier: Apache-2.0
"""What a run began with: one that goes on with something else would mix two runs without a word.

A run that goes on takes from its folder what was measured before, its curve, the best weights and the state of the
optimiser. These belong to the model, the recordings, their split and the settings that they were made with. So these
are written down when a run begins, and compared when it goes on. What is free to change is how long a run lasts and
how its rate falls, how often it is looked at, and what only costs time or memory. Recordings are known by their
content: other licences or names to thank are no other recordings. Their groups count too, because they decide what is
held out; a recording without one is known by its place.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from ..audio.reader import read_audio
from ..batch.fingerprint import fingerprint
from ..data.recordings import groups_of
from ..errors import DataError
from ..hub.bounds import shown
from ..hub.manifest import sha256, write_whole
from .validation import read_object


ORIGIN = "began_with.json"
FREE = frozenset(
    """steps minutes schedule warmup_steps workers report_to eval_every save_every patience gradient_checkpointing
    non_commercial compile compile_target""".split()
)
COLUMNS = ("label", "speaker", "stems", "gender", "age")  # that say what is learnt from a recording
MOST_NAMED = 3


def settings_kept(recipe: Any) -> dict[str, Any]:
    """The settings of a recipe, a dataclass, that a run must go on with."""
    kept = {name: value for name, value in dataclasses.asdict(recipe).items() if name not in FREE}
    return dict(json.loads(json.dumps(kept)))


def recordings_fingerprint(rows: Sequence[Mapping[str, Any]]) -> str:
    """Sixteen hexadecimal digits of recordings, in their order, with what is said of them and their groups.

    Args:
        rows: as `hubsep.data.contract.read_rows` gives them, or `read_metadata`.
    """
    facts = [
        [_content(row), group, *(row.get(name) or "" for name in COLUMNS)]
        for row, group in zip(rows, groups_of(rows), strict=True)
    ]
    return fingerprint({"recordings": facts})


def tables_fingerprint(recipe: Any, data: Path) -> str:
    """Sixteen hexadecimal digits of the tables of recordings that a recipe names; the recordings may be gigabytes.

    Args:
        recipe: with `folders`, and perhaps `noise_folders`.
        data: that they are relative to.
    """
    tables = [data / name / "metadata.csv" for name in [*recipe.folders, *getattr(recipe, "noise_folders", ())]]
    return fingerprint({"tables": [sha256(table) for table in tables if table.is_file()]})


def check_origin(
    output: Path, origin: Mapping[str, Any], whose: Mapping[str, str], *, stale: Iterable[str] = ()
) -> None:
    """Writes down what a run begins with, or compares it with what the run that goes on began with.

    Args:
        output: of the run.
        origin: by name; `settings` are compared one by one.
        whose: what other things of `origin` are called in an error, by name.
        stale: files of the run that count nothing unless the folder says what it began with; they are removed.

    Raises:
        DataError: naming what is not the same.
    """
    path = output / ORIGIN
    if not path.is_file():
        for name in stale:
            (output / name).unlink(missing_ok=True)
        write_whole(path, json.dumps(origin, indent=1))
        return
    before = read_object(path)
    changes = [said for name, said in whose.items() if before.get(name) != origin.get(name)]
    settings, kept = origin.get("settings", {}), before.get("settings")
    kept = kept if isinstance(kept, dict) else {}
    changes += [
        f"{name if name in settings else shown(name)} {shown(kept.get(name))}, not {shown(settings.get(name))}"
        for name in sorted({*settings, *kept})
        if settings.get(name) != kept.get(name)
    ]
    if changes:
        more = f", and {len(changes) - MOST_NAMED} more" if len(changes) > MOST_NAMED else ""
        raise DataError(
            f"{output} holds a run that began with {', '.join(changes[:MOST_NAMED])}{more}; what it measured and "
            "learnt belongs to that. Go on with what it began with, or choose another --output"
        )


def _content(row: Mapping[str, Any]) -> str:
    """What tells a recording from another."""
    if row.get("audio") is not None:
        recording = read_audio(row["audio"])
        return f"{hashlib.sha256(recording.waveform.tobytes()).hexdigest()} {recording.sampling_rate}"
    path = Path(row["path"])
    if not path.is_dir():
        return sha256(path)
    return fingerprint({part.name: sha256(part) for part in sorted(path.iterdir()) if part.is_file()})


__all__ = ["ORIGIN", "check_origin", "recordings_fingerprint", "settings_kept", "tables_fingerprint"]
