# SPDX-License-Identifier: Apache-2.0
"""Measures a separator of speakers on people no training run has heard: short mixtures, and a long conversation.

The mixtures are of two (or as many as the model separates) speakers who all talk all the time, the first 0 to 2.5 dB
louder; they depend on the recordings and the seed alone. SI-SNR and SDR (BSS Eval with 512 taps) are improvements over
the mixture in the best order of the outputs. In a conversation it counts whether a speaker stays on one output:
improvements hide that, because the order is chosen anew for every mixture. Models with one output are given one
speaker under noise, and judged by that speaker. The memory of a conversation is the process's peak, and how much of
it the separation added; the waveforms handed out are part of that.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from statistics import mean, median
from typing import Any

import torch
from torch import Tensor
from tqdm.auto import tqdm

from ..data.conversations import Conversation, conversation
from ..data.noisy import NoisySpeech, noisy_mixtures
from ..data.pairs import separate
from ..data.recordings import Clip, check_heard, load_clips, split_clips
from ..data.speech import SpeechMixture, speech_mixtures
from ..errors import DataError
from ..losses import assign, pairwise_si_snr
from ..metrics.separation import interval, separation_scores
from .speech_conditions import evaluate_conditions


KINDS = {"same gender": True, "mixed gender": False, "gender unknown": None}
SILENCE_DB = -40.0
MARGIN_DB = 1.0


@torch.no_grad()
def evaluate_mixtures(
    model: Any, mixtures: Sequence[SpeechMixture | NoisySpeech], *, on_progress: Callable[[], Any] | None = None
) -> dict[str, Any]:
    """Separates every mixture.

    Args:
        model: an `XForAudioSeparation` without queries, in evaluation mode.
        mixtures: from `speech_mixtures` or `noisy_mixtures`.
        on_progress: called after each mixture.

    Returns:
        `mixtures`, means `si_snri` and `sdri`, medians `si_snri_median` and `sdri_median` and intervals of the means
        `si_snri_ci` and `sdri_ci` in dB, over mixtures (a mixture counts with the mean of its sources); and `classes`,
        the same by gender or by level of the noise.
    """
    rows: list[dict[str, Any]] = []
    for item in mixtures:
        sources = separate(model, item.mixture[None])[0][:, 0].cpu()
        scores = separation_scores(sources, item.sources, item.mixture)
        rows.append({"kind": kind_of(item), **{name: scores[name].mean().item() for name in ("si_snri", "sdri")}})
        if on_progress is not None:
            on_progress()
    kinds = sorted({row["kind"] for row in rows}, key=lambda kind: list(KINDS).index(kind) if kind in KINDS else 0)
    classes = {kind: summarise([row for row in rows if row["kind"] == kind]) for kind in kinds}
    return {**summarise(rows), "classes": classes}


def kind_of(item: SpeechMixture | NoisySpeech) -> str:
    """What class of mixture it counts for."""
    if isinstance(item, NoisySpeech):
        return item.kind
    return next(name for name, same in KINDS.items() if same is item.same_gender)


def summarise(rows: list[dict[str, Any]], names: Sequence[str] = ("si_snri", "sdri")) -> dict[str, Any]:
    """Mean, median and the interval of the mean of the improvements over rows, and how many there were."""
    summary: dict[str, Any] = {"mixtures": len(rows)}
    for name in names:
        summary[name] = round(mean(row[name] for row in rows), 2)
        summary[f"{name}_median"] = round(median(row[name] for row in rows), 2)
    summary.update({f"{name}_ci": interval([row[name] for row in rows]) for name in names})
    return summary


def orders_by_second(sources: Tensor, references: Tensor, sampling_rate: int) -> Tensor:
    """SI-SNR in dB of every output against every speaker, second by second: (seconds, outputs, speakers).

    Seconds in which nobody speaks are left out. A speaker who is silent in a second, 40 dB below the level at which
    that speaker talks, is as far from every output.
    """
    seconds = references.shape[-1] // sampling_rate
    outputs, truth = (
        x[:, : seconds * sampling_rate].unflatten(1, (seconds, sampling_rate)).transpose(0, 1).float()
        for x in (sources, references)
    )
    power = truth.square().mean(dim=-1)
    talking = (power * (power > 0)).sum(dim=0) / (power > 0).sum(dim=0).clamp_min(1)
    active = power > talking * 10 ** (SILENCE_DB / 10)
    kept = active.any(dim=1)
    outputs, truth = outputs[kept], (truth * active.unsqueeze(-1))[kept]
    truth = torch.nn.functional.pad(truth, (0, 0, 0, outputs.shape[1] - truth.shape[1]))
    return torch.cat(
        [
            pairwise_si_snr(some.unsqueeze(2), true.unsqueeze(2))
            for some, true in zip(outputs.split(64), truth.split(64), strict=True)
        ]
    )


def swap_rate(sources: Tensor, references: Tensor, sampling_rate: int) -> dict[str, float]:
    """How well speakers stay on one output of a long recording.

    A second counts as swapped against an order of the outputs when another order is better in it by more than
    `MARGIN_DB` a speaker; closer ones say nothing, such as where both outputs hold the same.

    Args:
        sources: outputs, (outputs, samples).
        references: the true sources, (num_sources, samples), silent where a speaker says nothing.
        sampling_rate: in Hz.

    Returns:
        `seconds` in which somebody speaks; `swaps`, how often the order changes from one of them to the next;
        `swaps_per_minute` of those seconds; `wrong_seconds`, the share of them that are not in the order that is best
        for the whole recording.
    """
    scores = orders_by_second(sources, references, sampling_rate)
    speakers, margin = torch.arange(scores.shape[-1]), MARGIN_DB * references.shape[0]
    whole = assign(scores.sum(dim=0, keepdim=True))[0]
    current, wrong, swaps = whole, 0, 0
    for second, table in enumerate(scores):
        stay = torch.zeros_like(table)
        stay[current, speakers] = 1e-3  # where a speaker is silent, no output is better: the order stays
        best = assign((table + stay).unsqueeze(0))[0]
        lead = table[best, speakers].sum()
        wrong += int(lead - table[whole, speakers].sum() > margin)
        if lead - table[current, speakers].sum() > margin:
            swaps, current = swaps + (second > 0), best
    spoken = max(len(scores), 1)
    return {
        "seconds": len(scores),
        "swaps": swaps,
        "swaps_per_minute": round(60 * swaps / spoken, 3),
        "wrong_seconds": round(wrong / spoken, 4),
    }


def evaluate_conversation(separator: Any, talk: Conversation) -> dict[str, float]:
    """Separates a conversation through a pipeline: `swap_rate`, and the improvements over the whole of it.

    Also `processing_s`, and `memory_mb`: the most this process has ever held, and `memory_added_mb`: how much higher
    that is than before (both where the system tells).
    """
    before, start = peak_memory_mb(), time.perf_counter()
    entries = separator(talk.mixture[None].numpy(), sampling_rate=talk.sampling_rate)
    taken, after = time.perf_counter() - start, peak_memory_mb()
    sources = torch.stack([torch.from_numpy(entry["audio"][0]) for entry in entries])
    scores = separation_scores(sources, talk.sources, talk.mixture)
    result = {"minutes": round(talk.sources.shape[-1] / talk.sampling_rate / 60, 2)}
    result.update({name: round(scores[name].mean().item(), 2) for name in ("si_snri", "sdri")})
    result.update(swap_rate(sources, talk.sources, talk.sampling_rate))
    result["wrong_s"] = round(result["wrong_seconds"] * result["seconds"])
    result["processing_s"] = round(taken, 1)
    if before is not None and after is not None:
        result.update({"memory_mb": round(after), "memory_added_mb": round(after - before)})
    return result


def peak_memory_mb() -> float | None:
    """The most this process has ever held in memory, in megabytes; None where the system does not tell."""
    try:
        import resource
    except ImportError:  # Windows
        return None
    unit = 1_024**2 if sys.platform == "darwin" else 1_024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / unit


def format_table(result: dict[str, Any]) -> str:
    """The result as a text table, a line a kind of mixture and one for all; conversations below."""
    columns = ["mixtures", "si_snri", "si_snri_median", "sdri", "sdri_median"]
    lines = [f"{'speakers':<20}" + "".join(f"{name:>16}" for name in columns)]
    for label, row in [*result["classes"].items(), ("all", result)]:
        lines.append(f"{label:<20}" + "".join(f"{row[name]:>16}" for name in columns))
    for label, row in result.get("conversations", {}).items():
        values = ", ".join(f"{name} {value}" for name, value in row.items())
        wrong = f"{row['wrong_s']} of {row['seconds']} spoken seconds on the wrong output"
        lines.append(f"conversation, {label}: {wrong}; {values}")
    for label, row in result.get("conditions", {}).items():
        lines.append(f"{label}: " + ", ".join(f"{name} {value}" for name, value in row.items()))
    return "\n".join(lines)


def main(
    separator: Any, data: Path, *, folders: tuple[str, ...] = (), mixtures: int = 200, seconds: float = 4.0,
    speakers: int = 0, seed: int = 1, all_recordings: bool = False, conversation_minutes: float = 0.0,
    noise: Path | None = None,
) -> dict[str, Any]:  # fmt: skip
    """Evaluates a model that separates speakers, or takes noise off one, and prints the table.

    Args:
        separator: a pipeline.
        data: folder with `metadata.csv`, or the parent of `folders`.
        folders: sub-folders of `data` to read.
        mixtures: how many.
        seconds: length of a mixture.
        speakers: in a mixture and a conversation, 0 for as many as the model has outputs.
        seed: decides speakers, excerpts and levels.
        all_recordings: use every recording (of data no training heard) rather than those held out by the split.
        conversation_minutes: length of a conversation of men or of women, and of one of both; 0 for none.
        noise: folder of other sounds with `metadata.csv`: noises for models with one output, and what stands beside
            two speakers.

    Raises:
        DataError: if there are more speakers than outputs, or one output and no noise or a conversation.
    """
    config = separator.model.config
    people, rate = speakers or config.num_sources, config.sampling_rate
    _check(people, config.num_sources, noise, conversation_minutes)
    heldout = _heldout([data / name for name in folders or (".",)], rate, all_recordings)
    options: dict[str, Any] = {"count": mixtures, "seconds": seconds, "seed": seed}
    fixed: Sequence[SpeechMixture | NoisySpeech]
    noises = [] if noise is None else _heldout([noise], rate, all_recordings)
    if people == 1:
        fixed = noisy_mixtures(heldout, noises, rate, **options)
    else:
        fixed = speech_mixtures(heldout, rate, num_sources=people, **options)
    with tqdm(total=len(fixed), desc="mixtures") as bar:
        result = evaluate_mixtures(separator.model, fixed, on_progress=bar.update)
    if conversation_minutes > 0:
        result["conversations"] = {}
        for label in ("same gender", "mixed gender"):
            talk = conversation(
                heldout, rate, minutes=conversation_minutes, num_sources=people, one_gender=KINDS[label], seed=seed
            )
            result["conversations"][label] = evaluate_conversation(separator, talk)
    if people == 2:
        result["conditions"] = evaluate_conditions(
            separator, heldout, [clip for clip in noises if "speech" not in clip.labels], rate,
            count=max(1, mixtures // 5), seconds=seconds, seed=seed,
        )  # fmt: skip
    print(format_table(result))
    origin = "no training heard" if all_recordings else "held out of training"
    people_told = f"{people} speakers" if people > 1 else "one speaker under noise,"
    result["measured_on"] = (
        f"On {mixtures} mixtures of {seconds:g} s of {people_told} {origin}: SI-SNR and SDR (BSS Eval) improvement "
        "over the mixture in the best order of the outputs."
    )
    return result


def _check(people: int, outputs: int, noise: Path | None, minutes: float) -> None:
    """Refuses what the model cannot be asked."""
    if not 1 <= people <= outputs:
        raise DataError(f"this evaluation is of 1 to {outputs} speakers; for {people} the model has {outputs} outputs")
    if people == 1 and (noise is None or minutes > 0):
        raise DataError(
            "with one speaker it is noise that is taken away, from short mixtures: name a folder of it with --noise, "
            "and leave out --conversation-minutes"
        )
    if people > 2 and noise is not None:
        raise DataError(f"--noise is for one or two speakers, here they are {people}; leave it out")


def _heldout(folders: list[Path], sampling_rate: int, all_recordings: bool) -> list[Clip]:
    """Recordings no training run of ours has heard."""
    clips = load_clips(folders, sampling_rate, commercial_only=not all_recordings)
    check_heard(clips)
    return clips if all_recordings else split_clips(clips)[1]


__all__ = ["evaluate_conversation", "evaluate_mixtures", "format_table", "main", "peak_memory_mb", "swap_rate"]
