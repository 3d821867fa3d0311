# SPDX-License-Identifier: Apache-2.0
"""Hostile values by type, and changes to JSON, text and bytes that keep most of what they change valid."""

from __future__ import annotations

import copy
import json
import math
import re
from collections.abc import Iterator
from random import Random
from typing import Any

from fuzz.cases import Case


RAW = re.compile(r'"@raw ([^"]*)"')  # becomes JSON that Python would not write
NAMES = (
    "../x",
    "/etc/passwd",
    "evil.Evil",
    "a\0b",
    "",
    " ",
    "x" * 5_000,
    "日本語",
    "\ud800",
    "a\nfailed: b",
    "\x1b[2J",
    "C:\\x",
    "{outside}/model.safetensors",
    "{outside}",
    "https://127.0.0.1/x",
    "file:///etc/passwd",
    "null",
    "-1",
    "None",
    "__class__",
    "%s%n",
    "{0.__class__}",
    "{{ 7 * 7 }}",
    "bool",
    "CON",
    "nan",
)


def hostile(value: Any, random: Random) -> Any:
    """Another value than this: near it a third of the time, else one of those that break things."""
    if isinstance(value, bool):
        return random.choice([not value, not value, 0, 1, "true", None, []])
    if isinstance(value, int):
        near: list[Any] = [value + 1, value - 1, 2 * value, max(1, value // 2), float(value)]
        far: list[Any] = [
            0,
            -1,
            -value,
            2**31 - 1,
            2**31,
            2**40,
            2**63,
            -(2**63),
            10**9,
            400_000_000,
            2**22,
            100_000,
            1_024,
            value + 0.5,
            str(value),
            True,
            None,
            [value],
            {},
            "@raw 1e400",
            "@raw " + "9" * 400,
            math.nan,
            "",
        ]
        return random.choice(near if random.random() < 0.35 else far)
    if isinstance(value, float):
        near = [value * 2, value / 2, value * 1.001, round(value)]
        far = [math.nan, math.inf, -math.inf, 0.0, -value, 1e308, 1e-320, 1e12, -1, "0.1", None, [value], True]
        return random.choice(near if random.random() < 0.35 else far)
    if isinstance(value, str):
        near = [value.upper(), value + " ", value + "2", value[:-1], value[::-1]]
        return random.choice(near) if random.random() < 0.2 else random.choice([*NAMES, None, 0, [value], {}, True])
    if isinstance(value, list):
        return hostile_list(value, random)
    if isinstance(value, dict):
        return random.choice([{}, None, [], "x", 0, list(value), nested(60), {"": value}])
    return random.choice([0, 1, -1, "x", [], {}, True, math.nan, 2**63, 1.5, nested(40), ["x"]])


def hostile_list(value: list[Any], random: Random) -> Any:
    """Another list, or none."""
    first = value[0] if value else 0
    choices: list[Any] = [
        [],
        None,
        value[::-1],
        value[:-1],
        value + value,
        value * 200,
        [None, *value],
        [value],
        {},
        "x",
        0,
        first,
    ]
    if value and random.random() < 0.6:
        changed = list(value)
        place = random.randrange(len(value))
        changed[place] = hostile(value[place], random)
        return changed
    return random.choice(choices)


def nested(depth: int) -> Any:
    """Lists in lists."""
    value: Any = 1
    for _ in range(depth):
        value = [value]
    return value


def places_of(content: Any) -> Iterator[tuple[Any, Any]]:
    """Every container in parsed JSON with each of its keys or positions."""
    keys = list(content) if isinstance(content, dict) else range(len(content)) if isinstance(content, list) else ()
    for key in list(keys)[:2_000]:
        yield content, key
        yield from places_of(content[key])


def change(content: Any, case: Case, keys: dict[str, list[Any]], label: str = "") -> Any:
    """Parsed JSON with one change; `keys` are those that are put in, with the values they may get."""
    random, content = case.random, copy.deepcopy(content)
    places, roll = list(places_of(content)), random.random()
    objects = [content, *(box[key] for box, key in places if isinstance(box[key], dict))]
    if keys and (roll < 0.3 or not places):
        key = random.choice(sorted(keys))
        target = content if random.random() < 0.7 else random.choice(objects)
        if isinstance(target, dict):
            target[key] = random.choice(keys[key])
            case.note(f"{label} puts in {key} = {ascii(target[key])[:80]}")
        return content
    if not places:
        return content
    shallow = [place for place in places if place[0] is content]
    box, key = random.choice(shallow if random.random() < 0.5 else places)
    if roll < 0.4:
        case.note(f"{label} drops {key}")
        del box[key]
    elif roll < 0.45 and isinstance(box, dict):
        case.note(f"{label} renames {key}")
        box[random.choice([f"{key}_", str(key).upper(), "", "\ud800", "__init__"])] = box.pop(key)
    elif roll < 0.5:
        other_box, other = random.choice(places)
        case.note(f"{label} puts {other} in the place of {key}")
        box[key] = copy.deepcopy(other_box[other])
    else:
        box[key] = hostile(box[key], random)
        case.note(f"{label} {key} = {ascii(box[key])[:80]}")
    return content


def changed_json(
    content: Any, case: Case, keys: dict[str, list[Any]] | None = None, label: str = "", *, most: int = 3
) -> bytes:
    """JSON with none to a few changes, and now and then one to its text."""
    for _ in range(case.random.choice([0, *range(1, most + 1), 1, 1, 1])):
        content = change(content, case, keys or {}, label)
    text = written(content, case)
    if case.chance(0.1):
        return changed_text(text.encode("utf-8", "surrogatepass"), case, label)
    return text.encode("utf-8", "surrogatepass")


def written(content: Any, case: Case) -> str:
    """As JSON; what differs between writers differs here too."""
    options: dict[str, Any] = case.random.choice(
        [{"indent": 2}, {"sort_keys": False}, {"ensure_ascii": False}, {"separators": (",", ":")}]
    )
    text = json.dumps(content, **options)
    return RAW.sub(r"\1", text).replace("{outside}", str(case.outside))


def changed_text(data: bytes, case: Case, label: str) -> bytes:
    """Text whose encoding or syntax is not what its reader takes for granted."""
    random = case.random
    middle = random.randrange(len(data) + 1)
    first = data.find(b"{") + 1
    decoded = data.decode("utf-8", "replace")
    choices = {
        "BOM": b"\xef\xbb\xbf" + data,
        "UTF-16": decoded.encode("utf-16"),
        "UTF-32": decoded.encode("utf-32"),
        "Latin-1": data[:middle] + "é".encode("latin-1") + data[middle:],
        "cut": data[:middle],
        "empty": b"",
        "twice": data + data,
        "comment": b"// x\n" + data,
        "NUL": data[:middle] + b"\0" + data[middle:],
        "spaces": data + b" " * 2_000_000,
        "deep": b'{"a":' * 20_000 + b"1" + b"}" * 20_000,
        "long": data[:first] + b'"a": "' + b"x" * 1_500_000 + b'",' + data[first:],
        "key twice": data[:first]
        + re.sub(rb"^[^{]*\{(\s*\"[^\"]*\"\s*:[^,{\[]*,)?.*", rb"\1", data, flags=re.S)
        + data[first:],
        "digits": data[:first] + b'"a": ' + b"9" * 50_000 + b"," + data[first:],
        "carriage returns": data.replace(b"\n", b"\r"),
        "bytes": changed_bytes(data, case),
    }
    case.note(label)
    return case.choose(choices)


def changed_bytes(data: bytes, case: Case, most: int = 8) -> bytes:
    """A few bytes replaced, cut out, doubled, or moved."""
    random, changed = case.random, bytearray(data)
    for _ in range(random.randint(1, most)):
        place = random.randrange(len(changed) + 1)
        length = random.choice([1, 1, 1, 2, 4, 8, 100])
        roll = random.randrange(5)
        if roll == 0:
            changed[place : place + length] = random.randbytes(length)
        elif roll == 1:
            changed[place : place + 1] = (
                bytes([changed[place] ^ 1 << random.randrange(8)]) if place < len(changed) else b""
            )
        elif roll == 2:
            del changed[place : place + length]
        elif roll == 3:
            changed[place:place] = changed[place : place + length]
        else:
            changed[place : place + length] = random.choice([b"\0", b"\xff", b"\x7f", b"\x80"]) * length
    return bytes(changed)


def lying_size(size: int, random: Random, bits: int = 32) -> int:
    """Another size than that, that fits so many bits."""
    top = 1 << bits
    sizes = [
        0,
        1,
        7,
        8,
        size - 1,
        size + 1,
        2 * size,
        1_000_000,
        top // 2 - 1,
        top // 2,
        top - 1,
        top - 16,
        size + 2**20,
    ]
    return random.choice(sizes) % top


__all__ = ["change", "changed_bytes", "changed_json", "changed_text", "hostile", "lying_size"]
