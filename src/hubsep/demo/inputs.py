# SPDX-License-Identifier: Apache-2.0
"""What is sent to a page, by a browser or a program: a value of the wrong kind is answered in one sentence.

Decisions: the framework turns values into others of the right kind where it can, a list into its text for one, and
fails with a traceback where it cannot, of which whoever asked hears nothing. So kinds are looked at before it does, by
what each input of the page takes. What it refuses all the same, such as a file that is none of its uploads, is told in
our words too. An input is called by its label.
"""

from __future__ import annotations

from collections.abc import Sequence
from html import escape
from typing import Any

import gradio as gr

from ..hub.bounds import is_number, shown


TITLE = "That did not work"
TEXT, NUMBER, SWITCH, FILE = "a text", "a number", "true or false", "an uploaded file"


def explain_inputs(blocks: gr.Blocks) -> None:
    """Makes an app answer in words where an input of an event is of the wrong kind, or cannot be read."""
    read = blocks.preprocess_data

    async def preprocess_data(block_fn: Any, inputs: list[Any], *more: Any, **options: Any) -> Any:
        check_inputs(block_fn.inputs, inputs)
        try:
            return await read(block_fn, inputs, *more, **options)
        except gr.Error:
            raise
        except Exception as error:  # whatever a component of the framework raises
            raise _refusal(
                f"One of {_labels(block_fn.inputs)} cannot be used; a file has to be uploaded first"
            ) from error

    blocks.preprocess_data = preprocess_data


def check_inputs(components: Sequence[Any], values: Sequence[Any]) -> None:
    """Refuses values that are no answers to what a page asks.

    Args:
        components: the inputs of an event.
        values: that were sent.

    Raises:
        gr.Error: naming the input, and what it takes.
    """
    if not isinstance(values, list | tuple) or len(values) != len(components):
        count = len(values) if isinstance(values, list | tuple) else 0
        raise _refusal(f"{len(components)} values are needed, of {_labels(components)}; these are {count}")
    for component, value in zip(components, values, strict=True):
        wanted = _wanted(component, value)
        if wanted:
            got = "nothing" if value is None else shown(value, 40)
            raise _refusal(f"{_label(component)} must be {wanted}; got {got}")


def _wanted(component: Any, value: Any) -> str:
    """What an input takes, if this is not it; an empty text or field may be sent as nothing."""
    if isinstance(component, gr.Textbox):
        return "" if value is None or isinstance(value, str) else TEXT
    if isinstance(component, gr.Slider):
        return "" if is_number(value) else NUMBER
    if isinstance(component, gr.Number):
        return "" if value is None or is_number(value) else NUMBER
    if isinstance(component, gr.Checkbox):
        return "" if isinstance(value, bool) else SWITCH
    if isinstance(component, gr.Dropdown | gr.Radio):
        names = [str(choice[1]) for choice in component.choices]
        return "" if isinstance(value, str) and value in names else f"one of {', '.join(names)}"
    if isinstance(component, gr.Audio | gr.File):
        value = (
            value[0] if isinstance(value, list) and len(value) == 1 else value
        )  # the framework takes one in a list, too
        return "" if value is None or (isinstance(value, dict) and isinstance(value.get("path"), str)) else FILE
    return ""


def _labels(components: Sequence[Any]) -> str:
    return ", ".join(map(_label, components))


def _label(component: Any) -> str:
    return str(getattr(component, "label", None) or type(component).__name__)


def _refusal(text: str) -> gr.Error:
    return gr.Error(f"{escape(text)}.", title=TITLE, print_exception=False)


__all__ = ["TITLE", "check_inputs", "explain_inputs"]
