# SPDX-License-Identifier: Apache-2.0
"""Errors of the Meta-TasNet port against the original, one line a golden tensor.

`python benchmarks/parity_meta_tasnet.py [--golden FOLDER]`, where FOLDER holds the `meta_tasnet*` folders of vectors
that the original's own code made (default: `golden` of the folder `HUBSEP_SHARED` names, else of `shared` beside the
repository). The golden weights are written as their authors publish them and go through `hubsep convert`. Ends with
status 1 if a case is out of its tolerance.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch
from parity import Case, compared, converted, golden_folder, report
from safetensors.torch import load_file
from torch import Tensor


CASES = ("meta_tasnet", "meta_tasnet-biased", "meta_tasnet-independent")
TOLERANCE, RATIO_TOLERANCE = 1.5e-5, 2e-4  # of waveforms and latents; of ratios in dB


def model_of(folder: Path) -> Any:
    """The model of a golden folder, by way of the published layout and the command line."""
    arguments = json.loads((folder / "meta.json").read_text())["config"]
    content = {
        "state_dict": load_file(folder / "state_dict.safetensors"),
        "args": argparse.Namespace(**arguments),
        "epoch": 250,
    }
    return converted("meta_tasnet", content, "best_model.pt")


def by_source(golden: Tensor) -> Tensor:
    """(batch, num_sources, 1, samples) as the stages give it, (num_sources, batch, samples)."""
    return golden[:, :, 0].transpose(0, 1)


def whole_cases(name: str, model: Any, golden: dict[str, Tensor]) -> Iterator[Case]:
    """Each stage on the whole mixture."""
    samples = golden["mix_stage0"].shape[-1] // model.config.stride * model.config.stride
    mixtures = [golden[f"mix_stage{i}"][:, 0, : samples * 2**i] for i in range(model.config.num_stages)]
    for i, output in enumerate(model.separate_stages(mixtures)):
        yield compared(f"{name}, stage {i}, latents", output.latents.mT, golden[f"enc_stage{i}"], TOLERANCE)
        masked = output.hidden.permute(1, 0, 3, 2)
        yield compared(f"{name}, stage {i}, masked", masked, golden[f"hidden_stage{i}"], TOLERANCE)
        expected = by_source(golden[f"est_n1_stage{i}"])
        yield compared(f"{name}, stage {i}, sources", output.sources, expected, TOLERANCE)


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
        expected = by_source(golden[f"est_chunk_stage{i}"])
        yield compared(f"{name}, stage {i}, chunks", torch.cat(part, dim=-1), expected, TOLERANCE)


def training_cases(name: str, model: Any, golden: dict[str, Tensor]) -> Iterator[Case]:
    """Ratios, dissimilarity and similarity of every stage, and the loss."""
    labels = [by_source(golden[f"train_sep_stage{i}"]) for i in range(model.config.num_stages)]
    mixtures = [label.sum(dim=0) for label in labels]
    loss, statistics = model.stage_losses(model.separate_stages(mixtures), mixtures, labels)
    for i, got in enumerate(statistics):
        yield compared(f"{name}, stage {i}, statistics", got, golden[f"train_stats_stage{i}"], RATIO_TOLERANCE)
    yield compared(f"{name}, loss", loss[None], golden["train_loss"], 5 * RATIO_TOLERANCE)


def cases(golden: Path) -> Iterator[Case]:
    for name in CASES:
        folder, short = golden / name, name.removeprefix("meta_tasnet-")
        model, vectors = model_of(folder), load_file(folder / "io.safetensors")
        chunked = json.loads((folder / "meta.json").read_text())["chunked"]
        yield from whole_cases(short, model, vectors)
        yield from chunk_cases(short, model, vectors, chunked["n_chunks"], chunked["context_base_samples"])
        yield from training_cases(short, model, vectors)
        if model.config.generated:
            yield from whole_cases(f"{short} written out", model.materialised(), vectors)


@torch.inference_mode()
def main() -> int:
    return report(cases(golden_folder(__doc__, holds="meta_tasnet")))


if __name__ == "__main__":
    sys.exit(main())
