# SPDX-License-Identifier: Apache-2.0
"""The fields of a `card.json`: what each may be, checked before anything is made of a card that somebody else wrote.

A card is text that is put together, copied into other cards and published, so each field is of one type, and the short
ones, which stand in the front matter that the Hub reads, are one line.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ..errors import CheckpointError
from .bounds import shown


MAX_LINE, MAX_TEXT, MAX_ENTRIES = 500, 100_000, 10_000
LINES = ("name", "model_type", "pipeline_tag", "licence", "licence_name", "base_model")
TEXTS = ("system", "paper", "summary", "use", "training", "authors", "measured_on", "evaluation_command")
LISTS = ("known_sounds", "limits", "commands", "tags")
ENTRIES: dict[str, dict[str, type]] = {
    "training_data": {"name": str, "what": str, "licence": str, "attribution": str},
    "converted_from": {"name": str, "bytes": int, "sha256": str},
}


def check_card_fields(card: Mapping[str, Any], label: str) -> None:
    """Refuses a card with a field that is not what it has to be; fields that are not known here may be anything.

    Args:
        card: parsed JSON.
        label: what errors call the file.

    Raises:
        CheckpointError: naming the field and what it must be.
    """
    for name in LINES:
        if not is_line(card.get(name, "-")):
            raise _refusal(label, name, card[name], f"a text of one line, of 1 to {MAX_LINE} characters")
    for name in TEXTS:
        if not is_text(card.get(name, "")):
            raise _refusal(label, name, card[name], f"a text of at most {MAX_TEXT} characters")
    for name in LISTS:
        values = card.get(name, [])
        if not isinstance(values, list) or len(values) > MAX_ENTRIES or not all(map(is_text, values)):
            raise _refusal(label, name, values, f"a list of at most {MAX_ENTRIES} texts")
    for name, kinds in ENTRIES.items():
        entries = card.get(name, [])
        if not isinstance(entries, list) or len(entries) > MAX_ENTRIES or not all(_fits(e, kinds) for e in entries):
            raise _refusal(label, name, entries, f"a list of entries of {', '.join(kinds)}")
    if not isinstance(card.get("commercial"), bool | None):
        raise _refusal(label, "commercial", card["commercial"], "true, false or null")


def is_line(value: Any) -> bool:
    """Whether a value is a text of one line that can be printed, neither empty nor long."""
    return isinstance(value, str) and 0 < len(value) <= MAX_LINE and value.isprintable()


def is_text(value: Any) -> bool:
    """Whether a value is a text that can be written to a file."""
    return isinstance(value, str) and len(value) <= MAX_TEXT and not any("\ud800" <= c <= "\udfff" for c in value)


def _fits(entry: Any, kinds: Mapping[str, type]) -> bool:
    """Whether an entry of a list has all its fields, of the right types."""
    if not isinstance(entry, dict):
        return False
    return all(
        is_text(entry.get(name)) if kind is str else isinstance(entry.get(name), kind) for name, kind in kinds.items()
    )


def _refusal(label: str, name: str, value: Any, what: str) -> CheckpointError:
    return CheckpointError(f"{label}: {name} is {shown(value)}; it must be {what}.")


__all__ = ["check_card_fields", "is_line", "is_text"]
