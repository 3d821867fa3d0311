# SPDX-License-Identifier: Apache-2.0
"""What every evaluation has in common: what was asked, how sure a figure is, and where the numbers go.

A result is a dict with `classes`, a row of figures for each class, stem or condition, and the same figures over all
of them where that makes sense. The command that made it stands in it with `DATA` for the user's own folders, so that
a card states how its numbers came about. Intervals are percentile bootstraps over what a figure is an average of
(mixtures or songs), of 9,999 resamples from a fixed seed: the same numbers always have the same interval.

No ratio says how near an estimate is to silence. BSS Eval leaves out what any stem is silent in, and so does every
evaluation here; what is left out is named below the table and in the numbers.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..cards.card import read_card, write_card
from ..errors import DataError
from ..hub.manifest import write_whole
from ..metrics.separation import needs_scipy
from ..plotting.evaluations import plot_scores
from ..plotting.spectrograms import picture_format
from ..shipped import SHIPPED


SHOWN = 10  # silent targets on a screen; the numbers have all


@dataclass(frozen=True)
class Request:
    """One call of `hubsep evaluate`; `hubsep evaluate --help` says what each field means.

    Attributes:
        model: a shipped name, a folder or a Hub repository.
        command: how it was asked, for the card.
    """

    model: str
    data: Path
    dataset: str = "folder"
    command: str = ""
    root: Path | None = None
    limit: int = 0
    folder: tuple[str, ...] = ()
    per_class: int = 20
    mixtures: int = 200
    speakers: int = 0
    conversation_minutes: float = 0.0
    noise: Path | None = None
    seconds: float | None = None
    seed: int = 1
    all_recordings: bool = False
    mixture: tuple[str, ...] = ()
    mode: str = "min"
    part: str = "test"
    classifier: Path | None = None
    steps: int | None = None
    guidance: float | None = None
    output: Path | None = None
    benchmark: str | None = None
    json_file: Path | None = None
    picture: Path | None = None
    write_card: bool = False

    @property
    def source(self) -> str:
        """What `pipeline(model=...)` takes: the folder of a shipped model, else the model as it was named."""
        return str(SHIPPED.get(self.model, self.model))


def check_request(request: Request) -> None:
    """Refuses what would only fail when everything has been measured.

    Raises:
        DataError: if scipy is missing, a file cannot be written, or there is no card to write into.
    """
    needs_scipy()
    if request.write_card and not (Path(request.model) / "card.json").is_file():
        raise DataError(
            f"--write-card writes into a model's own folder, and {request.model} is none with a card.json; converted "
            "and fine-tuned folders have one"
        )
    for path in (request.json_file, request.picture):
        if path is not None and not path.parent.is_dir():
            raise DataError(f"{path} cannot be written: there is no folder {path.parent}")
    if request.picture is not None:
        picture_format(request.picture)
    if request.benchmark is not None and not all(request.benchmark.partition(":")[::2]):
        raise DataError(f"--benchmark is {request.benchmark!r}; it must be DATASET:TASK of the Hub, as org/set:test")


def check_some_heard(counted: int, silent: Sequence[str]) -> None:
    """Refuses a set in which nothing counts.

    Args:
        counted: mixtures that do.
        silent: targets of those that do not.

    Raises:
        DataError: naming the first of them.
    """
    if silent and not counted:
        raise DataError(
            f"all {len(silent)} mixtures have a silent target, the first is {silent[0]}; no figure says how near an "
            "estimate is to silence: choose recordings in which something is heard"
        )


def format_silent(silent: Sequence[str]) -> list[str]:
    """What was left out, as a line below a table; no line if that is nothing."""
    if not silent:
        return []
    more = f" and {len(silent) - SHOWN} more" if len(silent) > SHOWN else ""
    noun = "mixture was" if len(silent) == 1 else "mixtures were"
    return [f"{len(silent)} {noun} left out, because the target is silent: {', '.join(silent[:SHOWN])}{more}"]


def place_in_set(path: Path) -> str:
    """A recording of a set without the folders of this computer, as a card may name it."""
    return "/".join(path.parts[-2:])


def finish(request: Request, result: dict[str, Any]) -> dict[str, Any]:
    """Puts the command in front of the numbers and writes them to where the request says.

    Args:
        request: what was asked.
        result: from the `run` of an evaluation.
    """
    result = {"command": request.command, **result}
    if request.benchmark is not None:
        dataset, _, task = request.benchmark.partition(":")
        result["benchmark"] = {"dataset_id": dataset, "task_id": task}
    if request.json_file is not None:
        write_whole(request.json_file, json.dumps(result, indent=1, allow_nan=False))
    if request.picture is not None:
        plot_scores(result, request.picture, title=request.command)
    if request.write_card:
        write_card(Path(request.model), {**read_card(Path(request.model)), "results": result})
    return result


__all__ = ["Request", "check_request", "finish"]
