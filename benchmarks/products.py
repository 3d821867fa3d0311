# SPDX-License-Identifier: Apache-2.0
"""How fast this processor multiplies matrices in float32 and bfloat16: the bound of every ratio between the two.

`python benchmarks/products.py [--threads N]` prints GFLOP/s, the best of ten, of products of the sizes that
AudioLDM 2's U-Net and Meta-TasNet have most of. Weights are laid out beforehand where torch's oneDNN does that.
"""

from __future__ import annotations

import argparse
import time

import torch
from torch import Tensor


SIZES = ((4_096, 4_096, 4_096), (2_048, 256, 2_048), (512, 640, 5_120), (4_000, 1_760, 1_540))  # rows, inner, columns


def rate(rows: int, inner: int, columns: int, dtype: torch.dtype) -> float:
    """Of one product, in GFLOP/s."""
    left, weight = torch.randn(rows, inner).to(dtype), torch.randn(columns, inner).to(dtype)
    packed = packed_weight(weight, rows)
    best = float("inf")
    for _ in range(10):
        start = time.perf_counter()
        if packed is None:
            torch.nn.functional.linear(left, weight)
        else:
            torch.ops.mkldnn._linear_pointwise(left, packed, None, "none", [], "")
        best = min(best, time.perf_counter() - start)
    return 2e-9 * rows * inner * columns / best


def packed_weight(weight: Tensor, rows: int) -> Tensor | None:
    """The weight as oneDNN wants it; None where it cannot be had."""
    try:
        packed: Tensor = torch.ops.mkldnn._reorder_linear_weight(weight.to_mkldnn(), rows)
        torch.ops.mkldnn._linear_pointwise(weight[:1].repeat(rows, 1), packed, None, "none", [], "")
    except (AttributeError, RuntimeError):
        return None
    return packed


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    print(f"GFLOP/s, {options.threads} threads")
    print(f"  {'rows, inner, columns':24}{'float32':>9}{'bfloat16':>10}{'ratio':>7}")
    with torch.inference_mode():
        for size in SIZES:
            full, half = rate(*size, torch.float32), rate(*size, torch.bfloat16)
            print(f"  {'x'.join(map(str, size)):24}{full:9.0f}{half:10.0f}{half / full:7.2f}")


if __name__ == "__main__":
    main()
