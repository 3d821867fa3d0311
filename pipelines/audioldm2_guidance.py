# SPDX-License-Identifier: Apache-2.0
"""Guidance: what AudioLDM 2's U-Net predicts with the prompt, led away from what it predicts without.

A guided step is two predictions, which go through the U-Net as one batch. Two settings save the second one: outside
`guidance_interval`, a share of the steps, there is no guidance; with `guidance_every=2`, every second step inside it
takes over what guidance added in the step before. Both are off unless asked for, since they change the result.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from hubsep.pipelines.audioldm2_attention import Contexts, as_mask
from hubsep.pipelines.audioldm2_conditions import Conditions


@dataclass
class Guide:
    """What the U-Net is told, and with it the prediction of a step.

    Attributes:
        positive: the conditions.
        negative: what guidance leads away from, None for no guidance.
        scale: of guidance.
        interval: which share of the steps is guided.
        every: in which steps of these what guidance adds is worked out.
    """

    positive: Conditions
    negative: Conditions | None
    scale: float
    interval: tuple[float, float]
    every: int = 1
    both: Conditions = field(init=False)
    masks: tuple[Tensor | None, Tensor | None] = field(init=False)
    _added: dict[int, Tensor] = field(init=False, default_factory=dict)

    def __post_init__(self) -> None:
        self.both = self.positive if self.negative is None else Conditions.joined(self.negative, self.positive)
        self.masks = as_mask(self.positive.weights), as_mask(self.both.weights)

    def contexts(self) -> Contexts:
        """What is the same in every step."""
        contexts = Contexts()
        for told in (self.positive, self.both):
            contexts.add(told.loa)
            contexts.add(told.text, told.weights)
        return contexts

    def predict(
        self, unet: Any, latents: Tensor, timestep: Tensor, share: float, *, index: int = 0, window: int = 0
    ) -> Tensor:
        """What the U-Net predicts, guided, in float32.

        Args:
            unet: the network.
            latents: of one window, at the noise of this step.
            timestep: of the schedule.
            share: of the steps that are behind.
            index: of this step.
            window: where the window begins.
        """
        guided = self.negative is not None and self.interval[0] <= share <= self.interval[1]
        anew = guided and (window not in self._added or index % self.every == 0)
        told = self.both if anew else self.positive
        inputs = torch.cat([latents] * 2) if anew else latents
        predicted = (
            unet(
                inputs.to(unet.dtype),
                timestep,
                encoder_hidden_states=told.loa,
                encoder_hidden_states_1=told.text,
                encoder_attention_mask_1=self.masks[anew],
                return_dict=False,
            )[0]
            .float()
            .contiguous()
        )
        if anew:
            without, predicted = predicted.chunk(2)
            self._added[window] = predicted - without
            return without + self.scale * self._added[window]
        return predicted + (self.scale - 1) * self._added[window] if guided else predicted


__all__ = ["Guide"]
