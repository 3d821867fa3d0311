# SPDX-License-Identifier: Apache-2.0
"""oneDNN's products and convolutions, with what follows them done before a result leaves the registers.

torch has them as private operators, which compiled models call. Decisions:

- They are called here and nowhere else. Private operators change without notice: all of them are tried once for each
  dtype, on a small tensor whose results are whole numbers, and are used only where every result is right to the last
  digit. Everywhere else, and where oneDNN is switched off, torch's own operators do the same.
- Weights are laid out once where a caller keeps them. torch has oneDNN lay them out anew at every call.
- Operators are called by their overload: by their packet's name torch tries the first one, which formats all
  arguments, tensors included, for an error that nobody sees (1 to 2 ms a call).
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache, partial
from typing import Any, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor, nn


DTYPES = (torch.float32, torch.bfloat16)


class Product(Protocol):
    """A linear layer without its module.

    Args of a call:
        states: (..., inputs), contiguous.
        plus: (..., outputs), added to the product.
        times: (..., outputs), multiplied with it, if nothing is added.
        gelu: whether GELU follows, if nothing is added or multiplied.
        slope: of the leaky ReLU that follows, likewise.
    """

    def __call__(
        self,
        states: Tensor,
        *,
        plus: Tensor | None = None,
        times: Tensor | None = None,
        gelu: bool = False,
        slope: float | None = None,
    ) -> Tensor:
        """The product, (..., outputs)."""


class Convolution(Protocol):
    """A convolution of (batch, channels, height, width) with the channels last.

    Args of a call:
        maps: its input.
        plus: is added to what comes out.
        slope: of the leaky ReLU that follows, if nothing is added.
    """

    def __call__(self, maps: Tensor, *, plus: Tensor | None = None, slope: float | None = None) -> Tensor:
        """The convolution."""


@dataclass(frozen=True)
class Places:
    """Where the taps of a convolution lie, by the names of `torch.nn.Conv2d`."""

    padding: tuple[int, int] = (0, 0)
    stride: tuple[int, int] = (1, 1)
    dilation: tuple[int, int] = (1, 1)
    groups: int = 1

    @classmethod
    def of(cls, layer: nn.Conv2d) -> Places:
        """Those of a layer whose padding is given in numbers."""
        assert not isinstance(layer.padding, str)
        (top, left), (down, right), (height, width) = layer.padding, layer.stride, layer.dilation
        return cls((top, left), (down, right), (height, width), layer.groups)


def available(dtype: torch.dtype) -> bool:
    """Whether oneDNN is there, switched on, and computes in `dtype` what its operators are called for here."""
    return torch.backends.mkldnn.is_available() and bool(torch.backends.mkldnn.enabled) and _is_right(dtype)


def product(weight: Tensor, bias: Tensor | None = None, *, rows: int | None = None) -> Product:
    """A linear layer as a function, without gradients.

    Args:
        weight: (outputs, inputs), on the processor.
        bias: (outputs,) or None.
        rows: for how many rows of states the weight is laid out, in a copy; None uses it as it lies.
    """
    weight = weight.contiguous()
    if not available(weight.dtype):
        return partial(_plain_product, weight, bias)
    return partial(_product, weight if rows is None else _laid_out(weight, rows), bias)


def convolution(
    weight: Tensor, bias: Tensor | None, places: Places, *, shape: tuple[int, ...] | None = None
) -> Convolution:
    """A convolution as a function, without gradients.

    Args:
        weight: (outputs, inputs of a group, height, width), on the processor.
        bias: (outputs,) or None.
        places: where its taps lie.
        shape: of the input that the weight is laid out for, in a copy; None uses it as it lies.
    """
    if not available(weight.dtype):
        return partial(_plain_convolution, weight, bias, places)
    if shape is not None:
        weight = torch.ops.mkldnn._reorder_convolution_weight.default(weight, *_listed(places), list(shape))
    return partial(_convolution, weight, bias, places)


def along(layer: nn.Conv1d, maps: Tensor, *, plus: Tensor | None = None, slope: float | None = None) -> Tensor:
    """What a convolution along time makes of (batch, channels, 1, samples) with the channels last.

    Args:
        layer: the convolution.
        maps: its input.
        plus: is added to what comes out.
        slope: of the leaky ReLU that follows, if nothing is added.
    """
    places = Places((0, int(layer.padding[0])), (1, layer.stride[0]), (1, layer.dilation[0]), layer.groups)
    weight = layer.weight.detach()[:, :, None]
    return convolution(weight, layer.bias, places, shape=tuple(maps.shape))(maps, plus=plus, slope=slope)


def _laid_out(weight: Tensor, rows: int) -> Tensor:
    packed: Tensor = torch.ops.mkldnn._reorder_linear_weight.default(weight, rows)
    return packed


def _product(
    weight: Tensor,
    bias: Tensor | None,
    states: Tensor,
    *,
    plus: Tensor | None = None,
    times: Tensor | None = None,
    gelu: bool = False,
    slope: float | None = None,
) -> Tensor:
    other, name = (plus, "add") if times is None else (times, "mul")
    if other is not None:
        result: Tensor = torch.ops.mkldnn._linear_pointwise.binary(states, other, weight, bias, name)
        return result
    after: tuple[Any, ...] = ("gelu", [], "none") if gelu else _leaky(slope)
    result = torch.ops.mkldnn._linear_pointwise.default(states, weight, bias, *after)
    return result


def _plain_product(
    weight: Tensor,
    bias: Tensor | None,
    states: Tensor,
    *,
    plus: Tensor | None = None,
    times: Tensor | None = None,
    gelu: bool = False,
    slope: float | None = None,
) -> Tensor:
    with torch.autocast(states.device.type, enabled=False):
        result = F.linear(states, weight, bias)
    if times is not None:
        return result * times
    if plus is not None:
        return result + plus
    if gelu:
        return F.gelu(result)
    return result if slope is None else F.leaky_relu_(result, slope)


def _convolution(
    weight: Tensor,
    bias: Tensor | None,
    places: Places,
    maps: Tensor,
    *,
    plus: Tensor | None = None,
    slope: float | None = None,
) -> Tensor:
    operator, numbers = torch.ops.mkldnn._convolution_pointwise, _listed(places)
    if plus is None:
        result: Tensor = operator.default(maps, weight, bias, *numbers, *_leaky(slope))
        return result
    result = operator.binary(maps, plus, weight, bias, *numbers, "add", 1.0, None, [], None)
    return result


def _plain_convolution(
    weight: Tensor,
    bias: Tensor | None,
    places: Places,
    maps: Tensor,
    *,
    plus: Tensor | None = None,
    slope: float | None = None,
) -> Tensor:
    with torch.autocast(maps.device.type, enabled=False):
        result = F.conv2d(maps, weight, bias, places.stride, places.padding, places.dilation, places.groups)
    if plus is not None:
        return result + plus
    return result if slope is None else F.leaky_relu_(result, slope)


def _listed(places: Places) -> tuple[tuple[int, int], tuple[int, int], tuple[int, int], int]:
    """In the order of oneDNN's operators."""
    return places.padding, places.stride, places.dilation, places.groups


