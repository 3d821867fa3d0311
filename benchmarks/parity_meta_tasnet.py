# SPDX-License-Identifier: Apache-2.0
"""Errors of the Meta-TasNet port against the original, one line a golden tensor.

`python benchmarks/parity_meta_tasnet.py [--golden FOLDER]`, where FOLDER holds the `meta_tasnet*` folders of vectors
that the original's own code made (default: `golden` of the folder `HUBSEP_SHARED` names, else of `shared` beside the
repository). The golden weights are written as their authors publish them and go through `hubsep convert`. Ends with
status 1 if a case is out of its tolerance.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import os
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor
from transformers.utils import logging

from hubsep import AutoModelForAudioSeparation
from hubsep.cli import main as hubsep


CASES = ("meta_tasnet", "meta_tasnet-biased", "meta_tasnet-independent")
TOLERANCE, RATIO_TOLERANCE = 1.5e-5, 2e-4  # of waveforms and latents; of ratios in dB


@dataclass(frozen=True)
class Case:
    """What was computed, what the original computed, and how far apart they may be."""

    name: str
    estimate: Tensor
    reference: Tensor
    tolerance: float = TOLERANCE

    @property
    def error(self) -> float:
        return (self.estimate - self.reference).abs().max().item()

    @property
    def peak(self) -> float:
        return self.reference.abs().max().item()

    @property
    def holds(self) -> bool:
        return self.estimate.shape == self.reference.shape and self.error <= self.tolerance


def converted(folder: Path) -> Any:
    """The model of a golden folder, by way of the published layout and the command line."""
    arguments = json.loads((folder / "meta.json").read_text())["config"]
    content = {
        "state_dict": load_file(folder / "state_dict.safetensors"),
        "args": argparse.Namespace(**arguments),
        "epoch": 250,
    }
    with tempfile.TemporaryDirectory() as place:
        source, output = Path(place) / "best_model.pt", Path(place) / "model"
        torch.save(content, source)
        with contextlib.redirect_stdout(io.StringIO()):
            status = hubsep(["convert", "meta_tasnet", str(source), str(output), "--licence", "unknown"])
        if status:
            sys.exit(status)
        return AutoModelForAudioSeparation.from_pretrained(output)


def by_source(golden: Tensor) -> Tensor:
    """(batch, num_sources, 1, samples) as the stages give it, (num_sources, batch, samples)."""
    return golden[:, :, 0].transpose(0, 1)


def whole_cases(name: str, model: Any, golden: dict[str, Tensor]) -> Iterator[Case]:
    """Each stage on the whole mixture."""
    samples = golden["mix_stage0"].shape[-1] // model.config.stride * model.config.stride
    mixtures = [golden[f"mix_stage{i}"][:, 0, : samples * 2**i] for i in range(model.config.num_stages)]
    for i, output in enumerate(model.separate_stages(mixtures)):
        yield Case(f"{name}, stage {i}, latents", output.latents.mT, golden[f"enc_stage{i}"])
        yield Case(f"{name}, stage {i}, masked", output.hidden.permute(1, 0, 3, 2), golden[f"hidden_stage{i}"])
        yield Case(f"{name}, stage {i}, sources", output.sources, by_source(golden[f"est_n1_stage{i}"]))


def chunk_cases(name: str, model: Any, golden: dict[str, Tensor], chunks: int, context: int) -> Iterator[Case]:
    """The original's chunks, which the pipeline's segments replace, cut here by the original's rules."""
    mixtures = [golden[f"mix_stage{i}"][:, 0] for i in range(model.config.num_stages)]
    total, stride = mixtures[0].shape[-1], model.config.stride
    parts: list[list[Tensor]] = [[] for _ in mixtures]
    for start, stop in pairwise(int(total * chunk / chunks + 0.5) for chunk in range(chunks + 1)):
        low, high = max(start - context, 0), min(stop + context, total)
        rest = (high - low) % stride
        low, high = (low, high - rest) if low == 0 else (low + rest, high)
        outputs = model.separate_stages([mix[:, low * 2**i : high * 2**i] for i, mix in enumerate(mixtures)])
        for i, output in enumerate(outputs):
            parts[i].append(output.sources[..., (start - low) * 2**i : (stop - low) * 2**i])
    for i, part in enumerate(parts):
        yield Case(f"{name}, stage {i}, chunks", torch.cat(part, dim=-1), by_source(golden[f"est_chunk_stage{i}"]))


def training_cases(name: str, model: Any, golden: dict[str, Tensor]) -> Iterator[Case]:
    """Ratios, dissimilarity and similarity of every stage, and the loss."""
    labels = [by_source(golden[f"train_sep_stage{i}"]) for i in range(model.config.num_stages)]
    mixtures = [label.sum(dim=0) for label in labels]
    loss, statistics = model.stage_losses(model.separate_stages(mixtures), mixtures, labels)
    for i, got in enumerate(statistics):
        yield Case(f"{name}, stage {i}, statistics", got, golden[f"train_stats_stage{i}"], RATIO_TOLERANCE)
    yield Case(f"{name}, loss", loss[None], golden["train_loss"], 5 * RATIO_TOLERANCE)


def cases(golden: Path) -> Iterator[Case]:
    for name in CASES:
        folder, short = golden / name, name.removeprefix("meta_tasnet-")
        model, vectors = converted(folder), load_file(folder / "io.safetensors")
        chunked = json.loads((folder / "meta.json").read_text())["chunked"]
        yield from whole_cases(short, model, vectors)
        yield from chunk_cases(short, model, vectors, chunked["n_chunks"], chunked["context_base_samples"])
        yield from training_cases(short, model, vectors)
        if model.config.generated:
            yield from whole_cases(f"{short} written out", model.materialised(), vectors)


@torch.inference_mode()
def main() -> int:
    beside = Path(os.environ.get("HUBSEP_SHARED") or Path(__file__).resolve().parents[2] / "shared")
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--golden", type=Path, default=beside / "golden", help="folder of the vectors")
    golden = parser.parse_args().golden
    if not (golden / "meta_tasnet").is_dir():
        parser.error(f"{golden} holds no meta_tasnet* folders; name the right one with --golden")
    logging.disable_progress_bar()
    print(f"{'case':<44} {'largest error':>13} {'peak':>8} {'tolerance':>9}")
    held = []
    for case in cases(golden):
        verdict = "" if case.holds else "  OUT OF TOLERANCE"
        print(f"{case.name:<44} {case.error:>13.1e} {case.peak:>8.2f} {case.tolerance:>9.0e}{verdict}")
        held.append(case.holds)
    return 0 if all(held) else 1


if __name__ == "__main__":
    sys.exit(main())
