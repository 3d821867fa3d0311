# SPDX-License-Identifier: Apache-2.0
"""AudioLDM 2 as a reader finds it: a ladder of classes, each of which sees those below alone, and a call in steps."""

from __future__ import annotations

import ast
import inspect
import re
import textwrap
from pathlib import Path

import diffusers
import pytest
from imports import untyped

import hubsep.pipelines
from hubsep.pipelines.audioldm2.pipeline import AudioLDM2Pipeline


PACKAGE = Path(hubsep.pipelines.__file__).parent
RUNGS = [each for each in AudioLDM2Pipeline.__mro__ if each.__module__.startswith("hubsep.")]
ORDERS = (
    "Components Devices Folder Adapters Codec Prompts Sampler Long Editing AudioLDM2Pipeline",
    "Sampler Hearing Editing",
    "Prompts Understanding Ranking AudioLDM2Pipeline",
    "Prompts Switches AudioLDM2Pipeline",
)


def tree_of(thing: object) -> ast.Module:
    return ast.parse(textwrap.dedent(inspect.getsource(thing)))  # type: ignore[arg-type]


def asked_of_itself(rung: type) -> set[str]:
    """The attributes of `self` that the methods of a class read."""
    return {
        node.attr
        for node in ast.walk(tree_of(rung))
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == "self"
    }


@pytest.mark.parametrize("rung", RUNGS, ids=lambda rung: rung.__name__)
def test_a_rung_asks_nothing_of_those_above(rung: type) -> None:
    components = set(inspect.get_annotations(RUNGS[-1]))
    below = {*dir(rung), *dir(diffusers.DiffusionPipeline), *components, "config"}
    assert asked_of_itself(rung) <= below


def test_the_rungs_stand_in_order() -> None:
    names = [each.__name__ for each in RUNGS]
    assert names[-1] == "Components"  # what the others read is declared there
    for order in ORDERS:
        assert [name for name in reversed(names) if name in order.split()] == order.split()
    assert set(names) == {name for order in ORDERS for name in order.split()}
    assert AudioLDM2Pipeline.__mro__.index(diffusers.DiffusionPipeline) == len(RUNGS)


def test_attributes_have_types() -> None:
    files = sorted((PACKAGE / "audioldm2").rglob("*.py"))
    assert len(files) > 20
    assert not [fault for path in files for fault in untyped(path)]


def test_a_call_is_a_numbered_recipe() -> None:
    """Every step is named in a comment, and done by methods and functions that stand in the same package."""
    source = textwrap.dedent(inspect.getsource(inspect.unwrap(AudioLDM2Pipeline.__call__)))
    body = source[source.rindex('"""') :]
    steps = re.split(r"^ *# (?=\d+\. [A-Z])", body, flags=re.MULTILINE)[1:]
    assert [int(step.partition(".")[0]) for step in steps] == [*range(1, len(steps) + 1)]
    assert len(steps) >= 5
    for step in steps:
        code = step.partition("\n")[2]
        calls = re.findall(r"\bself\.(\w+)\(", code)
        assert calls, step
        for name in calls:
            assert getattr(AudioLDM2Pipeline, name).__module__.startswith("hubsep.pipelines.audioldm2"), name
            assert not name.startswith("_"), name
