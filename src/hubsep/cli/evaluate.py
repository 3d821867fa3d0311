# SPDX-License-Identifier: Apache-2.0
"""`hubsep evaluate`: measures a separator on held-out recordings, with the numbers its card states."""

from __future__ import annotations

from enum import Enum
from pathlib import Path
from typing import Annotated

import typer

from ..registry import SHIPPED


class Dataset(str, Enum):
    """How the data is laid out."""

    FOLDER = "folder"
    MUSDB = "musdb"


Data = Annotated[
    Path, typer.Option(exists=True, file_okay=False, help="Folder of recordings with metadata.csv, or of MUSDB18.")
]
Layout = Annotated[
    Dataset, typer.Option(help="musdb: --data is MUSDB18 (stem.mp4) or MUSDB18-HQ (wav); its test part is used.")
]
Noise = Annotated[
    Path | None,
    typer.Option(exists=True, file_okay=False, help="Models that take noise off speech: folder of noises, too."),
]


def evaluate(
    model: Annotated[str, typer.Argument(help=f"Folder, Hub repository, or one of {', '.join(SHIPPED)}.")],
    data: Data,
    dataset: Layout = Dataset.FOLDER,
    limit: Annotated[int, typer.Option(min=0, help="Models of named stems: songs of each corpus; 0: all.")] = 0,
    folder: Annotated[list[str] | None, typer.Option(help="Sub-folder of --data to read; may be repeated.")] = None,
    per_class: Annotated[int, typer.Option(min=1, help="Text-queried models: mixtures per class.")] = 20,
    mixtures: Annotated[int, typer.Option(min=1, help="Separators of speakers: mixtures in all.")] = 200,
    speakers: Annotated[int, typer.Option(min=0, help="Speakers in a mixture; 0: one for each output.")] = 0,
    conversation_minutes: Annotated[
        float, typer.Option(min=0, help="Separators of speakers: also count swaps in conversations this long.")
    ] = 0.0,
    noise: Noise = None,
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
        name=model,
        musdb=dataset is Dataset.MUSDB,
        limit=limit,
        json_file=json_file,
        folders=tuple(folder or ()),
        per_class=per_class,
        mixtures=mixtures,
        speakers=speakers,
        conversation_minutes=conversation_minutes,
        noise=noise,
        seconds=seconds,
        seed=seed,
        all_recordings=all_recordings,
    )


__all__ = ["evaluate"]
