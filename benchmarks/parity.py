# SPDX-License-Identifier: Apache-2.0
"""What the parity benchmarks share: where the golden vectors are, what a case is, and the table that is printed.

A case is a line: how far the port is from what the original's own code gave, and how far it may be. Figures are taken
at once, so that no case keeps its tensors.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import os
import sys
import tempfile
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor
from transformers.utils import logging

from hubsep import AutoModelForAudioSeparation
from hubsep.cli import main as hubsep
from hubsep.metrics import separation as metrics


class Case(NamedTuple):
    """How far the port is from the original, and how far it may be; `peak` is the original's largest number."""

    name: str
    error: float
    peak: float
    tolerance: float
    si_sdr: float | None = None
    minimum_si_sdr: float = 0.0

    @property
    def holds(self) -> bool:
        return self.error <= self.tolerance and (self.si_sdr is None or self.si_sdr >= self.minimum_si_sdr)


def compared(
    name: str, estimate: Tensor, reference: Tensor, tolerance: float, minimum_si_sdr: float | None = None
) -> Case:
    """The case of two tensors of one shape; with a minimum, their SI-SDR is taken along the last axis."""
    assert estimate.shape == reference.shape, f"{name}: {tuple(estimate.shape)}, not {tuple(reference.shape)}"
    case = Case(name, largest(estimate - reference), largest(reference), tolerance)
    if minimum_si_sdr is None:
        return case
    ratio = metrics.si_sdr(estimate.double(), reference.double()).min().item()
    return case._replace(si_sdr=ratio, minimum_si_sdr=minimum_si_sdr)


def largest(tensor: Tensor) -> float:
    """The largest magnitude in a tensor."""
    return tensor.abs().max().item()


def golden_folder(doc: str | None, holds: str = "", under: str = "") -> Path:
    """The folder `--golden` names, by default `golden` of the shared folder.

    Args:
        doc: docstring of the benchmark, whose first line `--help` shows.
        holds: folder that must be in it.
        under: folder in `golden` that `--golden` itself names.
    """
    beside = Path(os.environ.get("HUBSEP_SHARED") or Path(__file__).resolve().parents[2] / "shared")
    parser = argparse.ArgumentParser(description=(doc or "").partition("\n")[0])
    parser.add_argument("--golden", type=Path, default=beside / "golden" / under, help="folder of the vectors")
    folder = parser.parse_args().golden
    if not (folder / holds).is_dir():
        parser.error(f"{folder / holds} is not a folder; name the right one with --golden")
    return folder


def converted(model_type: str, content: object, name: str, flags: Sequence[str] = ()) -> Any:
    """The model of what authors publish as a pickle called `name`, by way of the command line."""
    logging.disable_progress_bar()
    with tempfile.TemporaryDirectory() as place:
        source, output = Path(place) / name, Path(place) / "model"
        torch.save(content, source)
        with contextlib.redirect_stdout(io.StringIO()):
            status = hubsep(["convert", model_type, str(source), str(output), *flags, "--licence", "unknown"])
        if status:
            sys.exit(status)
        return AutoModelForAudioSeparation.from_pretrained(output)


def report(cases: Iterable[Case]) -> int:
    """Prints a line a case and returns the exit status: 1 if one is out of its tolerance."""
    print(f"{'case':<44} {'largest error':>13} {'peak':>8} {'SI-SDR':>9} {'tolerance':>9}")
    held = []
    for case in cases:
        held.append(case.holds)
        ratio = "-" if case.si_sdr is None else f"{case.si_sdr:.1f} dB"
        verdict = "" if case.holds else "  OUT OF TOLERANCE"
        print(f"{case.name:<44} {case.error:>13.1e} {case.peak:>8.2f} {ratio:>9} {case.tolerance:>9.0e}{verdict}")
    return 0 if all(held) else 1


__all__ = ["Case", "compared", "converted", "golden_folder", "largest", "report"]
