# SPDX-License-Identifier: Apache-2.0
"""`docs/leaderboard.md`: what was measured of every shipped model, side by side, from the models' own files.

`python -m hubsep.leaderboard` writes the page again; a test fails when it is out of date. A section is a task; within
one, models measured by the same command but for their name can be compared, and the commands stand below the table.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from ..hub.tensors import read_header
from ..shipped import SHIPPED
from .card import REPOSITORY, licence_of, read_card
from .results import COLUMNS, HEADLINE, cell


PAGE = REPOSITORY / "docs" / "leaderboard.md"
SECTIONS = {
    "text-queried": "Sounds asked for in words",
    "speech-separation": "Speakers",
    "music-source-separation": "Music stems",
    "speech-enhancement": "Speech from noise",
    "text-to-audio": "Sound from text",
}
INTRO = """# Leaderboard

What was measured of the models inside the package. This page is made by `python -m hubsep.leaderboard` from the files
that `hubsep evaluate` wrote; a figure in brackets is its bootstrap interval of 95 %. The models are small and were
trained for minutes to hours on one CPU core: published weights, which `hubsep convert` reads, separate better."""


def render(folders: Iterable[Path]) -> str:
    """The page, of models' folders; those without results are left out."""
    cards = {folder: read_card(folder) for folder in folders}
    measured = {folder: card for folder, card in cards.items() if card.get("results")}
    parts = [INTRO]
    for tag, title in SECTIONS.items():
        chosen = {folder: card for folder, card in measured.items() if section_of(card) == tag}
        if chosen:
            commands = "\n".join(card["results"]["command"] for card in chosen.values())
            parts += [f"## {title}", table(chosen), f"```bash\n{commands}\n```"]
    return "\n\n".join(parts) + "\n"


def section_of(card: Mapping[str, Any]) -> str | None:
    """The first section whose tag or task the card has."""
    return next((tag for tag in SECTIONS if tag in (*card["tags"], card["pipeline_tag"])), None)


def table(cards: Mapping[Path, Mapping[str, Any]]) -> str:
    """A line a model, or a line a class where its figures are not put together."""
    lines = [line for folder, card in cards.items() for line in lines_of(folder, card)]
    shown = [name for name in HEADLINE if any(row.get(name) is not None for _, row in lines)]
    head = ("model", "parameters", "licence", "measured on", *(COLUMNS[name] for name in shown))
    rows = [head, ("---", "---:", "---", "---", *("---:" for _ in shown))]
    for facts, row in lines:
        rows.append((*facts, *(figure(row, name) for name in shown)))
    return "\n".join("| " + " | ".join(row) + " |" for row in rows)


def lines_of(folder: Path, card: Mapping[str, Any]) -> list[tuple[tuple[str, ...], Mapping[str, Any]]]:
    """Facts and figures of one model, line by line."""
    results = card["results"]
    together = any(results.get(name) is not None for name in HEADLINE)
    rows = {"all": results} if together else results["classes"]
    lines: list[tuple[tuple[str, ...], Mapping[str, Any]]] = []
    for label, row in rows.items():
        count = next((f"{row[unit]} {unit}" for unit in ("mixtures", "songs", "sounds") if unit in row), "")
        what = count if together else f"{label}, {count}"
        lines.append(((f"[{card['name']}]({link(folder)})", parameters(folder), licence_of(card), what), row))
    return lines


def link(folder: Path) -> str:
    """The model's card, from the page."""
    return f"../src/hubsep/checkpoints/{folder.name}/README.md"


def parameters(folder: Path) -> str:
    """How many numbers the weights hold, in millions."""
    files = sorted(folder.rglob("*.safetensors"))
    return f"{sum(tensor.elements for path in files for tensor in read_header(path)) / 1e6:.1f} M"


def figure(row: Mapping[str, Any], name: str) -> str:
    """A figure with its interval."""
    bounds = row.get(f"{name}_ci")
    return cell(row.get(name)) + (f" ({cell(bounds)})" if bounds else "")


def main() -> None:
    """Writes the page."""
    PAGE.parent.mkdir(exist_ok=True)
    PAGE.write_text(render(SHIPPED.values()), encoding="utf-8")


__all__ = ["PAGE", "main", "render"]
