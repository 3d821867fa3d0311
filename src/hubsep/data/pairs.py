# SPDX-License-Identifier: Apache-2.0
"""Mixtures of two held-out recordings, and how well a text-queried separator takes them apart.

`separate` is the one way from a mixture to a model's sources where a pipeline would only be in the way: in training,
and in evaluations that compare models as their papers do.
"""

from __future__ import annotations

import random
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import mean, median
from typing import Any

import torch
from torch import Tensor

from ..metrics.separation import interval, level_change, sdr_improvement, si_sdr
from ..pipelines.separation.meanings import find_text_queries, sums_of
from ..pipelines.separation.scores import ACTIVE_SCORE, Scores
from .mixing import excerpt, rms
from .prompts import absent_labels, heldout_phrases, taught_absent
from .recordings import Clip


@dataclass(frozen=True)
class Pair:
    """A 0 dB mixture of a target and an interferer, each (samples,), what is asked for, and the labels of both."""

    target: Tensor
    interferer: Tensor
    label: str
    recordings: tuple[tuple[str, ...], ...]

    @property
    def present(self) -> frozenset[str]:
        """The classes that are in it."""
        return frozenset(label for labels in self.recordings for label in labels)

    @property
    def mixture(self) -> Tensor:
        """Target plus interferer, (samples,)."""
        return self.target + self.interferer


def pair_mixtures(
    clips: list[Clip], sampling_rate: int, *, per_class: int = 10, seconds: float = 5.0, seed: int = 1
) -> list[Pair]:
    """Mixtures of every class with recordings of other classes at equal energy.

    Args:
        clips: held-out recordings.
        sampling_rate: of the clips, in Hz.
        per_class: mixtures with a target of each class; classes with fewer recordings use some of them again.
        seconds: length of a mixture.
        seed: decides partners and excerpts.
    """
    rng = random.Random(seed)
    classes: dict[str, list[Clip]] = defaultdict(list)
    for clip in clips:
        classes[clip.labels[-1]].append(clip)
    samples = int(seconds * sampling_rate)
    pairs = []
    for label in sorted(classes):
        targets = sorted(classes[label], key=lambda clip: clip.path)
        rng.shuffle(targets)
        for i in range(per_class):
            target = targets[i % len(targets)]
            strangers = [name for name in sorted(classes) if not set(target.labels) & set(classes[name][0].labels)]
            noise = rng.choice(classes[rng.choice(strangers)])
            first, second = excerpt(target, samples, rng), excerpt(noise, samples, rng)
            second = second * rms(first) / rms(second)
            gain = 0.1 / rms(first + second)
            labels = (target.labels, noise.labels)
            pairs.append(Pair(torch.from_numpy(first * gain), torch.from_numpy(second * gain), label, labels))
    return pairs


@torch.no_grad()
def separate(model: Any, mixture: Tensor, **queries: Tensor) -> tuple[Tensor, Tensor | None]:
    """What a model makes of one mixture as it is: whole, at the model's rate, without a pipeline around it.

    Args:
        model: an `XForAudioSeparation` in evaluation mode.
        mixture: (channels, samples); a mono model gets its channels one by one.
        **queries: what `forward` of a model takes beside the waveform.

    Returns:
        Sources (num_sources, channels, samples), float32, and presence logits (num_sources,) or None, on the model's
        device.
    """
    rows = mixture[:, None] if model.config.num_channels == 1 else mixture[None]
    output = model(rows.to(model.device), **queries)
    sources = output.sources[:, :, 0].transpose(0, 1) if model.config.num_channels == 1 else output.sources[0]
    logits = output.presence_logits
    return sources.float(), None if logits is None else logits.amax(dim=0)


@torch.no_grad()
def answer(model: Any, processor: Any, mixture: Tensor, queries: list[str]) -> tuple[Tensor, Tensor | None]:
    """Sources (queries, samples) of one mono mixture at the model's rate, and the scores a pipeline gives them.

    As in a pipeline, "a dog and rain" is the sum of two sounds, and words for nothing the model knows have less of a
    score.

    Args:
        model: an `AudioSepForAudioSeparation` in evaluation mode.
        processor: its processor.
        mixture: (samples,).
        queries: in words.
    """

    def encode(texts: list[str]) -> list[Tensor]:
        tokens = processor(text=texts, return_tensors="pt")
        return list(model.encode_text(*(tokens[name].to(model.device) for name in ("input_ids", "attention_mask"))))

    meant = find_text_queries(model, tuple(model.config.query_classes), queries, encode)
    sources, logits = separate(model, mixture[None], query_embeds=torch.stack(meant.embeds))
    sources, logits = sources.cpu(), None if logits is None else logits.float().cpu()
    if (sums := sums_of(queries, meant, 0)) is not None:
        sources = sums.of(sources[None])[0] + torch.from_numpy(sums.mixture)[:, None, None] * mixture
        logits = None if logits is None else sums.presence(logits)
    if logits is None:
        return sources[:, 0], None
    scores = Scores(len(queries), model.config.sampling_rate, residual=False, unordered=False)
    scores.add(mixture[None].numpy(), sources.numpy(), logits)
    probabilities = [meaning.probability for meaning in meant.meanings]
    return sources[:, 0], torch.tensor(scores.values()) * torch.tensor(probabilities)


