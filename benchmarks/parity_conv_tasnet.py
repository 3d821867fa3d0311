# SPDX-License-Identifier: Apache-2.0
"""Errors of the Conv-TasNet port against both originals, one line a golden case.

`python benchmarks/parity_conv_tasnet.py [--golden FOLDER]`, where FOLDER holds the `conv_tasnet-*` folders of vectors
that the originals' own code made (default: `golden` of the folder `HUBSEP_SHARED` names, else of `shared` beside the
repository). The golden weights are written as their authors publish them and go through `hubsep convert`. Ends with
status 1 if a case is out of its tolerance.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from parity import Case, compared, converted, golden_folder, largest, report
from safetensors.torch import load_file

from hubsep.chunking import Segments, overlap_add_many


CASES = ("torchaudio", "asteroid", "asteroid-causal", "asteroid-causal-cgln", "asteroid-noskip")
TOLERANCE, MINIMUM_SI_SDR = 5e-6, 60.0


def model_of(folder: Path) -> Any:
    """The model of a golden folder, by way of the published layout and the command line."""
    meta = json.loads((folder / "meta.json").read_text())
    state = load_file(folder / "state_dict.safetensors")
    is_asteroid = any(name.startswith("masker.") for name in state)
    arguments = {"fb_name": "free", "encoder_activation": None, **meta.get("model_args", meta["config"])}
    content = {"model_name": "ConvTasNet", "state_dict": state, "model_args": arguments} if is_asteroid else state
    flags = [] if is_asteroid else ["--set", f"num_blocks={meta['config']['msk_num_layers']}"]
    return converted("conv_tasnet", content, "pytorch_model.bin", flags)


def cases(golden: Path) -> Iterator[Case]:
    for name in CASES:
        folder = golden / f"conv_tasnet-{name}"
        model, vectors = model_of(folder), load_file(folder / "io.safetensors")
        for mixture in sorted(key for key in vectors if key.startswith("mix")):
            expected = vectors[mixture.replace("mix", "est")]
            label = f"{name}, {'x'.join(map(str, vectors[mixture].shape))}"
            yield compared(label, model(vectors[mixture]).sources[:, :, 0], expected, TOLERANCE, MINIMUM_SI_SDR)


def long_cases(folder: Path) -> Iterator[Case]:
    """The original's windows, from one window before the start on; and our segments over the same samples."""
    model, vectors, samples = model_of(folder), load_file(folder / "io.safetensors"), 800
    mixture, hop = vectors["mix"], samples // 2
    padded, window = torch.nn.functional.pad(mixture, (samples, 2 * samples)), torch.hann_window(samples)
    result = torch.zeros(2, padded.shape[-1])
    for start in range(0, padded.shape[-1] - samples, hop):
        result[:, start : start + samples] += model(padded[..., start : start + samples]).sources[0, :, 0] * window
    inner = slice(samples, samples + mixture.shape[-1])
    expected = vectors["ola_hann_noreorder"][0]
    yield compared("asteroid, windows", result[:, inner], expected, TOLERANCE, MINIMUM_SI_SDR)
    blocks = overlap_add_many([[padded[0]]], lambda part: model(part).sources, Segments(samples, overlap=hop))
    ours = torch.cat([sources for _, sources, _ in blocks], dim=-1)[:, 0, inner]
    yield compared("asteroid, our segments", ours, expected, 0.01 * largest(expected), 50.0)  # half a sample


@torch.inference_mode()
def main() -> int:
    golden = golden_folder(__doc__, holds="conv_tasnet-asteroid")
    return report((*cases(golden), *long_cases(golden / "conv_tasnet-asteroid-ola")))


if __name__ == "__main__":
    sys.exit(main())
