# SPDX-License-Identifier: Apache-2.0
"""`hubsep info`: all that is known of one model, of the package or published by the authors of its system."""

from __future__ import annotations

import shutil
import textwrap
from collections.abc import Mapping
from typing import Annotated, Any

import typer

from ..cards.card import licence_of, rate_of, read_card
from ..cards.results import COLUMNS, headline
from ..hub.published import Published, find_published, near_model
from ..shipped import DEFAULT_MODEL, SHIPPED


ALL_NAMES = "`hubsep list` and `hubsep list --published` print all names"
MARGIN = 17  # letters of the widest label, its colon and two spaces
MAX_WIDTH = 100  # characters of a line
COPIED = ("measured with", "folder")


def info(
    name: Annotated[
        str | None, typer.Argument(metavar="NAME", help="As `hubsep list` or `hubsep list --published` prints it.")
    ] = None,
) -> None:
    """Print all that is known of a model. That is what it does, who made it, its licence, and how it is opened."""
    if name is None:
        raise typer.BadParameter(f"which model? Write `hubsep info NAME`, such as {DEFAULT_MODEL}. {ALL_NAMES}")
    row = find_published(name)
    if name in SHIPPED:
        show_shipped(name)
    elif row is not None:
        show_row(row)
    else:
        meant = near_model(name)
        raise typer.BadParameter(f"there is no model {name!r}.{f' Did you mean {meant}?' * bool(meant)} {ALL_NAMES}")


def show_row(row: Published) -> None:
    """Prints a published checkpoint, a line a fact."""
    separated = ", ".join(row.sources) if isinstance(row.sources, tuple) else str(row.sources or "")
    facts = {
        "name": row.name,
        "does": row.does,
        "sources": separated,
        "rate": f"{row.sampling_rate} Hz",
        "system": f"{row.system}, {row.paper}",
        "authors": row.authors,
        "licence": f"{row.licence}, says {row.licence_from}",
        "commercial use": "allowed" if row.commercial else "not allowed",
        "published score": row.published_score,
        "published at": row.place,
        "files": ", ".join(row.files),
        "size": f"{row.megabytes} MB" if row.megabytes else "",
        "not checked": row.unsure or "",
        "opens": "by its name" if row.opens_by_name else f"after `{row.command}`",
        "opened with": f"{row.opened_with}.from_pretrained" if row.opened_with else "",
    }
    show_facts(facts)


def show_shipped(name: str) -> None:
    """Prints a model of the package, a line a fact."""
    card = read_card(SHIPPED[name])
    results = card.get("results", {})
    files = [path for path in SHIPPED[name].rglob("*") if path.is_file()]
    facts = {
        "name": name,
        "does": card["summary"],
        "rate": f"{rate_of(SHIPPED[name], card)} Hz",
        "system": f"{card['model_type']}, {card['paper']}",
        "licence": licence_of(card),
        "commercial use": "allowed" if card["commercial"] else "not allowed",
        "trained on": "; ".join(dict.fromkeys(_data_name(entry) for entry in card["training_data"])),
        "quality": "; ".join(figure(*item) for item in headline_figures(results).items()),
        "measured with": results.get("command", ""),
        "size": f"{sum(path.stat().st_size for path in files) / 1e6:.0f} MB",
        "folder": str(SHIPPED[name]),
        "opens": "by its name",
    }
    show_facts(facts)


def headline_figures(results: dict[str, Any]) -> dict[str, float]:
    """The main figures of an evaluation by their names; none where nothing was measured."""
    if not results:
        return {}
    return {f"{label}: {name}" if label else name: value for name, label, value in headline(results)}


def show_facts(facts: Mapping[str, str]) -> None:
    """Prints what there is, a line a fact; a long one in several, but for what is to be copied."""
    for label, fact in facts.items():
        if fact:
            print(f"{label + ':':<{MARGIN}}{fact if label in COPIED else in_lines(fact, MARGIN)}")


def in_lines(text: str, indent: int, longest: int = MAX_WIDTH) -> str:
    """A text in lines of at most `longest` characters, narrower where the terminal is; whole words only, indented but
    for the first."""
    width = min(longest, max(40, shutil.get_terminal_size((longest, 24)).columns))
    options: dict[str, Any] = {"break_long_words": False, "break_on_hyphens": False}
    lines = textwrap.wrap(text, width - indent, **options)
    return f"\n{' ' * indent}".join(lines)


def figure(name: str, value: float) -> str:
    """A figure of an evaluation: the name that people know it by, and its unit."""
    label, _, metric = name.rpartition(": ")
    heading, _, unit = COLUMNS[metric].partition(", ")
    return f"{label}{': ' * bool(label)}{heading} {round(value, 2)} {unit}".strip()


def _data_name(entry: str | dict[str, Any]) -> str:
    if isinstance(entry, str):
        return entry
    return f"{entry['name']} ({entry['licence']})" if "licence" in entry else str(entry["name"])


__all__ = ["figure", "headline_figures", "in_lines", "info"]
