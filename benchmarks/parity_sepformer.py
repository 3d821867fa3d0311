# SPDX-License-Identifier: Apache-2.0
"""Errors of the SepFormer port against the original, one line a golden case.

`python benchmarks/parity_sepformer.py [--golden FOLDER]`, where FOLDER holds the vectors the original's own code made
in `sepformer`, `sepformer-1spk` and `sepformer-3spk` (default: `golden` of the folder `HUBSEP_SHARED` names, else of
`shared` beside the repository). Every weight goes through `hubsep.conversion.convert`, from a folder laid out as
published. Ends with status 1 if a case is out of its tolerance.
"""

from __future__ import annotations

import json
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from parity import Case, compared, golden_folder, report
from safetensors.torch import load_file

from hubsep.conversion import convert


CASES = {"sepformer": "2 speakers", "sepformer-3spk": "3 speakers", "sepformer-1spk": "enhancement"}
TOLERANCE, MINIMUM_SI_SDR = 2e-6, 100.0


def converted(folder: Path, place: Path) -> Any:
    """The model from a published folder made of one golden case."""
    tensors, config = load_file(folder / "state_dict.safetensors"), json.loads((folder / "meta.json").read_text())
    for part in ("encoder", "masknet", "decoder"):
        names = [name for name in tensors if name.startswith(f"{part}.")]
        torch.save({name.removeprefix(f"{part}."): tensors[name] for name in names}, place / f"{part}.ckpt")
    numbers = config["config"]
    masknet = {key: numbers[key] for key in ("K", "num_layers", "num_spks")}
    stacks = {f"{path}_model": {"nhead": numbers["nhead"]} for path in ("intra", "inter")}
    written = {"sample_rate": 8_000, "kernel_stride": numbers["kernel_stride"], "MaskNet": {**masknet, **stacks}}
    (place / "hyperparams.yaml").write_text(json.dumps(written))  # JSON is YAML
    return convert("sepformer", place)


def cases(golden: Path) -> Iterator[Case]:
    for name, what in CASES.items():
        with tempfile.TemporaryDirectory() as place:
            model = converted(golden / name, Path(place))
        io = load_file(golden / name / "io.safetensors")
        for key in sorted(key for key in io if key.startswith("mix")):
            reference = io[key.replace("mix", "est")].transpose(1, 2)
            size = "x".join(map(str, io[key].shape))
            with torch.no_grad():
                estimate = model(io[key][:, None]).sources[:, :, 0]
            yield compared(f"{what}, {size}", estimate, reference, TOLERANCE, MINIMUM_SI_SDR)
            estimate = model(io[key][:, None]).sources[:, :, 0].detach()
            yield compared(f"{what}, {size}, as trained", estimate, reference, TOLERANCE, MINIMUM_SI_SDR)


def main() -> int:
    return report(cases(golden_folder(__doc__, holds="sepformer")))


if __name__ == "__main__":
    sys.exit(main())
