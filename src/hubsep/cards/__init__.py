# SPDX-License-Identifier: Apache-2.0
"""Cards of models: what is known of them, and the README made of it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..registry import face


if TYPE_CHECKING:
    from .card import (
        card_files,
        card_text,
        commercial_use,
        finetuned_card,
        licence_of,
        main,
        read_card,
        render_card,
        render_index,
        write_card,
    )
    from .results import results_table

face(
    __name__,
    {
        ".card": "card_files card_text commercial_use finetuned_card licence_of main read_card render_card "
        "render_index write_card",
        ".results": "results_table",
    },
)

__all__ = [
    "card_files",
    "card_text",
    "commercial_use",
    "finetuned_card",
    "licence_of",
    "main",
    "read_card",
    "render_card",
    "render_index",
    "results_table",
    "write_card",
]
