# SPDX-License-Identifier: Apache-2.0
"""Texts that people wrote: names that are printed, words for a model, names with a mistake, lists, and YAML.

Decisions:

- Whatever is printed of a name goes through `printable`, as errors do by themselves (`errors.py`).
- A text for a model has to be Unicode, and no longer than anybody types: a tokenizer needs minutes for a megabyte, and
  then finds that it is too long.
- For a mistyped name, a word that others use for the same thing comes first ("steps" for `num_inference_steps`), then
  a name that differs by a few letters. Upper and lower case, hyphens and underscores are the same. Where nothing is
  near, nothing is said: a wrong guess is worse than none.
- Numbers of YAML are those of its version 1.2: 1e-3 is a number, 010 is ten, and 12:30 is a text. A name that is given
  twice is an error. There are no tags beyond YAML's own and no aliases, which make a few lines stand for gigabytes as
  soon as they are printed; no nesting that exhausts a stack, and no number that is too long to be printed. What a
  README says to the Hub is such YAML too, and is read here and nowhere else: somebody else may have written it.
- Names of sounds and the words people use for them are read from `data/sounds.json`: for training, and to understand
  prompts. `data/prompts.py` says what the file holds and makes prompts of it.
"""

from __future__ import annotations

import json
import os
import re
from collections import Counter
from collections.abc import Iterable, Mapping
from difflib import get_close_matches
from functools import lru_cache
from pathlib import Path
from typing import Any

import yaml

from .errors import DataError, QueryError, printable


MAX_YAML = 100_000  # the parser is Python: so many take up to a second
MAX_BRACKETS = 1_000
MAX_LEVELS = 32
MAX_BITS = 1_024  # of a whole number: none beyond this is a float either
# what PyYAML raises of a value that is not what its tag says: a date that is none, a key that cannot be one
WRONG_VALUES = (
    yaml.YAMLError, ValueError, TypeError, ArithmeticError, LookupError, AttributeError, RecursionError,
)  # fmt: skip
FRONT_MATTER = re.compile(r"\ufeff?\s*---[ \t]*\r?\n(.*?)^---[ \t]*\r?$", re.DOTALL | re.MULTILINE)


class _Loader(yaml.SafeLoader):
    _levels = 0

    def compose_node(self, parent: Any, index: Any) -> Any:
        if self.check_event(yaml.AliasEvent):
            raise yaml.YAMLError("an alias (*name); write the value itself")
        if self._levels >= MAX_LEVELS:
            raise yaml.YAMLError(f"values in more than {MAX_LEVELS} others")
        self._levels += 1
        node = super().compose_node(parent, index)
        self._levels -= 1
        return node

    def construct_mapping(self, node: Any, deep: bool = False) -> dict[Any, Any]:
        names = Counter((key.tag, key.value) for key, _ in node.value if isinstance(key, yaml.ScalarNode))
        (_, name), count = next(iter(names.most_common(1)), (("", ""), 0))
        if count > 1:
            raise yaml.YAMLError(f"{printable(name[:80])} is given twice")
        return super().construct_mapping(node, deep)

    def construct_yaml_int(self, node: Any) -> int:
        text = self.construct_scalar(node).replace("_", "")
        number = int(text, 0) if "x" in text or "o" in text else int(text)
        if number.bit_length() > MAX_BITS:
            raise yaml.YAMLError(f"a whole number of {number.bit_length()} bits")
        return number


INT, FLOAT = "tag:yaml.org,2002:int", "tag:yaml.org,2002:float"
_Loader.yaml_implicit_resolvers = {
    first: [(tag, pattern) for tag, pattern in resolvers if tag not in (INT, FLOAT)]
    for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
}
_Loader.add_implicit_resolver(INT, re.compile(r"(?:[-+]?[0-9][0-9_]*|0o[0-7]+|0x[0-9a-fA-F]+)$"), list("-+0123456789"))
_Loader.add_implicit_resolver(
    FLOAT,
    re.compile(
        r"(?:[-+]?(?:\.[0-9]+|[0-9][0-9_]*(?:\.[0-9]*)?)(?:[eE][-+]?[0-9]+)?|[-+]?\.(?:inf|Inf|INF)|\.(?:nan|NaN|NAN))$"
    ),
    list("-+.0123456789"),
)
_Loader.add_constructor(INT, _Loader.construct_yaml_int)


def read_yaml(text: str, what: str) -> Any:
    """The value of a text.

    Args:
        text: YAML.
        what: it is, for the error.

    Raises:
        DataError: if it is no YAML, or not plain values.
    """
    if len(text) > MAX_YAML or text.count("[") + text.count("{") > MAX_BRACKETS:
        raise DataError(f"{what} is too long or too deeply nested to be settings")
    try:
        return yaml.load(text, _Loader)  # a subclass of the safe loader
    except WRONG_VALUES as error:
        problem = getattr(error, "problem", None) or str(error) or type(error).__name__
        mark = getattr(error, "problem_mark", None)
        place = "" if mark is None else f" in line {mark.line + 1}"
        raise DataError(f"{what} is not YAML{place}: {' '.join(str(problem).split())}") from error


