# SPDX-License-Identifier: Apache-2.0
"""`hubsep push`: a model or an adapter, with its card, in one commit; `hubsep merge`: an adapter into its model."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from ..batch.lines import say
from ..batch.overwriting import Overwrite, check_free, check_not_read
from ..cards.card import read_card, write_card
from ..errors import CheckpointError
from ..hub.cards import CARD
from ..hub.copies import is_named
from ..hub.resolve import resolve_folder
from ..shipped import DEFAULT_MODEL
from .values import existing, name, place, refusing
from .values import repository as repository_name


def push(
    folder: Annotated[
        Path, typer.Argument(parser=existing(file=False), metavar="FOLDER", help="A saved model or adapter.")
    ],
    repository: Annotated[
        str, typer.Argument(parser=repository_name, metavar="ORG/NAME", help="Where it goes; made if it is not there.")
    ],
    private: Annotated[bool, typer.Option("--private", help="Let a new repository be private.")] = False,
    revision: Annotated[
        str | None,
        typer.Option(parser=name("a branch", "main"), metavar="BRANCH", help="Push to a branch other than main."),
    ] = None,
) -> None:
    """Push a model or an adapter and its card to the Hub. Refused if the card names no licence."""
    from ..training.finetune.card import publish, publishable_card

    with refusing():
        publishable_card(folder)
    say(publish(folder, repository, private=private or None, revision=revision))


def merge(
    model: Annotated[
        str,
        typer.Argument(
            parser=name("a model", DEFAULT_MODEL), metavar="MODEL", help="The model an adapter was trained on."
        ),
    ],
    adapter: Annotated[
        str,
        typer.Argument(
            parser=name("an adapter", "runs/mine/adapter"), metavar="ADAPTER", help="Folder or Hub repository of it."
        ),
    ],
    output: Annotated[
        Path,
        typer.Argument(
            parser=place(folder=True), metavar="OUTPUT", help="Folder for the model with the adapter in it."
        ),
    ],
    overwrite: Overwrite = False,
) -> None:
    """Merge an adapter into its model. The result is saved with the adapter's card."""
    from ..auto import separator_config
    from ..pipelines import pipeline

    for source in (Path(model), Path(adapter)):
        check_free(output, overwrite=overwrite, source=source)
        check_not_read(output, [source])
    with refusing():
        separator_config(model)
        if not (resolve_folder(adapter) / "adapter_config.json").is_file():
            raise CheckpointError(f"{adapter} holds no adapter_config.json: it is not an adapter of hubsep")
    separator = pipeline(model=model, adapter=adapter)
    separator.save_pretrained(output)
    folder = resolve_folder(adapter)
    if is_named(folder / CARD):
        card = read_card(folder)
        use = f'from hubsep import pipeline\n\nseparate = pipeline(model="{output.name}")'
        write_card(output, {**card, "name": output.name, "use": use, "training": unlinked(card.get("training", ""))})
    say(output)


def unlinked(training: str) -> str:
    """How it was trained, without the picture, which stays with the adapter."""
    return training.replace("\n\n![Learning curve](curve.png)", "")


__all__ = ["merge", "push"]
