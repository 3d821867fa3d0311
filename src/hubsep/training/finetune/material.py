# SPDX-License-Identifier: Apache-2.0
"""What a fine-tune learns from and is measured on, for each of the three kinds of models.

Decisions: validation mixtures are fixed, of recordings whose sources no training item holds; where enough are held
out, the figures of the card come from other sources than those that chose the best point of the curve. A model
asked with text mixes the folder's sounds with each other and with those of `background`, asks for one of the folder's
sounds as often as for one of the background, which keeps the sounds it knew, and now and then in vain. What is
measured of those sounds is in every point of the curve, so that forgetting is seen while it happens.
"""

from __future__ import annotations

import hashlib
import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from statistics import mean
from typing import Any, TypeVar

import torch
from torch import Tensor
from torch.utils.data import Dataset

from ...data.contract import Row, check_commercial, hold_out, read_clips, read_rows
from ...data.mixing import ClipSampler, MixingSettings, MixtureDataset
from ...data.music import MusicMixtureDataset, MusicSettings, song_mixtures
from ...data.pairs import Pair, pair_mixtures, separate
from ...data.prompts import dress, phrases
from ...data.recordings import Clip, groups_of, load_clips, read_metadata, split_clips
from ...data.speech import SpeechMixtureDataset, SpeechSettings, speech_mixtures
from ...data.stems import assign_stems, read_song
from ...errors import DataError
from ...metrics.separation import sdr_improvement, si_snr
from ..bounds import check_length, settings_of
from ..separators import music, speech
from ..validation import Judge


OWN, OTHERS = "own", "others"  # corpora of the clips: the folder's, and the background's
T = TypeVar("T")
LEAST = 2  # sources of a class that are held out, and that stay


@dataclass
class Material:
    """Data of a fine-tune.

    Attributes:
        kind: "sounds", "speakers" or "songs".
        rows: of the folder, and then of the background.
        dataset: gives the training items of a length.
        judge: measures a model during training; `detail` measures it at the end and before, by class.
        labels: of the folder's sounds.
        commercial: whether all recordings may go into weights for commercial use.
        apart: whether `detail` measures on other sources than `judge`, so that its figures chose nothing.
        background_rows: the last of the rows, those of the background.
    """

    kind: str
    rows: list[Row]
    dataset: Callable[[int], Dataset[dict[str, Any]]]
    judge: Judge
    detail: Callable[[Any], dict[str, float]]
    labels: list[str] = field(default_factory=list)
    commercial: bool = True
    apart: bool = True
    background_rows: Sequence[Mapping[str, str]] = field(default_factory=list)


def kind_of(config: Any) -> str:
    """What kind of data a model learns from."""
    if config.is_text_queried:
        return "sounds"
    return "speakers" if config.unordered_sources or config.num_sources == 1 else "songs"


def load_material(model: Any, processor: Any, recipe: Any, data: Any, background: Path | None) -> Material:
    """Reads the data of a fine-tune.

    Args:
        model: that is fine-tuned.
        processor: of a text-queried model.
        recipe: a `FineTuneRecipe`.
        data: a folder, or a dataset.
        background: a folder of other sounds, as our own corpora are, or None.

    Raises:
        DataError: if the data does not keep the contract, or cannot teach this model.
        AudioError: if a recording cannot be read.
    """
    kind = kind_of(model.config)
    kinds: dict[str, tuple[Callable[..., Any], Callable[..., Material]]] = {
        "sounds": (sound_settings, _sounds),
        "speakers": (speech_settings, _speakers),
        "songs": (song_settings, _songs),
    }
    mixed, load = kinds[kind]
    settings = mixed(model.config, recipe, background)
    rows = read_rows(data, kind)
    others = read_metadata(background) if background is not None else []
    commercial = check_commercial([*rows, *others], recipe.non_commercial)
    material = load(model, processor, recipe, settings, rows, background)
    material.rows, material.background_rows, material.commercial = [*rows, *others], others, commercial
    return material


