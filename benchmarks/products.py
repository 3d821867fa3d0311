# SPDX-License-Identifier: Apache-2.0
"""How fast this processor multiplies matrices in float32 and bfloat16: the bound of every ratio between the two.

`python benchmarks/products.py [--threads N]` prints GFLOP/s, the best of ten, of products of the sizes that
AudioLDM 2's U-Net and Meta-TasNet have most of. Weights are laid out beforehand where torch's oneDNN does that.
"""

from __future__ import annotations

import argparse
import time

import torch

from hubsep import onednn


SIZES = ((4_096, 4_096, 4_096), (2_048, 256, 2_048), (512, 640, 5_120), (4_000, 1_760, 1_540))  # rows, inner, columns


def rate(rows: int, inner: int, columns: int, dtype: torch.dtype) -> float:
    """Of one product, in GFLOP/s."""
    left, weight = torch.randn(rows, inner).to(dtype), torch.randn(columns, inner).to(dtype)
    multiply = onednn.product(weight, rows=rows)
    best = float("inf")
    for _ in range(10):
        start = time.perf_counter()
        multiply(left)
        best = min(best, time.perf_counter() - start)
    return 2e-9 * rows * inner * columns / best


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
