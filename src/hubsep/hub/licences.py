# SPDX-License-Identifier: Apache-2.0
"""What licences allow, and whether a licence may stand on a model: one place for everything that writes or reads one.

Decisions: weights that were made of material that may not be used commercially may not carry a licence that allows
it, whoever writes the card: a fine-tune, a conversion, a merge, a push. Nothing is said of a licence that is not in
the tables: its answer is None, "not known here", and a person has to read it. "other" names no licence at all; what
may be done with such weights is in the card's own words.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ..errors import DataError
from ..texts import read_front_matter
from .card_fields import is_line


README = "README.md"
MAX_README_CHARACTERS = 8 << 20
IDENTIFIER = re.compile(r"[A-Za-z0-9][A-Za-z0-9.+-]{0,63}")  # as SPDX has them
UNKNOWN = frozenset({"", "unknown", "none stated", "none", "licence not stated"})
UNNAMED = UNKNOWN | {"other"}
ALLOWING = re.compile(
    r"(mit|apache-2\.0|bsd-[23]-clause|cc0(-1\.0)?|cc-by(-sa|-nd)?(-[1-4]\.0)?|isc|unlicense|0bsd|zlib)"
)
DENYING = re.compile(r"(^|-)nc(-|$)|non-?commercial|(research|academic|educational)([- ]use)?([- ]only)?")
# "is licensed under [Attribution-ShareAlike 3.0](https://creativecommons.org/licenses/by-sa/3.0/)"
CREATIVE_COMMONS = re.compile(
    r"creativecommons\.org/(?:licenses/([a-z-]{2,12})/([1-4]\.0)|(publicdomain/zero/1\.0))", re.I
)


def spelled(licence: str) -> str:
    """A licence in the Hub's spelling: lower case, with hyphens; "CC BY-NC 3.0" is "cc-by-nc-3.0"."""
    return re.sub(r"[\s_]+", "-", licence.strip().lower())


def is_stated(licence: object) -> bool:
    """Whether this says anything at all."""
    return isinstance(licence, str) and licence.strip().lower() not in UNKNOWN


def allows_commercial_use(licence: str) -> bool | None:
    """Whether a licence allows commercial use; None where that is not known here."""
    name = spelled(licence)
    if DENYING.search(name):
        return False
    return True if ALLOWING.fullmatch(name) else None


def check_agrees(licence: str, commercial: bool | None, of: str) -> None:
    """Refuses a licence that allows more than what the weights were made of.

    Args:
        licence: of the weights.
        commercial: whether all they were made of may be used commercially, None if nobody said.
        of: what they were made of, for the error.

    Raises:
        DataError: if commercial use is not allowed, and the licence is not one that forbids it.
    """
    if commercial is False and licence.strip().lower() not in UNNAMED and allows_commercial_use(licence) is not False:
        raise DataError(
            f"licence {licence} allows commercial use, which {of} does not: use a non-commercial one such as "
            "CC-BY-NC-4.0, or 'other' with the terms in the card"
        )


def check_card(card: Mapping[str, Any]) -> None:
    """Refuses a card whose licence allows what its base or its training data does not.

    Args:
        card: fields as `hubsep.cards` has them.

    Raises:
        DataError: naming the licence, and what it contradicts.
    """
    check_agrees(str(card["licence"]), card["commercial"], "what the card says of the weights")
    if card["commercial"] is True and allows_commercial_use(str(card["licence"])) is False:
        raise DataError(f"the card says that commercial use is allowed, and its licence {card['licence']} forbids it")
    for entry in card.get("training_data", ()):
        if card["commercial"] is True and allows_commercial_use(str(entry.get("licence", ""))) is False:
            raise DataError(
                f"the card says that commercial use is allowed; {entry['name']}, which the model was trained on, is "
                f"licensed under {entry['licence']}"
            )


def stated_in_readme(text: str) -> str | None:
    """The licence a README states to the Hub; None if it states none, or in a way that cannot be read."""
    try:
        licence = read_front_matter(text, README).get("license")
    except DataError:
        return None
    return licence if is_line(licence) else None


def stated_in_folder(folder: Path) -> str | None:
    """The licence that the README in a folder states to the Hub; None if there is none, or it states none."""
    readme = folder / README
    if not readme.is_file():
        return None
    with readme.open(encoding="utf-8", errors="replace") as file:
        return stated_in_readme(file.read(MAX_README_CHARACTERS))


def as_identifier(licence: str | None) -> str:
    """A licence as a card may name it, in the Hub's spelling; "unknown" if it is none, or no name of one."""
    name = spelled(licence or "")
    return name if IDENTIFIER.fullmatch(name) else "unknown"


def stated_in(text: str) -> str | None:
    """The licence that a notice puts weights under, in the Hub's spelling; None if it names none that is known.

    Asteroid's notices name the licences of the data first and that of the model last.
    """
    matches = list(CREATIVE_COMMONS.finditer(text))
    if not matches:
        return None
    kind, version, zero = matches[-1].groups()
    return "cc0-1.0" if zero else f"cc-{kind.lower()}-{version}"


__all__ = [
    "IDENTIFIER", "README", "UNKNOWN", "allows_commercial_use", "as_identifier", "check_agrees", "check_card",
    "is_stated", "spelled", "stated_in", "stated_in_folder", "stated_in_readme",
]  # fmt: skip
