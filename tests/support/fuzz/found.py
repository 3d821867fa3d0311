# SPDX-License-Identifier: Apache-2.0
"""What was found once, written out: a seed gives other files when its kind is changed, these stay.

A case is what is put in place of what, and who reads it; the process, the limits and the watch are those of all cases.
"""

from __future__ import annotations

import json
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import hubsep
from fuzz.cases import Action, Case, Kind
from fuzz.checkpoints import yaml_bomb
from fuzz.components import copied as copied_component
from fuzz.components import generate, load
from fuzz.folders import copied, use
from fuzz.tables import READERS, check_recipe, copied_recordings, recipe_of
from hubsep.training.recipe import load_recipe


Make = Callable[[Case], Action]


def model(file: str, content: Any = None, **changes: Any) -> Make:
    """The text-queried model with one file of it or its processor changed, or in place of what was there."""

    def make(case: Case) -> Action:
        folder = copied(case, "audiosep", case.templates.parent / "models")
        rewrite(folder / file, case, content, changes)
        return lambda: use(folder)

    return make


def saved(front: str) -> Make:
    """A model whose README begins with this, saved again with other weights."""

    def make(case: Case) -> Action:
        folder = copied(case, "conv_tasnet", case.templates.parent / "models")
        rewrite(folder / "README.md", case, f"---\n{front}\n---\n# x\n", {})

        def act() -> str:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                hubsep.pipeline(model=folder).model.half().save_pretrained(folder / "saved")
            return use(folder / "saved")

        return act

    return make


def component(name: str, file: str, content: Any = None, **changes: Any) -> Make:
    """AudioLDM 2 with one file of a component changed."""

    def make(case: Case) -> Action:
        folder = copied_component(case, name, case.templates.parent / "components")
        rewrite(folder / name / file, case, content, changes)
        return lambda: generate(load(folder, name, on_demand=False))

    return make


def table(kind: str, content: bytes | None) -> Make:
    """A folder of recordings with this table, or with a folder in its place."""

    def make(case: Case) -> Action:
        folder = copied_recordings(case, case.templates.parent / "tables")
        if content is None:
            (folder / "metadata.csv").unlink()
            (folder / "metadata.csv").mkdir()
        else:
            (folder / "metadata.csv").write_bytes(content)

        def act() -> str:
            READERS[kind](folder)
            return "read"

        return act

    return make


def recipe(name: str, content: bytes) -> Make:
    """A recipe with this text."""

    def make(case: Case) -> Action:
        path = case.folder / "recipe.yaml"
        path.write_bytes(content)
        return lambda: check_recipe(load_recipe(recipe_of(name), path), recipe_of(name))

    return make


def rewrite(path: Path, case: Case, content: Any, changes: dict[str, Any]) -> None:
    """Puts content in place of a file, `...` for a folder, or fields into it; those that are `...` are dropped."""
    if content is ...:
        path.unlink()
        path.mkdir()
        return
    if content is None:
        fields = {**json.loads(path.read_text()), **changes}
        content = {name: value for name, value in fields.items() if value is not ...}
    text = content if isinstance(content, str) else json.dumps(content)
    path.write_text(text.replace("{outside}", str(case.outside)))


FOUND: dict[str, Make] = {
    "a model type that is true": model("config.json", model_type=True),
    "a model type of transformers": model("config.json", model_type="bert"),
    "a processor that is empty": model("processor_config.json", {}),
    "a processor without feature extractor": model("processor_config.json", feature_extractor=...),
    "another tokenizer class": model("tokenizer_config.json", tokenizer_class="BertTokenizer"),
    "a tokenizer that Rust does not know": model("tokenizer.json", post_processor={"type": "x"}),
    "padding that is no object": model("tokenizer.json", padding=True),
    "replacements of replacements": model(
        "tokenizer.json",
        normalizer={
            "type": "Sequence",
            "normalizers": [{"type": "Replace", "pattern": {"String": "a"}, "content": "a" * 64}] * 5,
        },
    ),
    "a vocabulary of three million lines": model("vocab.txt", "a\n" * 3_000_000),
    "a README that is no YAML": saved("license: [mit"),
    "a README that is deep": saved("license: " + "[" * 3_000),
    "a README of a billion": saved(yaml_bomb().decode() + "\nlicense: [*i]\ntags: [*i]"),
    "a README as long as a book": saved("- x\n" * 240_000),
    "a table field of 300 kB": table("recordings", b"path,label\na.wav," + b"x" * 300_000 + b"\n"),
    "a table in Latin-1": table("benchmark", b"mixture,target,caption\na.wav,b.wav,caf\xe9\n"),
    "a table with NUL": table("recordings", b"path,label\n\0a.wav,x\n"),
    "a table that is a folder": table("librimix", None),
    "a name of 5,000 letters": table("songs", b"path,stems,group\n" + b"x" * 5_000 + b",drums bass,x\n"),
    "names with line breaks": table("sounds", b'path,label\n"a.wav\nfailed: b",x\n'),
    "columns with tabs": table("recordings", b"path\tlabel\na.wav\tx\n"),
    "weights that are a folder": component("text_encoder", "model.safetensors", ...),
    "a recipe of nulls": recipe("audiomae", b"batch_size: null\n"),
    "a recipe of infinities": recipe("lora", b"validation_fraction: .inf\n"),
    "a recipe of endless mixtures": recipe("music", b"mixing: {seconds: 1000000000}\n"),
    "a recipe with a schedule that is none": recipe("lora", b"schedule: x\n"),
    "a recipe that is a table of tables": recipe("audiomae", b"folders: {a: {b: 1}}\n"),
    "a recipe that is no UTF-8": recipe("music", b"# caf\xe9\n"),
    "a recipe that is no YAML": recipe("music", b"a: [1"),
    "a recipe of a billion": recipe("music", yaml_bomb()),
    "a recipe as long as a book": recipe("music", b"- x\n" * 240_000),
}


def make(case: Case) -> Action:
    """The case of a number."""
    name = list(FOUND)[case.seed]
    case.note(name)
    return FOUND[name](case)


FOUND_KIND = Kind(lambda place: None, make)


__all__ = ["FOUND", "FOUND_KIND"]
