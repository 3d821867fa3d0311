# SPDX-License-Identifier: Apache-2.0
"""`hubsep evaluate`: measures a model, with the numbers its card states.

A layout of data is a row of `LAYOUTS`: the module whose `run(request)` measures, prints its table and returns the
result. Options are fields of `Request`; a new one is added there and to the signature here. The command in the result
is what was typed, without outputs and with `DATA` for the user's folders.
"""

from __future__ import annotations

import shlex
from enum import Enum
from importlib import import_module
from pathlib import Path
from typing import Annotated, Any

import typer

from ..batch.overwriting import check_free, check_not_read
from ..hub.file_names import key_of
from ..hub.resolve import resolve_folder, task_of
from ..registry import TASK, TEXT_TO_AUDIO
from ..shipped import DEFAULT_MODEL
from . import values
from .commercial import Commercial


class Dataset(str, Enum):
    """How the data is laid out."""

    FOLDER = "folder"
    MUSDB = "musdb"
    CSV = "csv"
    LIBRIMIX = "librimix"
    PROMPTS = "prompts"


LAYOUTS = {
    Dataset.FOLDER: "hubsep.evaluation.queries",
    Dataset.MUSDB: "hubsep.evaluation.queries",
    Dataset.CSV: "hubsep.evaluation.tables",
    Dataset.LIBRIMIX: "hubsep.evaluation.librimix",
    Dataset.PROMPTS: "hubsep.evaluation.prompts",
}


def layout(word: Any) -> Any:
    """What reads the name of a layout."""
    return Dataset(values.choice(*(each.value for each in Dataset))(word)) if isinstance(word, str) else word


OUTPUTS = (
    "json_file",
    "picture",
    "output",
    "write_card",
    "benchmark",
    "overwrite",
    "commercial",
)  # where numbers go, not how they come about

MOST = 1_000_000  # mixtures, sounds, songs or rows

Model = Annotated[
    str,
    typer.Argument(
        parser=values.name("a model", DEFAULT_MODEL),
        metavar="MODEL",
        help="A name that `hubsep list` or `hubsep list --published` prints, a folder, or a Hub repository.",
    ),
]
Data = Annotated[
    Path,
    typer.Option(
        parser=values.existing(),
        metavar="PATH",
        help="Folder of recordings with metadata.csv, of MUSDB18 or of LibriMix, or a .csv.",
    ),
]
Layout = Annotated[
    Dataset,
    typer.Option(
        parser=layout,
        metavar="|".join(each.value for each in Dataset),
        help="musdb: MUSDB18 (stem.mp4) or MUSDB18-HQ (wav), test part. csv: a table of mixture, target, caption and "
        "perhaps label, as AudioSep's benchmarks. librimix: a folder of LibriMix. prompts: a model that makes sounds "
        "is asked for each class of a folder with metadata.csv.",
    ),
]
Root = Annotated[
    Path | None,
    typer.Option(
        parser=values.existing(file=False), metavar="FOLDER", help="csv: what its paths start from; the file's folder."
    ),
]
Limit = Annotated[
    int,
    typer.Option(
        parser=values.whole(0, MOST), metavar="NUMBER", help="Songs of each corpus, or rows of a table; 0: all."
    ),
]
Folder = Annotated[
    list[str] | None,
    typer.Option(
        parser=values.name("a folder", "events"), metavar="NAME", help="Sub-folder of --data to read; may be repeated."
    ),
]
PerClass = Annotated[
    int,
    typer.Option(
        parser=values.whole(1, MOST),
        metavar="NUMBER",
        help="Mixtures, or sounds, per class; at most that many recordings.",
    ),
]
Mixtures = Annotated[
    int, typer.Option(parser=values.whole(1, MOST), metavar="NUMBER", help="Separators of speakers: mixtures in all.")
]
Speakers = Annotated[
    int,
    typer.Option(parser=values.whole(0, 64), metavar="NUMBER", help="Speakers in a mixture; 0: one for each output."),
]
Minutes = Annotated[
    float,
    typer.Option(
        parser=values.number(0, 120),
        metavar="MINUTES",
        help="Separators of speakers: also count swaps in conversations this long.",
    ),
]
Noise = Annotated[
    Path | None,
    typer.Option(
        parser=values.existing(file=False), metavar="FOLDER", help="Separators of speakers: folder of noises."
    ),
]
Seconds = Annotated[
    float | None,
    typer.Option(parser=values.seconds(0.1, 600), metavar="SECONDS", help="Length of a mixture; 5, or 4 of speakers."),
]
Seed = Annotated[
    int,
    typer.Option(
        parser=values.whole(-(2**63), 2**63 - 1),
        metavar="NUMBER",
        help="Decides partners and excerpts, or the noise sounds are made of.",
    ),
]
AllRecordings = Annotated[
    bool, typer.Option("--all-recordings", help="For data no training saw: use it all, not the held-out part.")
]
Mixture = Annotated[
    list[str] | None,
    typer.Option(
        parser=values.choice("mix_clean", "mix_both", "mix_single"),
        metavar="NAME",
        help="librimix: mix_clean, mix_both or mix_single; may be repeated. By default what fits the model.",
    ),
]
Mode = Annotated[
    str,
    typer.Option(
        parser=values.choice("min", "max"), metavar="min|max", help="librimix: min or max, if --data holds both."
    ),
]
Part = Annotated[
    str,
    typer.Option(
        parser=values.name("a part", "test"), metavar="NAME", help="librimix: test or dev, if --data holds several."
    ),
]
Classifier = Annotated[
    Path | None,
    typer.Option(
        parser=values.existing(file=False),
        metavar="FOLDER",
        help="prompts: who listens, of `hubsep train classifier`.",
    ),
]
Steps = Annotated[
    int | None,
    typer.Option(parser=values.whole(1, 1_000), metavar="NUMBER", help="prompts: of the solver; 25 by default."),
]
Guidance = Annotated[
    float | None,
    typer.Option(
        parser=values.number(-1_000, 1_000),
        metavar="NUMBER",
        help="prompts: above 1 the prompt counts more; 3.5 by default.",
    ),
]
Output = Annotated[
    Path | None,
    typer.Option(
        parser=values.place(folder=True),
        metavar="FOLDER",
        help="prompts: folder for spectrograms, confusions and some sounds.",
    ),
]
Benchmark = Annotated[
    str | None, typer.Option(metavar="DATASET:TASK", help="The Hub's name of the set, for .eval_results in the card.")
]
JsonFile = Annotated[
    Path | None,
    typer.Option("--json", parser=values.place(folder=False), metavar="FILE", help="Also write the numbers."),
]
PictureFile = Annotated[
    Path | None,
    typer.Option(
        "--picture", parser=values.place(folder=False), metavar="FILE", help="Also draw them (png, pdf, svg)."
    ),
]
Overwrite = Annotated[bool, typer.Option("--overwrite", help="Replace files of --json, --picture and --output.")]
WriteCard = Annotated[bool, typer.Option("--write-card", help="Put the numbers into the card of MODEL, a folder.")]


