# SPDX-License-Identifier: Apache-2.0
"""The folder a conversion leaves: model, processor and card, complete or absent, the same bytes from the same source.

The card states where the weights come from by name, size and SHA-256, and under which licence; it holds no date and no
path, because two conversions of one file must not differ.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from transformers import PreTrainedModel

from ..errors import ConversionError
from ..hub import atomic_folder, check_folder
from ..hub_bounds import shown
from ..hub_manifest import sha256


CARD = """---
library_name: hubsep
pipeline_tag: {task}
license: {licence}
tags:
{tags}
---

# {title}

Converted from the weights its authors published; nothing was trained or changed.

- Paper: {paper}
- Licence of the weights: {licence}, as stated by the person who converted them
- Training data and results: see the paper
{origins}
"""
ORIGIN = "- Converted from: `{name}`, {size} bytes, SHA-256 `{digest}`"


def check_licence(licence: str | None) -> str:
    """Returns the licence in the Hub's spelling, which is lower case.

    Raises:
        ConversionError: there is none, or it is no SPDX id and not "unknown".
    """
    if licence is None:
        raise ConversionError(
            "the licence of the weights is missing: pass licence= (--licence) an SPDX id such as MIT, or 'unknown'"
        )
    if not isinstance(licence, str) or not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9.+-]{0,63}", licence):
        raise ConversionError(f"licence is {shown(licence)}; it must be an SPDX id such as MIT, or 'unknown'")
    return licence.lower()


def card(
    *,
    title: str,
    tag: str,
    paper: str,
    licence: str | None,
    sources: Sequence[Path],
    task: str = "audio-to-audio",
    topic: str = "audio-separation",
) -> str:
    """The card of converted weights.

    Args:
        title: name of the system.
        tag: `model_type`.
        paper: address of the paper.
        licence: as `check_licence` takes it.
        sources: the files the weights were read from.
        task: the Hub's tag of what the model does.
        topic: what people look for such models by.
    """
    origins = "\n".join(
        ORIGIN.format(name=_as_code(path.name), size=path.stat().st_size, digest=sha256(path)) for path in sources
    )
    tags = f"- {topic}\n- {tag}"
    return CARD.format(title=title, tags=tags, paper=paper, licence=check_licence(licence), origins=origins, task=task)


def _as_code(name: str) -> str:
    return re.sub(r"[^\w.+-]", "_", name)


def write(output: Path, model: PreTrainedModel, text: str, *, processor: Any = None) -> None:
    """Writes model, processor and card to `output`, or leaves what was there.

    Raises:
        ConversionError: the folder cannot be written.
        CheckpointError: `output` holds files hubsep did not write, or the result would not load.
    """
    with atomic_folder(output) as folder:
        try:
            # not the model's own save_pretrained: that would make this unfinished folder look finished
            PreTrainedModel.save_pretrained(model, folder)
            if processor is not None:
                processor.save_pretrained(folder)
            (folder / "README.md").write_text(text, encoding="utf-8")
        except (OSError, SafetensorError) as error:
            raise ConversionError(f"{shown(str(output), 200)} could not be written: {error}") from error
        check_folder(folder, finite=False)


__all__ = ["card", "check_licence", "write"]
