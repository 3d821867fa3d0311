# SPDX-License-Identifier: Apache-2.0
"""What is converted, found by one word: a name of the table, its address, a repository, or a local file or folder.

Decisions: what is here already wins over a name, as everywhere. Of what is published, system and licence are known and
need not be said. What is fetched is converted in a process of its own, as when it is opened by its name.
"""

from __future__ import annotations

import importlib
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hubsep.errors import ConversionError
from hubsep.hub.bounds import shown
from hubsep.hub.commercial import check_allowed, check_commercial, is_wanted
from hubsep.hub.layouts import WEIGHTS
from hubsep.hub.licences import allows_commercial_use, as_identifier, is_stated, spelled
from hubsep.hub.opening import convert_published, is_offline
from hubsep.hub.published import Published, find_at, find_published, published
from hubsep.hub.repositories import Listing, list_repository, row_of
from hubsep.hub.resolve import check_model_name, resolve_folder
from hubsep.registry import SYSTEMS
from hubsep.shipped import SHIPPED
from hubsep.texts import did_you_mean

from .sources import CONVERTIBLE, licence_of, recognised
from .writing import check_licence, check_stated


@dataclass(frozen=True)
class Source:
    """What is converted.

    Attributes:
        name: what its user calls it.
        system: of hubsep.
        path: of the file or folder that the converter takes; None of what is fetched.
        row: of the table, or made of a listing; None of what is a user's own.
        licence: of the weights, None if nobody states it.
        stated_by: who does.
        listed: what the repository holds, where the table does not have it.
    """

    name: str
    system: str
    path: Path | None = None
    row: Published | None = None
    licence: str | None = None
    stated_by: str = ""
    listed: Listing | None = None


def find_source(name: str, system: str | None = None) -> Source:
    """What a user means by a name. Nothing is fetched but what a repository holds that the table does not have.

    Args:
        name: of the table of published checkpoints, an address that it has, a repository, or a file or folder.
        system: as the user says it; None to find it out.

    Raises:
        ConversionError: if there is no such source, it is not recognised, or is of another system.
        CheckpointError: if the name can be none.
    """
    check_model_name(name)
    path = Path(name)
    if path.exists():
        if system is None:
            folder = path
            system, path = recognised(path)
            return Source(name, system, path, None, licence_of(folder), f"the card of {shown(folder.name)}")
        return Source(name, system, path)
    row = _published(name)
    if row is None:
        listed = list_repository(name)
        row = row_of(listed)
        return Source(name, row.system, None, row, row.licence, row.licence_from, listed)
    if system is not None and row.system != system:
        raise ConversionError(f"{row.name} is a checkpoint of {row.system}, not of {system}: leave the system out")
    return Source(name, row.system, None, row, row.licence, row.licence_from)


def check_source_licence(source: Source, licence: str | None) -> str:
    """The licence that goes into the card, in the Hub's spelling.

    Args:
        source: whose it is.
        licence: as the user says it, None if nothing was said.

    Raises:
        ConversionError: if there is none, it is none, or the source states another one.
    """
    if licence is None and source.licence is not None:
        return as_identifier(source.licence)
    said = check_licence(licence)
    both = is_stated(said) and is_stated(source.licence)
    if source.row is not None and both and spelled(said) != spelled(source.row.licence):
        raise ConversionError(
            f"licence is {said}, but the weights of {source.row.name} are under {source.row.licence}, says "
            f"{source.row.licence_from}: leave the licence out"
        )
    check_stated(said, source.licence, source.stated_by)
    return said


def check_source_commercial(source: Source, licence: str, *, commercial: bool | None = None) -> None:
    """Refuses weights that may not be used commercially, if the user wants no others.

    Args:
        source: whose they are.
        licence: that goes into the card.
        commercial: as `is_wanted` takes it.

    Raises:
        CheckpointError: naming the licence.
    """
    if is_wanted(commercial):
        check_allowed(shown(source.name, 200), allows_commercial_use(licence), f"licence {licence}")
        if source.row is not None:
            check_commercial(source.row, commercial=True)


def fetch_and_convert(
    source: Source,
    output: Path,
    overrides: Mapping[str, Any],
    licence: str | None = None,
    *,
    commercial: bool | None = None,
) -> tuple[Path | None, str]:
    """Converts what is published, in a process of its own; or fetches what opens as it is.

    Args:
        source: with a row.
        output: folder to write, complete or not at all.
        overrides: of the converter.
        licence: as `check_source_licence` takes it.
        commercial: as `is_wanted` takes it.

    Returns:
        The folder of what opens as it is and was only fetched, None of what is converted; and the licence.

    Raises:
        ConversionError: if an override is none of the system's; nothing is fetched then.
        CheckpointError: if it cannot be fetched or converted.
    """
    assert source.row is not None
    said = check_source_licence(source, licence)
    converter: Any = importlib.import_module(str(SYSTEMS[source.system].converter))
    converter.check(overrides)
    if source.row.opens:
        converter.check_back(source.row.name, output, overrides)
        return resolve_folder(source.row.name, commercial=commercial), said
    said = convert_published(source.row, output, overrides, licence=said, listed=source.listed, commercial=commercial)
    return None, said


def is_repository(name: str) -> bool:
    """Whether a name can be that of a repository, and is not the path of a file that is not there."""
    is_file = name.endswith((".safetensors", *WEIGHTS)) or Path(name).parent.is_dir()
    return re.fullmatch(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*", name, re.ASCII) is not None and not is_file


def _published(name: str) -> Published | None:
    """The row of a name or an address; None of what can be a repository of the Hub.

    Raises:
        ConversionError: if there is none.
    """
    is_address = re.match(r"[a-z][a-z0-9+.-]*://", name, re.IGNORECASE) is not None
    row = find_at(name) if is_address else find_published(name)
    if row is not None:
        return row
    if is_address:
        raise ConversionError(
            f"{shown(name, 200)} is no address of a published checkpoint that hubsep knows: `hubsep list --published` "
            "lists those. Fetch the file yourself, with `curl -LO` for instance, and name that"
        )
    if name in SHIPPED:
        raise ConversionError(f"{name} is a model of hubsep already, and needs no conversion")
    if name in CONVERTIBLE:
        raise ConversionError(
            f"which checkpoint of {name}? Name a file or a folder, or one of `hubsep list --published`"
        )
    if is_repository(name) and not did_you_mean(name, published()) and not is_offline():
        return None
    raise ConversionError(
        f"there is no file or folder {shown(name)}, and no published checkpoint of that name."
        f"{did_you_mean(name, published())} `hubsep list --published` lists them"
    )


__all__ = [
    "Source",
    "check_source_commercial",
    "check_source_licence",
    "fetch_and_convert",
    "find_source",
    "is_repository",
]
