# SPDX-License-Identifier: Apache-2.0
"""Errors of the Spleeter port against the original, one line a golden case.

`python benchmarks/parity_spleeter.py [--golden FOLDER]`, where FOLDER holds the vectors the original's own code made
in `spleeter` (default: `golden` of the folder `HUBSEP_SHARED` names, else of `shared` beside the repository). Weights
go through `hubsep.conversion.convert` from the checkpoint TensorFlow wrote. The last lines are a training step: its
outputs, its loss, and its gradients, each over the largest of its tensor. Ends with status 1 if a case is out of its
tolerance.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors.torch import load_file

from hubsep.conversion import convert, spleeter
from hubsep.conversion.common import rename
from hubsep.models.spleeter.modeling_spleeter import l1_magnitude


STEMS = ("vocals", "accompaniment")


class Case(NamedTuple):
    """How far the port is from the original, and how far it may be; `peak` is of the original."""

    name: str
    error: float
    peak: float
    tolerance: float


def fields(parameters: dict[str, Any]) -> dict[str, Any]:
    """Our fields from the original's parameters of a case."""
    return {
        "n_fft": parameters["frame_length"],
        "segment_frames": parameters["T"],
        "num_bins": parameters["F"],
        "mask_extension": parameters["mask_extension"],
        "separation_exponent": parameters["separation_exponent"],
        "wiener_filter": parameters.get("MWF", False),
    }


def inference_cases(folder: Path, cases: dict[str, Any]) -> Iterator[Case]:
    for name, case in cases.items():
        model = convert("spleeter", folder / "ckpt", **fields(case["params"]))
        expected = load_file(folder / f"io_{name}.safetensors")
        mixture = expected["waveform"].T[None].contiguous()
        with torch.no_grad():
            output = model(mixture)
        reference = torch.stack([expected[f"est.{stem}"].T for stem in STEMS])
        yield Case(f"{name}, waveforms", largest(output.sources[0] - reference), largest(reference), 8e-6)
        for suffix, step in (("", 1), ("_sub", 8)):
            if f"mask.vocals{suffix}" in expected:
                reference = torch.stack([expected[f"mask.{stem}{suffix}"].permute(2, 0, 1) for stem in STEMS])
                yield Case(f"{name}, masks", largest(output.masks[0, ..., ::step] - reference), 1.0, 1e-4)


def training_cases(folder: Path, tiny: dict[str, Any]) -> Iterator[Case]:
    model = convert("spleeter", folder / "ckpt", **fields(tiny)).train()
    expected = load_file(folder / "io_train.safetensors")
    estimates = model.estimate(expected["mix_spectrogram"].permute(0, 3, 1, 2))
    parts = {part: torch.stack([expected[f"{part}.{stem}"].permute(0, 3, 1, 2) for stem in STEMS], 1) for part in
             ("out", "label")}  # fmt: skip
    loss = l1_magnitude(estimates, parts["label"])
    loss.backward()
    yield Case("training, estimates", largest(estimates.detach() - parts["out"]), largest(parts["out"]), 2e-5)
    yield Case("training, loss", abs(loss.item() - expected["loss"].item()), expected["loss"].item(), 1e-6)
    stored = {spleeter._numbered(n[5:].replace("/", ".")): t for n, t in expected.items() if n.startswith("grad.")}
    gradients = {name: spleeter._turned(tensor) for name, tensor in rename(stored, spleeter.KEYS).items()}
    errors = []
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None
        errors.append(largest(parameter.grad - gradients[name]) / largest(gradients[name]))
    yield Case(f"training, {len(errors)} gradients", max(errors), 1.0, 1e-5)


def largest(tensor: torch.Tensor) -> float:
    return tensor.abs().max().item()


def main() -> int:
    beside = Path(os.environ.get("HUBSEP_SHARED") or Path(__file__).resolve().parents[2] / "shared")
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--golden", type=Path, default=beside / "golden", help="folder of the vectors")
    folder = parser.parse_args().golden / "spleeter"
    if not folder.is_dir():
        parser.error(f"{folder.parent} holds no folder spleeter; name the right one with --golden")
    warnings.filterwarnings("ignore", message="the weights do not tell these")  # the published values are right here
    cases = json.loads((folder / "meta.json").read_text())["cases"]
    print(f"{'case':<28} {'largest error':>13} {'peak':>8} {'tolerance':>9}")
    held = []
    for case in (*inference_cases(folder, cases), *training_cases(folder, cases["tiny"]["params"])):
        held.append(case.error <= case.tolerance)
        verdict = "" if held[-1] else "  OUT OF TOLERANCE"
        print(f"{case.name:<28} {case.error:>13.1e} {case.peak:>8.2f} {case.tolerance:>9.0e}{verdict}")
    return 0 if all(held) else 1


if __name__ == "__main__":
    sys.exit(main())
