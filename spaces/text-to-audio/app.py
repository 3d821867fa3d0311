# SPDX-License-Identifier: Apache-2.0
"""A page that makes sounds of words: a prompt, how long, how carefully, and from which recording on.

The model is the one that HUBSEP_MODEL names, a folder or Hub repository of an AudioLDM 2, else the one shipped with
hubsep. Without either the page says so and its button rests. Limits, decoding, pictures and cards: `hubsep.demo`.
"""

from __future__ import annotations

import os
import random
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import gradio as gr
import numpy as np

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
    status,
    suggestions,
    workspace,
)
from hubsep.demo.results import BADGE_PLAIN, BADGE_YES, Result, ResultCards, answer, archive_of, delivered
from hubsep.demo.stopping import Runs
from hubsep.demo.waiting import explained
from hubsep.errors import AudioError, CheckpointError, QueryError
from hubsep.hub.bounds import is_number
from hubsep.hub.bounds import shown as printed
from hubsep.pipelines.names import file_name
from hubsep.registry import TEXT_TO_AUDIO
from hubsep.shipped import DEFAULT_GENERATOR, SHIPPED


LIMITS = DemoLimits.from_environment()
MODEL = os.environ.get("HUBSEP_MODEL") or (DEFAULT_GENERATOR if DEFAULT_GENERATOR in SHIPPED else None)
FOLDER = chosen_model(MODEL, TEXT_TO_AUDIO) if MODEL else None
CARD = card_of(FOLDER) if FOLDER else None
NO_MODEL = (
    "This page has no model yet: none is shipped with this version of hubsep. Set HUBSEP_MODEL to a folder or Hub "
    "repository of an AudioLDM 2, such as cvssp/audioldm2, and start the page again."
)
PROMPTS = (
    "a dog barking",
    "rain on a roof",
    "a violin plays a slow melody",
    "sea waves",
    "a clock ticking",
    "a drum loop",
)
NEW, CONTINUE, VARY = "nothing: make it of words alone", "its end: let it go on", "all of it: vary it"
MOST_SEEDS = 2**31 - 1
HERE = Path(__file__).parent
WORKSPACE = workspace(LIMITS)
RUNS = Runs()


@cache
def generator() -> Any:
    """The pipeline; loaded once."""
    from hubsep import AudioLDM2Pipeline

    if FOLDER is None:
        raise CheckpointError(NO_MODEL)
    pipe = AudioLDM2Pipeline.from_pretrained(str(FOLDER)).to(device())
    pipe.set_progress_bar_config(disable=True)
    return pipe


@on_gpu(seconds=120)
def generate(kind: str, prompt: str, recording: Recording | None, seed: int, options: dict[str, Any]) -> Any:
    """Audios (candidates, samples), their scores or None, the sampling rate, and what the words were taken for."""
    import torch

    pipe = generator()
    seconds, count = options.pop("seconds"), options.pop("candidates")
    options["generator"] = torch.Generator("cpu").manual_seed(seed)
    if recording is None:
        made = pipe(prompt, seconds=seconds, num_waveforms_per_prompt=count, **options)
    else:
        heard = {"array": recording.waveform.mean(axis=0), "sampling_rate": recording.sampling_rate}
        if kind == CONTINUE:  # one is made; `run` says so
            made = pipe.continue_audio(heard, prompt, seconds=seconds, **options)
        else:
            made = pipe.vary(heard, prompt, strength=options.pop("strength"), variations=count, **options)
    return made.audios, made.scores, made.sampling_rate, taken_for(pipe, prompt)


def make(
    prompt: str,
    negative: str,
    seconds: float,
    steps: int,
    count: int,
    seed: int,
    path: str | None,
    kind: str,
    strength: float,
    folder: Path,
    report: Any = None,
) -> tuple[str, Any, Any, int, str]:
    """The words, audios (candidates, samples), their scores or None, the rate, and what the words were taken for.

    Args:
        prompt: what is to be heard.
        negative: what is not.
        seconds: how long.
        steps: of the solver.
        count: candidates.
        seed: of the noise it begins with.
        path: of a recording to start from.
        kind: what is kept of it.
        strength: how much of it is made anew, where it is varied.
        folder: for a temporary file.
        report: is called after each step.
    """
    words = checked(prompt, path, kind)
    recording = heard(path, kind, folder)
    options: dict[str, Any] = {
        "seconds": within("Seconds", seconds, 0.1, LIMITS.generated_seconds),
        "candidates": whole("Candidates", count, 1, LIMITS.candidates),
        "num_inference_steps": whole("Steps", steps, 1, LIMITS.generated_steps),
        "negative_prompt": bounded(negative, "What is not to be heard") or None,
    }
    if kind == CONTINUE and count > 1:
        gr.Warning("A recording goes on in one way at a time; one candidate is made.")
    if kind == VARY and recording is not None:
        options["strength"] = within("How much is made anew", strength, 0.05, 1)
    if report is not None and not on_zero():
        options["callback_on_step_end"] = report
    return (words, *generate(kind, words, recording, whole("Seed", seed, 0, MOST_SEEDS), options))


