# SPDX-License-Identifier: Apache-2.0
"""Teaches an AudioSep with query classes the words for them, on text alone; what separates stays as it is.

The separator learns from classes and may be trained for hours; its words take minutes and may be taught at any time,
again and with more of them, without training anything else.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from transformers import AutoProcessor

from ...errors import DataError
from ...hub.models import atomic_folder
from ...models.audiosep.classes_audiosep import ELSE
from ...models.audiosep.modeling_audiosep import AudioSepForAudioSeparation
from ..recipe import load_recipe
from .query_classes import accuracy, class_names, foreign_accuracy, teach_classes


@dataclass
class WordsRecipe:
    """Settings of `query_classes.teach_classes`."""

    steps: int = 2_000
    noise: float = 1.2
    templates: int = 4
    unknown: float = 8.0
    foreign: float = 0.4
    seed: int = 0


def main(config: Path | None, data: Path, output: Path, **overrides: Any) -> dict[str, float]:
    """Teaches the model of a training run its words and saves it.

    Args:
        config: a YAML file of `WordsRecipe` settings.
        data: the trained model's folder.
        output: where the model goes.

    Returns:
        The share of held-out phrases that are given their class: `english`, and by the code of each other language.

    Raises:
        DataError: if the model has a class the catalogue has no words for, or none for everything else.
    """
    recipe = load_recipe(WordsRecipe, config, **overrides)
    model = AudioSepForAudioSeparation.from_pretrained(data, dtype=torch.float32).eval()
    processor = AutoProcessor.from_pretrained(data)
    unknown = sorted(set(model.config.query_classes) - set(class_names()))
    if unknown or ELSE not in model.config.query_classes:
        raise DataError(
            f"{data} cannot be taught the words of the catalogue: "
            + (f"it has no words for {unknown[0]!r}" if unknown else f"the model has no query class {ELSE!r}")
        )
    teach_classes(model, processor, **vars(recipe))
    result = {"english": accuracy(model, processor), **foreign_accuracy(model, processor)}
    with atomic_folder(output) as folder:
        model.save_pretrained(folder)
        processor.save_pretrained(folder)
    return {name: round(share, 4) for name, share in result.items()}


__all__ = ["WordsRecipe", "main"]
