# SPDX-License-Identifier: Apache-2.0
"""Errors of the SepFormer port against the original, one line a golden case.

`python benchmarks/parity_sepformer.py [--golden FOLDER]`, where FOLDER holds the vectors the original's own code made
in `sepformer`, `sepformer-1spk` and `sepformer-3spk` (default: `golden` of the folder `HUBSEP_SHARED` names, else of
`shared` beside the repository). Every weight goes through `hubsep.conversion.convert`, from a folder laid out as
published. Ends with status 1 if a case is out of its tolerance.
"""

from __future__ import annotations

import argparse
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

from hubsep import metrics
from hubsep.conversion import convert


CASES = {"sepformer": "2 speakers", "sepformer-3spk": "3 speakers", "sepformer-1spk": "enhancement"}
TOLERANCE, MINIMUM_SI_SDR = 2e-6, 100.0


@dataclass(frozen=True)
class Case:
    """What was computed, what the original computed, and how far apart they may be."""

    name: str
    estimate: Tensor
    reference: Tensor

    @property
    def error(self) -> float:
        return (self.estimate - self.reference).abs().max().item()

    @property
    def si_sdr(self) -> float:
        return metrics.si_sdr(self.estimate.double(), self.reference.double()).min().item()

    @property
    def holds(self) -> bool:
        return self.error <= TOLERANCE and self.si_sdr >= MINIMUM_SI_SDR


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
                yield Case(f"{what}, {size}", model(io[key][:, None]).sources[:, :, 0], reference)
            yield Case(f"{what}, {size}, as trained", model(io[key][:, None]).sources[:, :, 0].detach(), reference)


def main() -> int:
    beside = Path(os.environ.get("HUBSEP_SHARED") or Path(__file__).resolve().parents[2] / "shared")
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--golden", type=Path, default=beside / "golden", help="folder of the vectors")
    golden = parser.parse_args().golden
    if not (golden / "sepformer").is_dir():
        parser.error(f"{golden} holds no folder sepformer; name the right one with --golden")
    print(f"{'case':<36} {'largest error':>13} {'peak':>8} {'SI-SDR':>9} {'tolerance':>9}")
    held = []
    for case in cases(golden):
        peak, verdict = f"{case.reference.abs().max().item():.2f}", "" if case.holds else "  OUT OF TOLERANCE"
        print(f"{case.name:<36} {case.error:>13.1e} {peak:>8} {case.si_sdr:>6.1f} dB {TOLERANCE:>9.0e}{verdict}")
        held.append(case.holds)
    return 0 if all(held) else 1


if __name__ == "__main__":
    sys.exit(main())
