# SPDX-License-Identifier: Apache-2.0
"""`hubsep evaluate`: models on material they never saw."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..registry import face


if TYPE_CHECKING:
    from hubsep.data.pairs import Pair, evaluate_pairs, pair_mixtures

    from .queries import format_table, run

if not TYPE_CHECKING:  # a type checker knows the names above, and sees that there are no others
    __getattr__, __dir__ = face(
        __name__,
        {
            "hubsep.data.pairs": "Pair evaluate_pairs pair_mixtures",
            ".queries": "format_table run",
        },
    )

__all__ = ["Pair", "evaluate_pairs", "format_table", "pair_mixtures", "run"]
