# SPDX-License-Identifier: Apache-2.0
"""How long it takes to open a published name again, offline, beside a saved folder of the same weights.

Random weights in the published names, shapes and files (`published_sources.py`), fetched from a Hub on this computer
and converted at the first opening. Every figure is from a process of its own; names and folders take turns. A process
is timed whole, imports included, and so is the one call in it. The time of the processor is what the process took,
which depends less on what else the computer does. The command separates a second of noise.

    python benchmarks/opening.py ../shared --repetitions 7
"""

from __future__ import annotations

import argparse
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import soundfile as sf
import torch
from published_sources import random_tensors


sys.path.append(str(Path(__file__).parents[1] / "tests" / "support"))

NAMES = {
    "SepFormer": ("speechbrain/sepformer-wsj02mix", "sepformer", 8_000),
    "Conv-TasNet": ("JorisCos/ConvTasNet_Libri2Mix_sepclean_16k", "conv_tasnet", 16_000),
}
PARTS = ("encoder", "masknet", "decoder")
ARGUMENTS = {
    "sample_rate": 16_000.0, "n_blocks": 8, "n_repeats": 3, "stride": 16, "norm_type": "gLN", "mask_act": "relu",
    "encoder_activation": None, "fb_name": "free",
}  # fmt: skip
CARD = b"---\nlicense: %s\n---\n"
OPEN = """
import sys, time
import torch, transformers
import hubsep
from hubsep.pipelines.separation.pipeline import AudioSeparationPipeline
begin = time.perf_counter(), time.process_time()
separate = hubsep.pipeline("audio-separation", model=sys.argv[1], device="cpu")
print(time.perf_counter() - begin[0], time.process_time() - begin[1])
"""
SAVE = 'import sys, hubsep; hubsep.pipeline("audio-separation", model=sys.argv[1]).save_pretrained(sys.argv[2])'
COLUMNS = ("call, wall", "call, processor", "process, wall", "process, processor")


def published_files(shared: Path, system: str, place: Path) -> dict[str, bytes]:
    """The files of a repository."""
    source, tensors = place / f"{system}.pth", random_tensors(shared, system)
    if system == "conv_tasnet":
        torch.save({"model_name": "ConvTasNet", "state_dict": tensors, "model_args": ARGUMENTS}, source)
        return {"pytorch_model.bin": source.read_bytes(), "README.md": CARD % b"cc-by-sa-4.0"}
    files = {"hyperparams.yaml": b"sample_rate: 8000\nnum_spks: 2\n", "README.md": CARD % b"apache-2.0"}
    for part in PARTS:
        start = f"{part}."
        torch.save({n.removeprefix(start): t for n, t in tensors.items() if n.startswith(start)}, source)
        files[f"{part}.ckpt"] = source.read_bytes()
    return files


def run(command: list[str], environment: Mapping[str, str]) -> tuple[str, float, float]:
    """What a process prints, and its seconds by the clock and of the processor.

    Raises:
        SystemExit: if it fails.
    """
    before, begin = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    process = subprocess.run(command, env=dict(environment), capture_output=True, text=True)
    wall, after = time.perf_counter() - begin, resource.getrusage(resource.RUSAGE_CHILDREN)
    if process.returncode:
        raise SystemExit(process.stderr[-2_000:])
    return process.stdout, wall, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def seconds(model: str, environment: Mapping[str, str]) -> list[float]:
    """Of one process that opens a model, by column."""
    printed, wall, processor = run([sys.executable, "-c", OPEN, model], environment)
    return [*map(float, printed.split()), wall, processor]


def command_seconds(model: str, recording: Path, environment: Mapping[str, str]) -> list[float]:
    """Of one command that opens a model and separates a recording, by the last two columns."""
    with tempfile.TemporaryDirectory() as output:
        words = ["separate", str(recording), "--model", model, "-o", str(Path(output) / "out"), "--device", "cpu"]
        _, wall, processor = run([sys.executable, "-m", "hubsep", *words], environment)
    return [wall, processor]


def report(label: str, columns: tuple[str, ...], named: list[list[float]], saved: list[list[float]]) -> None:
    """Prints a line for each column: medians and what one is of the other."""
    for column, (name, folder) in zip(
        columns, zip(zip(*named, strict=True), zip(*saved, strict=True), strict=True), strict=True
    ):
        name_s, folder_s = statistics.median(name), statistics.median(folder)
        print(
            f"{label}, {column}: name {name_s:.2f} s, folder {folder_s:.2f} s, ratio {name_s / folder_s:.2f}",
            flush=True,
        )


def main() -> None:
    """Prints a line for each model, way and clock."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("shared", type=Path)
    parser.add_argument("--models", nargs="+", choices=list(NAMES), default=list(NAMES))
    parser.add_argument("--repetitions", type=int, default=7)
    options = parser.parse_args()
    from hub_client import environment as hub_environment
    from hub_repository import Repository
    from hub_server import WRITER, HubServer

    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder)
        for label, (name, system, rate) in ((label, NAMES[label]) for label in options.models):
            hub, saved = HubServer(), place / system
            hub.repositories[name] = Repository()
            hub.repositories[name].commit("main", published_files(options.shared, system, place), "published")
            environment = {**os.environ, **hub_environment(hub.url, place / "home", WRITER)}
            _, wall, _ = run([sys.executable, "-c", SAVE, name, str(saved)], environment)
            print(f"{label}: fetched, converted and saved in {wall:.1f} s", flush=True)
            hub.stop()
            environment["HF_HUB_OFFLINE"] = "1"
            noise = place / f"{system}.wav"
            sf.write(noise, 0.1 * np.random.default_rng(0).standard_normal(rate), rate)
            figures: dict[str, list[list[float]]] = {key: [] for key in ("name", "saved", "name, cli", "saved, cli")}
            for turn in range(options.repetitions):
                models = [("name", name), ("saved", str(saved))]
                for key, model in models if turn % 2 == 0 else models[::-1]:
                    figures[key].append(seconds(model, environment))
                    figures[f"{key}, cli"].append(command_seconds(model, noise, environment))
            report(label, COLUMNS, figures["name"], figures["saved"])
            report(f"{label}, hubsep separate", COLUMNS[2:], figures["name, cli"], figures["saved, cli"])


if __name__ == "__main__":
    main()
