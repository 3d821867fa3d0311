# SPDX-License-Identifier: Apache-2.0
"""Model cards from one source: a folder's `card.json` and `evaluation.json` make everything that is said of a model.

That is its README with the front matter the Hub reads, `MODEL_CARDS.md`, what `hubsep list` prints, the leaderboard,
and the Hub's structured results. `python -m hubsep.cards` writes the cards of the shipped models again; a test fails
when they are out of date. Numbers come from the evaluation command's own file and are never typed in. Shipped,
converted and fine-tuned models have the same fields:

- `name`, `model_type`, `system`, `paper`, `summary`, `use` (Python), `pipeline_tag`, `tags`;
- `licence`, an SPDX id, with `licence_name` where that is "other"; `commercial`, true, false, or null if nobody said;
- `training_data`, entries of `name`, `what`, `licence` and `attribution`; `training` and `commands`, how it was
  made, and of a shipped one `training_minutes`;
- `limits`, `known_sounds`; `measured_on`, said of the results of `evaluation_command`;
- of a converted model `authors` of the original and `converted_from`, entries of `name`, `bytes` and `sha256`;
- `base_model`, of a fine-tuned one what it was trained from, of a converted one the repository of what was converted.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from ..errors import CheckpointError, DataError
from ..hub.bounds import shown
from ..hub.card_fields import check_card_fields
from ..hub.cards import CARD, README
from ..hub.copies import in_cache, is_named, read_file
from ..hub.json_files import parse_json, read_json
from ..hub.licences import check_agrees, check_card
from ..hub.manifest import MANIFEST, write_manifest, write_whole
from ..registry import SYSTEMS
from ..shipped import SHIPPED
from .results import (
    conditions_table,
    conversations,
    eval_results,
    improvement,
    measured_on,
    model_index,
    results_table,
)


REPOSITORY = Path(__file__).parents[3]
RESULTS = "evaluation.json"
MAX_CARD_BYTES = 8 << 20
EVAL_RESULTS = ".eval_results/hubsep.yaml"
REQUIRED = ("name", "model_type", "system", "paper", "pipeline_tag", "tags", "licence", "commercial", "summary", "use")
USE_QUERIES = """from hubsep import pipeline

separate = pipeline(model="{name}")
sources = separate("recording.wav", queries=["{query}"], residual=True)"""
USE = """from hubsep import pipeline

separate = pipeline(model="{name}")
sources = separate("recording.wav")"""


def sounds_of(folder: Path) -> tuple[str, ...]:
    """The sounds a generator's card lists as known to it; none if there is no card, or it lists none."""
    return tuple(str(name) for name in read_card(folder).get("known_sounds", ())) if is_named(folder / CARD) else ()


def read_card(folder: Path) -> dict[str, Any]:
    """The fields of `card.json`, with the numbers of `evaluation.json` as `results` where there are any.

    Raises:
        DataError: if there is no card, or it lacks a field every card has.
        CheckpointError: if a file is a link, or no JSON, or a field is not what it has to be.
    """
    if not is_named(folder / CARD):
        raise DataError(
            f"{folder} has no {CARD}: hubsep did not ship, convert or fine-tune this model; name the folder of one "
            "that it did, or make a card with `hubsep.cards.write_card`"
        )
    card = parse_json(read_file(folder, CARD, MAX_CARD_BYTES), CARD)
    missing = [name for name in REQUIRED if name not in card]
    if missing:
        raise DataError(f"{folder / CARD} lacks {', '.join(missing)}")
    check_card_fields(card, CARD)
    if is_named(folder / RESULTS):
        card["results"] = parse_json(read_file(folder, RESULTS, MAX_CARD_BYTES), RESULTS)
    return card


def write_card(folder: Path, card: Mapping[str, Any]) -> None:
    """Writes all that a card is made of into a model's folder: `card.json`, README.md, and what there is of results.

    Args:
        folder: of the model; its manifest, if it has one, lists the new files afterwards.
        card: fields, with what `hubsep evaluate` measured as `results`, if anything was measured.

    Raises:
        DataError: if the licence allows what the base or the training data does not.
        CheckpointError: if the folder holds a link, or the results are not those of `hubsep evaluate`; nothing is
            written then.
    """
    check_card(card)
    for link in (path for path in folder.rglob("*") if path.is_symlink()):
        in_cache(folder.resolve(), link.relative_to(folder).as_posix())
    fields = {name: value for name, value in card.items() if name != "results"}
    try:
        files = {CARD: _json(fields), **card_files(card)}
    except (AttributeError, IndexError, KeyError, TypeError, ValueError) as error:  # of somebody else's results
        reason = shown(f"{type(error).__name__}: {error}")
        raise CheckpointError(f"{RESULTS} is not what `hubsep evaluate` writes ({reason}); remove it.") from error
    if card.get("results"):
        files[RESULTS] = _json(card["results"])
    for name, text in files.items():
        path = folder / name
        path.parent.mkdir(exist_ok=True)
        write_whole(path, text)
    if (folder / MANIFEST).is_file():
        write_manifest(folder)


