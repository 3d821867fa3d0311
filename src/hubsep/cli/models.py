# SPDX-License-Identifier: Apache-2.0
"""`hubsep list`: shipped models and known systems, with the licence of the weights and what they are for."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import mean
from typing import Annotated, Any

import typer

from ..batch.lines import say
from ..cards.card import licence_of, rate_of, read_card
from ..errors import CheckpointError, DataError
from ..hub.checks import read_before_checks
from ..hub.resolve import resolve_folder
from ..registry import SYSTEMS
from ..shipped import DEFAULT_MODEL, SHIPPED
from . import values
from .cached import show_cached
from .info import figure, headline_figures, in_lines
from .published import show_published


WIDTH = 80  # characters of a line
COLUMNS = "{:<25}{:>8}  {:<13}  {:<8}  {}"  # at most that many
SHORT = 50  # letters; a first sentence of fewer is shown with the next


def shipped_cards() -> list[dict[str, Any]]:
    """The card of each shipped model, with its folder and what was measured: a command and its main figures.

    Raises:
        CheckpointError: if a shipped folder or its card is missing or lacks a field every card has.
    """
    cards = []
    for name, folder in SHIPPED.items():
        try:
            card = read_card(folder)
        except DataError as error:
            raise CheckpointError(f"the shipped model {name} is broken: {error}; reinstall hubsep") from error
        results = card.pop("results", None)
        if results:
            card["results"] = {"command": results["command"], "figures": headline_figures(results)}
        cards.append({**card, "folder": str(folder)})
    return cards


def show_sounds(model: str) -> None:
    """Prints the sounds a text-queried model knows, a line each.

    Raises:
        typer.BadParameter: if there is no such model, or it keeps no such list.
    """
    with values.refusing():
        sounds = read_before_checks(resolve_folder(model), "config.json").get("known_sounds")
    if not isinstance(sounds, list) or not sounds:
        raise typer.BadParameter(
            f"{model} has no list of sounds: it separates what it was made for, or takes any words"
        )
    say(*sounds)


Sounds = Annotated[
    str | None,
    typer.Option(
        "--sounds",
        parser=values.name("a model", DEFAULT_MODEL),
        metavar="MODEL",
        help="All sounds a text-queried model knows.",
    ),
]


def models(
    name: Annotated[str | None, typer.Argument(hidden=True)] = None,
    commercial: Annotated[
        bool, typer.Option("--commercial", help="Only weights whose licence allows commercial use.")
    ] = False,
    sounds: Sounds = None,
    training: Annotated[
        bool, typer.Option("--training", help="The commands that trained each model, and how long they took.")
    ] = False,
    authors: Annotated[
        bool, typer.Option("--published", help="Checkpoints that the authors of the systems published.")
    ] = False,
    fetched: Annotated[
        bool, typer.Option("--cached", help="Models that were fetched by name and are on this computer.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """List models: inside hubsep, published, or fetched. Also lists the systems, and the sounds a model knows."""
    if name is not None:
        raise typer.BadParameter(f"a list has no name; `hubsep info {name}` prints what is known of one model")
    if authors and fetched:
        raise typer.BadParameter("--published and --cached are two lists: name one of them")
    if authors or fetched:
        (show_published if authors else show_cached)(commercial=commercial, as_json=as_json)
        return
    if sounds is not None:
        show_sounds(sounds)
        return
    cards = [card for card in shipped_cards() if card["commercial"] or not commercial]
    if training and not as_json:
        show_training(cards)
        return
    if as_json:
        systems = [
            {name: getattr(system, name) for name in ("model_type", "task", "sampling_rate", "paper", "status")}
            for system in SYSTEMS.values()
        ]
        print(json.dumps({"models": cards, "systems": systems}, indent=2, ensure_ascii=False))
        return
    show_all(cards, commercial=commercial)


def show_all(cards: Sequence[dict[str, Any]], *, commercial: bool) -> None:
    """Prints models and systems, and where more is told."""
    print(COLUMNS.format("shipped with hubsep", "rate", "licence", "use", "measured"))
    for card in cards:
        show_card(card)
    if commercial:
        print("\nOnly those that allow commercial use.")
    print("\nsystem")
    for system in SYSTEMS.values():
        print(f"{system.model_type:<12}{system.task:<19}{system.paper}")
    print("\n`hubsep info NAME` says all of one model: its data, its quality.")
    print("`hubsep list --published` prints models that others published, --cached those")
    print("you fetched. SDRi, SI-SNRi: how much better than the mixture. mean: of stems.")


def show_training(cards: Sequence[Mapping[str, Any]]) -> None:
    """Prints how long each model was trained, and the commands; a run that is stopped goes on with --resume."""
    for card in cards:
        say(f"# {card['name']}: about {card['training_minutes'] / 60:.1f} hours of one CPU core", *card["commands"])


def show_card(card: dict[str, Any]) -> None:
    """Prints a model, and in a line what it is for."""
    rate, use = f"{rate_of(Path(card['folder']), card)} Hz", "any" if card["commercial"] else "research"
    figures = card["results"]["figures"] if "results" in card else {}
    print(COLUMNS.format(card["name"], rate, licence_of(card), use, in_a_word(figures)).rstrip())
    short = card["summary"].find(". ", SHORT)  # where the first sentences end that say something
    print(f"    {in_lines(card['summary'][: short + 1] if short > 0 else card['summary'], 4, WIDTH)}")


def in_a_word(figures: Mapping[str, float]) -> str:
    """The first figure; of several stems their mean, over the data that was measured last."""
    if not figures:
        return ""
    name = next(iter(figures))
    *_, metric = name.split(": ")
    data = [*figures][-1].partition(": ")[0]
    values = [value for label, value in figures.items() if label.startswith(data) and label.endswith(f": {metric}")]
    return figure(metric, mean(values)) + " mean" if values else figure(metric, figures[name])


__all__ = ["models", "shipped_cards"]