def evaluate(
    context: typer.Context,
    model: Model,
    data: Data,
    dataset: Layout = Dataset.FOLDER,
    folder: Folder = None,
    root: Root = None,
    limit: Limit = 0,
    per_class: PerClass = 20,
    mixtures: Mixtures = 200,
    speakers: Speakers = 0,
    conversation_minutes: Minutes = 0.0,
    noise: Noise = None,
    seconds: Seconds = None,
    seed: Seed = 1,
    all_recordings: AllRecordings = False,
    mixture: Mixture = None,
    mode: Mode = "min",
    part: Part = "test",
    classifier: Classifier = None,
    steps: Steps = None,
    guidance: Guidance = None,
    output: Output = None,
    benchmark: Benchmark = None,
    json_file: JsonFile = None,
    picture: PictureFile = None,
    write_card: WriteCard = False,
    overwrite: Overwrite = False,
    commercial: Commercial = False,
) -> None:
    """Measure a model on held-out recordings or a test set."""
    options = dict(locals())  # every option is a field of the request
    replaced = options.pop("overwrite")
    del options["commercial"]
    for path in (json_file, picture, output):
        if path is not None:
            check_free(path, overwrite=replaced, source=data)
            check_not_read(path, (data, model, classifier, noise))
    if json_file is not None and picture is not None and key_of(json_file) == key_of(picture):
        raise typer.BadParameter(f"--json and --picture are both {picture}; name them apart")
    measure(options.pop("context"), **options)


def measure(context: typer.Context, *, dataset: Dataset, **options: Any) -> dict[str, Any]:
    """Checks the request, runs the layout's module, and writes what was asked for."""
    from ..evaluation.report import Request, check_request, finish

    fields: dict[str, Any] = {
        name: tuple(value or ()) if name in ("folder", "mixture") else value for name, value in options.items()
    }
    with values.refusing():
        check_measured(options["model"], dataset)
    request = Request(dataset=dataset.value, command=command_of(context), **fields)
    with values.refusing():
        check_request(request)
    return finish(request, import_module(LAYOUTS[dataset]).run(request))


def check_measured(model: str, dataset: Dataset) -> None:
    """Refuses a layout of data that is for models of another purpose.

    Raises:
        typer.BadParameter: naming the layout that suits the model.
        CheckpointError: if there is no such model.
    """
    purpose = task_of(resolve_folder(model))
    if purpose == TEXT_TO_AUDIO and dataset is not Dataset.PROMPTS:
        raise typer.BadParameter(
            f"{model} makes sounds and separates none; measure it with --dataset prompts", param_hint="MODEL"
        )
    if purpose == TASK and dataset is Dataset.PROMPTS:
        raise typer.BadParameter(
            f"{model} separates recordings and makes none; leave out --dataset prompts", param_hint="MODEL"
        )


def command_of(context: typer.Context) -> str:
    """What was typed, in the order of `--help`, without outputs and with names in place of the user's folders."""
    words = ["hubsep", "evaluate"]
    for parameter in context.command.params:
        name = str(parameter.name)
        source = context.get_parameter_source(name)
        value: Any = context.params.get(name)
        # by names and not by classes: typer carries a click of its own
        if source is None or source.name != "COMMANDLINE" or name in OUTPUTS:
            continue
        if parameter.param_type_name == "argument":
            words.append(Path(value).name if Path(str(value)).exists() else str(value))
        elif value is True:
            words.append(parameter.opts[0])
        else:
            for part in value if isinstance(value, (list, tuple)) else (value,):
                words += [parameter.opts[0], _shown(parameter, part)]
    return shlex.join(words)


def _shown(parameter: Any, value: Any) -> str:
    """A folder of the user's by the option's name, a file by its own; numbers without needless zeros."""
    if isinstance(value, Path):
        name = str(parameter.name).upper()
        return f"{name}/{Path(value).name}" if Path(value).is_file() else name
    return f"{value:g}" if isinstance(value, float) else str(getattr(value, "value", value))


__all__ = ["LAYOUTS", "Dataset", "evaluate"]
