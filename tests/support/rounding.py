# SPDX-License-Identifier: Apache-2.0
"""How far two correct computations of the same numbers may lie apart, on any processor and with any thread count.

Processors and thread counts add the same products in another order, and fuse multiplication and addition or do not.
An addition rounds by up to half of `eps`, relative to the sum so far. Over `terms` additions such errors go a random
walk, to `eps / 2 * sqrt(terms)` of the peak, and `layers` sums one behind the other make it longer: to
`eps / 2 * sqrt(terms * layers)`. The largest of many values lies four deviations out, hence `2 * eps`. Vector
instructions add in several lanes, so what is measured lies 2 to 20 times below; a wrong computation lies far above.
"""

from __future__ import annotations

from math import log, sqrt
from typing import Any

import numpy as np
import torch
from torch import Tensor


EPS = torch.finfo(torch.float32).eps
TINY_MODEL = {"terms": 16 * 9, "layers": 40}  # the largest of the tests: channels times taps, sums in a row
PROMISE = 1e-4  # of the peak: what a port may differ from the original, whatever its size


def rounding(peak: float, terms: int, layers: int = 1) -> float:
    """The largest difference in float32 that the order of operations explains.

    Args:
        peak: largest magnitude of the values compared.
        terms: products that are added up for one value, in the widest layer: inputs of a matrix product, channels
            times taps of a convolution, samples of a Fourier transform.
        layers: how many such sums lie one behind the other.
    """
    return min(2 * EPS * sqrt(terms * layers), PROMISE) * peak


def assert_same(found: Any, expected: Any, terms: int, layers: int = 1, peak: float = 0.0) -> None:
    """Two arrays or tensors are the same numbers but for the order of operations.

    Args:
        found: what was computed.
        expected: the same, computed otherwise.
        terms: as for `rounding`.
        layers: as for `rounding`.
        peak: of what they were computed from, where that may be larger than they are.
    """
    found, expected = (torch.as_tensor(values).detach() for values in (found, expected))
    peak = max(peak, expected.abs().max().item() if expected.numel() else 0.0)
    torch.testing.assert_close(found, expected, atol=rounding(peak, terms, layers), rtol=0)


def log_spectrum_rounding(logs: Tensor, terms: int, power: bool, kept: float = 1.0) -> Tensor:
    """The same for natural logarithms of a (mel) spectrogram, (frames, bins): a limit for each value.

    A Fourier transform spreads its rounding over all bins, `eps * sqrt(terms)` of their mean level: a bin far below
    the others is relatively less exact, and its logarithm shows it.

    Args:
        logs: the logarithms, last dimension bins.
        terms: added up for a bin: log2 of the samples in a fast transform, the samples in a product with a matrix.
        power: whether they are of powers; otherwise of magnitudes.
        kept: what a filter before the transform left of the waveform's level; it rounds by the level it takes.
    """
    magnitudes = logs.double() / 2 if power else logs.double()
    mean = torch.logsumexp(2 * magnitudes, dim=-1, keepdim=True) / 2 - log(logs.shape[-1]) / 2
    relative = sqrt(terms) / kept * (mean - magnitudes).exp().clamp(min=1)
    return 2 * EPS * (logs.abs() + (2 if power else 1) * relative)


def decibels(expected: Any, found: Any) -> float:
    """The level of a signal over that of what is different, in dB."""
    expected, found = np.asarray(expected, np.float64), np.asarray(found, np.float64)
    return float(10 * np.log10(np.square(expected).sum() / np.square(expected - found).sum()))
