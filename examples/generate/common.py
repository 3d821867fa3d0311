# SPDX-License-Identifier: Apache-2.0
"""What the examples of this folder share: options, the model, a recording to begin with, and the files they write.

Each of them runs without a network with the model that comes with hubsep; `--model` takes the folder or the Hub
repository of any AudioLDM 2, for instance `cvssp/audioldm2`.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import torch

from hubsep import AudioLDM2Pipeline, read_audio, write_audio
from hubsep.plotting import plot_recordings
from hubsep.shipped import DEFAULT_GENERATOR


STREET = Path(__file__).parents[1] / "street.wav"  # a dog barking in the rain


def options(description: str | None, output: str, *, recording: bool = False) -> argparse.ArgumentParser:
    """The options that all examples have; `recording` for those that start from one."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default=DEFAULT_GENERATOR, help="folder or Hub repository of an AudioLDM 2")
    parser.add_argument("--output", type=Path, default=Path(output), help="wav file; the picture lies beside it")
    parser.add_argument("--steps", type=int, default=25, help="of the solver; fewer are faster")
    parser.add_argument("--seed", type=int, default=0, help="another one makes another sound")
    if recording:
        parser.add_argument("--recording", type=Path, default=STREET, help="what to begin with; its first channel")
    return parser


def load(arguments: argparse.Namespace) -> tuple[Any, dict[str, Any]]:
    """The pipeline, on a GPU where there is one, and the arguments that every call gets."""
    pipe = AudioLDM2Pipeline.from_pretrained(arguments.model)
    pipe.to("cuda" if torch.cuda.is_available() else "cpu")
    generator = torch.Generator("cpu").manual_seed(arguments.seed)
    return pipe, {"num_inference_steps": arguments.steps, "generator": generator}


def first_channel(path: Path, seconds: float | None = None) -> dict[str, Any]:
    """The beginning of a recording, or all of it, as the pipeline takes it: one channel with its rate."""
    recording = read_audio(path)
    samples = None if seconds is None else round(seconds * recording.sampling_rate)
    return {"array": recording.waveform[0, :samples], "sampling_rate": recording.sampling_rate}


def write(path: Path, waveform: Any, sampling_rate: int, rows: dict[str, Any] | None = None) -> None:
    """Writes a sound and the picture of it, or of `rows`, and says so."""
    path.parent.mkdir(parents=True, exist_ok=True)
    write_audio(path, waveform, sampling_rate)
    picture = plot_recordings(rows or {path.stem: waveform}, path.with_suffix(".png"), sampling_rate=sampling_rate)
    print(f"{path}  {len(waveform) / sampling_rate:.2f} s\n{picture}")


__all__ = ["first_channel", "load", "options", "write"]
