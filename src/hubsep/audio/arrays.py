# SPDX-License-Identifier: Apache-2.0
"""Arrays and tensors of every kind as plain arrays of numpy.

Decisions: what numpy has no type for, such as bfloat16 and float8, becomes float32, which holds each of its values.
What has no value for each sample is refused, with the call that gives one: a sparse, nested, quantized or meta tensor,
and an array with a mask, which numpy would drop without a word.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..errors import AudioError


FLOATS_OF_NUMPY = frozenset({"torch.float16", "torch.float32", "torch.float64"})


def plain_array(values: Any) -> NDArray[Any]:
    """The array of an array, a tensor, or of what turns into one; without a copy where that is possible.

    Raises:
        AudioError: if it has no value for each sample, or does not turn into an array.
    """
    if hasattr(values, "detach") and hasattr(values, "layout"):
        values = _of_tensor(values)
    try:
        array = np.asanyarray(values)
    except Exception as error:  # whatever an object's own __array__ raises
        kind = type(values).__name__
        raise AudioError(
            f"this {kind} does not turn into an array ({str(error) or type(error).__name__}); pass a numpy array or a "
            "torch tensor (channels, samples)"
        ) from error
    if np.ma.is_masked(array):
        raise AudioError(
            f"an array must have a value for each sample, and a mask hides {np.ma.count_masked(array)} of this one; "
            "pass array.filled(0) for silence there, or array.data for what is under the mask"
        )
    return np.asarray(array)


def _of_tensor(tensor: Any) -> NDArray[Any]:
    try:
        if tensor.is_floating_point() and str(tensor.dtype) not in FLOATS_OF_NUMPY:
            tensor = tensor.float()
        if tensor.numel() and not tensor.is_meta and not tensor.untyped_storage().nbytes():
            raise AudioError("a tensor must hold its samples; the memory of this one was given back")
        array: NDArray[Any] = tensor.numpy(force=True)  # also of what waits to be negated or conjugated
        return array
    except AudioError:
        raise
    except Exception as error:  # each kind of tensor raises its own
        kind, way_out = _kind_of(tensor)
        raise AudioError(f"a tensor must hold its samples, each by itself; this one {kind}; {way_out}") from error


def _kind_of(tensor: Any) -> tuple[str, str]:
    """What a tensor is that numpy cannot take, and what to pass instead."""
    layout = str(tensor.layout).removeprefix("torch.")
    if tensor.is_meta:
        return "is on the meta device, where tensors have no values", "load it to a real device first"
    if tensor.is_nested:
        return "is nested", "pass one recording of it at a time: tensor.unbind()[0]"
    if tensor.is_quantized:
        return f"is quantized ({str(tensor.dtype).removeprefix('torch.')})", "pass tensor.dequantize()"
    if layout != "strided":
        return f"is sparse or packed ({layout})", "pass tensor.to_dense()"
    what = f"is a {type(tensor).__name__} of {str(tensor.dtype).removeprefix('torch.')}"
    return what, "pass a plain torch.Tensor of float32, on a device"


__all__ = ["plain_array"]
