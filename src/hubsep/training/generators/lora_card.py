# SPDX-License-Identifier: Apache-2.0
"""The card of adapters for an AudioLDM 2, made of what is known where they are trained; and pushing both.

Adapters are of use with the model they were trained on alone, and are made of it: its licence binds them. Without a
licence nothing is pushed, which is said before the training, not after it.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ...cards.card import MAX_CARD_BYTES
from ...data.recordings import read_metadata
from ...errors import DataError
from ...hub.copies import copy_file, file_names, is_named, read_file
from ...hub.licences import allows_commercial_use, check_agrees, stated_in_readme
from ...hub.push import README, push_folder
from ...hub.resolve import resolve_folder


TEXT = """---
license: {licence}
library_name: peft
pipeline_tag: text-to-audio
base_model: {base}
tags:
- audioldm2
- lora
---

# {title}

Low-rank adapters for the U-Net of the AudioLDM 2 `{base}`, made with `hubsep train lora`. Licence: {licence}; that of
the model they belong to holds as well.{commercial}

## Use

```python
import hubsep

pipe = hubsep.AudioLDM2Pipeline.from_pretrained("{base}")
pipe.load_lora_weights("{name}")
sound = pipe("rain").audios[0]
```

## Training data

{data}

## How they were made

Rank {rank}, scale {alpha:g}/{rank}, on {layers}; {steps} steps of {batch_size} recordings, learning rate
{learning_rate:g}. The conditions were left out in {dropout:.0%} of the steps.
"""


def base_name(recipe: Any) -> str:
    """What the model the adapters belong to is called: never where on this computer it lies."""
    name = str(recipe.base_model or recipe.pipeline)
    return Path(name).resolve().name if Path(name).is_dir() else name


def checked_licence(recipe: Any) -> str:
    """The licence of the adapters: the recipe's, or what the card of the pipeline says.

    Raises:
        DataError: if they are to be pushed and nothing says it, or it allows more than that of the pipeline.
    """
    folder = resolve_folder(recipe.pipeline)
    text = read_file(folder, README, MAX_CARD_BYTES).decode(errors="replace") if is_named(folder / README) else ""
    stated = stated_in_readme(text)
    if recipe.licence:
        check_agrees(recipe.licence, allows_commercial_use(stated or ""), base_name(recipe))
        return str(recipe.licence)
    if recipe.push_to and not stated:
        raise DataError(
            "push_to needs licence, the SPDX id of what the adapters are published under: the card of "
            f"{base_name(recipe)} names none"
        )
    return stated or "unknown"


def adapter_card(recipe: Any, licence: str, data: Path, output: Path) -> str:
    """The text of the card.

    Args:
        recipe: of the training.
        licence: of the adapters.
        data: the folder that the recipe's folders are relative to.
        output: of the run.

    Raises:
        DataError: if the licence allows more than those of the recordings.
    """
    rows = [
        row for name in recipe.folders for row in read_metadata(data / name, commercial_only=recipe.commercial_only)
    ]
    restricted = any(row.get("commercial", "").lower() != "true" for row in rows)
    check_agrees(licence, not restricted, "some of the recordings")
    name = recipe.push_to or output.resolve().name
    return TEXT.format(
        licence=licence,
        base=base_name(recipe),
        name=name,
        title=name.rpartition("/")[2],
        commercial=" Some of the training data may not be used commercially." if restricted else "",
        data="\n".join(data_lines(rows)),
        rank=recipe.rank,
        alpha=recipe.alpha,
        layers=", ".join(f"`{layer}`" for layer in recipe.target_modules),
        steps=recipe.steps,
        batch_size=recipe.batch_size,
        learning_rate=recipe.learning_rate,
        dropout=recipe.condition_dropout,
    )


def data_lines(rows: Sequence[Mapping[str, str]]) -> list[str]:
    """Corpora with the number and the licences of their recordings, as a Markdown list."""
    corpora: dict[str, list[Mapping[str, str]]] = defaultdict(list)
    for row in rows:
        corpora[row.get("corpus") or "recordings without a name"].append(row)
    lines = []
    for name, members in sorted(corpora.items()):
        licences = sorted({row.get("licence") or "licence not stated" for row in members})
        lines.append(f"- {name}: {len(members)} recordings; {', '.join(licences)}")
    return lines


def push_adapters(repo_id: str, folder: Path) -> str:
    """Pushes a saved folder of adapters with its card, in one commit; returns the address.

    Raises:
        CheckpointError: if the folder holds a link, or the Hub cannot be reached or refuses.
    """
    names = [name for name in file_names(folder) if "/" not in name and name != README]

    def copy(place: Path) -> None:
        for name in names:
            copy_file(folder, name, place / name)

    return push_folder(repo_id, copy, card=folder / README)


__all__ = ["adapter_card", "base_name", "checked_licence", "data_lines", "push_adapters"]
