# SPDX-License-Identifier: Apache-2.0
"""`hubsep train`: fine-tunes a model, or runs a recipe of `hubsep.training`.

Decisions: the first argument is either the name of a recipe or a model; a folder called like a recipe is `./music`.

Also here: what `hubsep train MODEL` does: the run, its result on the Hub if asked for, and one error for a wrong name.
"""

from __future__ import annotations

import inspect
import json
import os
import shlex
import sys
from collections.abc import Callable, Collection
from dataclasses import dataclass, is_dataclass
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import Annotated, Any

import typer

from ..hub.resolve import check_peers, resolve_folder, task_of
from ..registry import TEXT_TO_AUDIO
from ..shipped import DEFAULT_MODEL, SEPARATORS, SHIPPED
from ..texts import did_you_mean
from ..training.recipe import load_recipe
from . import values
from .settings import parse_settings


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


def check_model(model: str, recipes: Collection[str]) -> None:
    """Refuses what can be neither a model to fine-tune nor a recipe.

    Raises:
        typer.BadParameter: naming what was meant.
    """
    if (model in SHIPPED and model not in SEPARATORS) or (
        os.path.isdir(model) and task_of(Path(model)) == TEXT_TO_AUDIO
    ):
        raise typer.BadParameter(
            f"{model} makes sounds, and what is fine-tuned by its name separates them; adapters for it are trained "
            f"with: hubsep train lora --set pipeline={model}",
            param_hint="MODEL|RECIPE",
        )
    is_repository = model.count("/") == 1 and not model.startswith((".", "/", "~"))
    if model not in SEPARATORS and not os.path.isdir(model) and not is_repository:
        with values.refusing():
            check_peers(model)
        raise typer.BadParameter(
            f"{model!r} is no model (a folder, a Hub repository org/name, or a name that `hubsep list` prints) and "
            f"no recipe ({', '.join(recipes)}).{did_you_mean(model, [*SEPARATORS, *recipes])}",
            param_hint="MODEL|RECIPE",
        )


def fine_tune(
    model: str, recipes: Collection[str], data: Path, output: Path, config: Path | None, options: FineTuneOptions,
    overrides: dict[str, Any],
) -> dict[str, Any]:  # fmt: skip
    """Fine-tunes a model and pushes the result, if that was asked for.

    Raises:
        typer.BadParameter: if `model` can be neither a recipe nor a model, or a setting is wrong.
    """
    check_model(model, recipes)
    from ..training.finetune.recipe import FineTuneRecipe
    from ..training.finetune.run import main
    from ..training.finetune.trainer import check_reports

    check_names(main, overrides)
    name = options.push_to_hub.rpartition("/")[2] if options.push_to_hub else None
    facts = {"licence": options.licence, "command": command(), "repository": options.push_to_hub, "name": name}
    settings = {
        "lora": options.lora or None, "non_commercial": options.non_commercial or None,
        "report_to": options.report_to or None, "gradient_checkpointing": options.gradient_checkpointing or None,
    }  # fmt: skip
    with values.refusing():
        recipe = load_recipe(FineTuneRecipe, config, **{**settings, **overrides})
        check_reports(recipe.report_to)
        resolve_folder(model)
    places: dict[str, Any] = {"background": options.background, "config": config, "told": facts}
    result = main(model, data, output, **places, **{**settings, **overrides})
    if options.push_to_hub and int(os.environ.get("RANK", "0")) == 0:
        from ..training.finetune.card import publish

        result["pushed"] = publish(Path(result["result"]), options.push_to_hub)
    return result


def command() -> str:
    """The command line as it can be typed again, without the folders of this computer."""
    words = [Path(word).name if word.startswith("/") else word for word in sys.argv[1:]]
    return shlex.join(["hubsep", *words])


