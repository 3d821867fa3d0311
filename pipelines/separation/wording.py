# SPDX-License-Identifier: Apache-2.0
"""What a query says: which sounds to keep, and which to leave out.

A text encoder hardly hears a "not": to CLAP and to MiniLM "everything but the voice" means the voice. So negations are
read here, before anything is encoded, in English and in the languages of `negations.py`. Decisions: each form is a
pattern in a table that a test goes through; a sentence that fits none of them is left as it is. Two negations cancel
each other: "remove everything but the dog" is the dog. "Take out the dog" is ambiguous; it asks for the dog, as models
of separation are taught.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from .negations import BOTH, FORMS


@dataclass(frozen=True)
class Wording:
    """What a query says.

    Attributes:
        wanted: the sound to keep, in the words of the query; "" for the whole recording.
        unwanted: the sounds to leave out.
    """

    wanted: str
    unwanted: tuple[str, ...] = ()


_WHOLE = r"(?:recording|mixture|mix|track|audio|file|song|clip|sound)"
_ALL = (
    r"(?:(?:everything|anything|all|whatever)(?: else)?(?: there is| you hear| that is there)?"
    r"|(?:all|every|any)(?: of)?(?: the)?(?: other)? (?:sounds?|noises?|things?|audio)"
    rf"|the (?:(?:whole|entire|full|complete) |rest of the )?{_WHOLE})"
)
_BUT = (
    r"(?:but not|but for|but|except for|except|excepting|excluding|besides|other than|apart from|aside from|save for"
    r"|without|minus|barring|not including|with the exception of|less)"
)
_POLITE = (
    r"(?:please |(?:can|could|would|will) you |i (?:want|would like|'d like|wish) (?:you )?to |let'?s "
    r"|just )*"
)
_REMOVE = (
    r"(?:remove|delete|erase|mute|suppress|discard|exclude|ignore|omit|eliminate|reduce|get rid of|turn off"
    r"|(?:filter|strip|cut|leave|throw|clean|block|edit|screen|tune) (?:out|away)|take away|cut off|clean up"
    r"|(?:drop|cut|silence|block|strip|skip|kill|filter|lose)(?= (?:the|all|any|every|this|that|my|those|these)\b))"
)
_KEEP = (
    r"(?:keep|extract|isolate|separate|give me|i want(?: to hear)?|let me hear|hear|i would like|i'd like|get|leave"
    r"|find|play|return|output|only|just)"
)
_GONE = r"(?:removed|deleted|muted|filtered out|taken away|left out|cut out|gone|excluded|suppressed|silenced)"
_GO = rf"(?:(?:should|must|has to|have to|needs to|need to|can|is to|are to) (?:go(?: away)?|be {_GONE}))"

# Patterns of whole queries, and what becomes of their x. The first that fits is taken.
_FORMS: tuple[tuple[re.Pattern[str], str], ...] = tuple(
    (re.compile(rf"^{_POLITE}{pattern}$", re.IGNORECASE), outcome)
    for pattern, outcome in (
        # two negations: x is wanted
        (rf"{_REMOVE} {_ALL},? {_BUT} (?P<x>.+)", "keep"),
        (rf"(?:no|not a) (?:other )?(?:sounds?|noises?) {_BUT} (?P<x>.+)", "keep"),
        (rf"(?:{_KEEP} )?(?:nothing|none)(?: else)? {_BUT} (?P<x>.+)", "keep"),
        (rf"{_ALL},? {_BUT} (?P<x>.+?) {_GO}", "keep"),
        (rf"{_ALL},? {_BUT} (?P<x>.+?) {_GONE}", "keep"),
        (rf"(?:don'?t|do not|never) {_REMOVE} (?P<x>.+)", "keep"),
        # one negation: x is left out
        (rf"(?:{_KEEP} )?{_ALL},? {_BUT} (?P<x>.+)", "leave out"),
        (rf"(?:{_KEEP} )?{_ALL},? (?:that|which|what) (?:is|are)(?: not|n't) (?P<x>.+)", "leave out"),
        (rf"(?:{_KEEP} )?(?:what|whatever)(?: is|'s| are) not (?P<x>.+)", "leave out"),
        (rf"(?:{_KEEP} )?{_ALL},? with (?P<x>.+) {_GONE}", "leave out"),
        (rf"{_REMOVE} (?P<x>.+)", "leave out"),
        (
            r"(?:i )?(?:don'?t|do not) (?:want|like|need|keep|play|give me)(?: to hear| to have)? (?P<x>.+)",
            "leave out",
        ),
        (rf"(?P<x>.+?) {_GO}", "leave out"),
        (rf"(?P<x>.+?) {_GONE}", "leave out"),
        (r"no(?! one\b| sounds?$| noises?$| longer\b| stop)(?:t(?! only)| more)? (?P<x>.+)", "leave out"),
        (rf"(?:{_KEEP} )?(?:without|w/o|minus|nothing of|none of|neither) (?P<x>.+)", "leave out"),
        (rf"{_KEEP} no (?P<x>.+)", "leave out"),
        (r"non[- ](?!stop)(?P<x>.+)", "leave out"),
        (rf"(?P<x>\w+)-(?:free|less)(?: (?:version|{_WHOLE}))?", "leave out"),
    )
)
# names of sounds, and of what makes them, that begin like a request to remove something
_NAMES = re.compile(
    r"^(?:sine? (?:wave|tone|sweep|city)|mute (?:swan|trumpet|trombone|horn|button)|non[- ]diegetic|no (?:wave|entry)"
    r"|(?:delete|erase) (?:key|head|button)|cut[- ]off saw|take ?away food|reduce speed|pas de deux|ni hao"
    r"|turn off (?:the|a) (?:light|lamp|tap|faucet|switch)|erase the board|clean up the (?:dishes|table)"
    r"|throw away (?:the )?(?:trash|rubbish|garbage)|a salvo of)\b",
    re.IGNORECASE,
)
# "rain without thunder": one sound is wanted, another is not
_BOTH = re.compile(
    r"^(?P<wanted>(?:any|all|every) .+?(?= but )|.+?)"
    r"(?:,? (?:but not|and not|but no|and no|without|except for|except|excluding|minus|other than|apart from"
    rf"|but {_REMOVE}|but(?= the\b)|and {_REMOVE})|, (?:not|no|{_REMOVE})) (?P<x>.+)$",
    re.IGNORECASE,
)
_LEADING = re.compile(r"^(?:(?:any|all|of|for) )*(?:(?:the )?(?:sounds?|noises?) of )?", re.IGNORECASE)
_TRAILING = re.compile(
    rf"(?:,? (?:please|thanks|thank you|at all|entirely|completely|(?:from|in) (?:this|the|my) {_WHOLE}"
    r"|bitte|s'il (?:te|vous) pla[iî]t|por favor|per favore))+$",
    re.IGNORECASE,
)
_AND = re.compile(
    r"\s*[,;&+/]\s*(?:(?:and|or|nor|no|not) )*|\s+(?:and|or|nor|as well as|plus|together with)\s+(?:(?:no|not) )?"
    r"|\s+(?:und|oder|noch|et|ou|ni)\s+",
    re.IGNORECASE,
)


def read_wording(text: str) -> Wording:
    """What a query says.

    Args:
        text: a query.

    Returns:
        The query itself as `wanted` where nothing is left out, else what is wanted and what is not.
    """
    query = " ".join(text.replace("\u2019", "'").split()).strip(" .!?\"'")
    plain = _TRAILING.sub("", query)
    if _NAMES.match(plain):
        return Wording(text)
    for pattern, outcome in (*FORMS, *_FORMS):
        match = pattern.match(plain)
        if match is not None:
            return Wording(match["x"]) if outcome == "keep" else Wording("", tuple(split_sounds(match["x"])))
    for pattern in (_BOTH, *BOTH):
        match = pattern.match(plain)
        if match is not None:
            return Wording(match["wanted"], tuple(split_sounds(match["x"])))
    return Wording(text)


def split_sounds(text: str) -> list[str]:
    """The sounds of a list in words: "the dog, a cat and rain" is three, "rock and roll" two."""
    parts = [_LEADING.sub("", part.strip()).strip() for part in _AND.split(text)]
    return list(dict.fromkeys(part for part in parts if part)) or [text]


__all__ = ["Wording", "read_wording", "split_sounds"]