def read_front_matter(text: str, what: str) -> dict[str, Any]:
    """What a README says to the Hub: the YAML between lines of --- that it begins with; nothing where it has none.

    Args:
        text: of the README.
        what: it is, for the error.

    Raises:
        DataError: if that is no YAML, not plain values, or no mapping of names.
    """
    block = FRONT_MATTER.match(text)
    fields = read_yaml(block[1], f"what stands between the lines of --- in {what}") if block else None
    if fields is None:
        return {}
    if not isinstance(fields, dict) or not all(isinstance(name, str) for name in fields):
        raise DataError(f"what stands between the lines of --- in {what} must be lines of `name: value`")
    return fields


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
    longer = [letters for letters in reversed(plain) if letters != word and letters.startswith(word)]
    if longer and len(word) > 3:
        return plain[min(longer, key=len)]
    close = get_close_matches(word, plain, n=1, cutoff=ENOUGH)
    return plain[close[0]] if close else None


def did_you_mean(name: str, names: Iterable[str], synonyms: Mapping[str, str] | None = None) -> str:
    """ " Did you mean X?" for the end of an error, or nothing."""
    meant = near(name, names, synonyms)
    return f" Did you mean {meant}?" if meant is not None else ""


def _plain(name: str) -> str:
    return name.casefold().replace("-", "").replace("_", "").replace(" ", "")


MAX_CHARACTERS = 10_000


def check_text(text: str, what: str) -> str:
    """The text, if a model can be given it.

    Args:
        text: words for a model.
        what: it is, for the error.

    Raises:
        QueryError: if it holds what is no Unicode, or is far too long.
    """
    if len(text) > MAX_CHARACTERS:
        raise QueryError(f"{what} has {len(text)} characters; at most {MAX_CHARACTERS} are read, shorten it")
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise QueryError(
            f"{what} {printable(text)!r} is no text: its character {error.start + 1} is a byte that is not UTF-8; "
            "type it in a terminal that is set to UTF-8"
        ) from error
    return text


def as_text(word: str) -> str:
    """A word of a command line as text, also where the system's own encoding is not that of the terminal.

    Without a locale Python keeps the bytes of letters as they are; where these are UTF-8, they are meant as such.
    """
    try:
        return os.fsencode(word).decode()
    except UnicodeError:
        return word


def with_word(text: str, word: str) -> str:
    """A list in words with one word more; clicked again, it goes."""
    words = split_words(text)
    kept = [each for each in words if each.casefold() != word.casefold()]
    return ", ".join(kept if len(kept) < len(words) else [*words, word])


def split_words(text: str) -> list[str]:
    """What stands between commas, semicolons and line breaks, each once."""
    entries: dict[str, str] = {}
    for part in re.split(r"[,;\n\r]", text or ""):
        words = " ".join(part.split())
        if words:
            entries.setdefault(words.casefold(), words)
    return list(entries.values())


SOUNDS = Path(__file__).parent / "data" / "sounds.json"


@lru_cache(maxsize=1)
def catalogue() -> dict[str, Any]:
    """The whole of `sounds.json`."""
    content: dict[str, Any] = json.loads(SOUNDS.read_text(encoding="utf-8"))
    return content


def phrases(label: str) -> list[str]:
    """The phrases taught for a class; a class outside the catalogue is called by its name."""
    sounds = catalogue()
    entry = sounds["sounds"].get(label) or sounds["others"].get(label)
    return entry["words"] if entry else [label]


@lru_cache(maxsize=1)
def taught_words() -> frozenset[str]:
    """All single words of the phrases that are taught for sounds."""
    entries = [*catalogue()["sounds"].values(), *catalogue()["others"].values()]
    taught = [*sound_names(), *(phrase for entry in entries for phrase in entry["words"])]
    return frozenset(word for phrase in taught for word in phrase.casefold().split())


def is_strange(text: str) -> bool:
    """Whether a text is one word, which is none of those that are taught."""
    return text.strip().isalpha() and text.strip().casefold() not in taught_words()


def sound_names() -> list[str]:
    """The names of all sounds, those with recordings and those known by name only."""
    return [*catalogue()["sounds"], *catalogue()["others"]]


__all__ = [
    "as_text",
    "catalogue",
    "check_text",
    "did_you_mean",
    "is_strange",
    "near",
    "phrases",
    "printable",
    "read_front_matter",
    "read_yaml",
    "sound_names",
    "split_words",
    "with_word",
]
