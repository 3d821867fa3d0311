# SPDX-License-Identifier: Apache-2.0
"""Products of AudioLDM 2's U-Net in bfloat16 on a processor, by oneDNN with weights laid out once.

torch has oneDNN lay out a weight anew at every call; in `Product` and `Convolution` it is done in the first one, and
what follows a product (GELU, a gate, the residual) is done before it leaves the registers. Measured on one core of an
EPYC (Zen 4), where `benchmarks/products.py` finds 2.2 to 2.7 times the speed of float32 in bfloat16 products:
- linear layers 203 GFLOP/s instead of 183, the wide ones of the feed-forward 203 instead of 170;
- GELU and gate of (2048, 1024) 1.6 ms instead of 3.6;
- convolutions over 2 bands, at the lowest level, as products of three whole frames: a third of their taps would
  multiply the zeros beyond the edges, and oneDNN's own convolution runs at 60 to 100 GFLOP/s there;
- a map that is enlarged and then convolved: 4 products in place of 9, since what is said twice need not be multiplied
  twice;
- attention of 1024 places in groups of heads whose scores stay in cache, on two threads of a Zen 5 8.7 ms instead of
  the 16.4 of torch's own; of 256 places 0.9 instead of 2.0, of 64 0.2 instead of 0.3.

oneDNN itself is called by `hubsep.onednn` alone.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from hubsep import onednn
from hubsep.onednn import Places


SCORES = 2**22  # that are worked on at a time: 8 MB of bfloat16
CENTRED = Places((1, 1))


class Product:
    """What a linear layer, or a convolution of one tap, does to the last axis.

    Args:
        layer: whose weights they are.
        pack: whether the weights are laid out once, which takes a copy of them.
        part: which rows of the weights.
    """

    def __init__(self, layer: nn.Linear | nn.Conv2d, pack: bool, part: slice = slice(None)):
        self._layer, self._pack, self._part = layer, pack, part
        self._source: Tensor | None = None
        self._product: onednn.Product | None = None

    def __call__(
        self, states: Tensor, *, plus: Tensor | None = None, times: Tensor | None = None, after: str = "none"
    ) -> Tensor:
        """The product.

        Args:
            states: (..., inputs).
            plus: (..., outputs), added to it.
            times: (..., outputs), multiplied with it.
            after: "gelu", if that follows.
        """
        states = states.contiguous()
        return self._ready(states)(states, plus=plus, times=times, gelu=after == "gelu")

    def _ready(self, states: Tensor) -> onednn.Product:
        source = self._layer.weight
        if self._product is None or source is not self._source:
            rows = states.numel() // states.shape[-1] if self._pack else None
            weight = self._matrix(source.detach())[self._part]
            self._source, self._product = source, onednn.product(weight, self._bias(), rows=rows)
        return self._product

    def _matrix(self, weight: Tensor) -> Tensor:
        return weight.flatten(1)

    def _bias(self) -> Tensor | None:
        bias = self._layer.bias
        return None if bias is None else bias[self._part]


class NarrowProduct(Product):
    """A convolution of 3 by 3 taps over two bands: three frames of both, (..., 3 * 2 * inputs), make one of both."""

    def _matrix(self, weight: Tensor) -> Tensor:
        taps = weight.permute(0, 2, 3, 1)  # (outputs, frames, bands, inputs)
        return torch.stack([taps[:, :, 1:], taps[:, :, :2]]).flatten(2).flatten(0, 1)

    def _bias(self) -> Tensor | None:
        bias = self._layer.bias
        return None if bias is None else bias.repeat(2)


class Convolution:
    """What a convolution does to (batch, channels, frames, bands) with the channels last.

    Args:
        layer: the convolution.
        pack: as of `Product`.

    Attributes:
        product: does the same to (..., channels), where the convolution has one tap.
    """

    def __init__(self, layer: nn.Conv2d, pack: bool):
        self._layer, self._pack = layer, pack
        self.product = Product(layer, pack) if layer.kernel_size == (1, 1) else None
        self._narrow = NarrowProduct(layer, pack)
        self._source: Tensor | None = None
        self._convolution: onednn.Convolution | None = None

    def __call__(self, maps: Tensor, *, plus: Tensor | None = None) -> Tensor:
        """The convolution; `plus` is added to it."""
        layer, places = self._layer, Places.of(self._layer)
        maps = maps.contiguous(memory_format=torch.channels_last)
        if self._pack and maps.shape[3] == 2 and layer.kernel_size == (3, 3) and places == CENTRED:
            return self._of_frames(maps, plus)
        if self._convolution is None or layer.weight is not self._source:
            shape = tuple(maps.shape) if self._pack else None
            self._source = layer.weight
            self._convolution = onednn.convolution(layer.weight.detach(), layer.bias, places, shape=shape)
        if plus is not None:
            plus = plus.contiguous(memory_format=torch.channels_last)
        return self._convolution(maps, plus=plus)

    def _of_frames(self, maps: Tensor, plus: Tensor | None) -> Tensor:
        rows = as_rows(maps).flatten(2)  # (batch, frames, bands * channels)
        width = rows.shape[2]
        framed = F.pad(rows, (0, 0, 1, 1))
        three = framed.as_strided((*rows.shape[:2], 3 * width), framed.stride()).contiguous()
        summed = self._narrow(three, plus=None if plus is None else as_rows(plus).flatten(2))
        return as_maps(summed.unflatten(2, (2, -1)))


class Doubled:
    """A convolution of 3 by 3 taps over a map whose frames and bands were all said twice.

    Of the three taps along an axis two meet the same value. So it is four convolutions of 2 by 2 taps over the map as
    it was, one for each place of a value's copies, with the taps that meet summed: 4 products in place of 9.
    """

    def __init__(self, layer: nn.Conv2d):
        self._layer = layer
        self._source: Tensor | None = None
        self._convolutions: list[onednn.Convolution] = []

    def __call__(self, maps: Tensor) -> Tensor:
        """The convolution of (batch, channels, frames, bands), twice as long and wide."""
        layer, (batch, _, frames, bands) = self._layer, maps.shape
        padded = F.pad(maps, (1, 1, 1, 1))
        if layer.weight is not self._source:
            summed = self._summed(layer.weight.detach())
            self._convolutions = [onednn.convolution(weight, layer.bias, Places()) for weight in summed]
            self._source = layer.weight
        rows = maps.new_empty(batch, 2 * frames, 2 * bands, layer.out_channels)
        for index, convolution in enumerate(self._convolutions):
            down, right = divmod(index, 2)
            seen = padded[:, :, down : down + frames + 1, right : right + bands + 1]
            part = convolution(seen.contiguous(memory_format=torch.channels_last))
            rows[:, down::2, right::2] = part.permute(0, 2, 3, 1)
        return as_maps(rows)

    def _summed(self, weight: Tensor) -> list[Tensor]:
        """The taps of the four places."""
        rows = pairs(weight.float(), 2)
        return [part.to(weight.dtype).contiguous() for row in rows for part in pairs(row, 3)]


def pairs(taps: Tensor, axis: int) -> tuple[Tensor, Tensor]:
    """Three taps as the two that the first copy of a value meets, and the second."""
    first, middle, last = taps.split(1, dim=axis)
    return torch.cat([first, middle + last], dim=axis), torch.cat([first + middle, last], dim=axis)


def as_rows(maps: Tensor) -> Tensor:
    """(batch, channels, frames, bands) as (batch, frames, bands, channels), without a copy where these lie so."""
    return maps.permute(0, 2, 3, 1).contiguous()


def as_maps(rows: Tensor) -> Tensor:
    """What `as_rows` undoes."""
    return rows.permute(0, 3, 1, 2)


def product_of(layer: Any) -> Product | None:
    """The product that stands in for a layer, if it may be called without the layer: nothing is hooked to that."""
    forward = layer.__dict__.get("forward")
    forward = forward.product if isinstance(forward, Convolution) else forward
    hooked = layer._forward_hooks or layer._forward_pre_hooks
    return forward if isinstance(forward, Product) and not hooked else None


def apply(layer: Any, states: Tensor, plus: Tensor) -> Tensor:
    """What a layer makes of states, added to `plus`."""
    product = product_of(layer)
    return layer(states) + plus if product is None else product(states, plus=plus)


def attended(queries: Tensor, keys: Tensor, values: Tensor, scale: float) -> Tensor:
    """Attention of every place to every one; the scores are bfloat16, their softmax float32.

    Args:
        queries: (batch, places, heads, size of a head).
        keys: as `queries`.
        values: as `queries`.
        scale: of the scores.

    Returns:
        (batch, places, heads * size of a head).
    """
    batch, places = queries.shape[:2]
    head_queries, head_keys, head_values = (part.transpose(1, 2).flatten(0, 1) for part in (queries, keys, values))
    outputs, head_keys = torch.empty_like(head_queries), head_keys.transpose(1, 2)
    rows = max(1, min(places, SCORES // places))
    heads = max(1, SCORES // (rows * places))
    room = queries.new_empty(min(heads, len(head_queries)) * rows * places)
    for first in range(0, len(head_queries), heads):
        group = slice(first, first + heads)
        for start in range(0, places, rows):
            part = head_queries[group, start : start + rows]
            scores = room[: part.shape[0] * part.shape[1] * places].view(*part.shape[:2], places)
            torch.baddbmm(scores, part, head_keys[group], beta=0, alpha=scale, out=scores)
            torch.softmax(scores, dim=2, out=scores)
            outputs[group, start : start + rows] = torch.bmm(scores, head_values[group])
    return outputs.unflatten(0, (batch, -1)).transpose(1, 2).flatten(2)


__all__ = ["Convolution", "Doubled", "Product", "apply", "as_maps", "as_rows", "attended", "product_of"]
