# SPDX-License-Identifier: Apache-2.0
"""Levels of a recording that is longer than what the model sees at once, from sums over its pieces.

The published evaluation divides a whole recording by its standard deviation, at every rate, and fits one gain for each
source to all of it. Both need sums alone: of samples and their squares, and of products of sources and mixture. They
are float64, because they run over hours.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor


Statistics = dict[str, Tensor]


def add_levels(statistics: Mapping[str, Tensor] | None, waveforms: Sequence[Tensor]) -> Statistics:
    """Takes one more piece into account.

    Args:
        statistics: of the pieces before.
        waveforms: one a stage, (rows, samples).

    Returns:
        `counts`, `sums` and `squares`, (rows, stages).
    """
    stages = [waveform.double() for waveform in waveforms]
    found = {
        "counts": torch.stack([torch.full_like(wave[:, 0], wave.shape[-1]) for wave in stages], dim=1),
        "sums": torch.stack([wave.sum(dim=-1) for wave in stages], dim=1),
        "squares": torch.stack([wave.square().sum(dim=-1) for wave in stages], dim=1),
    }
    return _added(statistics, found)


def whole_level(statistics: Mapping[str, Tensor], stage: int) -> tuple[Tensor, Tensor]:
    """Root mean square and standard deviation of the recordings at the rate of a stage, (rows, 1) both, float32."""
    count, total, squares = (statistics[name][:, stage, None] for name in ("counts", "sums", "squares"))
    variance = (squares - total.square() / count) / (count - 1).clamp_min(1)
    return (squares / count).sqrt().float(), variance.clamp_min(0).sqrt().float()


def add_products(statistics: Mapping[str, Tensor] | None, mixture: Tensor, sources: Tensor) -> Statistics:
    """Takes the sources (rows, num_sources, samples) of one more piece of a mixture (rows, samples) into account.

    Returns:
        What there was, with `products` (rows, num_sources, num_sources) and `wanted` (rows, num_sources, 1).
    """
    flat, whole = sources.double(), mixture.double()
    return _added(statistics, {"products": flat @ flat.mT, "wanted": flat @ whole.unsqueeze(-1)})


def gains_from(products: Tensor, wanted: Tensor) -> Tensor:
    """Least-squares gains (rows, num_sources), float32; the smallest ones where several fit as well.

    They are NaN where the sources are, for the caller to see; a decomposition would fail.
    """
    if not products.isfinite().all():
        return torch.full_like(wanted[..., 0], torch.nan).float()
    inverse = torch.linalg.pinv(products, hermitian=True, rtol=1e-12)
    return (inverse @ wanted).squeeze(-1).float()


def _added(statistics: Mapping[str, Tensor] | None, found: Statistics) -> Statistics:
    before = dict(statistics or {})
    return {**before, **{name: before[name] + value if name in before else value for name, value in found.items()}}


__all__ = ["add_levels", "add_products", "gains_from", "whole_level"]
