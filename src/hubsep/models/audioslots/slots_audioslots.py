# SPDX-License-Identifier: Apache-2.0
"""From tokens to an unordered set of source embeddings, the slots.

The paper: a permutation-equivariant Transformer makes one embedding a source. Ours: where slots start from, and slot
attention (2006.15055) as the alternative. No layer here knows the number of a slot: exchange two at the start, and the
same two are exchanged at the end. With "gaussian" starts, which are draws from one distribution, any number of slots
can be asked for; with "learned" ones there is a vector for each. In sequential mode (ours) the slots of a chunk start
from those of the chunk before, through a linear layer that begins as the identity.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ...layers import dtype_of
from .configuration_audioslots import AudioSlotsConfig
from .layers_audioslots import Attention, FeedForward


class SlotLayer(nn.Module):
    """A pre-norm Transformer decoder layer: slots among themselves, slots to tokens, feed-forward."""

    def __init__(self, config: AudioSlotsConfig):
        super().__init__()
        size = config.hidden_size
        self.self_norm, self.cross_norm, self.feed_forward_norm = (nn.LayerNorm(size) for _ in range(3))
        self.self_attention = Attention(size, config.num_heads)
        self.cross_attention = Attention(size, config.num_heads)
        self.feed_forward = FeedForward(size, config.intermediate_size)

    def forward(self, slots: Tensor, tokens: Tensor) -> Tensor:
        normed = self.self_norm(slots)
        slots = slots + self.self_attention(normed, normed)
        slots = slots + self.cross_attention(self.cross_norm(slots), tokens)
        return slots + self.feed_forward(self.feed_forward_norm(slots))


class SlotTransformer(nn.Module):
    """`slot_layers` decoder layers, each with its own weights."""

    def __init__(self, config: AudioSlotsConfig):
        super().__init__()
        self.layers = nn.ModuleList(SlotLayer(config) for _ in range(config.slot_layers))
        self.norm = nn.LayerNorm(config.hidden_size)

    def forward(self, slots: Tensor, tokens: Tensor) -> Tensor:
        for layer in self.layers:
            slots = layer(slots, tokens)
        return self.norm(slots)


class SlotAttention(nn.Module):
    """Slot attention (2006.15055, algorithm 1): `slot_layers` iterations of the same recurrent update."""

    def __init__(self, config: AudioSlotsConfig):
        super().__init__()
        size = config.hidden_size
        self.iterations = config.slot_layers
        self.slot_norm, self.feed_forward_norm, self.norm = (nn.LayerNorm(size) for _ in range(3))
        self.query = nn.Linear(size, size, bias=False)
        self.key_value = nn.Linear(size, 2 * size, bias=False)
        self.gates_input = nn.Linear(size, 3 * size)
        self.gates_slots = nn.Linear(size, 3 * size)
        self.feed_forward = FeedForward(size, config.intermediate_size)

    def forward(self, slots: Tensor, tokens: Tensor) -> Tensor:
        key, value = self.key_value(tokens).chunk(2, dim=-1)
        for _ in range(self.iterations):
            scores = self.query(self.slot_norm(slots)) @ key.transpose(1, 2) * slots.shape[-1] ** -0.5
            weights = scores.float().softmax(dim=1) + 1e-8  # slots compete for each token
            weights = weights / weights.sum(dim=2, keepdim=True)
            slots = self._gru(weights.to(value.dtype) @ value, slots)
            slots = slots + self.feed_forward(self.feed_forward_norm(slots))
        return self.norm(slots)

    def _gru(self, update: Tensor, slots: Tensor) -> Tensor:
        reset_in, keep_in, new_in = self.gates_input(update).chunk(3, dim=-1)
        reset, keep, new = self.gates_slots(slots).chunk(3, dim=-1)
        keep = torch.sigmoid(keep_in + keep)
        return torch.lerp(torch.tanh(new_in + torch.sigmoid(reset_in + reset) * new), slots.to(keep.dtype), keep)


class AudioSlotsSlots(nn.Module):
    """Where slots start, how they read the tokens, and how they go on to the next chunk."""

    def __init__(self, config: AudioSlotsConfig):
        super().__init__()
        self.seed = config.slot_seed
        self.gaussian = config.slot_init == "gaussian"
        if self.gaussian:
            self.mean = nn.Parameter(torch.empty(config.hidden_size))
            self.log_deviation = nn.Parameter(torch.empty(config.hidden_size))
        else:
            self.queries = nn.Parameter(torch.empty(config.num_sources, config.hidden_size))
        kind = SlotTransformer if config.slot_encoder == "transformer" else SlotAttention
        self.reader = kind(config)
        self.carry = nn.Linear(config.hidden_size, config.hidden_size) if config.sequential else None

    def start(self, batch: int, num_sources: int, generator: torch.Generator | None = None) -> Tensor:
        """Slots before they have seen anything, (batch, num_sources, hidden_size).

        Gaussian ones are drawn anew for each item in training. Otherwise all items share one seeded draw, and the
        global random state is left alone. With a `generator` the draw is its, in both modes.
        """
        if not self.gaussian:
            return self.queries.expand(batch, -1, -1)
        shape, device = (batch, num_sources, len(self.mean)), self.mean.device
        if generator is not None:
            noise = drawn(shape, generator).to(device)
        elif self.training:
            noise = torch.randn(shape, device=device)
        else:
            noise = drawn(shape[1:], torch.Generator().manual_seed(self.seed)).to(device).expand(shape)
        return self.mean + self.log_deviation.exp() * noise.to(self.mean.dtype)

    def carried(self, start: Tensor, previous: Tensor) -> Tensor:
        """Where slots start in the chunk after the one that ended with `previous`, in sequential mode.

        What is carried is added to where slots start at first. Slots that were only carried became alike within a
        minute, and so did the sources: what kept them apart was in the first start alone.
        """
        assert self.carry is not None  # the model refused earlier slots in other modes
        return start + self.carry(previous.to(dtype_of(self.carry)))

    def forward(
        self,
        start: Tensor | None = None,
        tokens: Tensor | None = None,
        previous: Tensor | None = None,
        *,
        draw: tuple[int, int, torch.Generator | None] | None = None,
    ) -> Tensor:
        """Slots of every chunk; with `draw` those of `start(*draw)`: weights that are offloaded come with a call only.

        Args:
            start: where slots start at first, (batch, num_sources, hidden_size).
            tokens: (batch, chunks, tokens, hidden_size).
            previous: in sequential mode the slots of the chunk before the first.
            draw: arguments of `start`, instead of the others.

        Returns:
            (batch, chunks, num_sources, hidden_size).
        """
        if start is None or tokens is None:
            assert draw is not None
            return self.start(*draw)
        chunks = tokens.shape[1]
        if self.carry is None:
            starts = start.unsqueeze(1).expand(-1, chunks, -1, -1).flatten(0, 1)
            return self.reader(starts, tokens.flatten(0, 1)).unflatten(0, (-1, chunks))
        slots = []
        for chunk in tokens.unbind(1):
            slots.append(self.reader(start if previous is None else self.carried(start, previous), chunk))
            previous = slots[-1]
        return torch.stack(slots, dim=1)


def cosine(first: Tensor, second: Tensor) -> Tensor:
    """Cosine of the angle of each pair, (..., n, size) and (..., m, size) -> (..., n, m), float32."""
    return F.normalize(first.float(), dim=-1) @ F.normalize(second.float(), dim=-1).transpose(-1, -2)


def drawn(shape: Sequence[int], generator: torch.Generator) -> Tensor:
    """Gaussian numbers. A trace would leave the generator out, and draw other ones each time: it gets the numbers."""
    noise = torch.randn(tuple(shape), generator=generator, device=generator.device)
    return torch.tensor(noise.tolist(), device=generator.device) if torch.jit.is_tracing() else noise


__all__ = ["AudioSlotsSlots", "cosine"]