RECIPES = {
    "audiosep": "hubsep.training.separators.audiosep",
    "words": "hubsep.training.separators.words",
    "listener": "hubsep.training.separators.listener",
    "speech": "hubsep.training.separators.speech",
    "music": "hubsep.training.separators.music",
    "audio_tower": "hubsep.training.separators.audio_tower",
    "text_tower": "hubsep.training.separators.text_tower",
    "release": "hubsep.training.separators.release",
    "audiomae": "hubsep.training.generators.audiomae",
    "autoencoder": "hubsep.training.generators.autoencoder",
    "vocoder": "hubsep.training.generators.vocoder",
    "text_encoders": "hubsep.training.generators.text_encoders",
    "diffusion": "hubsep.training.generators.diffusion",
    "loa": "hubsep.training.generators.loa",
    "joint": "hubsep.training.generators.joint",
    "lora": "hubsep.training.generators.lora",
    "assemble": "hubsep.training.generators.assemble",
    "classifier": "hubsep.training.generators.classifier",
}
What = Annotated[
    str,
    typer.Argument(
        parser=values.name("a model or a recipe", DEFAULT_MODEL),
        metavar="MODEL|RECIPE",
        help="A model to fine-tune: a name that `hubsep list` prints, a folder, or a Hub repository. Or a recipe: "
        f"one of {', '.join(RECIPES)}.",
    ),
]
Data = Annotated[
    Path,
    typer.Option(parser=values.existing(file=False), metavar="FOLDER", help="Folder of recordings with metadata.csv."),
]
Output = Annotated[
    Path | None,
    typer.Option(
        parser=values.place(folder=True),
        metavar="FOLDER",
        help="Checkpoints and the result go here; runs/MODEL for a fine-tune.",
    ),
]
Config = Annotated[
    Path | None, typer.Option(parser=values.existing(folder=False), metavar="FILE", help="Recipe settings, YAML.")
]
Resume = Annotated[bool, typer.Option("--resume", help="Go on from the newest checkpoint in --output.")]
Settings = Annotated[
    list[str] | None, typer.Option("--set", metavar="FIELD=VALUE", help="A recipe setting; wins over --config.")
]
Lora = Annotated[bool, typer.Option("--lora", help="Train an adapter of a few megabytes instead of all weights.")]
Background = Annotated[
    Path | None,
    typer.Option(
        parser=values.existing(file=False), metavar="FOLDER", help="Folder of other sounds, or of noises for speech."
    ),
]
Push = Annotated[
    str | None,
    typer.Option("--push-to-hub", parser=values.repository, metavar="ORG/NAME", help="Push the result and its card."),
]
Licence = Annotated[
    str | None,
    typer.Option(
        parser=values.name("a licence", "CC-BY-4.0"),
        metavar="ID",
        help="SPDX id of the result's licence; needed to push.",
    ),
]
NonCommercial = Annotated[
    bool, typer.Option("--non-commercial", help="Also learn from recordings with commercial=False; the card says so.")
]
ReportTo = Annotated[
    list[str] | None,
    typer.Option(
        parser=values.name("a tracker", "trackio"), metavar="NAME", help="trackio, tensorboard, ...; may be repeated."
    ),
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
    """Fine-tune a model on a folder of recordings, or run a recipe. A recipe trains a model anew, or makes one small
    enough to ship."""
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
        main = checked_recipe(import_module(RECIPES[what]), config, overrides)
        result = main(config, data, output, **overrides)
    print(json.dumps(result, indent=2))


def checked_recipe(module: ModuleType, config: Path | None, overrides: dict[str, Any]) -> Callable[..., Any]:
    """What runs a recipe, after its settings were looked into.

    Raises:
        typer.BadParameter: naming the setting that is wrong.
    """
    check_names(module.main, overrides)
    kinds = [kind for kind in vars(module).values() if isinstance(kind, type) and is_dataclass(kind)]
    recipes: list[type] = [kind for kind in kinds if kind.__module__ == module.__name__ and "Recipe" in kind.__name__]
    with values.refusing():
        load_recipe(recipes[0], config, **overrides)
    main: Callable[..., Any] = module.main
    return main


def check_names(main: Callable[..., Any], overrides: dict[str, Any]) -> None:
    """Refuses settings that have the name of something that options say.

    Raises:
        typer.BadParameter: naming the setting.
    """
    for name in overrides:
        parameter = inspect.signature(main).parameters.get(name)
        if parameter is not None and parameter.kind is not inspect.Parameter.VAR_KEYWORD:
            raise typer.BadParameter(f"--set {name}: this run has no setting of that name; leave it out")


def check_output(output: Path, keeps_what_is_there: bool) -> None:
    """Refuses to write into a folder that holds something, unless the run goes on from it.

    Raises:
        typer.BadParameter: naming the folder.
    """
    if not keeps_what_is_there and output.is_dir() and any(output.iterdir()):
        raise typer.BadParameter(f"{output} is not empty; --resume goes on from what is there", param_hint="--output")


__all__ = ["FineTuneOptions", "command", "fine_tune", "train"]