def _leaky(slope: float | None) -> tuple[Any, ...]:
    return ("none", [], "") if slope is None else ("leaky_relu", [slope], "")


@cache
def _is_right(dtype: torch.dtype) -> bool:
    """Whether every operator is there, takes what it is called with here, and computes what torch's own does."""
    if dtype not in DTYPES:
        return False
    try:
        with torch.no_grad(), torch.autocast("cpu", enabled=False):
            supported = dtype == torch.float32 or torch.ops.mkldnn._is_mkldnn_bf16_supported.default()
            return bool(supported) and _products_are_right(dtype) and _convolutions_are_right(dtype)
    # AttributeError where it is not there, TypeError and RuntimeError where it takes something else
    except (AttributeError, NotImplementedError, RuntimeError, TypeError, ValueError):
        return False


def _whole(*shape: int, dtype: torch.dtype) -> Tensor:
    """Whole numbers from -2 to 2: sums of a few dozen of their products are exact in bfloat16 too."""
    count = torch.Size(shape).numel()
    return (torch.arange(count, device="cpu").mul_(7).remainder_(5) - 2).reshape(shape).to(dtype)


def _products_are_right(dtype: torch.dtype) -> bool:
    states, weight, bias = (_whole(*shape, dtype=dtype) for shape in ((4, 8), (16, 8), (16,)))
    other = _whole(4, 16, dtype=dtype)
    kinds: tuple[dict[str, Any], ...] = ({}, {"plus": other}, {"times": other}, {"slope": 0.5}, {"slope": 0.0})
    for weights in (weight, _laid_out(weight, len(states))):
        for kind in kinds:
            if not torch.equal(_product(weights, bias, states, **kind), _plain_product(weight, bias, states, **kind)):
                return False
    activated, exact = (work(weight, bias, states, gelu=True) for work in (_product, _plain_product))
    return torch.allclose(activated, exact, rtol=0.02, atol=0.02)  # two steps of bfloat16, which rounds each its way


def _convolutions_are_right(dtype: torch.dtype) -> bool:
    places = Places((1, 1), dilation=(1, 1))
    maps, weight, bias = (_whole(*shape, dtype=dtype) for shape in ((1, 4, 5, 6), (8, 4, 3, 3), (8,)))
    maps = maps.contiguous(memory_format=torch.channels_last)
    other = _whole(1, 8, 5, 6, dtype=dtype).contiguous(memory_format=torch.channels_last)
    packed = torch.ops.mkldnn._reorder_convolution_weight.default(weight, *_listed(places), list(maps.shape))
    kinds: tuple[dict[str, Any], ...] = ({}, {"plus": other}, {"slope": 0.5})
    return all(
        torch.equal(
            _convolution(weights, bias, places, maps, **kind), _plain_convolution(weight, bias, places, maps, **kind)
        )
        for weights in (weight, packed)
        for kind in kinds
    )


__all__ = ["Convolution", "Places", "Product", "along", "available", "convolution", "product"]
