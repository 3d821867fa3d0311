# SPDX-License-Identifier: Apache-2.0
"""What a fine-tune hands out: the model or the adapter, and the card that says what it is, may be used for and does.

Decisions: nothing is pushed without the licences of base and data and one for the result, which a person has to name:
no rule here could know it. A licence that allows commercial use is refused where the data does not. The figures are
those of the base and of the fine-tune on the same held-out mixtures, whichever is better.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from transformers import PreTrainedModel

from ...cards.card import MAX_CARD_BYTES, card_text, finetuned_card, read_card
from ...data.contract import Row
from ...errors import DataError
from ...hub.cards import CARD, README
from ...hub.copies import copy_folder, file_names, is_named, read_file
from ...hub.licences import check_agrees, check_card, is_stated, stated_in_readme
from ...hub.models import MAX_SHARD_SIZE, atomic_folder, check_folder
from ...hub.push import push_folder
from ...registry import SYSTEMS
from .adapters import save_adapter


if TYPE_CHECKING:
    from .recipe import Run

MEASURES = {
    "sdri": "SDR improvement, dB",
    "known_sdri": "SDR improvement of sounds known before, dB",
    "si_snri": "SI-SNR improvement, dB",
}


def base_card(folder: Path, name: str, model_type: str) -> dict[str, Any]:
    """The card of the base; of a folder without one what its README and the registry say."""
    if is_named(folder / CARD):
        return {**read_card(folder), "name": name}
    licence = None
    if is_named(folder / README):
        licence = stated_in_readme(read_file(folder, README, MAX_CARD_BYTES).decode(errors="replace"))
    facts = {"name": name, "model_type": model_type, "system": model_type, "paper": SYSTEMS[model_type].paper}
    kind = {"pipeline_tag": "audio-to-audio", "tags": ["audio-separation", model_type], "summary": "", "use": ""}
    return {**facts, **kind, "licence": licence or "unknown", "commercial": None}


def check_publishable(base: dict[str, Any], rows: Sequence[Row], licence: str | None, commercial: bool) -> None:
    """Refuses to push what nobody may use; called before a run that is to be pushed begins.

    Raises:
        DataError: naming the licence that is missing, or that contradicts the data.
    """
    if licence is None or not is_stated(licence):
        raise DataError("pushing needs the licence of the result: --licence with an SPDX id such as CC-BY-4.0")
    if not is_stated(base["licence"]):
        raise DataError(f"nobody says what the licence of {base['name']} is; it cannot be pushed on")
    silent = [row for row in rows if not is_stated(row.get("licence"))]
    if silent:
        raise DataError(
            f"{len(silent)} of {len(rows)} recordings have no licence, {Path(silent[0]['path']).name} for one; write "
            "it into the column licence of metadata.csv"
        )
    check_result(base, licence, commercial)


def check_result(base: dict[str, Any], licence: str | None, commercial: bool | None) -> None:
    """Refuses a licence that allows what base or data does not; called before a run begins, pushed or not.

    Raises:
        DataError: naming the licence, and what it contradicts.
    """
    if licence is not None:
        check_agrees(licence, commercial, "recordings with commercial=False")
        check_agrees(licence, base["commercial"], str(base["name"]))


def data_entries(rows: Iterable[Row]) -> list[dict[str, str]]:
    """Training data as cards list it: one entry a corpus and licence, with everybody to name."""
    groups: dict[tuple[str, str], list[Row]] = {}
    for row in rows:
        groups.setdefault((row.get("corpus") or "own recordings", row.get("licence") or "none stated"), []).append(row)
    entries = []
    for (corpus, licence), part in groups.items():
        sounds = sorted({row.get("label") or ("speech" if row.get("speaker") else "songs") for row in part})
        named = list(dict.fromkeys(row["attribution"] for row in part if row.get("attribution")))
        shown = ", ".join(sounds[:12]) + (f" and {len(sounds) - 12} more" if len(sounds) > 12 else "")
        attribution = "; ".join(named) if named else "training_data.json names every recording."
        entries.append(
            {
                "name": corpus,
                "what": f"{len(part)} recordings of {shown}",
                "licence": licence,
                "attribution": attribution,
            }
        )
    return entries


def recordings_json(rows: Iterable[Row]) -> str:
    """Every recording, as attribution: its file, source, licence and label."""
    fields = ("label", "speaker", "corpus", "licence", "source_id", "group", "attribution")
    listed = [
        {"file": Path(row["path"]).name, **{name: row[name] for name in fields if row.get(name)}} for row in rows
    ]
    return json.dumps(listed, indent=0, ensure_ascii=False) + "\n"


def figures(before: dict[str, float], after: dict[str, float]) -> str:
    """What was measured, before and after, as a Markdown table."""
    lines = ["| held-out mixtures | before | after |", "| --- | ---: | ---: |"]
    lines += [f"| {MEASURES.get(name, name)} | {before[name]} | {after[name]} |" for name in after if name in before]
    return "\n".join(lines)


def describe(run: Run, curve: list[dict[str, Any]], after: dict[str, float], told: dict[str, Any]) -> dict[str, Any]:
    """The card of a fine-tune."""
    recipe, material = run.recipe, run.material
    base = base_card(run.base[1], run.base[0], recipe.model_type)
    best = max(curve, key=lambda point: point[material.judge.measure])
    name = told.get("name") or run.output.name
    repository = told.get("repository") or name
    what = f"low-rank adapters of rank {recipe.rank}" if recipe.lora else "all weights of the separator"
    others = (
        "other held-out recordings, which neither taught nor chose anything"
        if material.apart
        else "those recordings, which share no source with the training part"
    )
    training = (
        f"{what[0].upper()}{what[1:]} learnt for {curve[-1]['step']} steps of {recipe.batch_size} mixtures of "
        f"{recipe.mixing['seconds']:g} s (learning rate {recipe.learning_rate:g}, {curve[-1]['minutes']:g} minutes); "
        f"the weights are those of step {best['step']}, the best on mixtures of held-out recordings. Measured on "
        f"mixtures of {others}:\n\n{figures(run.before, after)}\n\n"
        "![Learning curve](curve.png)"
    )
    queries = f', queries=["{material.labels[0]}"]' if material.labels else ""
    target = f'model="{run.base[0]}", adapter="{repository}"' if recipe.lora else f'model="{repository}"'
    use = f'from hubsep import pipeline\n\nseparate = pipeline({target})\nsources = separate("recording.wav"{queries})'
    card = finetuned_card(
        base, name=name, data=data_entries(material.rows), licence=told.get("licence") or "unknown",
        commercial=material.commercial if told.get("licence") else None, training=training,
        commands=[told.get("command") or "hubsep train"], use=use, known_sounds=material.labels,
        limits=["It learnt from few recordings; sounds that differ from them may not be taken out."],
    )  # fmt: skip
    card["tags"] = [*card["tags"], *(["lora"] if recipe.lora else []), "fine-tuned"]
    card["summary"] += f" Its licence is {card['licence']}, that of {base['name']} is {base['licence']}."
    return card


def write_result(run: Run, curve: list[dict[str, Any]], after: dict[str, float], told: dict[str, Any]) -> None:
    """Writes the adapter or the model with its card, all or nothing."""
    card = describe(run, curve, after, told)
    extra = {
        CARD: json.dumps(card, indent=1, ensure_ascii=False) + "\n",
        README: card_text(card),
        "curve.json": json.dumps(curve, indent=1),
        "training_data.json": recordings_json(run.material.rows),
        "fine_tune.json": json.dumps({"before": run.before, "after": after}, indent=1),
    }
    files = {name: text.encode() for name, text in extra.items()}
    files["curve.png"] = (run.output / "curve.png").read_bytes()
    if run.recipe.lora:
        save_adapter(
            run.model, run.result, base=run.base[0], rank=run.recipe.rank, alpha=run.recipe.alpha, probe=run.probe,
            new_classes=run.new_classes, sounds=run.material.labels, extra=files,
        )  # fmt: skip
        return
    if run.material.labels:
        sounds = list(run.model.config.known_sounds)
        run.model.config.known_sounds = [*sounds, *(name for name in run.material.labels if name not in sounds)]
    with atomic_folder(run.result) as folder:
        # the plain one: this folder is atomic already
        PreTrainedModel.save_pretrained(run.model, folder, max_shard_size=MAX_SHARD_SIZE)
        if run.processor is not None:
            run.processor.save_pretrained(folder)
        for name, content in files.items():
            (folder / name).write_bytes(content)
        check_folder(folder)


def publish(folder: Path, repository: str, **options: Any) -> str:
    """Pushes a model or an adapter with its card in one commit, and returns the commit's address.

    Args:
        folder: that a fine-tune or a conversion wrote.
        repository: on the Hub.
        **options: `private`, `revision`, `token`, `commit_message`.

    Raises:
        DataError: if the card names no licence for the weights or for what they were trained on, or one that allows
            more than these do.
        CheckpointError: if the folder holds a link, or the Hub cannot be reached or refuses.
    """
    publishable_card(folder)

    def hidden(name: str) -> bool:
        return name.startswith(".")

    def save(place: Path) -> None:
        copy_folder(folder, place, left_out=hidden)

    file_names(folder, left_out=hidden)  # refuses before a repository is made
    return push_folder(repository, save, card=folder / README, **options)


def publishable_card(folder: Path) -> dict[str, Any]:
    """The card of a folder that may be pushed.

    Raises:
        DataError: if it names no licence for the weights or for what they were trained on, or one that allows more
            than these do.
    """
    card = read_card(folder)
    missing = [d["name"] for d in card.get("training_data", []) if not is_stated(d.get("licence"))]
    check_card(card)
    if not is_stated(card["licence"]) or missing:
        what = f"the licence of {missing[0]}" if missing else "its licence"
        raise DataError(
            f"{folder} does not say what {what} is; it is in {CARD} and {README}, and nothing goes without"
        )
    return card


__all__ = [
    "base_card", "check_publishable", "check_result", "data_entries", "describe", "publish", "publishable_card",
    "write_result",
]  # fmt: skip
