# SPDX-License-Identifier: Apache-2.0
"""Errors of the AudioMAE port against the original, one line a golden case.

`python benchmarks/parity_audiomae.py [--golden FOLDER]`, where FOLDER holds the vectors the original's own code made
in `audioldm2` (default: `golden` of the folder `HUBSEP_SHARED` names, else of `shared` beside the repository). Weights
go through `hubsep.conversion.convert` by the names of the original. Encoder and language of audio are those of
AudioLDM 2, pre-training is AudioMAE's own with either decoder and either masking; the noise that hides patches is the
original's. Ends with status 1 if a case is out of its tolerance.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path

import torch
from parity import Case, compared, golden_folder, report
from safetensors.torch import load_file
from torch import Tensor
from torchaudio.functional import resample

from hubsep.conversion import convert
from hubsep.models.audiomae.feature_extraction_audiomae import AudioMAEFeatureExtractor


RATE, OTHER_RATE = 16_000, 24_000


def feature_cases(folder: Path) -> Iterator[Case]:
    golden, extractor = load_file(folder / "io.safetensors"), AudioMAEFeatureExtractor()
    features = extractor(golden["waveform_16k"], RATE)["input_features"][0, 0]
    yield compared("spectrogram", features, golden["fbank_1024x128"], 1e-4)
    resampled = resample(golden["waveform_24k"], OTHER_RATE, RATE)
    features = extractor(resampled, RATE)["input_features"][0, 0]
    yield compared("spectrogram, resampled", features, golden["fbank_from_24k"], 1e-4)


@torch.inference_mode()
def encoder_cases(folder: Path) -> Iterator[Case]:
    golden, meta = load_file(folder / "io.safetensors"), json.loads((folder / "meta.json").read_text())
    model = convert("audiomae", folder / "weights.safetensors", num_attention_heads=meta["config"]["num_heads"])
    features = model(golden["fbank"]).last_hidden_state
    yield compared("encoder", features, golden["features"], 2e-5)
    for time_pool, frequency_pool in meta["pools"]:
        loa = model.loa(golden["fbank"], time_pool, frequency_pool)
        name = f"language of audio, pooled {time_pool} x {frequency_pool}"
        yield compared(name, loa, golden[f"loa_t{time_pool}_f{frequency_pool}"], 2e-5)


@torch.inference_mode()
def pretraining_cases(folder: Path, decoder: str) -> Iterator[Case]:
    golden, meta = load_file(folder / "io.safetensors"), json.loads((folder / "meta.json").read_text())
    heads = {
        "num_attention_heads": meta["config"]["num_heads"],
        "decoder_num_attention_heads": meta["config"]["decoder_num_heads"],
    }
    model = convert("audiomae", folder / "weights.safetensors", **heads)
    output = model(golden["fbank"], noise=golden["noise"])
    yield compared(f"{decoder}, encoder", output.last_hidden_state, golden["encoded"], 5e-5)
    yield compared(f"{decoder}, what is hidden", output.mask, golden["mask"], 0)
    yield compared(f"{decoder}, predicted patches", output.logits, golden["pred"], 5e-5)
    yield compared(f"{decoder}, loss", one(output.loss), golden["loss_norm_pix"], 1e-5)
    model.config.normalize_targets = False
    loss = model(golden["fbank"], noise=golden["noise"]).loss
    yield compared(f"{decoder}, loss on bare patches", one(loss), golden["loss_raw"], 1e-5)
    model.config.normalize_targets, model.config.masking = True, "time_frequency"
    output = model(golden["fbank"], noise=torch.cat([golden["noise_t"], golden["noise_f"]], dim=1))
    yield compared(f"{decoder}, stretches, encoder", output.last_hidden_state, golden["encoded_2d"], 5e-5)
    yield compared(f"{decoder}, stretches, what is hidden", output.mask, golden["mask_2d"], 0)
    yield compared(f"{decoder}, stretches, loss", one(output.loss), golden["loss_2d_norm_pix"], 1e-5)


def one(number: Tensor) -> Tensor:
    return number.reshape(1)


def main() -> int:
    folder = golden_folder(__doc__, holds="audioldm2") / "audioldm2"
    return report(
        (
            *feature_cases(folder / "fbank"),
            *encoder_cases(folder / "audiomae_encoder"),
            *pretraining_cases(folder / "audiomae_pretrain_global", "global decoder"),
            *pretraining_cases(folder / "audiomae_pretrain_swin", "window decoder"),
        )
    )


if __name__ == "__main__":
    sys.exit(main())
