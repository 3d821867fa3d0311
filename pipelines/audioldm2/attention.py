# SPDX-License-Identifier: Apache-2.0
"""Cross-attention of AudioLDM 2's U-Net to contexts that do not change from step to step.

The language of audio and the text are the same in every step of a call, so their keys and values are computed in the
first one and kept. Where only one state of an item counts, or all are the same, as in what guidance leads away from by
default (no language of audio, and the empty text), every place of the sound gets the same answer: that one is kept,
and no place asks. A context is recognised by being the same tensor object, never by its content; one that is not,
for instance because offloading made a copy of it, is worked through every time. How much each of its states counts is
looked up the same way: diffusers' own masks are numbers in the precision of the model, which holds all or nothing;
here a state may count in part.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention


LEAST = -1e4  # what a state that does not count gets added to its score; diffusers' number


@dataclass(frozen=True)
class Context:
    """A context that stays as it is in a call.

    Attributes:
        states: (batch, states, size).
        bias: (batch, 1, 1, states), None where all of them count.
        settled: so many items from the first on get one answer, whatever they ask.
        first: the first state of each item that counts.
    """

    states: Tensor
    bias: Tensor | None
    settled: int
    first: Tensor


@dataclass
class Contexts:
    """The contexts that are known."""

    _known: list[Context] = field(default_factory=list)

    def add(self, context: Tensor, weights: Tensor | None = None) -> None:
        """Makes a context known, and how much each state of it counts, (batch, states): 1 fully, 0 not at all."""
        counts = torch.ones_like(context[..., 0], dtype=torch.bool) if weights is None else weights > 0
        whole = weights is None or bool((weights == 1).all())
        bias = None if weights is None or whole else bias_of(weights)[:, None, None, :]
        first = counts.int().argmax(dim=1)
        rows = torch.arange(len(context), device=context.device)
        same = (context == context[rows, first][:, None]).all(dim=2) | ~counts
        settled = (same.all(dim=1) & counts.any(dim=1)).int().cumprod(dim=0).sum()
        self._known.append(Context(context, bias, int(settled), first))

    def find(self, context: Tensor) -> Context | None:
        """What is known of a context."""
        return next((entry for entry in self._known if entry.states is context), None)


def bias_of(weights: Tensor) -> Tensor:
    """What is added to scores so that a state counts `weights` as much as another: its logarithm."""
    return torch.where(weights > 0, weights.float().clamp(min=1e-30).log(), LEAST)


def as_mask(weights: Tensor) -> Tensor | None:
    """Weights as a mask of diffusers, which makes a bias `(1 - mask) * -10000` of it; None if all states count."""
    return None if bool((weights == 1).all()) else 1 - bias_of(weights) / LEAST


@dataclass(frozen=True)
class Kept:
    """What one attention makes of a context: keys and values (items, heads, states, size of a head) for those items
    that ask, after the answers (items, 1, channels) for those that are settled."""

    context: Tensor
    keys: Tensor
    values: Tensor
    bias: Tensor | None
    answers: Tensor


class ConstantContext:
    """An attention processor of diffusers that keeps the keys and values of the contexts it has seen."""

    def __init__(self, contexts: Contexts, otherwise: Any):
        self._contexts, self.otherwise = contexts, otherwise
        self._kept: list[Kept] = []

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
            result: Tensor = self.otherwise(attn, hidden_states, None, attention_mask, temb)
            return result
        kept = self._of(attn, encoder_hidden_states, attention_mask)
        answers, places = kept.answers, hidden_states.shape[1]
        if len(answers) == len(hidden_states):
            return answers.expand(-1, places, -1)
        queries = _heads(attn.to_q(hidden_states[len(answers) :]), attn.heads)
        bias = None if kept.bias is None else kept.bias.to(queries.dtype)
        mixed = scaled_dot_product_attention(queries, kept.keys, kept.values, attn_mask=bias, scale=attn.scale)
        outputs = _out(attn, mixed.transpose(1, 2).flatten(2))
        return torch.cat([answers.expand(-1, places, -1), outputs]) if len(answers) else outputs

    def _of(self, attn: Any, states: Tensor, mask: Tensor | None) -> Kept:
        for kept in self._kept:
            if kept.context is states:
                return kept
        keys, values = attn.to_k(states), attn.to_v(states)
        context, settled = self._contexts.find(states), 0
        bias = None if mask is None else mask[:, None]
        if context is not None:
            bias, settled = context.bias, context.settled
        parts = _heads(keys[settled:], attn.heads), _heads(values[settled:], attn.heads)
        answers = _out(attn, _first(values, context)) if context is not None and settled else values[:0]
        kept = Kept(states, *parts, None if bias is None else bias[settled:], answers)
        if context is not None:
            self._kept.append(kept)
        return kept


def _out(attn: Any, mixed: Tensor) -> Tensor:
    states: Tensor = attn.to_out[1](attn.to_out[0](mixed)) / attn.rescale_output_factor
    return states


def _first(values: Tensor, context: Context) -> Tensor:
    """The value of the first state that counts of each settled item, (settled, 1, channels)."""
    rows = torch.arange(context.settled, device=values.device)
    return values[rows, context.first[: context.settled]][:, None]


def _heads(states: Tensor, heads: int) -> Tensor:
    return states.unflatten(2, (heads, -1)).transpose(1, 2)


@contextmanager
def constant_contexts(unet: Any, contexts: Contexts, told: Mapping[str, Any] | None = None) -> Iterator[None]:
    """Puts the processors in for the time of a `with` block, in place of diffusers' usual one.

    A compiled U-Net keeps those it was compiled with. Another processor (of slices, of xformers, a user's own) stays:
    what it is for, and what it takes, is not known here.

    Args:
        unet: the network.
        contexts: that stay as they are.
        told: what processors that take it are handed at each call. diffusers' blocks of this U-Net would not hand it
            on to them, unless it learns.
    """
    from diffusers.models.attention_processor import AttnProcessor2_0

    if isinstance(unet, torch._dynamo.eval_frame.OptimizedModule):
        yield
        return
    before = dict(unet.attn_processors)
    swapped = {
        name: ConstantContext(contexts, processor)
        if ".attn2." in name and type(processor) is AttnProcessor2_0
        else _telling(processor, told or {})
        for name, processor in before.items()
    }
    unet.set_attn_processor(swapped)
    try:
        yield
    finally:
        unet.set_attn_processor(before)


def _telling(processor: Any, arguments: Mapping[str, Any]) -> Any:
    names = inspect.signature(processor.__call__).parameters
    options = {name: value for name, value in arguments.items() if name in names}
    return partial(processor, **options) if options else processor


__all__ = ["ConstantContext", "Contexts", "as_mask", "constant_contexts"]
