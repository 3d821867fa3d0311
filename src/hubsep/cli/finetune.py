# SPDX-License-Identifier: Apache-2.0
"""What `hubsep train MODEL` does: the run, its result on the Hub if asked for, and one error for a wrong name."""

from __future__ import annotations

import os
import shlex
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import typer

from ..registry import SEPARATORS


@dataclass(frozen=True)
class FineTuneOptions:
    """The options that only a fine-tune has, as the command line gives them."""

    lora: bool
    background: Path | None
    push_to_hub: str | None
    licence: str | None
    non_commercial: bool
    report_to: list[str]
    gradient_checkpointing: bool

    def given(self) -> str:
        """The first of them that was given, as it is typed."""
        return next((f"--{name.replace('_', '-')}" for name, value in vars(self).items() if value), "")


def fine_tune(
    model: str, recipes: Sequence[str], data: Path, output: Path, config: Path | None, options: FineTuneOptions,
    overrides: dict[str, Any],
) -> dict[str, Any]:  # fmt: skip
    """Fine-tunes a model and pushes the result, if that was asked for.

    Raises:
        typer.BadParameter: if `model` can be neither a recipe nor a model.
    """
    is_repository = model.count("/") == 1 and not model.startswith((".", "/", "~"))
    if model not in SEPARATORS and not Path(model).is_dir() and not is_repository:
        raise typer.BadParameter(
            f"{model!r} is no model: no folder, no Hub repository (org/name), none of the shipped "
            f"{', '.join(SEPARATORS)}; and no recipe: {', '.join(recipes)}",
            param_hint="MODEL|RECIPE",
        )
    from ..training.finetune import main

    name = options.push_to_hub.rpartition("/")[2] if options.push_to_hub else None
    told = {"licence": options.licence, "command": command(), "repository": options.push_to_hub, "name": name}
    settings = {
        "lora": options.lora or None, "non_commercial": options.non_commercial or None,
        "report_to": options.report_to or None, "gradient_checkpointing": options.gradient_checkpointing or None,
    }  # fmt: skip
    places: dict[str, Any] = {"background": options.background, "config": config, "told": told}
    result = main(model, data, output, **places, **{**settings, **overrides})
    if options.push_to_hub and int(os.environ.get("RANK", "0")) == 0:
        from ..training.finetune_card import publish

        result["pushed"] = publish(Path(result["result"]), options.push_to_hub)
    return result


def command() -> str:
    """The command line as it can be typed again, without the folders of this computer."""
    words = [Path(word).name if word.startswith("/") else word for word in sys.argv[1:]]
    return shlex.join(["hubsep", *words])


__all__ = ["FineTuneOptions", "command", "fine_tune"]
