# SPDX-License-Identifier: Apache-2.0
"""Errors of the Spleeter port against the original, one line a golden case.

`python benchmarks/parity_spleeter.py [--golden FOLDER]`, where FOLDER holds the vectors the original's own code made
in `spleeter` (default: `golden` of the folder `HUBSEP_SHARED` names, else of `shared` beside the repository). Weights
go through `hubsep.conversion.convert` from the checkpoint TensorFlow wrote. The last lines are a training step: its
outputs, its loss, and its gradients, each over the largest of its tensor. Ends with status 1 if a case is out of its
tolerance.
"""

from __future__ import annotations

import json
import sys
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from parity import Case, compared, golden_folder, largest, report
from safetensors.torch import load_file

from hubsep.conversion import convert, spleeter
from hubsep.conversion.common import rename
from hubsep.models.spleeter.modeling_spleeter import l1_magnitude


STEMS = ("vocals", "accompaniment")


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
        yield compared(f"{name}, waveforms", output.sources[0], reference, 8e-6)
        for suffix, step in (("", 1), ("_sub", 8)):
            if f"mask.vocals{suffix}" in expected:
                reference = torch.stack([expected[f"mask.{stem}{suffix}"].permute(2, 0, 1) for stem in STEMS])
                yield compared(f"{name}, masks", output.masks[0, ..., ::step], reference, 1e-4)


def training_cases(folder: Path, tiny: dict[str, Any]) -> Iterator[Case]:
    model = convert("spleeter", folder / "ckpt", **fields(tiny)).train()
    expected = load_file(folder / "io_train.safetensors")
    estimates = model.estimate(expected["mix_spectrogram"].permute(0, 3, 1, 2))
    parts = {part: torch.stack([expected[f"{part}.{stem}"].permute(0, 3, 1, 2) for stem in STEMS], 1) for part in
             ("out", "label")}  # fmt: skip
    loss = l1_magnitude(estimates, parts["label"])
    loss.backward()
    yield compared("training, estimates", estimates.detach(), parts["out"], 2e-5)
    yield compared("training, loss", loss.detach(), expected["loss"].reshape(()), 1e-6)
    stored = {spleeter._numbered(n[5:].replace("/", ".")): t for n, t in expected.items() if n.startswith("grad.")}
    gradients = {name: spleeter._turned(tensor) for name, tensor in rename(stored, spleeter.KEYS).items()}
    errors = []
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None
        errors.append(largest(parameter.grad - gradients[name]) / largest(gradients[name]))
    yield Case(f"training, {len(errors)} gradients", max(errors), 1.0, 1e-5)


def main() -> int:
    folder = golden_folder(__doc__, holds="spleeter") / "spleeter"
    warnings.filterwarnings("ignore", message="the weights do not tell these")  # the published values are right here
    cases = json.loads((folder / "meta.json").read_text())["cases"]
    return report((*inference_cases(folder, cases), *training_cases(folder, cases["tiny"]["params"])))


if __name__ == "__main__":
    sys.exit(main())
