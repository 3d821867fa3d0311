# SPDX-License-Identifier: Apache-2.0
"""`hubsep generate`: words in, a recording out; or a recording in, and another one made of it.

Decisions: the same seed, model and settings give the same file, whatever other prompts stand beside it: each is made
alone. Of several candidates the one that sounds most like the words is kept, or with `--all` every one of them, the
best first. The sampling rate is the model's, nothing is turned up or down, and no file is replaced unless that is
asked for, or our own record lists it for the same command. What is wrong with the command line or a recording is said
before the model is loaded; words that mean nothing the model was taught are made all the same, and said.
"""

from __future__ import annotations

from typing import Any

from ..errors import QueryError
from ..shipped import DEFAULT_GENERATOR
from . import generate_arguments as given
from .commercial import Commercial
from .generate_order import Order, Way
from .values import refusing


def generate(
    output: given.Output,
    prompts: given.Prompts = None,
    model: given.Model = DEFAULT_GENERATOR,
    seconds: given.Seconds = None,
    steps: given.Steps = None,
    guidance: given.Guidance = 3.5,
    negative: given.Negative = None,
    say: given.Say = None,
    seed: given.Seed = 0,
    candidates: given.Candidates = 1,
    write_all: given.All = False,
    go_on: given.Continue = None,
    variation: given.Variation = None,
    strength: given.Strength = None,
    inpaint: given.Inpaint = None,
    start: given.Start = None,
    stop: given.Stop = None,
    interpolate: given.Interpolate = None,
    mix: given.Mix = None,
    channel: given.Channel = None,
    plot: given.Plot = False,
    overwrite: given.Overwrite = False,
    device: given.Device = None,
    dtype: given.Dtype = "float32",
    low_memory: given.LowMemory = False,
    commercial: Commercial = False,
) -> None:
    """Make a sound from words, or from a recording. It goes on, is varied, or a part of it is made anew.

    Exit status: 0 done, 1 it failed, 2 the command line is wrong, 3 done, but words mean no sound the model knows.
    """
    from .generate_making import carry_out

    ways = {"--continue": go_on, "--variation": variation, "--inpaint": inpaint, "--interpolate": interpolate}
    details = {"--strength": strength, "--from": start, "--to": stop, "--mix": mix, "--channel": channel}
    with refusing():
        way = chosen_way(ways, details, seconds)
        texts = checked_prompts(prompts or [], way, candidates=candidates, say=say, seconds=seconds)
    sampling = {"num_inference_steps": steps, "guidance_scale": guidance, "negative_prompt": negative}
    order = Order(way, sampling, seconds, say, candidates, seed)
    loading = {"model": model, "device": device, "dtype": dtype, "low_memory": low_memory}
    kept = candidates if write_all else 1
    carry_out(order, texts, output, loading, kept=kept, plot=plot, overwrite=overwrite, channel=channel)


METHODS = {
    "--continue": "continue_audio",
    "--variation": "vary",
    "--inpaint": "inpaint",
    "--interpolate": "interpolate",
}
# which options need which other one
BELONGS = {"--strength": "--variation", "--from": "--inpaint", "--to": "--inpaint", "--mix": "--interpolate"}


def chosen_way(ways: dict[str, Any], details: dict[str, Any], seconds: float | None) -> Way:
    """The one way to make a sound that was asked for.

    Args:
        ways: options and what they were given, None for nothing.
        details: likewise, options that belong to one of them.
        seconds: how long.

    Raises:
        QueryError: if there are several, or options do not go together.
    """
    options = [option for option, value in ways.items() if value is not None]
    if len(options) > 1:
        raise QueryError(f"{' and '.join(options)} do not go together; use one of them, then the next on its result")
    option = options[0] if options else ""
    for name, value in details.items():
        if value is not None and name in BELONGS and BELONGS[name] != option:
            raise QueryError(f"{name} needs {BELONGS[name]}")
    if not option:
        return Way()
    if option == "--interpolate":
        mix = details["--mix"]
        return Way(option, METHODS[option], None, {"second": ways[option], "weights": (0.5 if mix is None else mix,)})
    arguments: dict[str, Any] = {}
    if option != "--continue" and seconds is not None:
        raise QueryError(f"what {option} makes is as long as the recording: leave out --seconds")
    if option == "--variation":
        arguments["strength"] = 0.6 if details["--strength"] is None else details["--strength"]
    if option == "--inpaint":
        arguments = {"start": details["--from"], "stop": details["--to"]}
        if None in arguments.values():
            raise QueryError("--inpaint needs --from and --to: which part of the recording is to be made anew")
        if arguments["start"] >= arguments["stop"]:
            raise QueryError(
                f"--from {arguments['start']:g} is not before --to {arguments['stop']:g}; the part to be made anew "
                "goes from one to the other"
            )
    return Way(option, METHODS[option], ways[option], arguments)


def check_candidates(seconds: float | None, candidates: int) -> None:
    """Refuses more sound at once than is made: the candidates of a prompt are made together.

    Raises:
        QueryError: naming both numbers.
    """
    if seconds is not None and candidates > 1:
        from ..pipelines.amounts import check_amount

        check_amount(seconds, candidates, f"--candidates {candidates} of --seconds {seconds:g}")


def checked_prompts(
    prompts: list[str], way: Way, *, candidates: int, say: str | None, seconds: float | None
) -> list[str]:
    """The prompts; an empty one where a recording is enough.

    Raises:
        QueryError: if one is missing or empty, there is something that does not go with the way, or too much is made.
    """
    if any(not prompt.strip() for prompt in prompts) or not (prompts or way.recording):
        raise QueryError('say what is to be heard, for instance: hubsep generate "rain on a tin roof" -o rain.wav')
    if way.option and (candidates > 1 or say is not None or len(prompts) > 1):
        raise QueryError(f"{way.option} makes one recording of one prompt: leave out --candidates, --say, and others")
    check_candidates(seconds, candidates)
    return prompts or [""]


__all__ = ["generate"]
