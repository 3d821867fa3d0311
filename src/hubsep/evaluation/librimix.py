# SPDX-License-Identifier: Apache-2.0
"""Measures a separator of speakers on LibriMix (2005.11262), or any set laid out like it.

`mix_clean`, `mix_both` or `mix_single` holds the mixtures, `s1`, `s2`, `s3` what is in them under the same file names;
`--data` is that folder, or one of those above it (`wav8k/min/test`). It may also be the set's metadata CSV. A mixture
is separated whole, at the rate it has. SI-SDR improvement is LibriMix's own figure, without removal of means; SI-SNR,
with it, and SDR (BSS Eval) are those of Conv-TasNet and SepFormer. The order of the outputs is the best by SI-SNR.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from tqdm.auto import tqdm

from ..audio.reader import SPLIT_IT, read_audio
from ..data.pairs import separate
from ..data.tables import is_file, read_table
from ..errors import DataError
from ..metrics.separation import is_silent, separation_scores, si_sdr
from ..pipelines import pipeline
from .report import Request, check_some_heard, format_silent, place_in_set
from .speech import summarise


CONDITIONS = ("mix_clean", "mix_both", "mix_single")
NAMES = ("si_snri", "sdri", "si_sdri")


@dataclass(frozen=True)
class Item:
    """The file of a mixture and those of its sources."""

    mixture: Path
    sources: tuple[Path, ...]


def find_set(data: Path, sampling_rate: int, mode: str, part: str) -> Path:
    """The folder with `s1` in it: `data`, or the one below it that is of this rate, mode and part.

    Raises:
        DataError: if there is none.
    """
    below = (f"wav{sampling_rate // 1_000}k", mode, part)
    places = [data.joinpath(*below[start:]) for start in range(len(below), -1, -1)]
    for place in places:
        if (place / "s1").is_dir():
            return place
    raise DataError(
        f"{data} holds no LibriMix for a model of {sampling_rate} Hz; what is looked for is a folder s1 beside "
        f"{', '.join(CONDITIONS)}, here or in {places[-1].relative_to(data)}"
    )


def list_items(folder: Path, condition: str) -> list[Item]:
    """The mixtures of one condition with their sources; `mix_single` has one speaker, the others all there are.

    Raises:
        DataError: if the condition, a mixture or a source is missing.
    """
    if condition not in CONDITIONS:
        raise DataError(f"--mixture is {condition!r}; LibriMix has {', '.join(CONDITIONS)}")
    names = sorted(path.name for path in (folder / condition).glob("*.wav"))
    if not names:
        raise DataError(f"{folder / condition} holds no .wav; --mixture names another folder")
    numbers = range(1, 2 if condition == "mix_single" else 10)
    speakers = [folder / f"s{number}" for number in numbers if (folder / f"s{number}").is_dir()]
    items = [Item(folder / condition / name, tuple(speaker / name for speaker in speakers)) for name in names]
    for item in items:
        for source in item.sources:
            if not source.is_file():
                raise DataError(f"{item.mixture} has no {source.relative_to(folder)}")
    return items


def read_metadata(table: Path, root: Path | None) -> list[Item]:
    """The mixtures of LibriMix's own CSV: `mixture_path`, `source_1_path` and so on.

    Args:
        table: the CSV.
        root: what relative paths start from; by default the folder of the table.

    Raises:
        DataError: if a column or a recording is missing.
    """
    rows = read_table(table)
    columns = [name for name in rows[0] if name.startswith("source_") and name.endswith("_path")]
    if not columns or "mixture_path" not in rows[0]:
        raise DataError(f"{table} must have the columns mixture_path and source_1_path")
    base = root or table.parent
    items = [Item(base / row["mixture_path"], tuple(base / row[name] for name in columns)) for row in rows]
    for item in items:
        for path in (item.mixture, *item.sources):
            if not is_file(path):
                raise DataError(f"{table} names {path}, which is not there; --root says what paths start from")
    return items


def read_item(item: Item, sampling_rate: int) -> tuple[Tensor, Tensor]:
    """The mixture (samples,) and its sources (num_sources, samples).

    Raises:
        DataError: if they are not mono, of one length, and of this rate.
    """
    waveforms = []
    for path in (item.mixture, *item.sources):
        recording = read_audio(path, way_out=SPLIT_IT)
        if recording.sampling_rate != sampling_rate or recording.waveform.shape[0] != 1:
            raise DataError(
                f"{path} has {recording.waveform.shape[0]} channels at {recording.sampling_rate} Hz; the model takes "
                f"one at {sampling_rate} Hz, and the set is not changed: name that of its rate"
            )
        waveforms.append(torch.from_numpy(recording.waveform[0]))
    if len({len(waveform) for waveform in waveforms}) > 1:
        raise DataError(f"{item.mixture} and its sources have {[len(w) for w in waveforms]} samples; they must agree")
    return waveforms[0], torch.stack(waveforms[1:])


@torch.no_grad()
def evaluate_items(
    model: Any, items: Sequence[Item], *, on_progress: Callable[[], Any] | None = None
) -> dict[str, Any]:
    """Separates every mixture of one condition.

    Args:
        model: an `XForAudioSeparation` without queries, in evaluation mode.
        items: from `list_items` or `read_metadata`.
        on_progress: called after each mixture.

    Returns:
        `mixtures`, and of `si_snri`, `sdri` and `si_sdri` in dB the mean, `..._median` and interval `..._ci` over
        mixtures, each of which counts with the mean of its sources. Those with a source that is silent are left out;
        these sources are `silent`.

    Raises:
        DataError: if the model has fewer outputs than a mixture has sources, or each has a silent one.
    """
    rows = []
    silent: list[str] = []
    for item in items:
        mixture, references = read_item(item, model.config.sampling_rate)
        quiet = is_silent(references)
        if quiet.any():
            silent.append(place_in_set(item.sources[int(quiet.int().argmax())]))
            if on_progress is not None:
                on_progress()
            continue
        sources = separate(model, mixture[None])[0][:, 0].cpu()
        if len(sources) < len(references):
            raise DataError(f"{item.mixture} has {len(references)} speakers, the model {len(sources)} outputs")
        scores = separation_scores(sources, references, mixture)
        ordered = sources[scores["order"]]
        scores["si_sdri"] = si_sdr(ordered, references) - si_sdr(mixture.expand_as(references), references)
        rows.append({name: scores[name].mean().item() for name in NAMES})
        if on_progress is not None:
            on_progress()
    check_some_heard(len(rows), silent)
    return {**summarise(rows, NAMES), **({"silent": silent} if silent else {})}


def format_table(result: dict[str, Any]) -> str:
    """The result as a text table, a line a condition."""
    columns = ["mixtures", *(f"{name}{end}" for name in NAMES for end in ("", "_median"))]
    lines = [f"{'mixtures of':<14}" + "".join(f"{name:>16}" for name in columns) + f"{'si_sdri, 95 %':>18}"]
    for label, row in result["classes"].items():
        bounds = "-" if row["si_sdri_ci"] is None else "{} to {}".format(*row["si_sdri_ci"])
        lines.append(f"{label:<14}" + "".join(f"{row[name]:>16}" for name in columns) + f"{bounds:>18}")
    for row in result["classes"].values():
        lines += format_silent(row.get("silent", []))
    return "\n".join(lines)


def run(request: Request) -> dict[str, Any]:
    """Evaluates a separator of speakers on LibriMix and prints the table.

    Raises:
        DataError: if the model takes queries, or the set is not laid out as LibriMix is.
    """
    separator = pipeline(model=request.source)
    config = separator.model.config
    if config.is_text_queried:
        raise DataError(f"--dataset librimix is of speakers, and {request.model} is asked in words; see --dataset csv")
    if request.data.is_file():
        sets = {request.data.stem: read_metadata(request.data, request.root)}
        where = request.data.name
    else:
        folder = find_set(request.data, config.sampling_rate, request.mode, request.part)
        chosen = request.mixture or ("mix_single" if config.num_sources == 1 else "mix_clean",)
        sets = {condition: list_items(folder, condition) for condition in chosen}
        where = "/".join(folder.parts[-4:])
    sets = {label: items[: request.limit or len(items)] for label, items in sets.items()}
    classes = {}
    with tqdm(total=sum(map(len, sets.values())), desc="mixtures") as bar:
        for label, items in sets.items():
            classes[label] = evaluate_items(separator.model, items, on_progress=bar.update)
    result: dict[str, Any] = {"classes": classes}
    print(format_table(result))
    result["measured_on"] = (
        f"On {where}, every mixture separated whole: SI-SNR, SDR (BSS Eval) and SI-SDR improvement over the mixture "
        "in the best order of the outputs, mean and median over mixtures."
    )
    return result


__all__ = ["Item", "evaluate_items", "find_set", "format_table", "list_items", "read_item", "read_metadata", "run"]
