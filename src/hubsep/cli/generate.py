# SPDX-License-Identifier: Apache-2.0
"""`hubsep generate`: words in, a recording out; or a recording in, and the recording going on.

Decisions: the same seed, model and settings give the same file. Of several candidates the one that sounds most like
the words is written, or with `--all` every one of them, the best first. The sampling rate is the model's, and nothing
is turned up or down.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from ..errors import CheckpointError, QueryError


if TYPE_CHECKING:
    import numpy as np

Prompt = Annotated[str, typer.Argument(metavar="PROMPT", help="What is to be heard.")]
Output = Annotated[Path, typer.Option("--output", "-o", dir_okay=False, metavar="FILE", help="wav, flac, mp3, ...")]
Model = Annotated[
    str | None, typer.Option(metavar="NAME", help="Folder or Hub repository of an AudioLDM 2, as cvssp/audioldm2.")
]
Seconds = Annotated[
    float | None, typer.Option(min=0.01, metavar="NUMBER", help="How long; by default what the model was trained on.")
]
Steps = Annotated[int | None, typer.Option(min=1, max=1_000, metavar="NUMBER", help="Of the solver; 25 by default.")]
Guidance = Annotated[float, typer.Option(metavar="NUMBER", help="Above 1 the prompt counts more.")]
Negative = Annotated[str | None, typer.Option(metavar="TEXT", help="What is not to be heard.")]
Say = Annotated[str | None, typer.Option(metavar="TEXT", help="What is to be said, for models of speech.")]
Seed = Annotated[int, typer.Option(metavar="NUMBER", help="Of the noise.")]
Candidates = Annotated[int, typer.Option(min=1, max=64, metavar="NUMBER", help="How many are made; the best is kept.")]
All = Annotated[
    bool, typer.Option("--all", help="Write every candidate: rain-1.wav is the best, then rain-2.wav, ...")
]
Continue = Annotated[
    Path | None,
    typer.Option("--continue", exists=True, dir_okay=False, metavar="FILE", help="A recording that is to go on."),
]
Device = Annotated[
    str | None, typer.Option(metavar="NAME", help="cpu, cuda, cuda:1, mps; by default the first accelerator.")
]
Dtype = Annotated[Literal["float32", "bfloat16", "float16"], typer.Option(help="Precision of the model.")]


def generate(
    prompt: Prompt,
    output: Output,
    model: Model = None,
    seconds: Seconds = None,
    steps: Steps = None,
    guidance: Guidance = 3.5,
    negative: Negative = None,
    say: Say = None,
    seed: Seed = 0,
    candidates: Candidates = 1,
    write_all: All = False,
    go_on: Continue = None,
    device: Device = None,
    dtype: Dtype = "float32",
) -> None:
    """Make a recording of words, or let a recording go on."""
    if model is None:
        raise CheckpointError(
            "no model that makes sounds is shipped yet: pass --model with a folder or Hub repository, for instance "
            "--model cvssp/audioldm2"
        )
    if go_on is not None and (candidates > 1 or say is not None):
        raise QueryError("--continue makes one recording, without words said: leave out --candidates and --say")
    pipe = load(model, device, dtype)
    import torch

    options: dict[str, Any] = {
        "num_inference_steps": steps,
        "guidance_scale": guidance,
        "negative_prompt": negative,
        "generator": torch.Generator("cpu").manual_seed(seed),
    }
    if go_on is not None:
        result = pipe.continue_audio(go_on, prompt, **options, **({"seconds": seconds} if seconds else {}))
    else:
        result = pipe(prompt, transcription=say, seconds=seconds, num_waveforms_per_prompt=candidates, **options)
    scores = [float(score) for score in result.scores[0]] if result.scores is not None else []
    for path, waveform, score in deliveries(output, result.audios, scores, write_all):
        write(path, waveform, result.sampling_rate)
        print(f"{path}  {len(waveform) / result.sampling_rate:.2f} s" + (f"  score {score:.2f}" if scores else ""))


def load(model: str, device: str | None, dtype: str) -> Any:
    """The pipeline on its device, without the advice of transformers and diffusers; its steps show as a bar."""
    import torch
    from diffusers.utils import logging as diffusers_logging
    from transformers.utils import logging

    from ..pipelines.audioldm2 import AudioLDM2Pipeline

    logging.set_verbosity_error()
    logging.disable_progress_bar()
    diffusers_logging.set_verbosity_error()
    if device is None:
        accelerator = torch.accelerator.current_accelerator() if torch.accelerator.is_available() else None
        device = str(accelerator or "cpu")
    pipe = AudioLDM2Pipeline.from_pretrained(model, dtype=getattr(torch, dtype)).to(device)
    pipe.set_progress_bar_config(desc="steps", leave=False, disable=None)
    return pipe


def deliveries(
    output: Path, waveforms: np.ndarray[Any, Any], scores: list[float], write_all: bool
) -> list[tuple[Path, np.ndarray[Any, Any], float]]:
    """Where each waveform (samples,) goes that is written, with its score."""
    known = scores or [0.0] * len(waveforms)
    if not write_all or len(waveforms) == 1:
        return [(output, waveforms[0], known[0])]
    names = (output.with_stem(f"{output.stem}-{number}") for number in range(1, len(waveforms) + 1))
    return list(zip(names, waveforms, known, strict=True))


def write(path: Path, waveform: np.ndarray[Any, Any], sampling_rate: int) -> None:
    """Writes one recording; a continued one may be louder than full scale, which floating point holds."""
    from ..audio import write_audio

    path.parent.mkdir(parents=True, exist_ok=True)
    write_audio(path, waveform, sampling_rate)


__all__ = ["generate"]
