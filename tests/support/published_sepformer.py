# SPDX-License-Identifier: Apache-2.0
"""Files and folders laid out as SpeechBrain publishes its SepFormers, with golden weights."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor

from hubsep.conversion import sepformer
from hubsep.models.sepformer.modeling_sepformer import position_table


GOLDEN = Path(__file__).parents[1] / "golden" / "sepformer"
UNTOLD: dict[str, Any] = {"num_attention_heads": 4, "chunk_size": 50, "encoder_stride": 8, "sampling_rate": 8_000}

HYPERPARAMETERS = """# written as in the published folders; the classes do not exist here
num_spks: {num_spks}
sample_rate: 8000
N_encoder_out: 32
out_channels: 32
kernel_size: 16
kernel_stride: 8

Encoder: !new:speechbrain.lobes.models.dual_path.Encoder
    kernel_size: 16
    out_channels: !ref <N_encoder_out>

SBtfintra: !new:speechbrain.lobes.models.dual_path.SBTransformerBlock
    num_layers: {intra_layers}
    d_model: !ref <out_channels>
    nhead: 4
    d_ffn: 48
    dropout: 0
    use_positional_encoding: True
    norm_before: True

SBtfinter: !new:speechbrain.lobes.models.dual_path.SBTransformerBlock
    num_layers: {inter_layers}
    d_model: !ref <out_channels>
    nhead: 4
    d_ffn: 48
    dropout: 0
    use_positional_encoding: True
    norm_before: True

MaskNet: !new:speechbrain.lobes.models.dual_path.Dual_Path_Model
    num_spks: !ref <num_spks>
    in_channels: !ref <N_encoder_out>
    out_channels: !ref <out_channels>
    num_layers: {num_layers}
    K: 50
    intra_model: !ref <SBtfintra>
    inter_model: !ref <SBtfinter>
    norm: ln
    linear_layer_after_inter_intra: False
    skip_around_intra: True

Decoder: !new:speechbrain.lobes.models.dual_path.Decoder
    in_channels: !ref <N_encoder_out>
    out_channels: 1
    kernel_size: !ref <kernel_size>
    stride: !ref <kernel_stride>
    bias: False

modules:
    encoder: !ref <Encoder>
    decoder: !ref <Decoder>
    masknet: !ref <MaskNet>

pretrainer: !new:speechbrain.utils.parameter_transfer.Pretrainer
    loadables:
        encoder: !ref <Encoder>
"""


def golden_tensors(case: str = "3spk", folder: Path = GOLDEN) -> dict[str, Tensor]:
    """A golden state dict; where the position tables were left out, they are made as the original makes them."""
    tensors = load_file(folder / f"{case}_state_dict.safetensors" if case else folder / "state_dict.safetensors")
    blocks = {name.split(".")[2] for name in tensors if name.startswith("masknet.dual_mdl.")}
    for block in blocks:
        for path in ("intra", "inter"):
            name = f"masknet.dual_mdl.{block}.{path}_mdl.pos_enc.pe"
            tensors.setdefault(name, position_table(2_500, 32)[None].clone())
    return tensors


def golden_config(case: str = "3spk", folder: Path = GOLDEN) -> dict[str, Any]:
    return json.loads((folder / (f"{case}_meta.json" if case else "meta.json")).read_text())["config"]


def write_file(path: Path, tensors: dict[str, Tensor]) -> Path:
    torch.save(tensors, path)
    return path


def write_folder(folder: Path, tensors: dict[str, Tensor], hyperparameters: str | None) -> Path:
    """A folder as published, with files that a conversion must not look at."""
    folder.mkdir(parents=True)
    for part in sepformer.PARTS:
        content = {n.removeprefix(f"{part}."): t for n, t in tensors.items() if n.startswith(f"{part}.")}
        torch.save(content, folder / f"{part}.ckpt")
    if hyperparameters is not None:
        (folder / "hyperparams.yaml").write_text(hyperparameters, encoding="utf-8")
    (folder / "config.json").write_text('{"speechbrain_interface": "SepformerSeparation"}')
    (folder / "optimizer.ckpt").write_bytes(b"no pickle")
    return folder


def golden_folder(place: Path, case: str = "3spk", golden: Path = GOLDEN) -> Path:
    text = HYPERPARAMETERS.format(**golden_config(case, golden))
    return write_folder(place / f"sepformer-{case}", golden_tensors(case, golden), text)