class FineTuneMixtures(MixtureDataset):
    """Mixtures that also ask for the folder's sounds in vain."""

    sounds: list[str]

    def _text(self, clips: list[Clip], number: int | None, rng: random.Random) -> str:
        absent = [label for label in self.sounds if all(label not in clip.labels for clip in clips)]
        if number is None and absent and rng.random() < 0.5:
            return dress(rng.choice(phrases(rng.choice(absent))), rng)
        return super()._text(clips, number, rng)


def sound_settings(config: Any, recipe: Any, background: Path | None) -> MixingSettings:
    """How sounds are mixed for a model asked with text.

    Raises:
        DataError: if the recipe does not suit the model.
    """
    settings = settings_of(MixingSettings, recipe.mixing, "mixing", sampling_rate=config.sampling_rate)
    check_lengths(settings.seconds, config, recipe)
    return settings


def speech_settings(config: Any, recipe: Any, background: Path | None) -> SpeechSettings:
    """How speakers are mixed, with noise if there is a background.

    Raises:
        DataError: if the recipe does not suit the model, or noise is asked for and there is no folder of it.
    """
    sources = config.num_sources
    if sources == 1 and background is None:
        raise DataError("this model takes speech out of noise; name a folder of noises with --background")
    usual = 0.0 if background is None else 1.0 if sources == 1 else 0.5
    facts: dict[str, Any] = {"sampling_rate": config.sampling_rate, "num_sources": sources, "num_outputs": sources}
    settings = settings_of(SpeechSettings, {"noise_probability": usual, **recipe.mixing}, "mixing", **facts)
    if settings.noise_probability > 0 and background is None:
        raise DataError(
            f"mixing setting noise_probability is {settings.noise_probability:g}, and there is no noise; name a "
            "folder of noises with --background, or leave noise_probability out of mixing"
        )
    check_lengths(settings.seconds, config, recipe)
    return settings


def song_settings(config: Any, recipe: Any, background: Path | None) -> MusicSettings:
    """How songs are mixed.

    Raises:
        DataError: if the recipe does not suit the model, or there is a background.
    """
    if background is not None:
        raise DataError("songs are mixed with each other; leave out --background")
    facts: dict[str, Any] = {
        "sampling_rate": config.sampling_rate, "stems": config.source_names, "channels": config.num_channels,
    }  # fmt: skip
    settings = settings_of(MusicSettings, recipe.mixing, "mixing", **facts)
    check_length("mixing setting seconds", settings.seconds, config)
    return settings


def check_lengths(seconds: float, config: Any, recipe: Any) -> None:
    """Refuses mixtures that are too short for the model, those it learns from and those it is judged by.

    Raises:
        DataError: naming the setting.
    """
    check_length("mixing setting seconds", seconds, config)
    check_length("recipe setting validation_seconds", recipe.validation_seconds, config)


