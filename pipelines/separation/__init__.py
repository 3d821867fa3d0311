# SPDX-License-Identifier: Apache-2.0
"""Separation: a recording goes in, its sounds come out."""

from __future__ import annotations

from typing import TYPE_CHECKING

from hubsep.registry import face


if TYPE_CHECKING:
    from .pipeline import AudioSeparationPipeline

face(
    __name__,
    {
        ".pipeline": "AudioSeparationPipeline",
    },
)

__all__ = ["AudioSeparationPipeline"]
