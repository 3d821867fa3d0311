# SPDX-License-Identifier: Apache-2.0
"""`hubsep train`: fine-tunes a model, or runs a recipe of `hubsep.training`.

Decisions: the first argument is either the name of a recipe or a model; a folder called like a recipe is `./music`.
"""

from __future__ import annotations

import json
from importlib import import_module
from pathlib import Path
from typing import Annotated

import typer

from ..registry import SEPARATORS
from .finetune import FineTuneOptions, fine_tune
from .settings import parse_settings


RECIPES = (
    "audiosep", "words", "listener", "speech", "music", "audio_tower", "text_tower", "release",
    "audiomae", "autoencoder", "vocoder", "text_encoders", "diffusion", "loa", "joint", "lora", "assemble",
    "classifier",
)  # fmt: skip
What = Annotated[
    str,
    typer.Argument(
        metavar="MODEL|RECIPE",
        help=f"A model to fine-tune: a folder, a Hub repository, or one of {', '.join(SEPARATORS)}. Or a recipe: "
        f"one of {', '.join(RECIPES)}.",
    ),
]
Data = Annotated[Path, typer.Option(exists=True, file_okay=False, help="Folder of recordings with metadata.csv.")]
Output = Annotated[
    Path | None,
    typer.Option(file_okay=False, help="Checkpoints and the result go here; runs/MODEL for a fine-tune."),
]
Config = Annotated[Path | None, typer.Option(exists=True, dir_okay=False, help="Recipe settings, YAML.")]
Resume = Annotated[bool, typer.Option("--resume", help="Go on from the newest checkpoint in --output.")]
Settings = Annotated[
    list[str] | None, typer.Option("--set", metavar="FIELD=VALUE", help="A recipe setting; wins over --config.")
]
Lora = Annotated[bool, typer.Option("--lora", help="Train an adapter of a few megabytes instead of all weights.")]
Background = Annotated[
    Path | None, typer.Option(exists=True, file_okay=False, help="Folder of other sounds, or of noises for speech.")
]
Push = Annotated[str | None, typer.Option("--push-to-hub", metavar="ORG/NAME", help="Push the result and its card.")]
Licence = Annotated[str | None, typer.Option(metavar="ID", help="SPDX id of the result's licence; needed to push.")]
NonCommercial = Annotated[
    bool, typer.Option("--non-commercial", help="Also learn from recordings with commercial=False; the card says so.")
]
ReportTo = Annotated[
    list[str] | None, typer.Option(metavar="NAME", help="trackio, tensorboard, ...; may be repeated.")
]
Checkpointing = Annotated[bool, typer.Option("--gradient-checkpointing", help="Less memory, more time.")]


def train(
    what: What,
    data: Data,
    output: Output = None,
    config: Config = None,
    resume: Resume = False,
    set_: Settings = None,
    lora: Lora = False,
    background: Background = None,
    push_to_hub: Push = None,
    licence: Licence = None,
    non_commercial: NonCommercial = False,
    report_to: ReportTo = None,
    gradient_checkpointing: Checkpointing = False,
) -> None:
    """Fine-tune a model on a folder of recordings, or run a recipe: train one anew, make one small enough to ship."""
    overrides = parse_settings(set_ or [])
    options = FineTuneOptions(
        lora, background, push_to_hub, licence, non_commercial, report_to or [], gradient_checkpointing
    )
    if what not in RECIPES:
        check_output(output := output or Path("runs") / Path(what).name, resume)
        result = fine_tune(what, RECIPES, data, output, config, options, overrides)
    else:
        if options.given():
            raise typer.BadParameter(f"{options.given()} is for fine-tuning a model, not for the recipe {what}")
        if output is None:
            raise typer.BadParameter("a recipe needs a folder for its result", param_hint="--output")
        # a release lies beside the card that was written for it
        check_output(output, resume or what in ("release", "assemble"))
        result = import_module(f"hubsep.training.{what}").main(config, data, output, **overrides)
    print(json.dumps(result, indent=2))


def check_output(output: Path, keeps_what_is_there: bool) -> None:
    """Refuses to write into a folder that holds something, unless the run goes on from it.

    Raises:
        typer.BadParameter: naming the folder.
    """
    if not keeps_what_is_there and output.is_dir() and any(output.iterdir()):
        raise typer.BadParameter(f"{output} is not empty; --resume goes on from what is there", param_hint="--output")


__all__ = ["train"]
