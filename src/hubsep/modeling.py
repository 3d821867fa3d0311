# SPDX-License-Identifier: Apache-2.0
"""What a separation model returns: the same fields for every system.

Also here: what a model takes: checks for every system, of its waveform and its keywords, before anything is computed.
"""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from transformers.utils import ModelOutput

from .errors import AudioError
from .texts import did_you_mean


BY_CHANNEL = "put further channels on the batch axis"


def check_waveform(config: Any, input_values: Tensor, lower: str = "a frame needs", advice: str = BY_CHANNEL) -> None:
    """Checks a waveform against the `num_channels` and the `minimum_samples` of a configuration.

    Args:
        config: of the model.
        input_values: what should be (batch, num_channels, samples).
        lower: what sets the lower limit of samples, as the error says it.
        advice: what to do with a recording of another number of channels, as the error says it.

    Raises:
        AudioError: if the waveform has another rank or channel count, or is too short.
    """
    shape, channels = tuple(input_values.shape), config.num_channels
    if len(shape) != 3 or shape[1] != channels:
        raise AudioError(f"input_values must be (batch, {channels}, samples), got {shape}; {advice}")
    if shape[-1] < config.minimum_samples:
        raise AudioError(f"input_values has {shape[-1]} samples; {lower} at least {config.minimum_samples}")


# what transformers' trainer and pipelines pass to any model that takes further keywords
PASSED_ON = frozenset({"num_items_in_batch"})
KEPT = ("output_hidden_states", "output_attentions")


def check_keywords(model: Any, keywords: Mapping[str, object]) -> None:
    """Refuses keywords a model's `forward` does not have, where they would have no effect.

    Args:
        model: whose `forward` was called.
        keywords: what it has no parameter for.

    Raises:
        TypeError: naming the keyword, and the one that was meant.
    """
    for name, value in keywords.items():
        if name in KEPT:
            if value:
                raise TypeError(
                    f"{name}=True: {type(model).__name__} keeps none; register a forward hook on the module whose "
                    "output you want"
                )
        elif name not in PASSED_ON:
            names = _parameters(type(model))
            raise TypeError(
                f"{type(model).__name__} takes no {name!r}, but {', '.join(names)}.{did_you_mean(name, names)}"
            )


def _parameters(kind: type) -> tuple[str, ...]:
    named = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)
    parameters = inspect.signature(kind.forward).parameters.values()  # type: ignore[attr-defined]
    return (*(each.name for each in parameters if each.kind in named and each.name != "self"), "return_dict")


@dataclass
class AudioSeparationOutput(ModelOutput):
    """Output of an `XForAudioSeparation` model.

    Args:
        loss (`torch.Tensor` of shape `()`): the training loss, when `labels` were given.
        sources (`torch.Tensor` of shape `(batch, num_sources, channels, samples)`): the separated waveforms, as long
            as the input.
        masks (`torch.Tensor`, optional): what the model multiplied its representation of the mixture with; the shape
            is the model's own.
        presence_logits (`torch.Tensor` of shape `(batch, num_sources)`, optional): how sure the model is that the
            source is in the mixture at all; the sigmoid of it is the pipeline's `score`.
    """

    loss: torch.Tensor | None = None
    sources: torch.Tensor | None = None
    masks: torch.Tensor | None = None
    presence_logits: torch.Tensor | None = None


__all__ = ["AudioSeparationOutput", "check_keywords", "check_waveform"]
