# SPDX-License-Identifier: Apache-2.0
"""Fine-tuning: a published model learns from your recordings."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ...registry import face


if TYPE_CHECKING:
    from .recipe import DEFAULTS, FineTuneRecipe, Run, fill_recipe
    from .run import main

face(
    __name__,
    {
        ".recipe": "DEFAULTS FineTuneRecipe Run fill_recipe",
        ".run": "main",
    },
)

__all__ = ["DEFAULTS", "FineTuneRecipe", "Run", "fill_recipe", "main"]
