# SPDX-License-Identifier: Apache-2.0
"""What somebody meant who mistyped a name: one rule for models, options and sounds.

Decisions: a word that others use for the same thing comes first ("steps" for `num_inference_steps`), then a name that
differs by a few letters. Upper and lower case, hyphens and underscores are the same. Where nothing is near, nothing is
said: a wrong guess is worse than none.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from difflib import get_close_matches


ENOUGH = 0.7  # share of letters two names have in common, as difflib counts it; 0.6 took "sepformer" for "separate"


def near(name: str, names: Iterable[str], synonyms: Mapping[str, str] | None = None) -> str | None:
    """The name that was meant, or None.

    Args:
        name: as it was typed.
        names: that exist.
        synonyms: words others use, and the name they stand for.
    """
    plain = {_plain(each): each for each in reversed([*names])}
    word = _plain(name)
    meant = {_plain(other): each for other, each in (synonyms or {}).items() if _plain(each) in plain}.get(word)
    if meant is not None:
        return meant
    for letters in plain:
        if word and letters != word and letters.startswith(word) and len(word) > 3:
            return plain[letters]
    close = get_close_matches(word, plain, n=1, cutoff=ENOUGH)
    return plain[close[0]] if close else None


def did_you_mean(name: str, names: Iterable[str], synonyms: Mapping[str, str] | None = None) -> str:
    """ " Did you mean X?" for the end of an error, or nothing."""
    meant = near(name, names, synonyms)
    return f" Did you mean {meant}?" if meant is not None else ""


def _plain(name: str) -> str:
    return name.casefold().replace("-", "").replace("_", "").replace(" ", "")


__all__ = ["did_you_mean", "near"]
