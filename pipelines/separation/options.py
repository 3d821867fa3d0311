# SPDX-License-Identifier: Apache-2.0
"""Everything that can be chosen for a call of the separation pipeline, and the segments that follow from it.

Also here: what can be chosen for a call beside what the pipeline itself offers: fields that a configuration declares.

A configuration names the fields that change nothing but how a loaded model is used in `call_options`. A call gets the
same weights under a configuration of its own, so threads that share a model can choose differently. The values are
checked as if they had been in `config.json`.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypedDict

from hubsep.audio.reader import OnShort
from hubsep.chunking import Segments
from hubsep.errors import AudioError, HubsepError, QueryError
from hubsep.hub.bounds import is_number, shown
from hubsep.hub.config import config_errors
from hubsep.texts import did_you_mean

from .protocols import SeparationConfig


if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
    from torch import Tensor

    from hubsep.audio.sources import AudioInput

    Embeds = Tensor | NDArray[np.floating] | Sequence[float]  # of one query, or one a row


MAX_SECONDS = 1e9
FLAGS = ("residual", "rescale", "only_active", "check_voices")
# what accelerate hangs on a model for the model it was hung on; what is inside of a model keeps its own
HOOKS = ("forward", "_old_forward", "_hf_hook")


def with_options(model: Any, options: Mapping[str, Any] | None) -> Any:
    """A model of the same weights with other options; the model itself stays as it is.

    Args:
        model: any model of the package.
        options: names and values of fields that its configuration lists in `call_options`.

    Raises:
        QueryError: if the model has no such option, or does not take this value.
    """
    if not options:
        return model
    view = copy.copy(model)
    for name in HOOKS:
        view.__dict__.pop(name, None)
    view.config = chosen_config(model.config, options)
    return view


def chosen_config(config: Any, options: Mapping[str, Any]) -> Any:
    """A copy of a configuration with other options.

    Raises:
        QueryError: as `with_options`.
    """
    names = config.call_options
    unknown = [name for name in options if name not in names]
    if unknown:
        offered = f"it takes {', '.join(names)}" if names else "it has none"
        hint = did_you_mean(str(unknown[0]), names)
        raise QueryError(f"{unknown[0]!r} is no option of this {config.model_type} model; {offered}.{hint}")
    config = copy.deepcopy(config)
    try:
        with config_errors("model_options"):
            for name, value in config.complete_options(dict(options)).items():
                setattr(config, name, value)
            config.check_fields()
    except HubsepError as error:
        raise QueryError(f"model_options: {error}") from error
    return config


# what other packages, and people, call these options
SYNONYMS = {
    "query": "queries", "text": "queries", "texts": "queries", "prompt": "queries", "prompts": "queries",
    "caption": "queries", "query_text": "queries", "audio_query": "query_audio", "example": "query_audio",
    "examples": "query_audio", "embeds": "query_embeds", "query_embed": "query_embeds", "negative": "negative_queries",
    "negative_prompt": "negative_queries", "negative_query": "negative_queries", "stem": "sources",
    "stems": "sources", "targets": "sources", "source": "sources", "options": "model_options", "rest": "residual",
    "sr": "sampling_rate", "rate": "sampling_rate", "sample_rate": "sampling_rate", "segment": "segment_s",
    "chunk_length_s": "segment_s", "stride_length_s": "overlap_s", "overlap": "overlap_s", "offset": "offset_s",
    "start": "offset_s", "duration": "duration_s", "callback": "on_progress", "progress": "on_progress",
}  # fmt: skip


@dataclass(frozen=True)
class SeparationOptions:
    """Everything that can be chosen for a call; `AudioSeparationPipeline.__call__` says what each means.

    Raises:
        QueryError: if a flag is neither True nor False, `model_options` no dict, or `on_progress` no function.
    """

    queries: str | Sequence[str] | None = None
    query_audio: AudioInput | Sequence[AudioInput] | Mapping[str, AudioInput] | None = None
    query_embeds: Embeds | Sequence[Embeds] | Mapping[str, Embeds] | None = None
    negative_queries: str | Sequence[str] | None = None
    sources: str | Sequence[str] | Mapping[str, str] | None = None
    model_options: Mapping[str, object] | None = None
    residual: bool = False
    rescale: bool = True
    only_active: bool = False
    batch_size: int = 1
    segment_s: float | None = None
    overlap_s: float | None = None
    offset_s: float = 0.0
    duration_s: float | None = None
    sampling_rate: int | None = None
    on_short: OnShort = "raise"
    check_voices: bool = True
    on_progress: Callable[[int, int | None], None] | None = None

    def __post_init__(self) -> None:
        for name in FLAGS:
            if not isinstance(getattr(self, name), bool):
                raise QueryError(f"{name} must be True or False, got {shown(getattr(self, name))}")
        if not (self.model_options is None or isinstance(self.model_options, Mapping)):
            raise QueryError(f"model_options must be a dict of names and values, got {shown(self.model_options)}")
        if not (self.on_progress is None or callable(self.on_progress)):
            raise QueryError(f"on_progress must be a function, got {shown(self.on_progress)}")

    @classmethod
    def of(cls, options: Mapping[str, Any]) -> SeparationOptions:
        """The options that are given; None is the default."""
        return cls(**{name: value for name, value in options.items() if value is not None})

    @property
    def opening(self) -> dict[str, Any]:
        """What `open_audio` is told."""
        return {name: getattr(self, name) for name in ("sampling_rate", "on_short", "offset_s", "duration_s")}

    def segments(self, config: SeparationConfig) -> Segments:
        """Segments of a model, with the lengths the caller chose in place of the model's own.

        The outer quarters of the overlap are context: they are where the model has least to go by. Without overlap, a
        model that can is given pieces whose sources add up to exactly those of the whole recording.
        """
        samples, overlap = config.segment_samples, config.overlap_samples
        if self.segment_s is not None:
            samples = _in_samples("segment_s", self.segment_s, config.sampling_rate)
        if self.overlap_s is not None:
            overlap = _in_samples("overlap_s", self.overlap_s, config.sampling_rate)
        if samples < config.minimum_samples:
            raise AudioError(
                f"segment_s is {samples} samples at {config.sampling_rate} Hz; this model needs at least "
                f"{config.minimum_samples} ({config.minimum_samples / config.sampling_rate:.3f} s)"
            )
        if overlap >= samples:
            raise AudioError(
                f"the overlap of {overlap / config.sampling_rate:g} s does not fit into segments of "
                f"{samples / config.sampling_rate:g} s; pass a smaller overlap_s or a larger segment_s"
            )
        exact = config.exact_segments(samples) if overlap == 0 else None
        return Segments(samples, overlap, overlap // 4) if exact is None else exact


class CallOptions(TypedDict, total=False):
    """The fields of `SeparationOptions` as keyword arguments; None is what the pipeline was built with."""

    queries: str | Sequence[str] | None
    query_audio: AudioInput | Sequence[AudioInput] | Mapping[str, AudioInput] | None
    query_embeds: Embeds | Sequence[Embeds] | Mapping[str, Embeds] | None
    negative_queries: str | Sequence[str] | None
    sources: str | Sequence[str] | Mapping[str, str] | None
    model_options: Mapping[str, object] | None
    residual: bool | None
    rescale: bool | None
    only_active: bool | None
    batch_size: int | None
    segment_s: float | None
    overlap_s: float | None
    offset_s: float | None
    duration_s: float | None
    sampling_rate: int | None
    on_short: OnShort | None
    check_voices: bool | None
    on_progress: Callable[[int, int | None], None] | None


def _in_samples(name: str, seconds: float, sampling_rate: int) -> int:
    if not (is_number(seconds) and 0 <= seconds <= MAX_SECONDS):
        raise AudioError(f"{name} must be a length in seconds, got {shown(seconds)}")
    return round(seconds * sampling_rate)


def check_names(options: Iterable[str]) -> None:
    """Refuses an option that a separation pipeline does not have.

    Raises:
        TypeError: naming it, and the one that was meant.
    """
    names = tuple(SeparationOptions.__dataclass_fields__)
    for option in sorted(set(options) - set(names)):
        hint = did_you_mean(option, names, SYNONYMS)
        raise TypeError(f"unknown option {option}.{hint} An audio-separation pipeline takes {', '.join(names)}")


__all__ = ["CallOptions", "SeparationOptions", "check_names", "chosen_config", "with_options"]