def card_files(card: Mapping[str, Any]) -> dict[str, str]:
    """What the Hub reads of a card: README.md and, where the set is one of its benchmarks, structured results."""
    results = eval_results(card)
    return {README: card_text(card), **({EVAL_RESULTS: results} if results else {})}


def finetuned_card(
    base: Mapping[str, Any],
    *,
    name: str,
    data: Sequence[Mapping[str, str]],
    licence: str,
    commercial: bool | None,
    training: str,
    commands: Sequence[str],
    results: Mapping[str, Any] | None = None,
    base_model: str | None = None,
    use: str | None = None,
    known_sounds: Sequence[str] = (),
    limits: Sequence[str] = (),
) -> dict[str, Any]:
    """The card of a model that was trained from another, from the other's card and what the training run knows.

    `write_card(folder, card)` writes it. What the base was trained on, and its limits, hold for the new model too.

    Args:
        base: `read_card` of the model that was trained on.
        name: of the new model.
        data: what it was trained on: entries of `name`, `what`, `licence` and `attribution`.
        licence: of the new weights, an SPDX id, or "unknown".
        commercial: whether licences of data and weights allow commercial use, None if nobody said. It is allowed only
            if the base allows it as well.
        training: how it was trained, in a sentence or two: steps, precision, time, what was trained.
        commands: that repeat it.
        results: of `hubsep evaluate`, if anything was measured.
        base_model: where the base is found, a name on the Hub; by default the name of its card.
        use: Python that uses it; by default a call of `pipeline(model=name)`.
        known_sounds: queries it learned beyond those of the base.
        limits: what the training run knows of them, before those of the base.

    Raises:
        DataError: if there is no licence, or it allows what base or data does not, or an entry of the data lacks a
            field.
    """
    if not licence or not isinstance(licence, str):
        raise DataError("the licence of the new weights is missing: give an SPDX id such as CC-BY-4.0, or 'unknown'")
    for entry in data:
        if missing := {"name", "what", "licence", "attribution"} - set(entry):
            raise DataError(f"training data {entry.get('name', '?')!r} lacks {', '.join(sorted(missing))}")
    allowed = both_allow(commercial, base.get("commercial"))
    check_agrees(licence, allowed, base["name"] if base.get("commercial") is False else "the training data")
    sounds = list(dict.fromkeys([*base.get("known_sounds", ()), *known_sounds]))
    default_use = (USE_QUERIES if sounds else USE).format(name=name, query=(*known_sounds, *sounds, "")[0])
    return {
        "name": name,
        **{field: base[field] for field in ("model_type", "system", "paper", "pipeline_tag", "tags")},
        "base_model": base_model or base["name"],
        "licence": licence,
        "commercial": allowed,
        "summary": f"{base['name']} ({base['system']}), trained further on {_names(data)}.",
        "use": use or default_use,
        "known_sounds": sounds,
        "limits": list(dict.fromkeys([*limits, *base.get("limits", ())])),
        "training_data": [*map(dict, data), *(base.get("training_data") or [_as_published(base)])],
        "training": training,
        "commands": list(commands),
        **({"authors": base["authors"]} if "authors" in base else {}),
        **({"results": dict(results)} if results else {}),
    }


def _names(data: Iterable[Mapping[str, Any]]) -> str:
    """The names of training data, each once: rows of one corpus may have licences of their own."""
    return ", ".join(dict.fromkeys(str(entry["name"]) for entry in data))


def both_allow(first: bool | None, second: bool | None) -> bool | None:
    """What holds where two answers must: no if either is no, unknown if either is."""
    if False in (first, second):
        return False
    return None if None in (first, second) else True


