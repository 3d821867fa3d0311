# SPDX-License-Identifier: Apache-2.0
"""`hubsep evaluate`: models on material they never saw."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..registry import face


if TYPE_CHECKING:
    from hubsep.data.pairs import Pair, evaluate_pairs, pair_mixtures

    from .queries import format_table, run

face(
    __name__,
    {
        "hubsep.data.pairs": "Pair evaluate_pairs pair_mixtures",
        ".queries": "format_table run",
    },
)

__all__ = ["Pair", "evaluate_pairs", "format_table", "pair_mixtures", "run"]