def within(name: str, number: float, least: float, most: float) -> float:
    """A number of a slider, which a program may have set to anything."""
    if not is_number(number) or not least <= number <= most:
        raise QueryError(f"{name} must be a number from {least:g} to {most:g}, got {printed(number)}.")
    return float(number)


def whole(name: str, number: float, least: int, most: int) -> int:
    """The same of whole numbers, none of which is rounded."""
    if within(name, number, least, most) != int(number):
        raise QueryError(f"{name} must be a whole number from {least} to {most}, got {printed(number)}.")
    return int(number)


def bounded(text: str | None, name: str) -> str:
    """What stands in a field, in one line, if it is not more than is read."""
    words = " ".join((text or "").split())
    if len(words) > LIMITS.prompt_characters:
        raise QueryError(f"{name} has {len(words)} characters; at most {LIMITS.prompt_characters} are read.")
    return words


def run(
    prompt: str,
    negative: str,
    seconds: float,
    steps: int,
    count: int,
    seed: int,
    chance: bool,
    path: str | None,
    kind: str,
    strength: float,
    request: gr.Request,
    progress: gr.Progress = gr.Progress(),  # noqa: B008  # how gradio finds that progress is shown
) -> list[Any]:
    """What the button does: from words to cards."""
    drawn = random.randrange(MOST_SEEDS) if chance else seed or 0

    def work() -> list[Any]:
        with in_words(), WORKSPACE.run() as folder, RUNS.of(request.session_hash) as shall_stop:
            progress(0, desc="loading the model")
            report = reporter(progress, shall_stop, int(steps))
            words, audios, scores, rate, taken = make(
                prompt, negative, seconds, steps, count, drawn, path, kind, strength, folder, report
            )
            progress(1, desc="drawing")
            results = shown(folder, words, audios, scores, rate)
            archive = archive_of([result.path for result in results], folder / f"{file_name(words) or 'sound'}.zip")
        line = f"Made with seed {drawn}; the same words, settings and seed make the same sound again."
        return [
            status(f"{line} {taken}".strip()),
            drawn,
            *cards.filled(results, archive if len(results) > 1 else None),
        ]

    return answered(work, lambda: [gr.update(), *cards.emptied()])


def answer_program(
    prompt: str,
    negative: str,
    seconds: float,
    steps: int,
    count: int,
    seed: int,
    path: str | None,
    kind: str,
    strength: float,
) -> list[dict[str, Any]]:
    """Makes sounds of words: for each candidate, the best first, its label, score (None for one alone) and file."""
    with in_words(), WORKSPACE.run() as folder:
        words, audios, scores, rate, _ = make(
            prompt, negative, seconds, steps, count, seed, path, kind, strength, folder
        )
        values = [None] * len(audios) if scores is None else [float(score) for score in scores[0]]
        results = shown(folder, words, audios, scores, rate)
        return [answer(words, score, result.path) for score, result in zip(values, results, strict=True)]


def taken_for(pipe: Any, words: str) -> str:
    """What the model took the words for, if that is another sound."""
    meanings = pipe.understand([words]) if words else None
    if not meanings or (meanings[0].understood_as or "").casefold() == words.casefold():
        return ""
    if meanings[0].understood_as is None:
        return f"Not understood: this model knows no such sound; the nearest is {meanings[0].nearest}."
    return f"Taken as: {meanings[0].understood_as}."


def checked(prompt: str, path: str | None, kind: str) -> str:
    """The prompt, if it can be worked with."""
    words = bounded(prompt, "The prompt")
    if not words and (path is None or kind == NEW):
        raise QueryError("Say what is to be heard, or click on one of the suggestions.")
    return words


def heard(path: str | None, kind: str, folder: Path) -> Recording | None:
    """The recording to start from, as one channel; None to start from words alone."""
    if kind == NEW:
        return None
    recording, notes = take_in(path, LIMITS, folder)
    seconds = recording.waveform.shape[1] / recording.sampling_rate
    if seconds > LIMITS.generated_seconds:
        raise AudioError(
            f"The recording lasts {seconds:.0f} s; the page goes on from at most {LIMITS.generated_seconds} s."
        )
    if len(recording.waveform) > 1:
        notes.append("The model makes one channel, so it hears the mean of the recording's channels.")
    for note in notes:
        gr.Warning(note)
    return recording


def reporter(progress: gr.Progress, shall_stop: Callable[[], bool], steps: int) -> Any:
    """Shows how far it is after each step, and ends it where the person asked for that."""

    def report(_: Any, index: int, __: Any, tensors: dict[str, Any]) -> dict[str, Any]:
        if shall_stop():
            raise gr.Error("Stopped, as you asked.", title="Stopped", print_exception=False)
        progress((index + 1, steps), desc="making sound", unit="steps")
        return tensors

    return report


