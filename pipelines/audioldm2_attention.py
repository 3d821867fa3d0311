# SPDX-License-Identifier: Apache-2.0
"""Cross-attention of AudioLDM 2's U-Net to contexts that do not change from step to step.

The language of audio and the text are the same in every step of a call, so their keys and values are computed in the
first one and kept. A context is recognised by being the same tensor object, never by its content; one that is not,
for instance because offloading made a copy of it, is worked through every time. How much each of its states counts is
looked up the same way: diffusers' own masks are numbers in the precision of the model, which holds all or nothing;
here a state may count in part.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention


LEAST = -1e4  # what a state that does not count gets added to its score; diffusers' number


@dataclass
class Contexts:
    """Contexts that stay as they are in a call, with a bias (batch, 1, 1, states) where not all of one counts."""

    _known: list[tuple[Tensor, Tensor | None]] = field(default_factory=list)

    def add(self, context: Tensor, weights: Tensor | None = None) -> None:
        """Makes a context known, and how much each state of it counts, (batch, states): 1 fully, 0 not at all."""
        whole = weights is None or bool((weights == 1).all())
        self._known.append((context, None if weights is None or whole else bias_of(weights)[:, None, None, :]))

    def find(self, context: Tensor) -> tuple[bool, Tensor | None]:
        """Whether a context is known, and its bias."""
        return next(((True, bias) for known, bias in self._known if known is context), (False, None))


def bias_of(weights: Tensor) -> Tensor:
    """What is added to scores so that a state counts `weights` as much as another: its logarithm."""
    return torch.where(weights > 0, weights.float().clamp(min=1e-30).log(), LEAST)


def as_mask(weights: Tensor) -> Tensor | None:
    """Weights as a mask of diffusers, which makes a bias `(1 - mask) * -10000` of it; None if all states count."""
    return None if bool((weights == 1).all()) else 1 - bias_of(weights) / LEAST


class ConstantContext:
    """An attention processor of diffusers that keeps the keys and values of the contexts it has seen."""

    def __init__(self, contexts: Contexts, otherwise: Any):
        self._contexts, self._otherwise = contexts, otherwise
        self._kept: list[tuple[Tensor, Tensor, Tensor, Tensor | None]] = []

    def __call__(
        self,
        attn: Any,
        hidden_states: Tensor,
        encoder_hidden_states: Tensor | None = None,
        attention_mask: Tensor | None = None,
        temb: Tensor | None = None,
    ) -> Tensor:
        """As diffusers calls it; without a context the processor that was there before does the work."""
        if encoder_hidden_states is None:
            result: Tensor = self._otherwise(attn, hidden_states, None, attention_mask, temb)
            return result
        keys, values, bias = self._of(attn, encoder_hidden_states, attention_mask)
        queries = _heads(attn.to_q(hidden_states), attn.heads)
        mixed = scaled_dot_product_attention(
            queries, keys, values, attn_mask=None if bias is None else bias.to(queries.dtype), scale=attn.scale
        )
        joined = mixed.transpose(1, 2).flatten(2)
        return attn.to_out[1](attn.to_out[0](joined)) / attn.rescale_output_factor

    def _of(self, attn: Any, context: Tensor, mask: Tensor | None) -> tuple[Tensor, Tensor, Tensor | None]:
        for known, keys, values, bias in self._kept:
            if known is context:
                return keys, values, bias
        keys = _heads(attn.to_k(context), attn.heads)
        values = _heads(attn.to_v(context), attn.heads)
        constant, bias = self._contexts.find(context)
        if not constant:
            return keys, values, None if mask is None else mask[:, None]
        self._kept.append((context, keys, values, bias))
        return keys, values, bias


def _heads(states: Tensor, heads: int) -> Tensor:
    return states.unflatten(2, (heads, -1)).transpose(1, 2)


@contextmanager
def constant_contexts(unet: Any, contexts: Contexts) -> Iterator[None]:
    """Puts the processors in for the time of a `with` block; a compiled U-Net keeps those it was compiled with."""
    if isinstance(unet, torch._dynamo.eval_frame.OptimizedModule):
        yield
        return
    before = dict(unet.attn_processors)
    swapped = {
        name: ConstantContext(contexts, processor) if ".attn2." in name else processor
        for name, processor in before.items()
    }
    unet.set_attn_processor(swapped)
    try:
        yield
    finally:
        unet.set_attn_processor(before)


__all__ = ["ConstantContext", "Contexts", "as_mask", "constant_contexts"]
