# SPDX-License-Identifier: Apache-2.0
"""Errors of the AudioSep port against the original, one line a golden case.

`python benchmarks/parity_audiosep.py [--golden FOLDER]`, where FOLDER holds the vectors the original's own code made
(default: `golden/audiosep` of the folder `HUBSEP_SHARED` names, else of `shared` beside the repository). Every weight
goes through `hubsep.conversion.convert`. Ends with status 1 if a case is out of its tolerance.
"""

from __future__ import annotations

import importlib.util
import json
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from parity import Case, compared, golden_folder, report
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import ClapTextConfig, ClapTextModelWithProjection

from hubsep.chunking import Segments, overlap_add_many
from hubsep.conversion import convert
from hubsep.conversion.clap import KEYS
from hubsep.conversion.common import rename
from hubsep.metrics import separation as metrics


SAMPLING_RATE = 32_000
MINIMUM_SI_SDR = 60.0


@torch.inference_mode()
def separate(model: Any, mixture: Tensor, condition: Tensor) -> Tensor:
    return model(mixture, query_embeds=condition[:, None]).sources[:, 0]


def chunked(model: Any, mixture: Tensor, condition: Tensor, context_seconds: float, hop_seconds: float) -> Tensor:
    """The original's chunks: a window every hop, its outer context thrown away."""
    context = round(context_seconds * SAMPLING_RATE)
    segments = Segments(round(hop_seconds * SAMPLING_RATE) + 2 * context, overlap=2 * context, context=context)
    blocks = overlap_add_many([[mixture[0]]], lambda part: separate(model, part, condition)[:, None], segments)
    return torch.cat([sources for _, sources, _ in blocks], dim=-1)[0]


def separator_cases(folder: Path) -> Iterator[Case]:
    sizes = {"": ("tiny", "short", 0.25, 0.75), "fullstft_": ("published Fourier size", "default", 1.0, 3.0)}
    for prefix, (name, chunks, context, hop) in sizes.items():
        config = json.loads((folder / f"{prefix}meta.json").read_text())["config"]
        model = convert("audiosep", folder / f"{prefix}state_dict.safetensors", hop_length=config["hop_size"])
        golden = load_file(folder / f"{prefix}io.safetensors")
        estimate = separate(model, golden["mixture"], golden["condition"])
        yield compared(name, estimate, golden["waveform"], 1e-5, MINIMUM_SI_SDR)
        golden = load_file(folder / f"{prefix}chunk_io.safetensors")
        estimate = chunked(model, golden[f"{chunks}.mixture"], golden["condition"], context, hop)
        yield compared(f"{name}, chunks", estimate, golden[f"{chunks}.output"], 1e-5, MINIMUM_SI_SDR)


def published_size_case(folder: Path) -> Case:
    spec = importlib.util.spec_from_file_location("hash_weights", folder / "hash_weights.py")
    assert spec is not None
    assert spec.loader is not None
    weights = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(weights)
    manifest = json.loads((folder / "manifest_full.json").read_text())["resunet30"]["state_dict"]
    arrays = weights.state_dict(manifest, json.loads((folder / "fullsize_meta.json").read_text())["after_gain"])
    with tempfile.TemporaryDirectory() as place:
        source = Path(place) / "full.safetensors"
        save_file({name: torch.from_numpy(array) for name, array in arrays.items()}, source)
        model = convert("audiosep", source)
    golden = load_file(folder / "fullsize_io.safetensors")
    estimate = separate(model, golden["mixture"], golden["condition"])
    return compared("published size", estimate, golden["waveform"], 3e-6, MINIMUM_SI_SDR)


@torch.inference_mode()
def text_cases(folder: Path) -> Iterator[Case]:
    meta = json.loads((folder / "clap_text_meta.json").read_text())
    config = ClapTextConfig(**meta["roberta_config"], projection_dim=meta["joint_embed_shape"])
    model = ClapTextModelWithProjection(config).eval()
    state = rename(load_file(folder / "clap_text_state_dict.safetensors"), KEYS)
    state = {name: tensor for name, tensor in state.items() if name.startswith("text_")}
    indices = model.load_state_dict(state, strict=False)
    assert not indices.unexpected_keys
    assert all(name.endswith(("position_ids", "token_type_ids")) for name in indices.missing_keys)
    golden = load_file(folder / "clap_text_io.safetensors")
    tokens = {"input_ids": golden["input_ids"], "attention_mask": golden["attention_mask"]}
    projected = model(**tokens).text_embeds
    embedding = torch.nn.functional.normalize(projected, dim=-1)
    pooled = model.text_model(**tokens).pooler_output
    yield compared("text, pooled", pooled, golden["pooler_output"], 3e-6, MINIMUM_SI_SDR)
    yield compared("text, projected", projected, golden["projected"], 5e-6, MINIMUM_SI_SDR)
    yield compared("text, embedding", embedding, golden["text_embed"], 1e-6, MINIMUM_SI_SDR)


def metric_cases(folder: Path) -> Iterator[Case]:
    golden = load_file(folder / "metrics_io.safetensors")
    for case in json.loads((folder / "metrics_meta.json").read_text()):
        estimate, reference, mixture = (golden[f"{case['i']}.{name}"] for name in ("est", "ref", "mix"))
        measured = (
            metrics.sdr(estimate, reference),
            metrics.sdr_improvement(estimate, reference, mixture),
            metrics.si_sdr(estimate, reference),
        )
        expected = torch.tensor([case["sdr"], case["sdri"], case["si_sdr"]])
        yield compared(f"metrics, {case['kind']}, in dB", torch.stack(measured), expected, 1e-4)


def main() -> int:
    folder = golden_folder(__doc__, under="audiosep")
    return report((*separator_cases(folder), published_size_case(folder), *text_cases(folder), *metric_cases(folder)))


if __name__ == "__main__":
    sys.exit(main())