def shown(folder: Path, words: str, audios: Any, scores: Any, rate: int) -> list[Result]:
    """Files and portraits of what was made, the best first."""
    results = []
    name = file_name(words)[:60] or "sound"
    for number, audio in enumerate(audios, 1):
        path = folder / (f"{name}.wav" if len(audios) == 1 else f"{name}-{number}.wav")
        write_audio(path, np.asarray(audio, dtype=np.float32)[None], rate)
        file, portrait = delivered([path])[0]
        label = (words or "sound") if len(audios) == 1 else f"{words or 'sound'}, candidate {number}"
        score = "" if scores is None else f"{'best match, ' * (number == 1)}score {float(scores[0][number - 1]):.2f}"
        results.append(Result(label, file, portrait, (score, BADGE_YES if number == 1 else BADGE_PLAIN)))
    return results


def stop(request: gr.Request) -> str:
    """Ends the run of this person, between two steps."""
    RUNS.stop(request.session_hash)
    return status("Stopped.")


def choose(kind: str) -> list[Any]:
    """What is asked for beside, by what is kept of a recording."""
    return [gr.update(visible=kind == VARY), gr.update(visible=kind != VARY)]


with gr.Blocks(title="Make a sound of words", delete_cache=(60, LIMITS.keep_seconds)) as demo:
    heading("Make a sound of words", "Describe it, and choose how long and how carefully it is made.")
    about = gr.HTML(facts(CARD) if CARD else f"<div class='notice' role='alert'>{NO_MODEL}</div>")
    with gr.Row():
        with gr.Column(scale=1, min_width=320):
            prompt = gr.Textbox(
                label="What is to be heard", placeholder="rain on a roof", lines=2, max_lines=5, elem_id="prompt"
            )
            suggestions(
                "Suggestions; click to take one", (CARD or {}).get("known_sounds") or PROMPTS, prompt, joined=False
            )
            negative = gr.Textbox(label="What is not to be heard", placeholder="voices, noise", lines=1)
        with gr.Column(scale=1, min_width=320):
            # each with one line below its name: sliders of a row stand at one height
            with gr.Row():
                seconds = gr.Slider(
                    0.1, LIMITS.generated_seconds, min(5, LIMITS.generated_seconds), step=0.1, label="Seconds",
                    info="How long it lasts.", min_width=140,
                )  # fmt: skip
                steps = gr.Slider(
                    1, LIMITS.generated_steps, min(25, LIMITS.generated_steps), step=1, label="Steps",
                    info="More: finer, slower.", min_width=140,
                )  # fmt: skip
            with gr.Row():
                count = gr.Slider(
                    1, LIMITS.candidates, 1, step=1, label="Candidates", info="To choose from.", min_width=140
                )
                seed = gr.Number(
                    0, label="Seed", info="Other seed, other sound.", precision=0, minimum=0,
                    maximum=MOST_SEEDS, min_width=140,
                )  # fmt: skip
            chance = gr.Checkbox(True, label="A new seed every time")
    with gr.Accordion("Start from a recording", open=False), gr.Row():
        recording = gr.Audio(
            sources=["upload", "microphone"], type="filepath", elem_id="recording", min_width=300,
            label=f"Recording, up to {duration(LIMITS.generated_seconds)}",
        )  # fmt: skip
        with gr.Column(min_width=300):
            kind = gr.Radio([NEW, CONTINUE, VARY], value=NEW, label="What is kept of it")
            strength = gr.Slider(0.05, 1, 0.6, step=0.05, label="How much is made anew", visible=False)
    explained(recording)
    with gr.Row():
        go = gr.Button("Make it", variant="primary", scale=4, interactive=CARD is not None, elem_id="go")
        halt = gr.Button("Stop", scale=1, min_width=90)
    line = gr.HTML(status("Ready." if CARD else "No model."), elem_id="status", padding=False)
    cards = ResultCards(LIMITS.candidates)
    foot(
        LIMITS,
        "One sound is made at a time, others wait.",
        'hubsep generate "rain on a roof" --seconds 30 --candidates 8 -o rain.wav',
    )

    kind.change(choose, kind, [strength, seconds], show_progress="hidden", queue=False, api_visibility="private")
    going = go.click(
        run, [prompt, negative, seconds, steps, count, seed, chance, recording, kind, strength],
        [line, seed, *cards.outputs], show_progress_on=line, api_visibility="private", concurrency_limit=1,
        concurrency_id="generate",
    )  # fmt: skip
    gr.Button(visible=False).click(
        answer_program, [prompt, negative, seconds, steps, count, seed, recording, kind, strength],
        gr.JSON(label="sounds", visible=False), api_name="generate", concurrency_limit=1, concurrency_id="generate",
    )  # fmt: skip
    halt.click(stop, None, line, cancels=[going], queue=False, api_visibility="private")

if on_zero() and FOLDER is not None:
    generator()

if __name__ == "__main__":
    serve(demo, LIMITS)
