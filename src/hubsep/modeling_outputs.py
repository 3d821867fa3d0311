# SPDX-License-Identifier: Apache-2.0
"""What a separation model returns: the same fields for every system."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from transformers.utils import ModelOutput


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


__all__ = ["AudioSeparationOutput"]
