# SPDX-License-Identifier: Apache-2.0
"""Checks of `tokenizer.json` and the other files of a vocabulary, before the tokenizers library reads them.

That library is compiled: what it does not expect ends in a panic, which no `except Exception` sees, or ends the whole
process. So each part is compared with a table of what the library writes, numbers are bounded, and names of tokens are
looked up, before it gets the file. Regular expressions are taken from a list: one that backtracks hangs. Parts that
make a text longer, each within its limits, are bounded together: five that put 64 letters in place of one make 10^9.
What is no JSON (`vocab.txt`, `merges.txt`, `spiece.model`) is counted before it is read.
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Iterator
from typing import Any

from ..errors import CheckpointError
from .bounds import bounded, is_number, shown
from .fields import Check, Table, check_fields, choice, either, flag, items, optional, table, text, whole
from .processors import ADDED_TOKEN, MAX_SPECIAL_TOKENS, MAX_TOKENS


MAX_TOKEN_CHARACTERS = 1_024
MAX_MERGES = 1 << 20
MAX_CHARSMAP = 1 << 20
MAX_PARTS, MAX_NESTING = 16, 4
MAX_STEPS = 64  # of a normalizer and the like, in all its sequences
# to how many bytes one may become, and what may be added; T5 needs 100, for the table of SentencePiece
MAX_GROWTH, MAX_ADDED = 256, 4_096
MAX_MAPPED = 64  # bytes of what such a table puts in place of a character; NFKC has 33
# the most that any character grows in bytes; of Metaspace and ByteLevel with what they put before it
GROWTH = {
    "BertNormalizer": 6.0, "ByteLevel": 4.0, "Lowercase": 1.5, "Metaspace": 9.0,
    "NFC": 3.0, "NFD": 3.0, "NFKC": 11.0, "NFKD": 11.0,
}  # fmt: skip
GPT2_WORDS = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"
REGEXES = (" {2,}", r"\s+", r"\s", GPT2_WORDS)

ID: Check = whole(0, MAX_TOKENS - 1)
TYPE_ID: Check = whole(0, 16)
PATTERN: Check = either(
    table({"Regex": choice(*REGEXES)}, required=("Regex",)), table({"String": text(64)}, required=("String",))
)
BEHAVIOR: Check = choice("Removed", "Isolated", "MergedWithPrevious", "MergedWithNext", "Contiguous")
PIECE: Check = either(
    table({"Sequence": table({"id": choice("A", "B"), "type_id": TYPE_ID}, required=("id", "type_id"))}),
    table({"SpecialToken": table({"id": text(256), "type_id": TYPE_ID}, required=("id", "type_id"))}),
)
NAMED_ID: Check = lambda name, value: _check_named_id(name, value)  # noqa: E731
METASPACE: Table = {
    "replacement": text(1),
    "str_rep": text(1),
    "prepend_scheme": choice("always", "never", "first"),
    "split": flag,
    "add_prefix_space": flag,
}
BYTES: Table = dict.fromkeys(("add_prefix_space", "trim_offsets", "use_regex"), flag)
PAIRED: Table = {"sep": NAMED_ID, "cls": NAMED_ID, "trim_offsets": flag, "add_prefix_space": flag}
BERT_FLAGS = ("clean_text", "handle_chinese_chars", "strip_accents", "lowercase")
PLAIN: dict[str, Table] = {
    name: {}
    for name in "BertPreTokenizer ByteFallback Fuse Lowercase NFC NFD NFKC NFKD Nmt StripAccents UnicodeScripts "
    "Whitespace WhitespaceSplit".split()
}
# what may stand for normalizer, pre_tokenizer, post_processor and decoder; a type has one set of fields everywhere
PARTS: dict[str, Table] = {
    **PLAIN,
    "BertNormalizer": dict.fromkeys(BERT_FLAGS, optional(flag)),
    "ByteLevel": BYTES,
    "Metaspace": METASPACE,
    "Prepend": {"prepend": text(64)},
    "Replace": {"pattern": PATTERN, "content": text(64)},
    "Strip": {
        "strip_left": flag, "strip_right": flag,
        "content": text(1), "start": whole(0, 64), "stop": whole(0, 64),
    },
    "Punctuation": {"behavior": BEHAVIOR},
    "Digits": {"individual_digits": flag},
    "CharDelimiterSplit": {"delimiter": text(1)},
    "Split": {"pattern": PATTERN, "behavior": BEHAVIOR, "invert": flag},
    "WordPiece": {"prefix": text(64), "cleanup": flag},
    "BPEDecoder": {"suffix": text(64)},
    "BertProcessing": PAIRED,
    "RobertaProcessing": PAIRED,
}  # fmt: skip
REQUIRED = {
    "Metaspace": ("replacement",), "Prepend": ("prepend",), "Replace": ("pattern", "content"),
    "Split": ("pattern", "behavior", "invert"), "CharDelimiterSplit": ("delimiter",), "Punctuation": ("behavior",),
    "BertProcessing": ("sep", "cls"), "RobertaProcessing": ("sep", "cls"),
}  # fmt: skip
SEQUENCES = ("normalizers", "pretokenizers", "processors", "decoders")
TRUNCATION: Table = {
    "direction": choice("Left", "Right"),
    "max_length": whole(8, 8_192),
    "strategy": choice("LongestFirst", "OnlyFirst", "OnlySecond"),
    "stride": choice(0),
}
PADDING: Table = {
    "strategy": either(choice("BatchLongest"), table({"Fixed": whole(1, 8_192)}, required=("Fixed",))),
    "direction": choice("Left", "Right"),
    "pad_to_multiple_of": optional(whole(1, 1_024)),
    "pad_id": ID,
    "pad_type_id": TYPE_ID,
    "pad_token": text(256),
}
HALVES: Check = items(text(MAX_TOKEN_CHARACTERS), 2, least=2)
MODELS: dict[str, Table] = {
    "WordLevel": {"unk_token": text(256)},
    "WordPiece": {
        "unk_token": text(256),
        "continuing_subword_prefix": text(64),
        "max_input_chars_per_word": whole(1, 1_000),
    },
    "BPE": {
        "dropout": choice(None),
        "unk_token": optional(text(256)),
        "continuing_subword_prefix": optional(text(64)),
        "end_of_word_suffix": optional(text(64)),
        "fuse_unk": flag,
        "byte_fallback": flag,
        "ignore_merges": flag,
        "merges": items(
            either(text(2 * MAX_TOKEN_CHARACTERS), items(text(MAX_TOKEN_CHARACTERS), 2, least=2)), MAX_MERGES
        ),
    },
    "Unigram": {"unk_id": optional(ID), "byte_fallback": flag},
}


def check_tokenizer(label: str, content: dict[str, Any]) -> None:
    """Check `tokenizer.json`.

    Raises:
        CheckpointError: naming the part, its value and what is accepted.
    """
    fields: Table = {
        "version": text(16),
        "truncation": optional(table(TRUNCATION, required=tuple(TRUNCATION))),
        "padding": optional(table(PADDING, required=tuple(PADDING))),
        "added_tokens": items(table({**ADDED_TOKEN, "id": ID}, required=("id", "content")), MAX_SPECIAL_TOKENS),
        "normalizer": optional(_check_parts),
        "pre_tokenizer": optional(_check_parts),
        "post_processor": optional(_check_parts),
        "decoder": optional(_check_parts),
        "model": _check_model,
    }
    check_fields(label, content, fields, required=("added_tokens", "model"))


def check_vocabulary(label: str, content: Any) -> None:
    """Check `vocab.json`, or the same inside `tokenizer.json`: every token has an id of its own.

    Raises:
        CheckpointError: naming the token and its id.
    """
    _check_ids(label, content, MAX_TOKENS)
    if not content:
        raise CheckpointError(f"{label} holds no token.")


def check_vocabulary_file(label: str, base: str, content: bytes) -> None:
    """Check how many tokens `vocab.txt`, `merges.txt` or `spiece.model` holds.

    Raises:
        CheckpointError: naming the file and the number.
    """
    most = MAX_MERGES + 1 if base == "merges.txt" else MAX_TOKENS  # it begins with a line of its version
    if base.endswith(".model"):
        count = _pieces(label, content, most)
    else:  # lines as Python reads them: ended by either character, or by both
        count = content.count(b"\n") + content.count(b"\r") - content.count(b"\r\n")
    if count > most:
        raise CheckpointError(f"{label} holds more than {most} tokens.")


def _pieces(label: str, content: bytes, most: int) -> int:
    """How many fields the message of SentencePiece has at its top, each of its tokens being one; at most one too many.

    The format is that of protocol buffers: a number whose last three bits say how the value is stored, then the value.
    """
    at = count = 0
    while at < len(content) and count <= most:
        tag, at = _varint(label, content, at)
        size, after = _varint(label, content, at) if tag & 7 in (0, 2) else (0, at)
        at = {0: after, 1: at + 8, 2: after + size, 5: at + 4}.get(tag & 7, len(content) + 1)
        count += 1
        if at > len(content):
            raise CheckpointError(f"{label} is no model of SentencePiece, or cut short.")
    return count


def _varint(label: str, content: bytes, at: int) -> tuple[int, int]:
    """A number in as many bytes as it needs, seven bits in each, and where it ends."""
    if content[at : at + 1] < b"\x80" and at < len(content):  # nearly all of them
        return content[at], at + 1
    for length in range(2, 11):
        last = content[at + length - 1 : at + length]
        if last and last[0] < 128:
            return sum((byte & 127) << 7 * place for place, byte in enumerate(content[at : at + length])), at + length
    raise CheckpointError(f"{label} is no model of SentencePiece, or cut short.")


def check_added_tokens(label: str, content: Any) -> None:
    """Check `added_tokens.json`.

    Raises:
        CheckpointError: naming the token and its id.
    """
    _check_ids(label, content, MAX_SPECIAL_TOKENS)


def _check_ids(label: str, content: Any, most: int) -> None:
    if not isinstance(content, dict) or len(content) > most:
        raise CheckpointError(f"{label} must be an object of at most {most} tokens, not {shown(content)}.")
    for token, number_of in content.items():
        if len(token) > MAX_TOKEN_CHARACTERS:
            raise CheckpointError(f"{label}: a token has {len(token)} characters; at most {MAX_TOKEN_CHARACTERS}.")
        if type(number_of) is not int or not 0 <= number_of < MAX_TOKENS:
            bounded(f"{label}: the id of {shown(token)}", number_of, 0, MAX_TOKENS - 1)
    if len(set(content.values())) < len(content):
        raise CheckpointError(f"{label} gives one id to two tokens.")


def _check_parts(name: str, value: Any) -> None:
    """Each part by itself, and what all of them make of a text."""
    _check_part(name, value)
    steps = list(_steps(value))
    if len(steps) > MAX_STEPS:
        raise CheckpointError(f"{name} has {len(steps)} steps; at most {MAX_STEPS} are accepted.")
    times, added = 1.0, 0.0
    for step in steps:
        growth = _growth(step)
        times, added = times * growth, added * growth + len(step.get("prepend", "").encode())
        if times > MAX_GROWTH or added > MAX_ADDED:
            raise CheckpointError(
                f"{name} would make a text more than {MAX_GROWTH} times as long, or {MAX_ADDED} bytes longer."
            )


def _steps(part: dict[str, Any]) -> Iterator[dict[str, Any]]:
    if part["type"] != "Sequence":
        yield part
    for key in SEQUENCES:
        for below in part.get(key, ()):
            yield from _steps(below)


def _growth(part: dict[str, Any]) -> float:
    """To how many bytes one byte of a text may become."""
    if part["type"] == "Precompiled":
        return max(1, max(map(len, _mapped(base64.b64decode(part["precompiled_charsmap"])))))
    if part["type"] != "Replace":
        return GROWTH.get(part["type"], 1.0)
    pattern = part["pattern"].get("String", " ")  # each expression of the list finds a byte at least
    return max(1.0, len(part["content"].encode()) / len(pattern.encode()))


def _mapped(charsmap: bytes) -> list[bytes]:
    """The texts that a table of SentencePiece puts in place of others, each ended by a zero."""
    return charsmap[4 + int.from_bytes(charsmap[:4], "little") :].split(b"\0")


def _check_part(name: str, value: Any, nesting: int = 0) -> None:
    kind = value.get("type") if isinstance(value, dict) else None
    if not isinstance(kind, str) or kind not in (*PARTS, "Sequence", "TemplateProcessing", "Precompiled"):
        raise CheckpointError(f"{name}: type is {shown(kind)}, which is not accepted.")
    if kind == "TemplateProcessing":
        _check_template(name, value)
    elif kind == "Precompiled":
        check_fields(name, value, {"type": text(16), "precompiled_charsmap": _check_charsmap})
    elif kind == "Sequence":
        if nesting >= MAX_NESTING:
            raise CheckpointError(f"{name} is nested more than {MAX_NESTING} deep.")

        def check(label: str, part: Any) -> None:
            _check_part(label, part, nesting + 1)

        check_fields(name, value, {"type": text(16), **dict.fromkeys(SEQUENCES, items(check, MAX_PARTS))})
    else:
        check_fields(name, value, {"type": text(32), **PARTS[kind]}, required=REQUIRED.get(kind, ()))
        if value.get("pattern", {}).get("String") == "":  # which is found between all characters
            raise CheckpointError(f"{name}: the String of its pattern is empty; it must have 1 to 64 characters.")


def _check_template(name: str, value: Any) -> None:
    special = {"id": text(256), "ids": items(ID, 16, least=1), "tokens": items(text(256), 16, least=1)}

    def check_specials(label: str, content: Any) -> None:
        if not isinstance(content, dict) or len(content) > 64:
            raise CheckpointError(f"{label} must be an object of at most 64 tokens, not {shown(content)}.")
        for key, entry in content.items():
            check_fields(f"{label}[{shown(key)}]", entry, special, required=tuple(special))

    pieces = items(PIECE, MAX_PARTS, least=1)
    fields: Table = {"type": text(32), "single": pieces, "pair": pieces, "special_tokens": check_specials}
    check_fields(name, value, fields, required=tuple(fields))
    for piece in (*value["single"], *value["pair"]):
        token = piece.get("SpecialToken", {}).get("id")
        if token is not None and token not in value["special_tokens"]:
            raise CheckpointError(f"{name}: {shown(token)} is not among its special_tokens.")
    for side in ("single", "pair"):
        texts = [piece["Sequence"]["id"] for piece in value[side] if "Sequence" in piece]
        if sorted(texts) != ["A", "B"][: 1 if side == "single" else 2]:
            raise CheckpointError(f"{name}: {side} must hold {'A once' if side == 'single' else 'A and B once'}.")


def _check_named_id(name: str, value: Any) -> None:
    if not isinstance(value, list) or len(value) != 2:
        raise CheckpointError(f"{name} must be a token and its id, not {shown(value)}.")
    text(256)(name, value[0])
    ID(name, value[1])


def _check_charsmap(name: str, value: Any) -> None:
    """A table of SentencePiece: the size of a trie, in bytes, the trie, and the texts that it leads to."""
    text(2 * MAX_CHARSMAP)(name, value)
    try:
        content = base64.b64decode(value, validate=True)
    except (binascii.Error, ValueError):
        raise CheckpointError(f"{name} is not valid base64.") from None
    size = int.from_bytes(content[:4], "little")
    if len(content) < 8 or size % 4 or not 4 <= size <= len(content) - 4:
        raise CheckpointError(f"{name} has {len(content)} bytes and says that {size} of them are a trie.")
    if max(map(len, _mapped(content))) > MAX_MAPPED:
        raise CheckpointError(f"{name} puts more than {MAX_MAPPED} bytes in place of a character.")


def _check_model(name: str, value: Any) -> None:
    kind = value.get("type") if isinstance(value, dict) else None
    if not isinstance(kind, str) or kind not in MODELS:
        raise CheckpointError(f"{name}: type is {shown(kind)}; accepted are {', '.join(MODELS)}.")
    vocabulary = _check_scores if kind == "Unigram" else check_vocabulary
    needed = ("vocab", "unk_token") if kind in ("WordLevel", "WordPiece") else ("vocab",)
    check_fields(name, value, {"type": text(16), "vocab": vocabulary, **MODELS[kind]}, required=needed)
    tokens = value["vocab"]
    if value.get("unk_token") is not None and value["unk_token"] not in tokens:
        raise CheckpointError(f"{name}: unk_token is {shown(value['unk_token'])}, which is not in its vocab.")
    if value.get("unk_id") is not None:
        bounded(f"{name}: unk_id", value["unk_id"], 0, len(tokens) - 1)
    prefix = value.get("continuing_subword_prefix") or ""
    for merge in value.get("merges", ()):
        _check_merge(name, merge, tokens, prefix)


def _check_merge(name: str, merge: Any, tokens: dict[str, int], prefix: str) -> None:
    pair = merge.split(" ") if isinstance(merge, str) else merge
    if len(pair) != 2 or not {*pair, pair[0] + pair[1].removeprefix(prefix)} <= tokens.keys():
        raise CheckpointError(f"{name}: merges holds {shown(merge)}, whose parts or whole are not in its vocab.")
    # the library cuts as many bytes as the prefix has letters, and ends the process over what is no UTF-8 after that
    if not (prefix.isascii() and pair[1].startswith(prefix)):
        raise CheckpointError(
            f"{name}: merges holds {shown(merge)}, whose second part must begin with continuing_subword_prefix, "
            f"{shown(prefix)}, of ASCII letters."
        )


def _check_scores(name: str, value: Any) -> None:
    if not isinstance(value, list) or not 1 <= len(value) <= MAX_TOKENS:
        raise CheckpointError(f"{name} must be a list of 1 to {MAX_TOKENS} tokens, not {shown(value)}.")
    for entry in value:
        fits = isinstance(entry, list) and len(entry) == 2 and isinstance(entry[0], str)
        score = entry[1] if fits else None
        if score is None or not is_number(score):
            raise CheckpointError(f"{name} holds {shown(entry)}; an entry is a token and a finite number.")
        if len(entry[0]) > MAX_TOKEN_CHARACTERS or abs(score) > 1e6:
            raise CheckpointError(f"{name} holds {shown(entry)}: too long a token, or a number beyond a million.")


__all__ = ["check_added_tokens", "check_tokenizer", "check_vocabulary", "check_vocabulary_file"]
