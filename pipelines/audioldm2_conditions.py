# SPDX-License-Identifier: Apache-2.0
"""What AudioLDM 2's U-Net is conditioned on, for a batch: language of audio, and states of the text with weights.

Texts of a batch are padded to the longest. A weight of 0 leaves a state out of the attention altogether, so padding
changes nothing; weights between 0 and 1 are how a sound lies between two texts.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import pad

from hubsep.errors import QueryError


@dataclass(frozen=True)
class Conditions:
    """What the U-Net hears about each item of a batch.

    Attributes:
        loa: language of audio, (batch, tokens, size of GPT-2).
        text: states of the text, (batch, states, size of T5).
        weights: how much each of these states counts, (batch, states) in [0, 1]; 0 for padding.
    """

    loa: Tensor
    text: Tensor
    weights: Tensor

    def repeat(self, times: int) -> Conditions:
        """Every item `times` times, one after the other."""
        return Conditions(*(part.repeat_interleave(times, dim=0) for part in (self.loa, self.text, self.weights)))

    def to(self, device: torch.device, dtype: torch.dtype) -> Conditions:
        """On another device, in another precision; weights stay in float32."""
        return Conditions(self.loa.to(device, dtype), self.text.to(device, dtype), self.weights.to(device).float())

    @staticmethod
    def joined(first: Conditions, second: Conditions) -> Conditions:
        """Both batches in one, texts padded to the longer."""
        if first.loa.shape[1:] != second.loa.shape[1:]:
            raise QueryError(
                f"the two conditions have {first.loa.shape[1]} and {second.loa.shape[1]} tokens of LOA; they must be "
                "of the same kind"
            )
        states = max(first.text.shape[1], second.text.shape[1])
        parts = [
            Conditions(
                item.loa,
                pad(item.text, (0, 0, 0, states - item.text.shape[1])),
                pad(item.weights, (0, states - item.weights.shape[1])),
            )
            for item in (first, second)
        ]
        return Conditions(*(torch.cat([getattr(part, name) for part in parts]) for name in ("loa", "text", "weights")))


__all__ = ["Conditions"]