@torch.no_grad()
def evaluate_pairs(
    model: Any,
    processor: Any,
    pairs: list[Pair],
    *,
    unseen: bool = False,
    intervals: bool = False,
    on_progress: Callable[[], Any] | None = None,
) -> dict[str, Any]:
    """Separates every pair by its label and for a taught sound it does not hold.

    Args:
        model: an `AudioSepForAudioSeparation` in evaluation mode.
        processor: its processor.
        pairs: from `pair_mixtures`.
        unseen: whether to ask in words never used in training as well.
        intervals: whether to add confidence intervals of the means, `sdri_ci` and `si_sdri_ci`.
        on_progress: called after each pair.

    Returns:
        Means `sdri`, `si_sdri`; medians `absent_level` (dB against the mixture), `score_present`, `score_absent`; as
        shares, how often a sound that is there was scored below a half, `missed`, and one that is not above,
        `false_alarms`; with `unseen` also `unseen_sdri`; and `classes`, the same by class.
    """
    rng, taught = random.Random(7), frozenset(model.config.known_sounds)
    rows: list[dict[str, Any]] = []
    for number, pair in enumerate(pairs):
        queries = [pair.label, vain(pair.recordings, taught, rng)]
        phrases = heldout_phrases(pair.label) if unseen else []
        queries += [phrases[number % len(phrases)]] if phrases else []
        sources, presence = answer(model, processor, pair.mixture, queries)
        row = {"label": pair.label, **improvements(sources[0], pair)}
        row["absent_level"] = level_change(sources[1], pair.mixture).item()
        if presence is not None:
            there, absent = presence[0].item(), presence[1].item()
            row |= {"score_present": there, "missed": there < ACTIVE_SCORE}
            row |= {"score_absent": absent, "false_alarms": absent >= ACTIVE_SCORE}
        if phrases:
            row["unseen_sdri"] = improvements(sources[2], pair)["sdri"]
            row["seen_sdri"] = row["sdri"]
        rows.append(row)
        if on_progress is not None:
            on_progress()
    labels = sorted({row["label"] for row in rows})
    classes = {label: summarise([row for row in rows if row["label"] == label], intervals) for label in labels}
    return {**summarise(rows, intervals), "classes": classes}


def improvements(estimate: Tensor, pair: Pair) -> dict[str, float]:
    """SDR and SI-SDR improvement of an estimate over the mixture, in dB."""
    gains = {
        "sdri": sdr_improvement(estimate, pair.target, pair.mixture),
        "si_sdri": si_sdr(estimate, pair.target) - si_sdr(pair.mixture, pair.target),
    }
    return {name: value.item() for name, value in gains.items()}


def summarise(rows: list[dict[str, Any]], intervals: bool = False) -> dict[str, Any]:
    """Means of the improvements and medians of levels and scores over rows, and how many there were."""
    summary: dict[str, Any] = {"mixtures": len(rows)}
    for name in ("sdri", "si_sdri", "seen_sdri", "unseen_sdri"):
        values = [row[name] for row in rows if name in row]
        if values:
            summary[name] = round(mean(values), 2)
    for name in ("absent_level", "score_present", "score_absent"):
        values = [row[name] for row in rows if name in row]
        if values:
            summary[name] = round(median(values), 3)
    for name in ("missed", "false_alarms"):
        values = [row[name] for row in rows if name in row]
        if values:
            summary[name] = round(mean(values), 4)
    if intervals:
        summary.update({f"{name}_ci": interval([row[name] for row in rows]) for name in ("sdri", "si_sdri")})
    return summary


def missing(recordings: Sequence[Sequence[str]], taught: frozenset[str]) -> tuple[list[str], list[str]]:
    """Sounds a model was taught that are not in a mixture: of other families, and of a family that is there.

    Args:
        recordings: the labels of each recording in the mixture, the most specific one last.
        taught: what the model was taught; the first are other sounds of the catalogue where none of it is missing.
    """
    strangers, relatives = ([name for name in names if name in taught] for names in taught_absent(recordings))
    return strangers or absent_labels({label for labels in recordings for label in labels}), relatives


def vain(recordings: Sequence[Sequence[str]], taught: frozenset[str], rng: random.Random) -> str:
    """One of what is `missing`, half the time of a family that is there if there is such a one."""
    strangers, relatives = missing(recordings, taught)
    return rng.choice(relatives if relatives and rng.random() < 0.5 else strangers)


__all__ = [
    "Pair",
    "answer",
    "evaluate_pairs",
    "improvements",
    "missing",
    "pair_mixtures",
    "separate",
    "summarise",
    "vain",
]
