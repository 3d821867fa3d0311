# SPDX-License-Identifier: Apache-2.0
"""Errors of the Conv-TasNet port against both originals, one line a golden case.

`python benchmarks/parity_conv_tasnet.py [--golden FOLDER]`, where FOLDER holds the `conv_tasnet-*` folders of vectors
that the originals' own code made (default: `golden` of the folder `HUBSEP_SHARED` names, else of `shared` beside the
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
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor
from transformers.utils import logging

from hubsep import AutoModelForAudioSeparation, metrics
from hubsep.chunking import Segments, overlap_add
from hubsep.cli import main as hubsep


CASES = ("torchaudio", "asteroid", "asteroid-causal", "asteroid-causal-cgln", "asteroid-noskip")
TOLERANCE, MINIMUM_SI_SDR = 5e-6, 60.0


@dataclass(frozen=True)
class Case:
    """What was computed, what the original computed, and how far apart they may be."""

    name: str
    estimate: Tensor
    reference: Tensor
    tolerance: float = TOLERANCE
    minimum_si_sdr: float = MINIMUM_SI_SDR

    @property
    def error(self) -> float:
        return (self.estimate - self.reference).abs().max().item()

    @property
    def si_sdr(self) -> float:
        return metrics.si_sdr(self.estimate.double(), self.reference.double()).min().item()

    @property
    def holds(self) -> bool:
        return self.error <= self.tolerance and self.si_sdr >= self.minimum_si_sdr


def converted(folder: Path) -> Any:
    """The model of a golden folder, by way of the published layout and the command line."""
    meta = json.loads((folder / "meta.json").read_text())
    state = load_file(folder / "state_dict.safetensors")
    is_asteroid = any(name.startswith("masker.") for name in state)
    arguments = {"fb_name": "free", "encoder_activation": None, **meta.get("model_args", meta["config"])}
    content = {"model_name": "ConvTasNet", "state_dict": state, "model_args": arguments} if is_asteroid else state
    flags = [] if is_asteroid else ["--set", f"num_blocks={meta['config']['msk_num_layers']}"]
    with tempfile.TemporaryDirectory() as place:
        source, output = Path(place) / "pytorch_model.bin", Path(place) / "model"
        torch.save(content, source)
        with contextlib.redirect_stdout(io.StringIO()):
            status = hubsep(["convert", "conv_tasnet", str(source), str(output), *flags, "--licence", "unknown"])
        if status:
            sys.exit(status)
        return AutoModelForAudioSeparation.from_pretrained(output)


def cases(golden: Path) -> Iterator[Case]:
    for name in CASES:
        folder = golden / f"conv_tasnet-{name}"
        model, vectors = converted(folder), load_file(folder / "io.safetensors")
        for mixture in sorted(key for key in vectors if key.startswith("mix")):
            expected = vectors[mixture.replace("mix", "est")]
            label = f"{name}, {'x'.join(map(str, vectors[mixture].shape))}"
            yield Case(label, model(vectors[mixture]).sources[:, :, 0], expected)


def long_cases(folder: Path) -> Iterator[Case]:
    """The original's windows, from one window before the start on; and our segments over the same samples."""
    model, vectors, samples = converted(folder), load_file(folder / "io.safetensors"), 800
    mixture, hop = vectors["mix"], samples // 2
    padded, window = torch.nn.functional.pad(mixture, (samples, 2 * samples)), torch.hann_window(samples)
    result = torch.zeros(2, padded.shape[-1])
    for start in range(0, padded.shape[-1] - samples, hop):
        result[:, start : start + samples] += model(padded[..., start : start + samples]).sources[0, :, 0] * window
    inner = slice(samples, samples + mixture.shape[-1])
    expected = vectors["ola_hann_noreorder"][0]
    yield Case("asteroid, windows", result[:, inner], expected)
    blocks = overlap_add([padded[0]], lambda part: model(part).sources, Segments(samples, overlap=hop))
    ours = torch.cat(list(blocks), dim=-1)[:, 0, inner]
    yield Case("asteroid, our segments", ours, expected, 0.01 * expected.abs().max().item(), 50.0)  # half a sample


@torch.inference_mode()
def main() -> int:
    beside = Path(os.environ.get("HUBSEP_SHARED") or Path(__file__).resolve().parents[2] / "shared")
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--golden", type=Path, default=beside / "golden", help="folder of the vectors")
    golden = parser.parse_args().golden
    if not (golden / "conv_tasnet-asteroid").is_dir():
        parser.error(f"{golden} holds no conv_tasnet-* folders; name the right one with --golden")
    logging.disable_progress_bar()
    print(f"{'case':<32} {'largest error':>13} {'peak':>8} {'SI-SDR':>9} {'tolerance':>9}")
    held = []
    for case in (*cases(golden), *long_cases(golden / "conv_tasnet-asteroid-ola")):
        peak = f"{case.reference.abs().max().item():.2f}"
        verdict = "" if case.holds else "  OUT OF TOLERANCE"
        print(f"{case.name:<32} {case.error:>13.1e} {peak:>8} {case.si_sdr:>6.1f} dB {case.tolerance:>9.0e}{verdict}")
        held.append(case.holds)
    return 0 if all(held) else 1


if __name__ == "__main__":
    sys.exit(main())
