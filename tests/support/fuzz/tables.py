# SPDX-License-Identifier: Apache-2.0
"""Tables of recordings (CSV) and recipes (YAML).

What is asked: rows that name recordings inside their folder, or one error of ours that says which row is wrong;
recipes whose fields are of the kinds that are declared.
"""

from __future__ import annotations

import csv
import dataclasses
import importlib
import io
import math
import shutil
import typing
from collections.abc import Callable
from pathlib import Path
from typing import Any

import corpus
import yaml

from fuzz.cases import Action, Case, Kind, expect
from fuzz.checkpoints import yaml_bomb
from fuzz.values import NAMES, changed_bytes, changed_text, hostile
from hubsep.cli.train import RECIPES as TRAINERS
from hubsep.data.contract import read_clips, read_rows
from hubsep.data.recordings import load_clips, read_metadata
from hubsep.data.stems import load_songs
from hubsep.evaluation.librimix import read_metadata as read_librimix
from hubsep.evaluation.tables import read_table
from hubsep.training.recipe import load_recipe


RATE = 8_000
MOST_LETTERS = 10_000_000  # of a table
ROWS: dict[str, list[dict[str, str]]] = {
    "sounds": [
        {"path": name, "label": "dog barking", "source_id": name, "commercial": "True", "licence": "CC0"}
        for name in ("a.wav", "b.wav")
    ],
    "speakers": [
        {"file_name": name, "speaker": f"s{name}", "gender": "m", "age": "33"} for name in ("a.wav", "b.wav")
    ],
    "songs": [
        {"path": "song", "stems": "drums bass", "group": "x", "commercial": "True"},
        {"path": "stereo.wav", "stems": "ch0=accompaniment ch1=vocals", "group": "y", "commercial": "True"},
    ],
    "benchmark": [{"mixture": "a.wav", "target": "b.wav", "caption": "a dog", "label": "dog"}],
    "librimix": [
        {
            "mixture_ID": "1",
            "mixture_path": "a.wav",
            "source_1_path": "a.wav",
            "source_2_path": "b.wav",
            "length": "4000",
        }
    ],
    "recordings": [
        {"path": name, "label": "speech", "gender": "m", "age": "9", "commercial": "True"}
        for name in ("a.wav", "b.wav")
    ],
}
READERS: dict[str, Callable[[Path], Any]] = {
    "sounds": lambda folder: read_clips(read_rows(folder, "sounds"), "sounds", RATE, "x"),
    "speakers": lambda folder: read_clips(read_rows(folder, "speakers"), "speakers", RATE, "x"),
    "songs": lambda folder: (read_rows(folder, "songs"), load_songs([folder], RATE)),
    "benchmark": lambda folder: read_table(folder / "metadata.csv"),
    "librimix": lambda folder: read_librimix(folder / "metadata.csv", folder),
    "recordings": lambda folder: (read_metadata(folder), load_clips([folder], RATE)),
}
CELLS = (
    *NAMES,
    "=1+1",
    "1e9",
    "٣",
    "a.wav",
    "song",
    "ch0=x",
    "ch-1=x ch99=y",
    "drums drums",
    "ch0= ch1",
    "TRUE",
    "False",
    "²",
    "x" * 200_000,
    '"',
    "a,b",
    "\r",
    "\u2028",
    "../../outside/a.wav",
    "sub",
    ".",
    "/dev/zero",
    "pipe",
)
HOMES = {**TRAINERS, "finetune": "hubsep.training.finetune.recipe"}
RECIPES_OF = (
    "audiosep",
    "speech",
    "music",
    "audio_tower",
    "text_tower",
    "release",
    "audiomae",
    "autoencoder",
    "vocoder",
    "text_encoders",
    "diffusion",
    "loa",
    "joint",
    "lora",
    "assemble",
    "classifier",
    "finetune",
)


