# SPDX-License-Identifier: Apache-2.0
"""Measures a separator of named stems on songs with BSS Eval version 4, by the rules of published results.

A song counts with the median over its seconds, a stem with the median over songs; seconds in which any stem is silent
are left out, and songs that have no others. The separator is given songs as any user gives them, at their own rate.
Beside each figure stands what the mixture itself would get as an estimate of the stem; corpora are never put together.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from pathlib import Path
from statistics import mean, median
from typing import Any

import numpy as np
import torch
from torch import Tensor
from tqdm.auto import tqdm

from ..data.multitracks import Entry, Multitrack, assign_targets, heldout_songs, musdb_songs
from ..errors import DataError
from ..metrics.bss_eval import METRICS, TAPS, BSSEval
from ..metrics.separation import interval, sdr


LEVELS = (1.0, 0.1, 0.01)
LEVEL_SONGS = 10  # of each corpus, turned down
COLUMNS = ("songs", *METRICS, "sdr_mean", "sdr_mixture", "sdri")


def score_song(separator: Any, song: Multitrack, *, taps: int = TAPS) -> dict[str, dict[str, float]]:
    """Separates a song and measures it.

    Args:
        separator: a pipeline of a model whose sources have names.
        song: mixture and stems.
        taps: of the distortion filters.

    Returns:
        For each target of `assign_targets`, medians over seconds in dB: `sdr`, `isr`, `sir`, `sar`, and `sdr_mixture`
        of the mixture as an estimate. NaN where in no second all stems are heard.
    """
    entries = separator({"array": song.mixture, "sampling_rate": song.sampling_rate})
    sources = {entry["label"]: entry["audio"] for entry in entries}
    targets = assign_targets(sources, song.stems)
    estimates = _sums(sources, [names for names, _ in targets.values()], song.mixture.shape)
    references = _sums(song.stems, [true for _, true in targets.values()], song.mixture.shape)
    measure = BSSEval(references, window=song.sampling_rate, hop=song.sampling_rate, taps=taps)
    scores = measure(estimates)
    scores["sdr_mixture"] = measure.sdr(torch.from_numpy(song.mixture).expand_as(references))
    return {
        target: {name: nan_median(score[number].tolist()) for name, score in scores.items()}
        for number, target in enumerate(targets)
    }


def _sums(waveforms: Any, groups: Sequence[tuple[str, ...]], shape: tuple[int, ...]) -> Tensor:
    """The sum of each group, (groups, channels, samples); a mono stem is the same in every channel."""
    total = np.zeros((len(groups), *shape), np.float32)
    for row, names in zip(total, groups, strict=True):
        for name in names:
            row += waveforms[name]
    return torch.from_numpy(total)


def nan_median(values: Sequence[float]) -> float:
    """The median of what is not NaN, the mean of the two in the middle of an even number; NaN of nothing."""
    numbers = [value for value in values if not math.isnan(value)]
    return median(numbers) if numbers else math.nan


def evaluate_songs(
    separator: Any, songs: Sequence[Entry], *, taps: int = TAPS, on_progress: Callable[[], Any] | None = None
) -> dict[str, Any]:
    """Separates and measures songs, one at a time.

    Args:
        separator: a pipeline of a model whose sources have names.
        songs: from `heldout_songs` or `musdb_songs`.
        taps: of the distortion filters; published figures are of 512.
        on_progress: called after each song.

    Returns:
        `classes`, a row of `summarise` for each stem, of each corpus if there are several; and `by_song`, a list of
        `name`, `corpus` and `seconds` with the `stems` of `score_song`, numbers in dB or None.
    """
    rows: list[dict[str, Any]] = []
    for entry in songs:
        song = entry.read()
        seconds = round(song.mixture.shape[1] / song.sampling_rate, 1)
        rows.append({"name": entry.name, "corpus": entry.corpus, "seconds": seconds})
        rows[-1]["stems"] = score_song(separator, song, taps=taps)
        if on_progress is not None:
            on_progress()
    corpora = sorted({row["corpus"] for row in rows})
    classes = {}
    for corpus in corpora:
        part = [row["stems"] for row in rows if row["corpus"] == corpus]
        stems = dict.fromkeys(stem for row in part for stem in row)
        for stem in stems:
            label = stem if len(corpora) == 1 else f"{corpus}: {stem}"
            classes[label] = summarise([row[stem] for row in part if stem in row])
    for row in rows:
        row["stems"] = {s: {name: number(v) for name, v in scores.items()} for s, scores in row["stems"].items()}
    return {"window_s": 1.0, "taps": taps, "classes": classes, "by_song": rows}


def evaluate_levels(separator: Any, songs: Sequence[Entry], levels: Sequence[float] = LEVELS) -> dict[str, Any]:
    """What is left of the separation where a song is softer: a recording is not always made for full scale.

    Args:
        separator: a pipeline of a model whose sources have names.
        songs: to turn down.
        levels: factors; the first is what the others are compared with.

    Returns:
        For each level and stem, by a name that says both: `songs` and `sdr_mean`, the mean SDR of whole songs in dB.
    """
    ratios: dict[tuple[float, str], list[float]] = {}
    for entry in songs:
        song = entry.read()
        for level in levels:
            entries = separator({"array": song.mixture * np.float32(level), "sampling_rate": song.sampling_rate})
            sources = {entry["label"]: entry["audio"] / np.float32(level) for entry in entries}
            targets = assign_targets(sources, song.stems)
            estimates = _sums(sources, [names for names, _ in targets.values()], song.mixture.shape)
            references = _sums(song.stems, [names for _, names in targets.values()], song.mixture.shape)
            for target, ratio in zip(targets, sdr(estimates.flatten(1), references.flatten(1)).tolist(), strict=True):
                ratios.setdefault((level, target), []).append(ratio)
    return {
        f"{target}, level {level:g}": {"songs": len(values), "sdr_mean": round(mean(values), 2)}
        for (level, target), values in sorted(ratios.items(), key=lambda item: (item[0][1], -item[0][0]))
    }


def summarise(rows: list[dict[str, float]]) -> dict[str, Any]:
    """One stem of one corpus.

    Args:
        rows: what `score_song` says of it, song by song.

    Returns:
        `songs`, how many count; medians over them of `sdr`, `isr`, `sir`, `sar`, of `sdr_mixture` and of `sdri`, the
        difference of the two; the mean `sdr_mean`; and the interval of the median, `sdr_ci`. In dB; None where there
        is no finite number.
    """
    rows = [row for row in rows if not math.isnan(row["sdr"])]
    summary: dict[str, Any] = {"songs": len(rows)}
    for name in METRICS:
        summary[name] = number(nan_median([row[name] for row in rows]))
    summary["sdr_mean"] = number(mean(row["sdr"] for row in rows) if rows else math.nan)
    summary["sdr_mixture"] = number(nan_median([row["sdr_mixture"] for row in rows]))
    summary["sdri"] = number(nan_median([row["sdr"] - row["sdr_mixture"] for row in rows]))
    summary["sdr_ci"] = interval([row["sdr"] for row in rows], "median")
    return summary


def number(value: float) -> float | None:
    """Two decimals, or None for what JSON has no number for."""
    return round(value, 2) if math.isfinite(value) else None


def format_table(result: dict[str, Any]) -> str:
    """The result as a text table, a line a stem."""
    width = max([20, *(len(label) + 2 for label in result["classes"])])
    lines = [f"{'stem':<{width}}" + "".join(f"{name:>13}" for name in COLUMNS)]
    for label, row in result["classes"].items():
        lines.append(f"{label:<{width}}" + "".join(f"{_shown(row[name]):>13}" for name in COLUMNS))
    return "\n".join(lines)


def format_songs(result: dict[str, Any]) -> str:
    """SDR of every stem, a line a song."""
    stems = list(dict.fromkeys(stem for song in result["by_song"] for stem in song["stems"]))
    lines = [f"{'SDR, dB':<48}" + "".join(f"{stem:>15}" for stem in stems)]
    for song in result["by_song"]:
        values = [song["stems"].get(stem, {}).get("sdr") for stem in stems]
        lines.append(f"{song['name'][:46]:<48}" + "".join(f"{_shown(value):>15}" for value in values))
    return "\n".join(lines)


def _shown(value: float | None) -> str:
    return "-" if value is None else str(value)


def limited(songs: Sequence[Entry], limit: int) -> list[Entry]:
    """The first songs of each corpus; all for a limit of 0."""
    seen: dict[str, int] = {}
    chosen = []
    for song in songs:
        seen[song.corpus] = seen.get(song.corpus, 0) + 1
        if not limit or seen[song.corpus] <= limit:
            chosen.append(song)
    return chosen


def main(
    separator: Any, data: Path, *, folders: tuple[str, ...] = (), all_recordings: bool = False, musdb: bool = False,
    limit: int = 0,
) -> dict[str, Any]:  # fmt: skip
    """Evaluates a model of named stems and prints the tables: of songs for MUSDB18, and of stems.

    Args:
        separator: a pipeline.
        data: folder with `metadata.csv`, or the parent of `folders`; with `musdb` that of MUSDB18 or MUSDB18-HQ.
        folders: sub-folders of `data` to read.
        all_recordings: use every song (of data no training heard) rather than those held out by the split.
        musdb: whether `data` is MUSDB18; its test part is used.
        limit: songs of each corpus, 0 for all.

    Raises:
        DataError: if there are no songs, or they do not have the stems of the model.
    """
    if separator.model.config.is_text_queried:
        raise DataError("a model that is asked in words has no stems of its own; songs are for models of named stems")
    paths = [data / name for name in folders or (".",)]
    songs = limited(musdb_songs(data) if musdb else heldout_songs(paths, all_recordings=all_recordings), limit)
    with tqdm(total=len(songs), desc="songs") as bar:
        result = evaluate_songs(separator, songs, on_progress=bar.update)
    result["conditions"] = evaluate_levels(separator, limited(songs, LEVEL_SONGS))
    if musdb:
        print(format_songs(result), end="\n\n")
    print(format_table(result))
    for label, row in result["conditions"].items():
        print(f"{label}: mean SDR {row['sdr_mean']} dB, {row['songs']} songs")
    origin = "the test part of MUSDB18" if musdb else "no training heard" if all_recordings else "held out of training"
    result["measured_on"] = (
        f"On {len(songs)} songs{', ' if musdb else ' '}{origin}: BSS Eval v4 as museval computes it (medians over "
        "seconds, then over songs), the mean over songs, and the SDR of the mixture taken as the estimate."
    )
    return result


__all__ = ["evaluate_levels", "evaluate_songs", "format_songs", "format_table", "main", "score_song", "summarise"]
