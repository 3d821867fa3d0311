# SPDX-License-Identifier: Apache-2.0
"""What the pipeline asks of a model and of its configuration, for a type checker and for readers.

Any model of the package is one. Decisions: a model without queries or slots needs none of their methods, so these are
protocols of their own; what a model may leave out has its default in `HubsepConfigMixin` and `HubsepModelMixin`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, Protocol

import torch
from torch import Tensor

from hubsep.chunking import Segments


if TYPE_CHECKING:
    from transformers import ClapConfig

Survey = Callable[..., dict[str, Tensor]]


class SeparationConfig(Protocol):
    """The configuration of a separation model.

    Attributes:
        model_type: of the system.
        sampling_rate: in Hz.
        num_channels: of the waveforms that `forward` takes.
        segment_samples: length in which long recordings are worked through.
        overlap_samples: what neighbouring segments share.
        minimum_samples: the shortest waveform that `forward` takes.
        source_names: what the sources are called; empty for a model that is asked for them.
        is_text_queried: whether the model is asked for its sources.
        known_sounds: what a text-queried model was trained on, for error messages.
        query_classes: the sounds that a text-queried model tells apart, if it knows a list of them.
        unordered_sources: whether any of the sources may come out at any place.
        free_scale: whether the levels of the sources mean nothing.
        sequential: whether the model goes on where it ended, from the slots of the segment before.
        reference_level_db: the level recordings are brought to; None for a model that takes them as they are.
        call_options: the fields that may be chosen for a call.
    """

    model_type: str
    sampling_rate: int
    num_channels: int
    segment_samples: int
    overlap_samples: int
    minimum_samples: int
    source_names: Sequence[str]
    is_text_queried: bool
    known_sounds: Sequence[str]
    query_classes: Sequence[str]
    unordered_sources: bool
    free_scale: bool
    sequential: bool
    reference_level_db: float | None
    call_options: Sequence[str]

    def exact_segments(self, samples: int) -> Segments | None:
        """Pieces of about so many samples whose sources add up to those of the whole; None if there are none."""

    def complete_options(self, options: dict[str, Any]) -> dict[str, Any]:
        """Options of a call, with those that follow from others."""

    def check_fields(self) -> None:
        """Checks every field."""


class QueryConfig(SeparationConfig, Protocol):
    """The configuration of a model that is asked for what it separates.

    Attributes:
        query_config: of the part that encodes queries.
    """

    query_config: ClapConfig


class SeparationModel(Protocol):
    """A model that separates waveforms (batch, num_channels, samples).

    Attributes:
        config: see `SeparationConfig`.
        surveys: what goes over a whole recording before any part of it is separated; see `steps.py`.
        training: whether it is in training mode.
        device: where its weights are.
    """

    config: SeparationConfig
    surveys: Sequence[Survey]
    training: bool
    device: torch.device


class SequentialModel(SeparationModel, Protocol):
    """A model that takes the slots of the segment before."""

    def slots_at(self, slots: Tensor, samples: int) -> Tensor:
        """The slots at a place of a segment, for the segment that begins there."""


class QueryModel(SeparationModel, Protocol):
    """A model that is asked for what it separates.

    Attributes:
        config: see `QueryConfig`.
    """

    config: QueryConfig

    def encode_text(self, **features: Tensor) -> Tensor:
        """Embeddings (texts, dim) of what the processor made of texts."""

    def encode_audio(self, **features: Tensor) -> Tensor:
        """Embeddings (recordings, dim) of what the processor made of recordings."""

    def classify_queries(self, query_embeds: Tensor) -> Tensor | None:
        """Probabilities (queries, classes), or None for a model without classes."""

    def leave_out(self, query_embeds: Tensor, negatives: Tensor) -> Tensor:
        """Embeddings without what they share with others."""


__all__ = ["QueryConfig", "QueryModel", "SeparationConfig", "SeparationModel", "SequentialModel", "Survey"]
