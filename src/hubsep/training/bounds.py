# SPDX-License-Identifier: Apache-2.0
"""What the settings of recipes may be: one table for all of them, looked into before anything is loaded or measured.

Decisions: a name means one thing in every recipe, so its bounds are given once, whatever class it is a field of. They
are wide: they keep out what no run could use, a batch of a billion or a probability of two, not what is unwise. A
setting's own default is always allowed, 0 for "the system's own" for instance.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from pathlib import Path
from types import UnionType
from typing import Any, TypeVar, get_args, get_origin, get_type_hints

from ..errors import DataError
from ..hub.bounds import shown


Settings = TypeVar("Settings")
Bounds = tuple[float, float]

STEPS: Bounds = (1, 100_000_000)
SHARE: Bounds = (0, 1)
COUNT: Bounds = (1, 100_000)
ITEMS: Bounds = (1, 65_536)
WEIGHT: Bounds = (0, 1_000_000)
DECIBELS: Bounds = (-200, 200)
SECONDS: Bounds = (0.01, 600)
TOKENS: Bounds = (1, 4_096)
WORDS: Bounds = (0, 1_000_000)
LARGEST = 1e18  # of a number without bounds of its own; also keeps infinity and NaN out

LIMITS: dict[str, Bounds] = {
    # the run
    "steps": (0, STEPS[1]), "warmup_steps": (0, STEPS[1]), "eval_every": STEPS, "save_every": STEPS,
    "patience": WEIGHT, "minutes": (0, 1_000_000), "batch_size": ITEMS, "workers": (0, 256), "seed": (0, 2**32 - 1),
    "learning_rate": (0, 10), "weight_decay": (0, 10), "average_decay": SHARE, "max_grad_norm": (0, 1_000_000),
    "temperature": (0.0001, 1_000), "missed": SHARE,
    # adapters
    "rank": (1, 1_024), "alpha": (0, 10_000),
    # what is judged, and on how much
    "validation_fraction": (0, 0.9), "validation_mixtures": COUNT, "validation_seconds": (0.1, 600),
    "final_mixtures": COUNT, "validation_clips": COUNT, "validation_batch": ITEMS, "validation_songs": COUNT,
    "most_validated": COUNT, "calibration_mixtures": COUNT, "mixtures": COUNT, "pool": COUNT,
    "least_recordings": (0, COUNT[1]), "most_per_class": COUNT,
    # sounds and spectrograms
    "seconds": SECONDS, "sampling_rate": (1_000, 384_000), "hop_length": ITEMS, "num_mels": TOKENS,
    "views": (0, COUNT[1]), "speed_range": (0, 0.9), "spectrogram_items": WORDS, "shift_bins": (0, 10_000),
    "stretch": (0, 0.9), "tilt_nepers": (0, 100), "mixed": SHARE, "loudness_db": DECIBELS,
    # parts of models
    "discriminator_channels": TOKENS, "projection_dim": ITEMS, "loa_size": ITEMS, "text_size": ITEMS,
    "loa_tokens": TOKENS, "text_tokens": TOKENS,
    # weights of losses, and noise
    "kl_weight": WEIGHT, "slope_weight": WEIGHT, "mel_weight": WEIGHT, "adversarial_weight": WEIGHT,
    "loa_weight": WEIGHT, "embedding_noise": (0, 100), "noise": (0, 100), "condition_dropout": SHARE,
    "truth_probability": SHARE, "running_positions": SHARE, "hidden_words": SHARE, "foreign_words": SHARE,
    # words
    "common_words": WORDS, "sound_words": WORDS, "piece_letters": (0, 1_000), "templates": (0, 1_000),
    "unknown": (0, 1_000), "foreign": SHARE,
    # mixtures
    "level_range_db": (0, 100), "speed_probability": SHARE, "lone_probability": SHARE, "third_probability": SHARE,
    "absent_probability": SHARE, "group_probability": SHARE, "queries": (1, 64), "channels": (1, 64),
    "gain_range": (0, 100), "swap_probability": SHARE, "shuffle_probability": SHARE, "silent_probability": SHARE,
    "num_sources": (1, 64), "num_outputs": (0, 64), "partial_probability": SHARE, "partial_range": SHARE,
    "noise_probability": SHARE, "noise_snr_db": DECIBELS, "fewer_probability": SHARE, "nobody_probability": SHARE,
    "hum_probability": SHARE, "hum_snr_db": DECIBELS, "room_probability": SHARE, "equaliser_probability": SHARE,
    "lone": SHARE, "third": SHARE, "family": SHARE, "untaught": SHARE, "absent_family": SHARE, "together": SHARE,
    "group": SHARE, "nothing": SHARE, "doubt": SHARE, "room": SHARE, "equaliser": SHARE, "band": SHARE,
}  # fmt: skip
CHOICES: dict[str, tuple[str, ...]] = {
    # those of transformers' that need no more than the number of steps
    "schedule": (
        "constant", "constant_with_warmup", "cosine", "cosine_with_restarts", "inverse_sqrt", "linear", "polynomial",
    ),
    "base_dtype": ("bfloat16", "float16", "float32"),
}  # fmt: skip
NESTED = ("mixing", "scenes")  # fields of other settings, by the same names
NAMES = {bool: "true or false", int: "a whole number", float: "a number", str: "a text"}


def check_fields(settings_class: type[Any], values: Mapping[Any, Any], label: str) -> None:
    """Refuses settings that a class does not have, or that are of another kind or out of bounds.

    Args:
        settings_class: a dataclass.
        values: settings by their names.
        label: what such a setting is called, such as "recipe setting".

    Raises:
        DataError: naming the setting, its value, and what it may be.
    """
    fields = {field.name: field for field in dataclasses.fields(settings_class)}
    unknown = sorted(set(values) - set(fields), key=str)
    if unknown:
        names = ", ".join(sorted(fields))
        raise DataError(f"unknown {label} {shown(unknown[0])}; {settings_class.__name__} has {names}")
    kinds = get_type_hints(settings_class)
    for name, value in values.items():
        _check_kind(f"{label} {name}", value, kinds[name])
        if value != fields[name].default:
            check_bounds(f"{label} {name}", name, value)
        if name in NESTED:
            for key, item in value.items():
                check_bounds(f"{name} setting {shown(key)}", str(key), item)


def check_bounds(label: str, name: str, value: Any) -> None:
    """Refuses a number out of its bounds, alone or in a pair, and a word that is none of those there are.

    Raises:
        DataError: naming the setting, its value, and what it may be.
    """
    if name in CHOICES and value not in CHOICES[name]:
        raise DataError(f"{label} must be one of {', '.join(CHOICES[name])}, got {shown(value)}")
    low, high = LIMITS.get(name, (-LARGEST, LARGEST))
    for number in value if isinstance(value, list | tuple) else [value]:
        if isinstance(number, bool) or not isinstance(number, int | float):
            continue
        if not low <= number <= high:  # false for NaN as well
            raise DataError(f"{label} must be {low:.12g} to {high:.12g}, got {shown(value)}")


def settings_of(settings_class: type[Settings], values: Mapping[str, Any], what: str, **facts: Any) -> Settings:
    """Settings of a class, most of them from a recipe.

    Args:
        settings_class: a dataclass.
        values: of the recipe.
        what: the recipe's name for them, such as "mixing".
        **facts: what follows from the model, and cannot be otherwise in the recipe.

    Raises:
        DataError: as `check_fields`, and if the recipe contradicts the model, with both values.
    """
    check_fields(settings_class, values, f"{what} setting")
    for name, fact in facts.items():
        value = values.get(name, fact)
        if value != fact and not (isinstance(value, list | tuple) and list(value) == list(fact)):
            raise DataError(
                f"{what} setting {name} is {shown(value)} in the recipe, but {shown(fact)} for this model, which "
                f"decides it; leave {name} out of {what}, or train a model that has it"
            )
    return settings_class(**{**values, **facts})


def check_length(label: str, seconds: float, config: Any) -> None:
    """Refuses pieces of sound that are too short for a model to hear.

    Args:
        label: what the length is called, such as "mixing setting seconds".
        seconds: the length.
        config: of the model, with `sampling_rate` and `minimum_samples`.

    Raises:
        DataError: naming the length and the shortest one.
    """
    samples = int(seconds * config.sampling_rate)
    if samples < config.minimum_samples:
        least = math.ceil(config.minimum_samples / config.sampling_rate * 1_000) / 1_000
        raise DataError(
            f"{label} is {seconds:g}, which is {samples} samples at {config.sampling_rate} Hz; this model needs "
            f"{config.minimum_samples}: set it to at least {least:g}"
        )


def _check_kind(label: str, value: Any, kind: Any) -> None:
    """Refuses a number that is none, a text for a switch, a list for a table, and the like."""
    allowed = get_args(kind) if isinstance(kind, UnionType) else (kind,)
    if not any(_fits(value, one) for one in allowed):
        expected = " or ".join(_name_of(one) for one in allowed)
        raise DataError(f"{label} must be {expected}, got {shown(value)}")


def _fits(value: Any, kind: Any) -> bool:
    if kind is Any:
        return True
    if kind is type(None) or kind is bool:
        return type(value) is kind or (kind is type(None) and value is None)
    if kind in (int, float):
        is_number = isinstance(value, int if kind is int else int | float) and not isinstance(value, bool)
        return is_number and abs(value) < LARGEST
    if kind in (str, Path):
        return isinstance(value, str | Path)
    origin, inner = get_origin(kind), get_args(kind)
    if origin is list:
        return isinstance(value, list | tuple) and all(_fits(item, inner[0]) for item in value)
    if origin is tuple:
        kinds = [inner[0]] * len(value) if Ellipsis in inner and isinstance(value, list | tuple) else inner
        is_long = isinstance(value, list | tuple) and len(value) == len(kinds)
        return is_long and all(map(_fits, value, kinds))
    if isinstance(origin, type) and issubclass(origin, Mapping):
        return isinstance(value, Mapping) and all(
            _fits(key, inner[0]) and _fits(item, inner[1]) for key, item in value.items()
        )
    return True


def _name_of(kind: Any) -> str:
    origin = get_origin(kind)
    if origin is list:
        return "a list"
    if origin is tuple:
        inner = get_args(kind)
        return "a list" if Ellipsis in inner else f"a list of {len(inner)} numbers"
    if isinstance(origin, type) and issubclass(origin, Mapping):
        return "a table of name: value"
    return NAMES.get(kind, "a path" if kind is Path else "null")


__all__ = ["CHOICES", "LIMITS", "check_bounds", "check_fields", "check_length", "settings_of"]
