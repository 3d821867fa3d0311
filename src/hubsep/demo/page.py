# SPDX-License-Identifier: Apache-2.0
"""What both pages are made of: their look, facts about a model, errors in words, how they are served.

Decisions: no font, script or picture comes from another server, and none of this text is code of a stranger: whatever
a person gave, a file name or a query, is escaped. An error that hubsep raises on purpose is shown to the person in its
own words; any other is a fault of ours, whose details stay in the log.
"""

from __future__ import annotations

import re
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from html import escape
from pathlib import Path
from typing import Any

import gradio as gr
import numpy as np
from starlette.middleware import Middleware

from ..cards.card import licence_of, read_card
from ..errors import HubsepError
from ..hub.copies import is_named
from ..texts import split_words, with_word
from .gate import Gate
from .inputs import TITLE, explain_inputs
from .limits import DemoLimits
from .pictures import draw, portrait_of
from .waiting import keep_waiting_files
from .workspace import Workspace


FONTS = ("ui-sans-serif", "system-ui", "-apple-system", "Segoe UI", "Roboto", "sans-serif")
MAX_SESSIONS = 1_000  # pages whose state is kept; gradio's own 10,000 are gigabytes
CSS = Path(__file__).with_name("page.css")
OURS = "Something went wrong here, by no fault of yours. Try it once more, or with another recording."
AT_HOME = (
    "On your own computer nothing is limited or sent away, and folders of long recordings are worked through: "
    "install hubsep, then"
)


def card_of(folder: Path) -> dict[str, Any]:
    """The `card.json` of a model folder; one that says that nothing is known where there is none."""
    if is_named(folder / "card.json"):
        return read_card(folder)
    unknown = {"licence": "unknown", "commercial": False, "summary": "A model without a card.", "limits": []}
    return {"name": folder.name, "system": "", "known_sounds": [], "training_data": [], **unknown}


def facts(card: dict[str, Any]) -> str:
    """Licence, commercial use, training data and limits of a model, as HTML."""
    use = "commercial use allowed" if card["commercial"] else "<b>no commercial use</b>"
    data = ", ".join(escape(entry["name"]) for entry in card.get("training_data", []))
    limits = "".join(f"<li>{prose(limit)}</li>" for limit in card.get("limits", []))
    return (
        f"<div class='facts'><b>Licence {escape(licence_of(card))}</b>, {use}.<br>{prose(card['summary'])}"
        + (f" Trained on {data}." if data else "")
        + (f"<details><summary>What it cannot do</summary><ul>{limits}</ul></details>" if limits else "")
        + "</div>"
    )


def prose(text: str) -> str:
    """A sentence of a card, whose only Markdown is `code`, as HTML."""
    return re.sub(r"`([^`]+)`", r"<code>\1</code>", escape(text))


def heading(title: str, text: str) -> gr.HTML:
    """The top of a page."""
    return gr.HTML(f"<div class='head'><h1>{escape(title)}</h1><p>{escape(text)}</p></div>")


def status(text: str) -> str:
    """A line that says how things stand, as HTML."""
    return f"<div class='status' role='status'>{escape(text)}</div>"


def counted(number: float, noun: str) -> str:
    """A number and what it counts: "1 minute", "5 minutes", "1.5 minutes"."""
    return f"{number:g} {noun}{'' if number == 1 else 's'}"


def duration(seconds: float) -> str:
    """A time in words: in minutes, or in seconds where it is less than one."""
    return counted(seconds, "second") if seconds < 60 else counted(round(seconds / 60, 1), "minute")


def foot(limits: DemoLimits, what: str, command: str) -> gr.HTML:
    """What happens to what people upload, and how they go on without this page's limits.

    Args:
        limits: of the page.
        what: it does.
        command: that does the same on a computer of one's own.
    """
    return gr.HTML(
        f"<div class='foot'>{escape(what)} Uploads and results are deleted after {duration(limits.keep_seconds)}. "
        f"{AT_HOME}<br>"
        f"<code>{escape(command)}</code></div>"
    )


def wrong(text: str) -> str:
    """What went wrong, as a line that stays on the page; the text is HTML already."""
    return f"<div class='status wrong' role='alert'>{text}</div>"


def answered(work: Callable[[], list[Any]], otherwise: Callable[[], list[Any]]) -> list[Any]:
    """What a button does, and where that fails, the reason in place of the first of its outputs.

    An error that is raised would be shown in a corner for a few seconds, and leave the word "Error" on the page.

    Args:
        work: gives values for the outputs.
        otherwise: gives values for those behind the first.
    """
    try:
        return work()
    except gr.Error as error:
        return [wrong(error.message), *otherwise()]
    except Exception:
        traceback.print_exc()
        return [wrong(OURS), *otherwise()]


@contextmanager
def in_words() -> Iterator[None]:
    """Shows the person what hubsep says is wrong; of what else goes wrong, that it did. The log has the rest."""
    try:
        yield
    except HubsepError as error:
        text = str(error)
        raise gr.Error(escape(text[:1].upper() + text[1:]), title=TITLE, print_exception=False) from error
    except gr.Error:
        raise
    except Exception as error:
        traceback.print_exc()
        raise gr.Error(OURS, title=TITLE, print_exception=False) from error


def suggestions(label: str, words: Sequence[str], target: gr.Textbox, *, joined: bool) -> gr.Dataset:
    """Words to click on.

    Args:
        label: above them.
        words: each is one to click on.
        target: where they go.
        joined: whether a word is added to what stands there, with a comma, or replaces it.
    """
    chips = gr.Dataset(
        components=[gr.Textbox(visible=False)],
        samples=[[word] for word in words],
        label=label,
        samples_per_page=100,
        elem_classes="suggestions",
    )
    put = (lambda word, text: with_word(text, word[0])) if joined else (lambda word, text: word[0])
    chips.click(put, [chips, target], target, queue=False, show_progress="hidden", api_visibility="private")
    return chips


def workspace(limits: DemoLimits) -> Workspace:
    """A place for the files of runs, in the cache that gradio serves from."""
    return Workspace(Path(gr.utils.get_upload_folder()), limits.keep_seconds)


def serve(blocks: gr.Blocks, limits: DemoLimits) -> None:
    """Runs an app: one computation at a time, a bounded queue, requests of bounded size, no folder opened."""
    silence = portrait_of(np.zeros((1, 4_000), dtype=np.float32), 8_000)
    draw(silence, silence)  # the first picture looks for fonts, which no visitor should wait for
    blocks.queue(max_size=limits.queue_size, default_concurrency_limit=1)
    keep_waiting_files(blocks, limits)
    explain_inputs(blocks)
    blocks.launch(
        max_file_size=limits.max_upload_mb * 2**20,
        state_session_capacity=MAX_SESSIONS,
        app_kwargs={"middleware": [Middleware(Gate, limits=limits)]},
        show_error=False,
        strict_cors=True,
        footer_links=["api"],
        theme=gr.themes.Soft(primary_hue="indigo", font=FONTS, font_mono=("ui-monospace", "monospace")),
        css=CSS.read_text(encoding="utf-8"),
        _frontend=False,  # that asks for a page before it goes on, and gives up where that takes more than 3 s
    )


__all__ = [
    "answered",
    "card_of",
    "counted",
    "duration",
    "facts",
    "foot",
    "heading",
    "in_words",
    "prose",
    "serve",
    "split_words",
    "status",
    "suggestions",
    "with_word",
    "workspace",
    "wrong",
]
