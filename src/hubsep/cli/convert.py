# SPDX-License-Identifier: Apache-2.0
"""`hubsep convert`: from the checkpoint its authors published to a folder `from_pretrained` loads."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ..batch.lines import say
from ..batch.overwriting import Overwrite, check_free, check_not_read
from ..conversion import convert as convert_checkpoint
from ..errors import CheckpointError, ConversionError
from ..hub.published import find_published
from ..registry import SYSTEMS
from ..texts import did_you_mean
from .commercial import Commercial
from .settings import parse_settings
from .usage import PlainCommand
from .values import existing, place, refusing


if TYPE_CHECKING:
    from ..conversion.named import Source as Found

CONVERTIBLE = [name for name, row in SYSTEMS.items() if row.converter]
# what people call the systems
OTHER_NAMES = {
    "clap": "audiosep",
    "deezer": "spleeter",
    "tasnet": "conv_tasnet",
    "mae": "audiomae",
    "audioldm": "audioldm2",
}


def system(word: Any) -> Any:
    """Reads the name of a system, upper and lower case and hyphens alike."""
    if not isinstance(word, str):
        return word
    plain = word.casefold().replace("-", "_")
    if plain not in SYSTEMS:
        raise typer.BadParameter(
            f"{word!r} is not one of {', '.join(CONVERTIBLE)}.{did_you_mean(word, CONVERTIBLE, OTHER_NAMES)}"
        )
    if SYSTEMS[plain].converter is None:
        raise typer.BadParameter(f"{plain} cannot be converted; there are converters for {', '.join(CONVERTIBLE)}")
    return plain


System = Annotated[
    str | None,
    typer.Argument(metavar="SYSTEM", help=f"{', '.join(CONVERTIBLE)}; may be left out where it is found out."),
]
Source = Annotated[
    str | None,
    typer.Argument(
        metavar="SOURCE",
        help="A name of `hubsep list --published` or its address, what the authors publish as a file or folder, or a "
        ".safetensors of the same keys.",
    ),
]
Output = Annotated[
    str | None,
    typer.Argument(metavar="OUTPUT", help="Folder to write; from an AudioLDM 2 folder back, a .safetensors file."),
]
Licence = Annotated[
    str | None,
    typer.Option(
        metavar="ID",
        help="SPDX id of the weights' licence, or 'unknown'. Needed where neither the table nor a card states it.",
    ),
]
Settings = Annotated[
    list[str] | None, typer.Option("--set", metavar="FIELD=VALUE", help="Configuration the source does not hold.")
]


def convert(
    model_type: System = None,
    source: Source = None,
    output: Output = None,
    licence: Licence = None,
    set_: Settings = None,
    commercial: Commercial = False,
    overwrite: Overwrite = False,
) -> None:
    """Convert published weights, of a name or a file. The result is complete or absent."""
    from ..conversion.common import OverrideError
    from ..conversion.named import fetch_and_convert

    overrides = parse_settings(set_ or [])
    found, target = read_words([word for word in (model_type, source, output) if word is not None])
    said = checked_licence(found, licence)
    check_free(target, overwrite=overwrite, source=found.path)
    check_not_read(target, [found.path])
    path = found.path
    named: Any = found.system  # one of those that `convert` names
    try:
        if found.row is not None:
            path, said = fetch_and_convert(found, target, overrides, licence)
            if path is None:
                say(f"{target}: {found.row.name}, a {found.system}, licence {said}")
                return
        model = convert_checkpoint(named, path, target, licence=said, **overrides)
    except OverrideError as error:
        raise typer.BadParameter(f"--set: {error}") from error
    # a pipeline is several models
    parts = getattr(model, "components", {"model": model}).values()
    parameters = sum(part.num_parameters() for part in parts if hasattr(part, "num_parameters"))
    say(f"{target}: {type(model).__name__}, {parameters:,} parameters, licence {said}")


def checked_licence(source: Found, licence: str | None) -> str:
    """The licence that goes into the card.

    Raises:
        typer.BadParameter: if nobody states one, it is none, or not the one of the source; or does not allow
            commercial use where only that is wanted.
    """
    from ..conversion.named import check_source_commercial, check_source_licence

    if licence is None and source.licence is None:
        raise typer.BadParameter(
            "nobody states the licence of these weights: say it, an SPDX id such as MIT, or 'unknown'",
            param_hint="--licence",
        )
    try:
        said = check_source_licence(source, licence)
    except ConversionError as error:
        raise typer.BadParameter(str(error), param_hint="--licence") from error
    try:
        check_source_commercial(source, said)
    except CheckpointError as error:
        raise typer.BadParameter(str(error), param_hint="SOURCE") from error
    return said


class ConvertCommand(PlainCommand):
    """A command whose first argument may be left out, and says so."""

    def collect_usage_pieces(self, ctx: Any) -> list[str]:
        """What stands behind the name of the command."""
        return ["[OPTIONS] [SYSTEM] SOURCE OUTPUT"]


def read_words(words: list[str]) -> tuple[Found, Path]:
    """What is converted, and where to.

    Raises:
        typer.BadParameter: naming the word that is wrong.
    """
    if len(words) < 2:
        raise typer.BadParameter(
            "say what is converted and where to: SOURCE and OUTPUT", param_hint="SOURCE" if not words else "OUTPUT"
        )
    *systems, name, target = words
    model_type = with_hint("SYSTEM", system, systems[0]) if systems else None
    output: Path = with_hint("OUTPUT", place(), target)
    from ..conversion.named import find_source, is_repository

    if os.path.exists(name) or not (is_name(name) or (model_type is None and is_repository(name))):
        with_hint("SOURCE", existing(), name)
    try:
        with refusing():
            return find_source(name, model_type), output
    except typer.BadParameter as error:
        raise typer.BadParameter(error.message, param_hint="SOURCE") from error


def is_name(word: str) -> bool:
    """Whether a word that names nothing here can be the name or address of what is published."""
    return "://" in word or find_published(word) is not None


def with_hint(hint: str, read: Callable[[Any], Any], word: str) -> Any:
    """A word as it is read, and errors of it with what it stands for."""
    try:
        return read(word)
    except typer.BadParameter as error:
        raise typer.BadParameter(error.message, param_hint=hint) from error


__all__ = ["ConvertCommand", "convert"]
