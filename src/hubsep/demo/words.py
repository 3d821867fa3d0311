# SPDX-License-Identifier: Apache-2.0
"""Lists of sounds as people type them: commas, semicolons or lines, in any case, some of them twice."""

from __future__ import annotations

import re


def with_word(text: str, word: str) -> str:
    """A list in words with one word more; clicked again, it goes."""
    words = split_words(text)
    kept = [each for each in words if each.casefold() != word.casefold()]
    return ", ".join(kept if len(kept) < len(words) else [*words, word])


def split_words(text: str) -> list[str]:
    """What stands between commas, semicolons and line breaks, each once."""
    found: dict[str, str] = {}
    for part in re.split(r"[,;\n\r]", text or ""):
        words = " ".join(part.split())
        if words:
            found.setdefault(words.casefold(), words)
    return list(found.values())


__all__ = ["split_words", "with_word"]
