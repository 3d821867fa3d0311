# SPDX-License-Identifier: Apache-2.0
"""Checkpoints that the authors of the systems published: their names, files, licences and scores.

The table is data, `published.yaml`, so that who writes no Python can add a row or put one right. Decisions: names are
the authors' own, upper and lower case alike; a row says what could not be checked, and who states the licence.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, fields
from functools import cache
from pathlib import Path
from typing import Any

from ..errors import DataError
from ..registry import SYSTEMS
from ..shipped import SHIPPED
from ..texts import near
from .bounds import shown


HUB = "https://huggingface.co/"
TABLE = Path(__file__).with_name("published.yaml")
RATE_MAY_BE_UNSTATED = ("sepformer", "conv_tasnet")  # systems whose files need not say their sampling rate


@dataclass(frozen=True)
class Published:
    """One checkpoint.

    Attributes:
        name: as the authors say it.
        system: a `model_type` of hubsep.
        does: what it separates, or makes.
        sampling_rate: in Hz.
        sources: how many there are, or their names; 0 for what separates nothing.
        paper: address of the system's paper.
        authors: of the weights.
        licence: of the weights.
        licence_from: who says so.
        commercial: whether it allows commercial use.
        aliases: other names.
        repository: on the Hub; the name where it has a slash and nothing else is said.
        files: in the repository.
        address: of the one file, where it is not on the Hub.
        page: where the authors link to it, where there is no lasting address.
        megabytes: of the files together.
        score: what the authors published, by metric; `data` is what it was measured on.
        options: of the converter: what no file holds.
        opened_with: class that opens what the conversion makes, where hubsep itself has none for it.
        companions: options of the converter that are repositories on the Hub, or folders in them (org/name/folder), of
            which it needs text files.
        unsure: what could not be checked against the published files.
    """

    name: str
    system: str
    does: str
    sampling_rate: int
    sources: int | tuple[str, ...]
    paper: str
    authors: str
    licence: str
    licence_from: str
    commercial: bool
    aliases: tuple[str, ...] = ()
    repository: str | None = None
    files: tuple[str, ...] = ()
    address: str | None = None
    page: str | None = None
    megabytes: int | None = None
    score: Mapping[str, str] = field(default_factory=dict)
    options: Mapping[str, Any] = field(default_factory=dict)
    companions: Mapping[str, str] = field(default_factory=dict)
    opened_with: str | None = None
    unsure: str | None = None

    @property
    def opens(self) -> bool:
        """Whether it is in a layout that opens as it is, without a conversion."""
        return "model_index.json" in self.files

    @property
    def opens_by_name(self) -> bool:
        """Whether its name is enough: it opens as it is, or can be fetched and converted."""
        return self.page is None and self.opened_with is None

    @property
    def command(self) -> str:
        """The command that makes a folder of the files, which opens."""
        if self.page is None:
            return f"hubsep convert {self.name} FOLDER"
        return f"hubsep convert {self.system} FILES FOLDER --licence {self.licence}"

    @property
    def published_score(self) -> str:
        """What the authors published, and on which data; "" if nothing is known."""
        scores = ", ".join(f"{metric} {value}" for metric, value in self.score.items() if metric != "data")
        return f"{scores}, on {self.score['data']}" if scores else ""

    @property
    def place(self) -> str:
        """Where it is published, as an address."""
        on_the_hub = f"{HUB}{self.repository}" if self.repository else None
        return self.address or on_the_hub or self.page or ""


@cache
def published() -> dict[str, Published]:
    """Every published checkpoint, by its name.

    Raises:
        DataError: if the table is not as it has to be, naming the row.
    """
    import yaml

    loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)  # measured: 4 ms of each opening by name, and 27 without
    groups = yaml.load(TABLE.read_text(encoding="utf-8"), loader)
    rows: dict[str, Published] = {}
    taken: set[str] = set()
    for group in groups:
        common = {name: value for name, value in group.items() if name != "rows"}
        for fields_of_row in group["rows"]:
            row = _row({**common, **fields_of_row})
            names = {each.casefold() for each in (row.name, *row.aliases)}
            if names & taken:
                raise DataError(f"{TABLE.name}: {shown(row.name)} has a name that another row has")
            taken |= names
            rows[row.name] = row
    return rows


def find_published(name: str) -> Published | None:
    """The checkpoint of a name, an alias, or a repository without its organisation; None if there is none.

    Upper and lower case are alike. Of two repositories that differ in the organisation alone, the first one is meant.
    """
    wanted = name.casefold()
    for row in published().values():
        names = (row.name, *row.aliases, row.name.rpartition("/")[2])
        if wanted in {each.casefold() for each in names}:
            return row
    return None


def near_model(name: str, others: Iterable[str] = ()) -> str | None:
    """The model that a mistyped name means: of the package, or published if the name looks like one of those.

    Args:
        name: as it was typed.
        others: names of more models.
    """
    rows = [alias for row in published().values() for alias in (row.name, *row.aliases)]
    groups = ([*SHIPPED, *others], rows)
    for names in reversed(groups) if ":" in name or "/" in name else groups:
        if meant := near(name, names):
            return meant
    return None


def find_at(address: str) -> Published | None:
    """The checkpoint that is published at an https address; None if the table has none there."""
    return next((row for row in published().values() if row.place.rstrip("/") == address.rstrip("/")), None)


def _row(given: dict[str, Any]) -> Published:
    label = f"{TABLE.name}: {shown(given.get('name'))}"
    unknown = sorted(set(given) - {each.name for each in fields(Published)})
    if unknown:
        raise DataError(f"{label} has the unknown field {shown(unknown[0])}")
    settled: dict[str, Any] = {
        name: tuple(value) if isinstance(value, list) else value for name, value in given.items()
    }
    if settled.get("system") in RATE_MAY_BE_UNSTATED and "sampling_rate" in settled:
        settled["options"] = {"sampling_rate": settled["sampling_rate"], **settled.get("options", {})}
    elsewhere = "address" in settled or "page" in settled
    if elsewhere:
        settled.pop("files", None)
    elif "/" in str(settled.get("name")):
        settled.setdefault("repository", settled["name"])
    try:
        row = Published(**settled)
    except TypeError as error:
        raise DataError(f"{label} lacks a field: {error}") from error
    if row.system not in SYSTEMS:
        raise DataError(f"{label} is of the system {shown(row.system)}; known are {', '.join(SYSTEMS)}")
    if sum(each is not None for each in (row.repository, row.address, row.page)) != 1:
        raise DataError(f"{label} needs one of repository, address and page")
    return row


__all__ = ["HUB", "Published", "find_at", "find_published", "near_model", "published"]