def prepare_tables(place: Path) -> None:
    """Recordings for the tables to name, and each table read once."""
    sound = corpus.sound(4_000, 2)
    (place / "song").mkdir()
    for name in ("a.wav", "b.wav", "song/drums.wav", "song/bass.wav"):
        (place / name).write_bytes(corpus.encode(sound[:1], RATE, format="WAV"))
    (place / "stereo.wav").write_bytes(corpus.encode(sound, RATE, format="WAV"))
    for kind, rows in ROWS.items():
        (place / "metadata.csv").write_text(written(rows))
        READERS[kind](place)


def written(rows: list[dict[str, str]], **options: Any) -> str:
    text = io.StringIO()
    writer = csv.DictWriter(text, list(rows[0]), extrasaction="ignore", **options)
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()


def copied_recordings(case: Case, templates: Path) -> Path:
    """A folder of the case's own with the recordings, and a decoy outside."""
    folder = case.folder / "data"
    shutil.copytree(templates, folder)
    shutil.copy(folder / "a.wav", case.outside)
    return folder


def make_table(case: Case) -> Action:
    """A table with rows, cells or bytes that are others."""
    kind = case.choose({name: name for name in READERS})
    folder, random = copied_recordings(case, case.templates), case.random
    if case.chance(0.1):
        case.note("a.wav is a link")
        (folder / "a.wav").unlink()
        (folder / "a.wav").symlink_to(case.outside / "a.wav")
    rows = [dict(row) for row in ROWS[kind]]
    for _ in range(random.choice([0, 1, 1, 2])):
        row, column = random.choice(rows), random.choice(sorted(rows[0]))
        roll = random.random()
        if roll < 0.6:
            row[column] = random.choice(CELLS).replace("{outside}", str(case.outside))
            case.note(f"{column} = {row[column]!a:.60}")
        elif roll < 0.8:
            new = random.choice(
                ["", column.upper(), f" {column}", "label", "path", "speaker", "gender", "age", "x\ny"]
            )
            case.note(f"{column} is called {new!a}")
            rows = [{(new if name == column else name): value for name, value in entry.items()} for entry in rows]
        else:
            rows = (rows * random.choice([2, 300]))[:2_000]
            case.note(f"{len(rows)} rows")
    longest = max(sum(map(len, row.values())) for row in rows)
    rows = rows[: max(2, MOST_LETTERS // max(1, longest))]  # what a case itself takes is not the reader's
    text = (
        written(rows, dialect=random.choice(["excel", "unix", "excel-tab", "excel", "excel"]))
        if case.chance(0.5)
        else written(rows)
    )
    data = text.encode("utf-8", "surrogatepass")
    if case.chance(0.3):
        middle = random.randrange(len(data))
        choices = {
            "quote": data[:middle] + b'"' + data[middle:],
            "cells": data.replace(b"\n", b",x,y\n", 2),
            "fewer": data[:-1].rpartition(b",")[0] + b"\n",
            "header only": data.splitlines()[0],
            "twice": data.splitlines()[0] + b"," + data,
            "blank lines": data.replace(b"\n", b"\n\n"),
            "text": changed_text(data, case, "CSV"),
            "bytes": changed_bytes(data, case),
            "field": data + b"x" * 300_000,
            "semicolons": data.replace(b",", b";"),
            "nothing": b"",
        }
        data = case.choose(choices)
    (folder / "metadata.csv").write_bytes(data)
    if case.chance(0.03):
        (folder / "metadata.csv").unlink()
        (folder / "metadata.csv").mkdir()
        case.note("a folder in its place")

    def act() -> str:
        READERS[kind](folder)
        return "read"

    return act


def prepare_recipes(place: Path) -> None:
    """The classes of all recipes, and the recipes that are shipped."""
    for name in RECIPES_OF:
        module = importlib.import_module(HOMES[name])
        found = [
            value
            for key, value in vars(module).items()
            if key.endswith("Recipe") and isinstance(value, type) and value.__module__ == module.__name__
        ]
        _recipes[name] = found[0]


_recipes: dict[str, Any] = {}


def make_recipe(case: Case) -> Action:
    """A recipe of defaults, with values or syntax that are others."""
    name = case.choose({entry: entry for entry in _recipes})
    kind, random = _recipes[name], case.random
    fields = {field.name: default_of(field) for field in dataclasses.fields(kind)}
    chosen = {key: fields[key] for key in random.sample(sorted(fields), min(len(fields), random.choice([1, 3, 6])))}
    for key in list(chosen):
        if case.chance(0.4):
            chosen[key] = hostile(chosen[key], random)
            case.note(f"{key} = {chosen[key]!a:.60}")
    if case.chance(0.1):
        chosen[random.choice(["x", "__class__", "self", "", "path", "recipe_class"])] = 1
    text = yaml.dump(chosen, allow_unicode=random.choice([True, False])).encode("utf-8", "surrogatepass")
    if case.chance(0.3):
        key = random.choice(sorted(chosen)) if all(isinstance(name, str) for name in chosen) else "x"
        tags = [
            "!!python/object/apply:os.system [touch canary]",
            "!!python/name:os.system",
            "!!binary x",
            "!!timestamp 9999-99-99",
            "2001-99-99",
            "&a [*a]",
            "*a",
            "{1: 2",
            "[[[",
            "!!int x",
            "0o9",
            "1_0",
            ".inf",
            "-.inf",
            ".nan",
            "1e400",
            "9" * 5_000,
            "!evil x",
            "<<: {a: 1}",
            "'\\x00'",
            '"\\ud800"',
            "~",
            "0x",
            "1:60:60",
            "!!set {a}",
            "? [a]\n: b",
            "=",
            "2001-01-01",
        ]
        tag = random.choice(tags)
        case.note(f"{key}: {tag[:60]}")
        text += f"\n{key}: {tag}\n".encode()
    if case.chance(0.15):
        text = case.choose(
            {
                "bomb": yaml_bomb(),
                "text": changed_text(text, case, "YAML"),
                "deep": b"[" * 5_000,
                "deep mapping": b"{a: " * 5_000,
                "tab": b"\t" + text,
                "documents": text + b"\n---\n" + text,
                "list": b"- 1",
                "number": b"3",
                "keys": b"1: 2\nnull: 3\n[a]: 4",
                "merge": b"a: &a {<<: *a}",
                "anchors": b"".join(b"a%d: &x%d x\n" % (n, n) for n in range(20_000)),
            }
        )
    path = case.folder / "recipe.yaml"
    path.write_bytes(text)
    overrides = {"nonsense": 1} if case.chance(0.03) else {}
    return lambda: check_recipe(load_recipe(kind, path, **overrides), kind)


def recipe_of(name: str) -> Any:
    """The class of a recipe."""
    return _recipes[name]


def default_of(field: Any) -> Any:
    if field.default is not dataclasses.MISSING:
        return field.default if not isinstance(field.default, tuple) else list(field.default)
    made = field.default_factory() if field.default_factory is not dataclasses.MISSING else 1
    return made if isinstance(made, str | int | float | list | dict | bool | type(None)) else 1


def check_recipe(recipe: Any, kind: Any) -> str:
    """Numbers are numbers, and finite; texts are texts."""
    hints = typing.get_type_hints(kind)
    for field in dataclasses.fields(kind):
        value, hint = getattr(recipe, field.name), hints[field.name]
        if hint in (int, float, str, bool):
            accepted = (int, float) if hint is float else hint
            right = isinstance(value, accepted) and (hint is bool or not isinstance(value, bool))
            expect(right, f"{field.name} is {value!a:.60}, not {hint.__name__}")
            expect(hint is not float or math.isfinite(value), f"{field.name} is {value}")
    return "loaded"


TABLES, RECIPES = Kind(prepare_tables, make_table), Kind(prepare_recipes, make_recipe)


__all__ = ["READERS", "RECIPES", "TABLES", "check_recipe", "copied_recordings", "recipe_of"]
