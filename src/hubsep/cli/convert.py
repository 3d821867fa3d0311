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
from .settings import parse_settings


def convert(
    model_type: Annotated[str, typer.Argument(help=f"System: {', '.join(SYSTEMS)}.")],
    source: Annotated[Path, typer.Argument(help="What the authors publish, or a .safetensors of the same keys.")],
    output: Annotated[
        Path, typer.Argument(help="Folder to write; from an AudioLDM 2 folder back, a .safetensors file.")
    ],
    licence: Annotated[str, typer.Option(help="SPDX id of the weights' licence, or 'unknown'. There is no default.")],
    set_: Annotated[
        list[str] | None, typer.Option("--set", metavar="FIELD=VALUE", help="Configuration the source does not hold.")
    ] = None,
    overwrite: Overwrite = False,
) -> None:
    """Convert published weights; the result is complete or absent."""
    if model_type not in SYSTEMS:
        raise typer.BadParameter(f"{model_type!r} is not one of {', '.join(SYSTEMS)}", param_hint="MODEL_TYPE")
    overrides = parse_settings(set_ or [])
    check_free(output, overwrite=overwrite, source=source)

    system: Any = model_type  # one of those that `convert` names
    model = convert_checkpoint(system, source, output, licence=licence, **overrides)
    # a pipeline is several models
    parts = getattr(model, "components", {"model": model}).values()
    parameters = sum(part.num_parameters() for part in parts if hasattr(part, "num_parameters"))
    say(f"{output}: {type(model).__name__}, {parameters:,} parameters, licence {licence}")


__all__ = ["convert"]
