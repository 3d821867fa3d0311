# SPDX-License-Identifier: Apache-2.0
"""Scores of separation and of generated sounds."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..registry import face


if TYPE_CHECKING:
    from .separation import (
        filtered_sdr,
        level_change,
        match_outputs,
        sdr,
        sdr_improvement,
        separation_scores,
        si_sdr,
        si_snr,
    )

face(
    __name__,
    {
        ".separation": """
            filtered_sdr level_change match_outputs sdr sdr_improvement separation_scores si_sdr si_snr""",
    },
)

__all__ = [
    "filtered_sdr",
    "level_change",
    "match_outputs",
    "sdr",
    "sdr_improvement",
    "separation_scores",
    "si_sdr",
    "si_snr",
]
