# SPDX-License-Identifier: Apache-2.0
"""`hubsep train`: runs a recipe of `hubsep.training`."""

from __future__ import annotations

import json
from importlib import import_module
from pathlib import Path
from typing import Annotated

import typer

from .settings import parse_settings


RECIPES = (
    "audiosep", "speech", "music", "audio_tower", "text_tower", "release",
    "audiomae", "autoencoder", "vocoder", "text_encoders", "diffusion", "loa", "joint", "lora", "assemble",
)  # fmt: skip


def train(
    recipe: Annotated[str, typer.Argument(help=f"One of {', '.join(RECIPES)}.")],
    data: Annotated[Path, typer.Option(exists=True, file_okay=False, help="Folder of recordings with metadata.csv.")],
    output: Annotated[Path, typer.Option(file_okay=False, help="Checkpoints and the finished model go here.")],
    config: Annotated[Path | None, typer.Option(exists=True, dir_okay=False, help="Recipe settings, YAML.")] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on from the newest checkpoint in --output.")] = False,
    set_: Annotated[
        list[str] | None, typer.Option("--set", metavar="FIELD=VALUE", help="A recipe setting; wins over --config.")
    ] = None,
) -> None:
    """Train or fine-tune a model, or make a trained one small enough to ship."""
    if recipe not in RECIPES:
        raise typer.BadParameter(f"{recipe!r} is not one of {', '.join(RECIPES)}", param_hint="RECIPE")
    # a release lies beside the card that was written for it
    keeps_what_is_there = resume or recipe in ("release", "assemble")
    if not keeps_what_is_there and output.is_dir() and any(output.iterdir()):
        raise typer.BadParameter(f"{output} is not empty; --resume goes on from what is there", param_hint="--output")
    overrides = parse_settings(set_ or [])
    result = import_module(f"hubsep.training.{recipe}").main(config, data, output, **overrides)
    print(json.dumps(result, indent=2))


__all__ = ["train"]