def _sounds(
    model: Any, processor: Any, recipe: Any, settings: MixingSettings, rows: list[Row], background: Path | None
) -> Material:
    rate, labels = model.config.sampling_rate, sorted({row["label"].strip() for row in rows})
    named = zip((row["label"].strip() for row in rows), groups_of(rows), strict=True)
    groups = hold_out(named, recipe.validation_fraction, LEAST)
    others = load_clips([background], rate) if background is not None else []
    others = known_sounds(others, model.config.known_sounds, labels)
    if len(labels) + len({clip.labels[0] for clip in others}) < 2:
        raise DataError(
            f"every recording is {labels[0]!r}; mixtures need other sounds as well: add rows with other labels, or "
            "name a folder of other sounds with --background"
        )
    clips = read_clips(rows, "sounds", rate, OWN)
    marked = [replace(clip, corpus=OTHERS, folder="") for clip in others]
    other_training, other_heldout = split_clips(marked, recipe.validation_fraction)
    training = [clip for clip in clips if clip.group not in groups] + other_training
    heldout, heldout_others = [clip for clip in clips if clip.group in groups], other_heldout or other_training

    def dataset(length: int) -> Dataset[dict[str, Any]]:
        mixtures = FineTuneMixtures(ClipSampler(training, {}), settings, length, recipe.seed)
        mixtures.sounds = labels
        return mixtures

    def pairs(clips: list[Clip], count: int, count_known: int) -> tuple[list[Pair], list[Pair]]:
        mixed = partial(pair_mixtures, clips, rate, seconds=recipe.validation_seconds)
        targets = [pair for pair in mixed(per_class=count, seed=1) if pair.label in labels]
        rest = [pair for pair in mixed(per_class=count_known, seed=2) if pair.label not in labels]
        return targets, rest[:: max(1, len(rest) // 40)]

    choosing, reporting, apart = two_parts(heldout, [(clip.labels[0], clip.group) for clip in heldout], labels)
    first, second, _ = two_parts(heldout_others, [(clip.labels[-1], clip.group) for clip in heldout_others], [])
    few = pairs(choosing + (first or heldout_others), max(2, recipe.validation_mixtures // len(labels)), 1)
    many = pairs(reporting + (second or heldout_others), recipe.final_mixtures, 3)
    title = "SDR improvement, dB (held-out 0 dB mixtures)"
    judge = Judge(partial(validate_queries, processor=processor, pairs=few), "sdri", title)
    detail = partial(validate_queries, processor=processor, pairs=many, by_class=True)
    return Material("sounds", [], dataset, judge, detail, labels, apart=apart)


@torch.no_grad()
def validate_queries(
    model: Any, processor: Any, pairs: tuple[list[Pair], list[Pair]], by_class: bool = False
) -> dict[str, float]:
    """Mean SDR improvement in dB of the folder's sounds, `sdri`, and of the others, `known_sdri`."""
    embeds: dict[str, Tensor] = {}
    result: dict[str, float] = {}
    for name, some in zip(("sdri", "known_sdri"), pairs, strict=True):
        gains: dict[str, list[float]] = {}
        for pair in some:
            if pair.label not in embeds:
                tokens = processor(text=[pair.label], return_tensors="pt").to(model.device)
                embeds[pair.label] = model.encode_text(tokens["input_ids"], tokens["attention_mask"])
            mixture = pair.mixture.to(model.device)
            source = separate(model, mixture[None], query_embeds=embeds[pair.label])[0][0, 0]
            gain = sdr_improvement(source, pair.target.to(model.device), mixture).item()
            gains.setdefault(pair.label, []).append(gain)
        if gains:
            result[name] = mean(gain for row in gains.values() for gain in row)
        if by_class:
            result.update({label: mean(row) for label, row in gains.items()})
    return {name: round(value, 3) for name, value in result.items()}


def _speakers(
    model: Any, processor: Any, recipe: Any, settings: SpeechSettings, rows: list[Row], background: Path | None
) -> Material:
    rate, sources = model.config.sampling_rate, model.config.num_sources
    named = [("speech", row["speaker"]) for row in rows]
    held = hold_out(named, recipe.validation_fraction, max(LEAST, sources), "speakers")
    clips = read_clips(rows, "speakers", rate, OWN)
    noises = split_clips(load_clips([background], rate))[0] if background is not None else []
    if background is not None and not noises:
        raise DataError(f"{background}, the --background, has no recordings to learn from; name a folder of noises")
    training = [clip for clip in clips if clip.group not in held]
    heldout = [clip for clip in clips if clip.group in held]

    choosing, reporting, apart = two_parts(heldout, [("speech", clip.group) for clip in heldout], ["speech"], sources)

    def mixtures(clips: list[Clip], count: int) -> Any:
        if sources == 1:  # what is measured must be noisy as well
            return noisy_mixtures(SpeechMixtureDataset(clips, settings, count, recipe.seed + 1, noises))
        return speech_mixtures(
            clips, rate, count=count, num_sources=sources, seconds=recipe.validation_seconds,
            level_range_db=settings.level_range_db,
        )  # fmt: skip

    measure = validate_noisy if sources == 1 else speech.validate
    judge = Judge(
        partial(measure, mixtures=mixtures(choosing, recipe.validation_mixtures)), "si_snri",
        "SI-SNR improvement, dB (speakers never heard)",
    )  # fmt: skip
    detail = partial(measure, mixtures=mixtures(reporting, recipe.final_mixtures))

    def dataset(length: int) -> Dataset[dict[str, Any]]:
        return SpeechMixtureDataset(training, settings, length, recipe.seed, noises)

    return Material("speakers", [], dataset, judge, detail, apart=apart)


def noisy_mixtures(dataset: SpeechMixtureDataset) -> list[dict[str, Tensor]]:
    """Fixed mixtures of speech and noise."""
    return [dataset[number] for number in range(len(dataset))]


@torch.no_grad()
def validate_noisy(model: Any, mixtures: list[dict[str, Tensor]]) -> dict[str, float]:
    """Mean SI-SNR improvement in dB of speech taken out of noise."""
    gains = []
    for item in mixtures:
        mixture, label = item["input_values"].to(model.device), item["labels"][:, 0].to(model.device)
        source = separate(model, mixture)[0][:, 0]
        gains.append((si_snr(source, label) - si_snr(mixture, label)).mean().item())
    return {"si_snri": round(mean(gains), 3)}


def _songs(
    model: Any, processor: Any, recipe: Any, settings: MusicSettings, rows: list[Row], background: Path | None
) -> Material:
    names, rate = model.config.source_names, model.config.sampling_rate
    groups = groups_of(rows)
    held = hold_out((("songs", group) for group in groups), recipe.validation_fraction, LEAST, "artists")
    songs = []
    for row, group in zip(rows, groups, strict=True):
        song = read_song({**row, "group": group}, rate)
        assign_stems(song.stems, names)
        songs.append(song)
    training, heldout = [s for s in songs if s.group not in held], [s for s in songs if s.group in held]
    choosing, reporting, apart = two_parts(heldout, [("songs", song.group) for song in heldout], ["songs"])
    few = song_mixtures(choosing[: recipe.validation_mixtures], names, 2)
    many = song_mixtures(reporting[: recipe.final_mixtures], names, 2)
    title = "SDR improvement, dB (songs of artists never heard)"
    judge = Judge(partial(music.validate, songs=few), "sdri", title)
    detail = partial(music.validate, songs=many)

    def dataset(length: int) -> Dataset[dict[str, Any]]:
        return MusicMixtureDataset(training, settings, length, recipe.seed)

    return Material("songs", [], dataset, judge, detail, apart=apart)


def two_parts(
    items: Sequence[T], named: Sequence[tuple[str, str]], needed: Sequence[str], least: int = 1
) -> tuple[list[T], list[T], bool]:
    """Held-out items to choose the best point with, and others to report on, which share no group.

    Args:
        items: recordings or songs.
        named: class and group of each.
        needed: classes that both parts must hold; a class besides these may be in one part only.
        least: groups of each of them in each part.

    Returns:
        Both parts, and whether they are apart; if too few groups are held out, both are all of the items.
    """
    part_of: dict[str, int] = {}
    counts, total = {name: [0, 0] for name, _ in named}, [0, 0]
    for name, group in sorted(set(named), key=lambda row: (row[0], hashlib.sha256(row[1].encode()).hexdigest())):
        sizes = counts[name]
        if group not in part_of:
            part_of[group] = int((sizes[1], total[1]) < (sizes[0], total[0]))
            total[part_of[group]] += 1
        sizes[part_of[group]] += 1
    if any(min(counts.get(name, [0, 0])) < least for name in needed):
        return list(items), list(items), False
    parts: tuple[list[T], list[T]] = ([], [])
    for item, (_, group) in zip(items, named, strict=True):
        parts[part_of[group]].append(item)
    return *parts, True


def known_sounds(clips: list[Clip], taught: Sequence[str], new: Sequence[str]) -> list[Clip]:
    """Clips of sounds a model knows already; it would be asked in vain for others, which says what it leaves out."""
    kept = [clip for clip in clips if not set(clip.labels) & set(new) and (not taught or clip.labels[0] in taught)]
    if len(kept) < len(clips):
        others = sorted({clip.labels[0] for clip in clips} - {clip.labels[0] for clip in kept})
        print(f"background: {len(kept)} of {len(clips)} recordings; not of {', '.join(others)}", flush=True)
    return kept


__all__ = ["FineTuneMixtures", "Material", "kind_of", "known_sounds", "load_material", "validate_queries"]
