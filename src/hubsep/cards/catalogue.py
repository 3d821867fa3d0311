# SPDX-License-Identifier: Apache-2.0
"""`docs/models.md`: every model that has a name, of the package and of others, with its licence.

`python -m hubsep.cards` writes the page again, from the cards of the shipped models and the table of published
checkpoints (`hub/published.yaml`); a test fails when it is out of date. Decisions: a section is a system; what could
not be checked stands below its table, and not in a note that nobody opens.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from ..hub.published import Published, published
from ..registry import SYSTEMS
from ..shipped import SHIPPED
from .card import REPOSITORY, licence_of, rate_of, read_card


PAGE = REPOSITORY / "docs" / "models.md"
INTRO = """# Models

Every model of the package, and those that the authors of the systems published. Nearly all open by their names.
Where the table says "fetched by hand", you fetch the files yourself, and convert them once. This page is made by
`python -m hubsep.cards`.

<!-- not run: it needs the Hub -->
```python
from hubsep import pipeline

speakers = pipeline(model="speechbrain/sepformer-wsj02mix")("talk.wav")
```

The models inside the package are there at once. What others published, and is not fetched by hand, is fetched and
converted at the first call, and kept ([how](convert.md)). `hubsep info NAME` prints all that is known of one."""
SHIPPED_INTRO = """## Inside the package

Small models, trained on one CPU core. How well they separate is on the [leaderboard](leaderboard.md)."""
PUBLISHED_INTRO = """## Published by the authors of the systems

The licence is that of the weights. With `HUBSEP_COMMERCIAL=1` in the environment, hubsep opens only those that may be
used commercially. The scores are what the authors published; they were not measured again here."""
TITLES = {
    "sepformer": "SepFormer", "conv_tasnet": "Conv-TasNet", "audiosep": "AudioSep", "spleeter": "Spleeter",
    "meta_tasnet": "Meta-TasNet", "audiomae": "AudioMAE", "audioldm2": "AudioLDM 2",
}  # fmt: skip
HEAD = ("name", "does", "rate", "licence", "commercial use")
BY_HAND = "fetched by hand"


def render() -> str:
    """The page."""
    parts = [INTRO, SHIPPED_INTRO, table(HEAD, map(shipped_line, SHIPPED.values())), PUBLISHED_INTRO]
    rows = list(published().values())
    for system in dict.fromkeys(row.system for row in rows):
        parts += section(system, [row for row in rows if row.system == system])
    return "\n\n".join(parts) + "\n"


def section(system: str, rows: list[Published]) -> list[str]:
    """A system: its paper, the table, and what is to be known of single rows."""
    notes = [f"- {row.name}: fetch it from {row.place}; `{row.command}`" for row in rows if row.page is not None]
    notes += [
        f"- {row.name}: `{row.command}`, then `{row.opened_with}.from_pretrained`" for row in rows if row.opened_with
    ]
    notes += [f"- {row.name}, not checked: {row.unsure}" for row in rows if row.unsure]
    lines = table((*HEAD, "published score"), map(published_line, rows))
    parts = [f"### {TITLES.get(system, system)}", f"Paper: {SYSTEMS[system].paper}", lines]
    return [*parts, "\n".join(notes)] if notes else parts


def table(head: Iterable[str], lines: Iterable[tuple[str, ...]]) -> str:
    """A table of Markdown; rates stand to the right."""
    names = list(head)
    rules = ["---:" if name == "rate" else "---" for name in names]
    return "\n".join("| " + " | ".join(cells) + " |" for cells in (names, rules, *lines))


def shipped_line(folder: Path) -> tuple[str, ...]:
    """What is said of a model of the package."""
    card = read_card(folder)
    return (
        f"[{card['name']}](../src/hubsep/checkpoints/{folder.name}/README.md)",
        str(card["summary"]).partition(". ")[0].rstrip("."),
        f"{rate_of(folder, card)} Hz",
        licence_of(card),
        allowed(card["commercial"]),
    )


def published_line(row: Published) -> tuple[str, ...]:
    """What is said of a published checkpoint."""
    return (
        f"`{row.name}`",
        row.does if row.page is None else f"{row.does} ({BY_HAND})",
        f"{row.sampling_rate} Hz",
        row.licence,
        allowed(row.commercial),
        row.published_score,
    )


def allowed(commercial: bool | None) -> str:
    """Whether commercial use is allowed, in a word."""
    return "yes" if commercial else "**no**"


def main() -> None:
    """Writes the page."""
    PAGE.write_text(render(), encoding="utf-8")


__all__ = ["PAGE", "main", "render"]
