# SPDX-License-Identifier: Apache-2.0
"""Only weights that may be used commercially, where a user wants no others: the one rule, and who may ask for it.

Decisions: weights are refused before they are fetched. What nobody states counts as not allowed, and so does what is
stated in two ways. The card of a folder decides, whether the folder is shipped, local, of the Hub or converted; of
what is published and not here yet, the table or the card of the repository.
"""

from __future__ import annotations

import os
from pathlib import Path

from ..errors import CheckpointError, HubsepError
from .bounds import shown, true_or_false
from .cards import CARD, README, card_fields
from .copies import is_named, read_file
from .json_files import MAX_CONFIG_BYTES
from .licences import allows_commercial_use, is_stated, stated_in_readme
from .published import Published


COMMERCIAL = "HUBSEP_COMMERCIAL"  # environment variable: only weights that may be used commercially are opened
INDEX = "model_index.json"


def is_wanted(commercial: bool | None = None) -> bool:
    """Whether only weights that may be used commercially are wanted.

    Args:
        commercial: as a caller says it; what the environment says holds for every caller.

    Raises:
        CheckpointError: if it is neither true nor false.
    """
    said = os.environ.get(COMMERCIAL, "").lower() not in ("", "0", "false", "no")
    if commercial is None:
        return said
    try:
        return true_or_false("commercial", commercial) or said
    except HubsepError as error:
        raise CheckpointError(str(error)) from error


def check_allowed(name: str, allowed: bool | None, stated: str) -> None:
    """Refuses weights that may not be used commercially; for callers who want no others.

    Args:
        name: what the caller calls the weights.
        allowed: whether they may, None if nobody knows.
        stated: the licence, and who says so.

    Raises:
        CheckpointError: naming the licence.
    """
    if allowed is not True:
        raise CheckpointError(
            f"{name} may not be used commercially ({stated}), and only weights that may are wanted (commercial=True, "
            f"--commercial or {COMMERCIAL}). `hubsep list --commercial` and `hubsep list --published --commercial` "
            "print those that may."
        )


def check_commercial(row: Published, licence: str | None = None, *, commercial: bool | None = None) -> None:
    """Refuses a published checkpoint that may not be used commercially, if the user wants no others.

    Args:
        row: of the table.
        licence: of the weights, where the files said more than the table.
        commercial: as `is_wanted` takes it.

    Raises:
        CheckpointError: naming the licence and who says so.
    """
    if not is_wanted(commercial):
        return
    check_allowed(row.name, row.commercial, f"licence {row.licence}, says {row.licence_from}")
    if licence is not None:
        check_allowed(row.name, allows_commercial_use(licence), f"licence {licence}: its files say otherwise")


def check_folder_licence(folder: Path, name: str) -> None:
    """Refuses a folder whose card allows no commercial use, or that has no card; for callers who want no others.

    Args:
        folder: with a card; of a component, in the folder of a pipeline.
        name: what the caller calls it.

    Raises:
        CheckpointError: naming the licence.
    """
    is_part = not has_card(folder) and (folder.parent / INDEX).is_file()
    check_allowed(shown(name), *_stated(folder.parent if is_part else folder))


def has_card(folder: Path) -> bool:
    """Whether there is anything to read."""
    return is_named(folder / CARD) or is_named(folder / README)


def _stated(folder: Path) -> tuple[bool, str]:
    """Whether a card allows commercial use, and what it states."""
    if not has_card(folder):
        return False, "it has no card, so its licence is unknown"
    try:
        fields = card_fields(folder)
        text = (
            read_file(folder, README, MAX_CONFIG_BYTES).decode(errors="replace") if is_named(folder / README) else ""
        )
    except (HubsepError, OSError) as error:
        return False, f"its card cannot be read: {error}"
    licence = fields.get("licence_name") or fields.get("licence") or "unknown"
    said, by_licence = fields.get("commercial"), allows_commercial_use(str(licence))
    if not is_stated(licence):
        return False, "its licence is unknown"
    denied = by_licence is False or allows_commercial_use(stated_in_readme(text) or "") is False
    allowed = said if isinstance(said, bool) else by_licence
    return allowed is True and not denied, f"licence {licence}, says its card"


__all__ = ["COMMERCIAL", "check_allowed", "check_commercial", "check_folder_licence", "has_card", "is_wanted"]
