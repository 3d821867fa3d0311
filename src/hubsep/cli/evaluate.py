# SPDX-License-Identifier: Apache-2.0
"""`hubsep evaluate`: measures a separator on held-out recordings, with the numbers its card states."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from ..registry import SHIPPED


def evaluate(
    model: Annotated[str, typer.Argument(help=f"Folder, Hub repository, or one of {', '.join(SHIPPED)}.")],
    data: Annotated[Path, typer.Option(exists=True, file_okay=False, help="Folder of recordings with metadata.csv.")],
    folder: Annotated[list[str] | None, typer.Option(help="Sub-folder of --data to read; may be repeated.")] = None,
    per_class: Annotated[int, typer.Option(min=1, help="Text-queried models: mixtures per class.")] = 20,
    mixtures: Annotated[int, typer.Option(min=1, help="Separators of speakers: mixtures in all.")] = 200,
    speakers: Annotated[int, typer.Option(min=0, help="Speakers in a mixture; 0: one for each output.")] = 0,
    conversation_minutes: Annotated[
        float, typer.Option(min=0, help="Separators of speakers: also count swaps in conversations this long.")
    ] = 0.0,
    seconds: Annotated[float | None, typer.Option(min=0.1, help="Length of a mixture; 5, or 4 of speakers.")] = None,
    seed: Annotated[int, typer.Option(help="Decides partners and excerpts.")] = 1,
    all_recordings: Annotated[
        bool, typer.Option("--all-recordings", help="For data no training saw: use it all, not the held-out part.")
    ] = False,
    json_file: Annotated[Path | None, typer.Option("--json", dir_okay=False, help="Also write the numbers.")] = None,
) -> None:
    """Measure a model on held-out recordings."""
    from ..evaluation import main as measure

    measure(
        str(SHIPPED.get(model, model)),
        data,
        json_file=json_file,
        folders=tuple(folder or ()),
        per_class=per_class,
        mixtures=mixtures,
        speakers=speakers,
        conversation_minutes=conversation_minutes,
        seconds=seconds,
        seed=seed,
        all_recordings=all_recordings,
    )


__all__ = ["evaluate"]
