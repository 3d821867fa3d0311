# SPDX-License-Identifier: Apache-2.0
"""Model cards from one source: a folder's `card.json` and `evaluation.json` make its README and `MODEL_CARDS.md`.

`python -m hubsep.cards` writes the cards of the shipped models again; a test fails when they are out of date. Numbers
come from the evaluation command's own file and are never typed in.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from .hub_manifest import write_manifest
from .registry import SHIPPED


REPOSITORY = Path(__file__).parents[2]
COLUMNS = {
    "mixtures": "mixtures",
    "songs": "songs",
    "sdr": "SDR, dB",
    "isr": "ISR, dB",
    "sir": "SIR, dB",
    "sar": "SAR, dB",
    "sdr_mean": "mean SDR, dB",
    "sdr_mixture": "SDR of the mixture, dB",
    "si_snri": "SI-SNRi, dB",
    "si_snri_median": "median",
    "sdri": "SDRi, dB",
    "sdri_median": "median",
    "si_sdri": "SI-SDRi, dB",
    "unseen_sdri": "SDRi in unseen words, dB",
    "absent_level": "absent query, dB",
    "score_present": "score, present",
    "score_absent": "score, absent",
}


def read_card(folder: Path) -> dict[str, Any]:
    """The fields of `card.json`, with the numbers of `evaluation.json` as `results` where there are any."""
    card = json.loads((folder / "card.json").read_text(encoding="utf-8"))
    evaluation = folder / "evaluation.json"
    if evaluation.is_file():
        card["results"] = json.loads(evaluation.read_text(encoding="utf-8"))
    return card


def results_table(results: dict[str, Any]) -> str:
    """Results by class and, where there are such, over all of them, as a Markdown table."""
    shown = [name for name in COLUMNS if any(name in row for row in (results, *results["classes"].values()))]
    overall = [("**all**", results)] * any(name in results for name in shown)
    rows = [("class", *(COLUMNS[name] for name in shown)), ("---", *("---:" for _ in shown))]
    for label, row in [*results["classes"].items(), *overall]:
        cells = (row.get(name) for name in shown)
        rows.append((label, *("" if cell is None else str(cell) for cell in cells)))
    return "\n".join("| " + " | ".join(row) + " |" for row in rows)


def conversations(results: dict[str, Any]) -> list[str]:
    """What was measured on long conversations, as a Markdown list; nothing where there were none."""
    lines = [
        f"- Conversation of {row['minutes']:g} minutes, {label}: SI-SNRi {row['si_snri']} dB over the whole of it; "
        f"outputs swap {row['swaps']} times in {row['seconds']} spoken seconds, {row['wrong_seconds']:.1%} of which "
        "are on the wrong output."
        for label, row in results.get("conversations", {}).items()
    ]
    return ["\n".join(lines)] if lines else []


def licence_of(card: dict[str, Any]) -> str:
    """The licence as people call it."""
    return card.get("licence_name", card["licence"])


def improvement(results: dict[str, Any]) -> str:
    """SDR improvement over everything, or of each class where there is no such figure."""
    if "sdri" in results:
        return str(results["sdri"])
    return ", ".join(f"{label} {row['sdri']}" for label, row in results.get("classes", {}).items() if "sdri" in row)


def front_matter(card: dict[str, Any]) -> str:
    """What the Hub reads: licence, task, library, tags."""
    lines = ["---", f"license: {card['licence'].lower()}"]
    if "licence_name" in card:  # of a licence the Hub has no id for
        lines.append(f"license_name: {card['licence_name']}")
    lines.append("library_name: hubsep")
    lines += [f"pipeline_tag: {card['pipeline_tag']}", "tags:", *(f"- {tag}" for tag in card["tags"]), "---"]
    return "\n".join(lines)


def render_card(folder: Path) -> str:
    """The README of a model folder."""
    card = read_card(folder)
    use = "Commercial use is allowed." if card["commercial"] else "Commercial use is not allowed."
    data = [f"- {d['name']}: {d['what']}; {d['licence']}. {d['attribution']}" for d in card["training_data"]]
    parts = [
        front_matter(card),
        f"# {card['name']}",
        card["summary"],
        f"Licence: {licence_of(card)}. {use} System: {card['system']} ({card['paper']}).",
        "## Use",
        f"```python\n{card['use']}\n```",
        *(["## What it knows", ", ".join(card["known_sounds"]) + "."] if card["known_sounds"] else []),
        "## Limits",
        "\n".join(f"- {limit}" for limit in card["limits"]),
        "## Training data",
        "\n".join(data),
        "## How it was made",
        card["training"],
        "```bash\n" + "\n".join(card["commands"]) + "\n```",
    ]
    if "results" in card:
        parts += ["## Results", card["measured_on"], f"```bash\n{card['evaluation_command']}\n```"]
        parts += [results_table(card["results"]), *conversations(card["results"])]
    return "\n\n".join(parts) + "\n"


def render_index(folders: list[Path]) -> str:
    """`MODEL_CARDS.md`: one row a shipped model, then what its card says in full."""
    rows = [
        "| model | system | licence | commercial use | trained on | SDRi, dB |",
        "| --- | --- | --- | --- | --- | ---: |",
    ]
    for folder in folders:
        card = read_card(folder)
        cells = (
            f"[{card['name']}](src/hubsep/checkpoints/{folder.name}/README.md)",
            card["system"],
            licence_of(card),
            "yes" if card["commercial"] else "**no**",
            ", ".join(data["name"] for data in card["training_data"]),
            improvement(card.get("results", {})),
        )
        rows.append("| " + " | ".join(cells) + " |")
    bodies = [render_card(folder).split("---\n", 2)[2].strip().replace("\n#", "\n##") for folder in folders]
    intro = "Every model shipped with hubsep. This page is made by `python -m hubsep.cards` from the models' folders."
    return "\n\n".join(["# Model cards", intro, "\n".join(rows), *("#" + body for body in bodies)]) + "\n"


def main() -> None:
    """Writes the README of every shipped model, and MODEL_CARDS.md at the root of the repository."""
    folders = list(SHIPPED.values())
    for folder in folders:
        (folder / "README.md").write_text(render_card(folder), encoding="utf-8")
        write_manifest(folder)
    (REPOSITORY / "MODEL_CARDS.md").write_text(render_index(folders), encoding="utf-8")


if __name__ == "__main__":
    main()

__all__ = ["main", "read_card", "render_card", "render_index", "results_table"]
