# SPDX-License-Identifier: Apache-2.0
"""Values that a program sends to a page, of the wrong kind: one sentence comes back, and no traceback is printed."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest


gradio = pytest.importorskip("gradio")

from hubsep.demo.inputs import explain_inputs  # noqa: E402  # needs gradio
from hubsep.demo.page import OURS, in_words  # noqa: E402


LABELS = ("Words", "Seconds", "Seed", "Rest", "Model", "Kind", "Recording", "Video")
GOOD: tuple[Any, ...] = ("rain", 1.5, 3, True, "a", "x", None, None)
UPLOAD = {"path": "/no/such/recording.wav", "meta": {"_type": "gradio.FileData"}}
WRONG: dict[str, list[Any]] = {
    "Words": [3, True, ["rain"], {"a": 1}],
    "Seconds": [None, "x", [1], {}, True, 1e400],
    "Seed": ["x", [1], {}, False],
    "Rest": [None, 1, "yes", []],
    "Model": [None, "nope", ["a"], {}, 3, "x" * 100_000],
    "Kind": [None, "nope", ["x"], 3],
    "Recording": ["/etc/passwd", 3, [], {"path": 3}, {"name": "x"}, [UPLOAD, UPLOAD]],
    "Video": ["/etc/passwd", 3, [], [3], [UPLOAD, UPLOAD]],
}


@pytest.fixture(scope="module")
def page() -> Any:
    with gradio.Blocks() as blocks:
        inputs = [
            gradio.Textbox(label="Words"), gradio.Slider(0, 9, label="Seconds"), gradio.Number(label="Seed"),
            gradio.Checkbox(label="Rest"), gradio.Dropdown(["a", "b"], label="Model"),
            gradio.Radio(["x", "y"], label="Kind"), gradio.Audio(type="filepath", label="Recording"),
            gradio.File(type="filepath", label="Video"),
        ]  # fmt: skip
        gradio.Button().click(lambda *values: None, inputs, None)
    explain_inputs(blocks)
    return blocks


def send(page: Any, values: Any) -> Any:
    return asyncio.run(page.preprocess_data(next(iter(page.fns.values())), values, None))


@pytest.mark.parametrize("label", WRONG)
def test_values_of_the_wrong_kind_are_answered_in_one_sentence(page: Any, label: str) -> None:
    for value in WRONG[label]:
        values = [value if name == label else good for name, good in zip(LABELS, GOOD, strict=True)]
        with pytest.raises(gradio.Error) as caught:
            send(page, values)
        assert label in caught.value.message
        assert len(caught.value.message) < 300
        assert not caught.value.print_exception


def test_right_values_and_empty_fields_go_on(page: Any) -> None:
    assert send(page, list(GOOD))[:2] == ["rain", 1.5]
    assert send(page, [None, 1, None, False, "b", "y", None, None])[3] is False


def test_as_many_values_as_inputs(page: Any) -> None:
    wrong: tuple[Any, ...] = ([], list(GOOD)[:3], [*GOOD, 1], {}, None)
    for values in wrong:
        with pytest.raises(gradio.Error, match="8 values are needed, of Words, Seconds"):
            send(page, values)


def test_what_the_framework_refuses_is_a_sentence_too() -> None:
    def refuse(payload: Any) -> Any:
        raise KeyError(payload)

    with gradio.Blocks() as blocks:
        words = gradio.Textbox(label="Words")
        words.preprocess = refuse
        gradio.Button().click(lambda *values: None, [words], None)
    explain_inputs(blocks)
    with pytest.raises(gradio.Error, match="Words cannot be used") as caught:
        send(blocks, ["rain"])
    assert not caught.value.print_exception


def test_a_fault_of_ours_is_a_sentence_for_programs_too(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(gradio.Error) as caught, in_words():
        raise KeyError("inside")
    assert caught.value.message == OURS
    assert not caught.value.print_exception
    assert "inside" in capsys.readouterr().err, "the log has the details"
