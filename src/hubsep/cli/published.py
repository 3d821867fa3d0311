# SPDX-License-Identifier: Apache-2.0
"""`hubsep list --published` and `hubsep info`: what is known of the checkpoints that authors published."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict
from typing import Annotated

import typer

from ..cards.card import licence_of, read_card
from ..hub.published import Published, find_published, published
from ..shipped import SHIPPED
from ..texts import did_you_mean


COLUMNS = "{:<45}{:>9}  {:<16}{}"  # at most 80 characters


def show_published(*, commercial: bool, as_json: bool) -> None:
    """Prints a line for each published checkpoint, by what it does."""
    rows = [row for row in published().values() if row.commercial or not commercial]
    if as_json:
        print(json.dumps([asdict(row) for row in rows], indent=2, ensure_ascii=False))
        return
    print(COLUMNS.format("name", "rate", "licence", "use"))
    for purpose in dict.fromkeys(row.does for row in rows):
        print(f"\n{purpose}")
        for row in rows:
            if row.does == purpose:
                use = "any" if row.commercial else "research"
                print(COLUMNS.format(row.name, f"{row.sampling_rate} Hz", row.licence, use))


def info(
    name: Annotated[
        str, typer.Argument(metavar="NAME", help="As `hubsep list` or `hubsep list --published` prints it.")
    ],
) -> None:
    """Print all that is known of a model: what it does, who made it, its licence, and how it is opened."""
    row = find_published(name)
    if name in SHIPPED:
        show_shipped(name)
    elif row is not None:
        show_row(row)
    else:
        names = [*SHIPPED, *published()]
        raise typer.BadParameter(
            f"{name!r} is no name of the list.{did_you_mean(name, names)} `hubsep list` and `hubsep list --published` "
            "print all names"
        )


def show_row(row: Published) -> None:
    """Prints a published checkpoint, a line a fact."""
    separated = ", ".join(row.sources) if isinstance(row.sources, tuple) else str(row.sources or "")
    scores = ", ".join(f"{metric} {value}" for metric, value in row.score.items() if metric != "data")
    facts = {
        "name": row.name,
        "does": row.does,
        "sources": separated,
        "rate": f"{row.sampling_rate} Hz",
        "system": f"{row.system}, {row.paper}",
        "authors": row.authors,
        "licence": f"{row.licence}, says {row.licence_from}",
        "commercial use": "allowed" if row.commercial else "not allowed",
        "published score": f"{scores}, on {row.score['data']}" if scores else "",
        "published at": row.place,
        "files": ", ".join(row.files),
        "size": f"{row.megabytes} MB" if row.megabytes else "",
        "not checked": row.unsure or "",
        "opens": "by its name" if row.opens_by_name else f"after `{row.command}`",
    }
    show_facts(facts)


def show_shipped(name: str) -> None:
    """Prints a model of the package, a line a fact."""
    card = read_card(SHIPPED[name])
    facts = {
        "name": name,
        "does": card["summary"],
        "system": f"{card['model_type']}, {card['paper']}",
        "licence": licence_of(card),
        "commercial use": "allowed" if card["commercial"] else "not allowed",
        "folder": str(SHIPPED[name]),
        "opens": "by its name",
    }
    show_facts(facts)


def show_facts(facts: Mapping[str, str]) -> None:
    """Prints what there is, a line a fact."""
    for label, fact in facts.items():
        if fact:
            print(f"{label + ':':<17}{fact}")


__all__ = ["info", "show_published"]
