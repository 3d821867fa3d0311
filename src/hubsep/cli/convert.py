# SPDX-License-Identifier: Apache-2.0
"""`hubsep convert`: from the checkpoint its authors published to a folder `from_pretrained` loads."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from ..batch.lines import say
from ..batch.overwriting import Overwrite, check_free
from ..conversion import convert as convert_checkpoint
from ..registry import SYSTEMS
from ..texts import did_you_mean
from .settings import parse_settings
from .values import existing, place, refusing


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
            f"{word!r} is not one of {', '.join(SYSTEMS)}.{did_you_mean(word, SYSTEMS, OTHER_NAMES)}"
        )
    if SYSTEMS[plain].converter is None:
        convertible = ", ".join(name for name, row in SYSTEMS.items() if row.converter)
        raise typer.BadParameter(f"{plain} cannot be converted; there are converters for {convertible}")
    return plain


ModelType = Annotated[str, typer.Argument(parser=system, metavar="SYSTEM", help=f"{', '.join(SYSTEMS)}.")]
Source = Annotated[
    Path,
    typer.Argument(
        parser=existing(), metavar="SOURCE", help="What the authors publish, or a .safetensors of the same keys."
    ),
]
Output = Annotated[
    Path,
    typer.Argument(
        parser=place(),
        metavar="OUTPUT",
        help="Folder to write; from an AudioLDM 2 folder back, a .safetensors file.",
    ),
]
Licence = Annotated[
    str, typer.Option(metavar="ID", help="SPDX id of the weights' licence, or 'unknown'. There is no default.")
]
Settings = Annotated[
    list[str] | None, typer.Option("--set", metavar="FIELD=VALUE", help="Configuration the source does not hold.")
]


def convert(
    model_type: ModelType,
    source: Source,
    output: Output,
    licence: Licence,
    set_: Settings = None,
    overwrite: Overwrite = False,
) -> None:
    """Convert published weights; the result is complete or absent."""
    from ..conversion.common import OverrideError
    from ..conversion.writing import check_licence

    with refusing():
        check_licence(licence)
    overrides = parse_settings(set_ or [])
    check_free(output, overwrite=overwrite, source=source)

    named: Any = model_type  # one of those that `convert` names
    try:
        model = convert_checkpoint(named, source, output, licence=licence, **overrides)
    except OverrideError as error:
        raise typer.BadParameter(f"--set: {error}") from error
    # a pipeline is several models
    parts = getattr(model, "components", {"model": model}).values()
    parameters = sum(part.num_parameters() for part in parts if hasattr(part, "num_parameters"))
    say(f"{output}: {type(model).__name__}, {parameters:,} parameters, licence {licence}")


__all__ = ["convert"]
