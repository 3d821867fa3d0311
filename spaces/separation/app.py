# SPDX-License-Identifier: Apache-2.0
"""A page that takes recordings apart: upload or record, say what to take out, see, hear and download each part.

What is here is what the page shows and what its buttons do; limits, decoding, pictures and cards are in `hubsep.demo`.
HUBSEP_MODEL, a folder or Hub repository, is offered beside the shipped models and chosen first.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import gradio as gr

import hubsep
from hubsep.audio import Recording, write_audio
from hubsep.demo.gpu import device, on_gpu, on_zero
from hubsep.demo.intake import take_in
from hubsep.demo.limits import DemoLimits, chosen_model
from hubsep.demo.page import (
    answered,
    card_of,
    duration,
    facts,
    foot,
    heading,
    in_words,
    serve,
    split_words,
    status,
    suggestions,
    workspace,
)
from hubsep.demo.results import (  # fmt: skip
    BADGE_NO,
    BADGE_PLAIN,
    BADGE_YES,
    Result,
    ResultCards,
    answer,
    archive_of,
    delivered,
)
from hubsep.demo.stopping import Runs
from hubsep.demo.waiting import explained
from hubsep.errors import QueryError
from hubsep.pipelines.names import file_name
from hubsep.pipelines.separation.scores import ACTIVE_SCORE
from hubsep.pipelines.separation.targets import RESIDUAL
from hubsep.registry import TASK
from hubsep.shipped import SEPARATORS, SHIPPED


LIMITS = DemoLimits.from_environment()
OWN = os.environ.get("HUBSEP_MODEL")
FOLDERS = {**({"own": chosen_model(OWN, TASK)} if OWN else {}), **{name: SHIPPED[name] for name in SEPARATORS}}
CARDS = {name: card_of(folder) for name, folder in FOLDERS.items()}
PURPOSES = {
    "audiosep": "sounds you name",
    "conv_tasnet": "two speakers",
    "sepformer": "speakers",
    "audioslots": "speakers, as many as there are",
    "spleeter": "music",
    "meta_tasnet": "music",
}
EXAMPLES = {
    "A street: a dog and rain": ["street.wav", "audiosep-small", "dog barking, rain"],
    "Two people at once": ["talk.wav", "conv-tasnet-small", ""],
    "A band and a voice": ["song.flac", "spleeter-small-2stems", ""],
}
HERE = Path(__file__).parent
WORKSPACE = workspace(LIMITS)
RUNS = Runs()


@cache
def separator(name: str) -> Any:
    """The pipeline of a model; each is loaded once."""
    return hubsep.pipeline("audio-separation", model=str(FOLDERS[name]), device=device())


@on_gpu(seconds=120)
def separate(name: str, recording: Recording, folder: Path, options: dict[str, Any]) -> list[dict[str, Any]]:
    """Writes the sources of a recording into a folder."""
    source = {"array": recording.waveform, "sampling_rate": recording.sampling_rate}
    template = f"{title_of(recording)}.{{label}}.wav"
    found: list[dict[str, Any]] = separator(name).separate_file(source, folder, template=template, **options)
    return found


def title_of(recording: Recording) -> str:
    """The name of a recording, as it may stand in names of files."""
    return file_name(recording.name)[:40] or "recording"


def take_apart(
    path: str | None,
    name: str,
    queries: str,
    residual: bool,
    folder: Path,
    told: tuple[gr.Progress, Callable[[], bool]] | None = None,
) -> tuple[Recording, list[str], list[dict[str, Any]]]:
    """A recording, what there is to say of it, and its sources in a folder.

    Args:
        path: of the recording, or of a video with one.
        name: of the model.
        queries: what to take out, in words.
        residual: whether everything else comes out as well.
        folder: for the files.
        told: who hears how far it is, and what says whether it shall end; None if nobody looks on.
    """
    recording, notes = take_in(path, LIMITS, folder)
    options = options_of(name, queries, residual)
    if told is not None and not on_zero():
        options["on_progress"] = reporter(*told)
    return recording, notes, separate(name, recording, folder, options)


def run(
    path: str | None,
    video: str | None,
    name: str,
    queries: str,
    residual: bool,
    request: gr.Request,
    progress: gr.Progress = gr.Progress(),  # noqa: B008  # how gradio finds that progress is shown
) -> list[Any]:
    """What the button does: from a file to cards."""

    def work() -> list[Any]:
        with in_words(), WORKSPACE.run() as folder, RUNS.of(request.session_hash) as shall_stop:
            progress(0, desc="reading the recording")
            recording, notes, found = take_apart(
                path or video, name, queries, residual, folder, (progress, shall_stop)
            )
            progress(1, desc="drawing")
            whole = folder / f"{title_of(recording)}.wav"
            write_audio(whole, recording.waveform, recording.sampling_rate)
            results = [Result(recording.name, *delivered([whole])[0], ("the recording", BADGE_PLAIN))]
            files = delivered([source["path"] for source in found], residual=residual)
            for source, (file, portrait) in zip(found, files, strict=True):
                results.append(Result(source["label"], file, portrait, badge(name, source["label"], source["score"])))
            archive = archive_of([result.path for result in results[1:]], folder / f"{title_of(recording)}.zip")
        for note in notes:
            gr.Warning(note)
        return [status(told(results[1:])), *cards.filled(results, archive)]

    return answered(work, cards.emptied)


def answer_program(path: str | None, name: str, queries: str, residual: bool) -> list[dict[str, Any]]:
    """Separates a recording or the sound of a video: for each source its label, score (0 to 1) and file."""
    with in_words(), WORKSPACE.run() as folder:
        _, _, found = take_apart(path, name, queries, residual, folder)
        files = delivered([source["path"] for source in found], residual=residual)
        return [
            answer(source["label"], None if source["label"] == RESIDUAL else source["score"], file)
            for source, (file, _) in zip(found, files, strict=True)
        ]


def options_of(name: str, queries: str, residual: bool) -> dict[str, Any]:
    """The options of a separation; queries only where the model takes any."""
    if not separator(name).model.config.is_text_queried:
        return {"residual": residual}
    words = split_words(queries)
    if not words:
        raise QueryError("Say what to take out, for instance: dog barking, rain. Or click on a sound below the box.")
    if len(words) > LIMITS.max_queries:
        raise QueryError(f"These are {len(words)} sounds; at most {LIMITS.max_queries} come out at once.")
    if any(word.casefold() == RESIDUAL for word in words):
        raise QueryError("For the rest of the recording, tick the box; it is not a sound to ask for.")
    return {"queries": words, "residual": residual}


def reporter(progress: gr.Progress, shall_stop: Callable[[], bool]) -> Callable[[int, int | None], None]:
    """Shows how far a separation is, and ends it where the person asked for that."""

    def report(done: int, total: int | None) -> None:
        if shall_stop():
            raise gr.Error("Stopped, as you asked.", title="Stopped", print_exception=False)
        progress(done / total if total else None, desc="separating")

    return report


def badge(name: str, label: str, score: float) -> tuple[str, str]:
    """What a score means to a listener."""
    config = separator(name).model.config
    if label == RESIDUAL:
        return "everything else", BADGE_PLAIN
    if config.is_text_queried:
        there = score > ACTIVE_SCORE
        return ("in this recording" if there else "probably not in this recording"), BADGE_YES if there else BADGE_NO
    if config.unordered_sources:
        there = score > ACTIVE_SCORE
        return ("somebody speaks" if there else "probably nobody"), BADGE_YES if there else BADGE_NO
    return f"{score:.0%} of the energy", BADGE_PLAIN


def told(results: list[Result]) -> str:
    """The line above the results."""
    absent = [result.label for result in results if result.badge[1] == BADGE_NO]
    line = f"{len(results)} sounds. Play them, or download each with the arrow of its player."
    if len(results) == 1:
        line = "1 sound. Play it, or download it with the arrow of its player."
    return line + (f" Probably not in this recording: {', '.join(absent)}." if absent else "")


def choose(name: str) -> list[Any]:
    """What changes with the model: its facts, and whether it is told what to take out."""
    config = separator(name).model.config
    known = list(config.known_sounds)
    always = "" if config.is_text_queried else status(f"This model always gives: {', '.join(config.source_names)}.")
    return [
        facts(CARDS[name]),
        gr.update(visible=config.is_text_queried),
        gr.update(samples=[[word] for word in known], visible=bool(known)),
        gr.update(value=always, visible=bool(always)),
    ]


def stop(request: gr.Request) -> str:
    """Ends the separation of this person, between two pieces of it."""
    RUNS.stop(request.session_hash)
    return status("Stopped.")


def label_of(name: str) -> str:
    """How a model is called in the list."""
    card = CARDS[name]
    purpose = PURPOSES.get(card.get("model_type", ""), card["system"])
    return f"{card['name']}: {purpose}" if purpose else card["name"]


gr.set_static_paths([HERE / "examples"])  # served from there; copies in the cache would be removed by age

with gr.Blocks(title="Take a recording apart", delete_cache=(60, LIMITS.keep_seconds)) as demo:
    heading("Take a recording apart", "Say which sounds to take out, or pick a model for voices or music.")
    first = next(iter(FOLDERS))
    recording = gr.Audio(
        sources=["upload", "microphone"], type="filepath", elem_id="recording", buttons=[], render=False,
        label=f"Recording, at most {duration(LIMITS.max_seconds)}",
    )  # fmt: skip
    video = gr.File(
        label="Or a video, for its sound", file_types=["video"], type="filepath", height=110, elem_id="video",
        render=False,
    )  # fmt: skip
    choices = [(label_of(name), name) for name in FOLDERS]
    model = gr.Dropdown(choices, value=first, label="Model", filterable=False, elem_id="model", render=False)
    queries = gr.Textbox(
        label="Sounds to take out", placeholder="dog barking, rain", lines=2, max_lines=6, elem_id="queries",
        info=f"Up to {LIMITS.max_queries}, with commas or lines between them. Your own words work too.", render=False,
    )  # fmt: skip
    with gr.Row():
        with gr.Column(scale=1, min_width=320):
            recording.render()
            video.render()
            gr.Examples(
                [[str(HERE / "examples" / file), *rest] for file, *rest in EXAMPLES.values()],
                [recording, model, queries],
                example_labels=list(EXAMPLES),
                label="Or try one of these",
            )
            model.render()
            about = gr.HTML(facts(CARDS[first]))
        with gr.Column(scale=1, min_width=320):
            queries.render()
            known = suggestions("Sounds it knows; click to add", CARDS[first]["known_sounds"], queries, joined=True)
            always = gr.HTML(visible=False)
            residual = gr.Checkbox(True, label="Also give me everything else", elem_id="residual")
    explained(recording)
    explained(video)
    with gr.Row():
        go = gr.Button("Separate", variant="primary", scale=4, elem_id="go")
        halt = gr.Button("Stop", scale=1, min_width=90)
    line = gr.HTML(status("Ready."), elem_id="status", padding=False)
    cards = ResultCards(LIMITS.max_queries + 2)
    size = f"{duration(LIMITS.max_seconds)} and {LIMITS.max_upload_mb} MB"
    foot(
        LIMITS,
        f"Recordings of up to {size}; one is worked on at a time, others wait.",
        'hubsep separate recordings/ -q "dog barking" -q rain -o separated',
    )

    model.change(
        choose, model, [about, queries, known, always], show_progress="hidden", queue=False, api_visibility="private"
    )
    demo.load(
        choose, model, [about, queries, known, always], show_progress="hidden", queue=False, api_visibility="private"
    )
    going = go.click(
        run, [recording, video, model, queries, residual], [line, *cards.outputs], show_progress_on=line,
        api_visibility="private", concurrency_limit=1, concurrency_id="separate",
    )  # fmt: skip
    # whichever was chosen last is taken
    for event in (recording.upload, recording.start_recording):
        event(lambda: None, None, video, show_progress="hidden", queue=False, api_visibility="private")
    video.upload(lambda: None, None, recording, show_progress="hidden", queue=False, api_visibility="private")
    gr.Button(visible=False).click(
        answer_program, [recording, model, queries, residual], gr.JSON(label="sounds", visible=False),
        api_name="separate", concurrency_limit=1, concurrency_id="separate",
    )  # fmt: skip
    halt.click(stop, None, line, cancels=[going], queue=False, api_visibility="private")

if on_zero():
    for each in FOLDERS:
        separator(each)

if __name__ == "__main__":
    separator(first)
    serve(demo, LIMITS)
