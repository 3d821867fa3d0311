# SPDX-License-Identifier: Apache-2.0
"""The card of a saved copy: what a model was called, may be used for and can do goes where its weights go.

Decisions: a folder that already has a card keeps it. A copy of the same weights has the card of the folder they came
from, as it is. Weights that were changed since, by training or in their precision, get its licence and what it was
trained on, but none of its figures: those were measured on other weights. Weights are the same if every tensor is.
"""

from __future__ import annotations

import json
import re
import warnings
from pathlib import Path
from typing import Any

from ..errors import HubsepError
from ..texts import read_front_matter
from .bounds import shown
from .card_fields import check_card_fields
from .checks import regular_files
from .copies import copy_file, is_named, read_file
from .files import is_weights
from .json_files import MAX_CONFIG_BYTES, parse_json
from .manifest import write_whole
from .tensors import StoredTensor, read_header


README, CARD = "README.md", "card.json"
FACTS = (CARD, "evaluation.json", ".eval_results/hubsep.yaml")
PICTURES = ("curve.png", "curve.json", "spectrograms.png", "confusion.png")  # that a card shows or speaks of
OF_OTHER_WEIGHTS = ("measured_on", "evaluation_command", "commands", "training", "converted_from")
CHANGED = """---
license: {licence}
library_name: hubsep
pipeline_tag: {pipeline_tag}
base_model: {base_model}
tags:
{tags}
---

# {title}

Weights that were made from {base} and are not the same any more. The licence of {base} holds for them: {licence}.
{commercial}What the changed weights can do has not been measured.
"""
NO_TEXT = ("yes", "no", "true", "false", "on", "off", "null")  # to YAML
COMMERCIAL = {True: "Commercial use is allowed. ", False: "Commercial use is not allowed. "}


def carry_card(folder: Path, origin: str | None) -> None:
    """Gives a folder that is being saved the card of the folder its model was loaded from.

    Args:
        folder: with the new weights in it.
        origin: where the model was loaded from; nothing is done if that is no folder with a card.

    A card that is a link, or cannot be read, is left where it is, with a warning: the weights are saved all the same.
    """
    source = Path(origin) if origin else None
    if source is None or not is_named(source / README) or is_named(folder / README):
        return
    try:
        if _same_weights(folder, source):
            _copy_card(folder, source)
        else:
            _write_changed_card(folder, source)
    except (HubsepError, OSError) as error:
        warnings.warn(f"the card of {shown(source.name)} was not copied: {error}", stacklevel=4)


def _copy_card(folder: Path, source: Path) -> None:
    for name in (README, *FACTS, *PICTURES):
        if is_named(source / name) and not is_named(folder / name):
            copy_file(source, name, folder / name)


def _write_changed_card(folder: Path, source: Path) -> None:
    fields = card_fields(source)
    published = fields.get("base_model") if fields.get("converted_from") else None
    base = str(published or fields.get("name") or source.resolve().name)
    if "name" in fields:
        facts = {name: value for name, value in fields.items() if name not in OF_OTHER_WEIGHTS}
        summary = f"Made from {base}; its weights are not the same any more. {fields.get('summary', '')}".strip()
        text = json.dumps({**facts, "base_model": base, "summary": summary}, indent=1, ensure_ascii=False) + "\n"
        write_whole(folder / CARD, text)
    licence = str(fields.get("licence_name") or fields.get("licence") or "unknown")
    tags = "\n".join(f"- {scalar(tag)}" for tag in fields.get("tags") or ("audio-separation",))
    card = CHANGED.format(
        licence=scalar(licence.lower()), pipeline_tag=scalar(fields.get("pipeline_tag", "audio-to-audio")),
        base_model=scalar(base), base=base, tags=tags, title=f"{base}, changed",
        commercial=COMMERCIAL.get(fields.get("commercial"), ""),  # type: ignore[arg-type]
    )  # fmt: skip
    write_whole(folder / README, card)


def scalar(text: str) -> str:
    """A text as YAML has it: in quotes where it could be anything else."""
    is_plain = re.fullmatch(r"[A-Za-z][\w./ +-]*\w", text) and text.lower() not in NO_TEXT
    return text if is_plain else json.dumps(text)


def card_fields(source: Path) -> dict[str, Any]:
    """What is known of a folder: its `card.json`, or the licence and task its README names.

    Raises:
        HubsepError: if there is no card, or it cannot be read.
    """
    if is_named(source / CARD):
        fields = parse_json(read_file(source, CARD, MAX_CONFIG_BYTES), CARD)
        check_card_fields(fields, CARD)
        return fields
    data = read_front_matter(read_file(source, README, MAX_CONFIG_BYTES).decode(errors="replace"), README)
    facts = {"licence": data.get("license"), "pipeline_tag": data.get("pipeline_tag"), "tags": data.get("tags")}
    fields = {name: value for name, value in facts.items() if value}
    check_card_fields(fields, README)
    return fields


def _same_weights(first: Path, second: Path) -> bool:
    """Whether two folders, and those below them, hold the same tensors."""
    places = [_tensors(folder) for folder in (first, second)]
    if places[0].keys() != places[1].keys():
        return False
    for name, (path, tensor) in places[0].items():
        other_path, other = places[1][name]
        if (tensor.dtype, tensor.shape) != (other.dtype, other.shape):
            return False
        if _content(path, tensor) != _content(other_path, other):
            return False
    return True


def _tensors(folder: Path) -> dict[str, tuple[Path, StoredTensor]]:
    """All tensors of a folder and its components, by the component and their name.

    Only what loading looks at is opened: not what lies in hidden folders, and no pipe, which could be waited for.

    Raises:
        CheckpointError: if there is what loading refuses.
    """
    paths = sorted(path for path in regular_files(folder) if is_weights(path.name))
    return {
        f"{path.parent.relative_to(folder).as_posix()}/{tensor.name}": (path, tensor)
        for path in paths
        for tensor in read_header(path)
    }


def _content(path: Path, tensor: StoredTensor) -> bytes:
    with path.open("rb") as file:  # compared, never copied
        file.seek(tensor.start)
        return file.read(tensor.stop - tensor.start)


__all__ = ["CARD", "FACTS", "README", "card_fields", "carry_card"]