def _as_published(base: Mapping[str, Any]) -> dict[str, str]:
    """An entry for what a converted base was trained on, which its card does not list."""
    return {
        "name": f"what {base['name']} was trained on", "what": f"see {base['paper']}", "licence": "see there",
        "attribution": f"{base.get('authors', base['system'])}.",
    }  # fmt: skip


def licence_of(card: Mapping[str, Any]) -> str:
    """The licence as people call it."""
    return str(card.get("licence_name", card["licence"]))


def rate_of(folder: Path, card: Mapping[str, Any]) -> int:
    """The sampling rate of a model in a folder, in Hz: as configured, else that of its system."""
    config = folder / "config.json"
    stated = read_json(config).get("sampling_rate") if config.is_file() else None
    return int(stated or SYSTEMS[card["model_type"]].sampling_rate)


def commercial_use(card: Mapping[str, Any]) -> str:
    """Whether the weights may be used commercially, as a sentence."""
    answers = {True: "Commercial use is allowed.", False: "Commercial use is not allowed."}
    return answers.get(card["commercial"], "Whether commercial use is allowed is for you to find out.")


def front_matter(card: Mapping[str, Any]) -> str:
    """What the Hub reads: licence, task, library, tags, base model, results."""
    from huggingface_hub import ModelCardData

    others = {"license_name": card["licence_name"]} if "licence_name" in card else {}  # one the Hub has no id for
    if card.get("base_model"):
        others["base_model"] = card["base_model"]
    data = ModelCardData(
        license=card["licence"].lower(), **others, library_name="hubsep", pipeline_tag=card["pipeline_tag"],
        tags=list(card["tags"]), **model_index(card),
    )  # fmt: skip
    return f"---\n{data.to_yaml()}\n---"


def card_text(card: Mapping[str, Any]) -> str:
    """The README of a model, from the fields of its card and its `results`."""
    authors = f" by {card['authors']}" if card.get("authors") else ""
    facts = f"Licence: {licence_of(card)}. {commercial_use(card)} System: {card['system']}{authors} ({card['paper']})."
    if card.get("base_model"):
        facts += f" {'Converted' if card.get('converted_from') else 'Trained'} from {card['base_model']}."
    parts = [front_matter(card), f"# {card['name']}", card["summary"], facts]
    parts += ["## Use", f"```python\n{card['use']}\n```"]
    if card.get("known_sounds"):
        parts += ["## What it knows", ", ".join(card["known_sounds"]) + "."]
    if card.get("limits"):
        parts += ["## Limits", "\n".join(f"- {limit}" for limit in card["limits"])]
    if card.get("converted_from"):
        files = [f"- `{f['name']}`, {f['bytes']} bytes, SHA-256 `{f['sha256']}`" for f in card["converted_from"]]
        parts += ["## Converted from", "\n".join(files)]
    if card.get("training_data"):
        data = [f"- {d['name']}: {d['what']}; {d['licence']}. {d['attribution']}" for d in card["training_data"]]
        parts += ["## Training data", "\n".join(data)]
    if card.get("training"):
        parts += ["## How it was made", card["training"]]
    if card.get("commands"):
        parts.append("```bash\n" + "\n".join(card["commands"]) + "\n```")
    if card.get("results"):
        parts += ["## Results", measured_on(card), f"```bash\n{card['results']['command']}\n```"]
        results = card["results"]
        parts += [results_table(results), *conditions_table(results), *conversations(results)]
    return "\n\n".join(part for part in parts if part) + "\n"


def render_card(folder: Path) -> str:
    """The README of a model folder."""
    return card_text(read_card(folder))


def render_index(folders: list[Path]) -> str:
    """`MODEL_CARDS.md`: one row a shipped model, then what its card says in full."""
    rows = [
        "| model | system | licence | commercial use | trained on | SDRi in dB, or what else is said |",
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
    """Writes the cards of every shipped model, and MODEL_CARDS.md at the root of the repository."""
    folders = list(SHIPPED.values())
    for folder in folders:
        write_card(folder, read_card(folder))
    (REPOSITORY / "MODEL_CARDS.md").write_text(render_index(folders), encoding="utf-8")


def _json(content: Mapping[str, Any]) -> str:
    return json.dumps(content, indent=1, ensure_ascii=False, allow_nan=False) + "\n"


__all__ = [
    "card_files", "card_text", "commercial_use", "finetuned_card", "licence_of", "main", "rate_of", "read_card",
    "render_card", "render_index", "results_table", "sounds_of", "write_card",
]  # fmt: skip
