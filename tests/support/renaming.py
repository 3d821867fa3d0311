# SPDX-License-Identifier: Apache-2.0
"""Tensors by our names under those of others, as tables of regular expressions say."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping

from torch import Tensor


Words = Iterable[tuple[str, str]]


def renamed(state: Mapping[str, Tensor], words: Words) -> dict[str, Tensor]:
    """Each name with all words of ours replaced by theirs, one after the other."""
    words = list(words)
    result = {}
    for name, tensor in state.items():
        for ours, theirs in words:
            name = re.sub(ours, theirs, name)
        result[name] = tensor
    return result


__all__ = ["Words", "renamed"]
