# SPDX-License-Identifier: Apache-2.0
"""Files and folders laid out as SpeechBrain publishes its SepFormers, with golden weights."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from renaming import renamed
from rounding import assert_same
from safetensors.torch import load_file
from torch import Tensor

from hubsep.conversion import sepformer
from hubsep.metrics import separation as metrics
from hubsep.models.sepformer.modeling_sepformer import position_table


GOLDEN = Path(__file__).parents[1] / "golden" / "sepformer"
UNTOLD: dict[str, Any] = {"num_attention_heads": 4, "chunk_size": 50, "encoder_stride": 8, "sampling_rate": 8_000}

SUMS = {"terms": 50, "layers": 30}  # frames that attention adds up; up to four layers of six sums, filterbanks
# our words in the authors', in the order they are replaced
STACK = r"masker\.blocks\.(\d+)\.(intra|inter)"
WORDS = [
    (r"^encoder\.", "encoder.conv1d."),
    (rf"^{STACK}\.layers", r"masknet.dual_mdl.\1.\2_mdl.mdl.layers"),
    (rf"^{STACK}\.norm", r"masknet.dual_mdl.\1.\2_mdl.mdl.norm.norm"),
    (rf"^{STACK}_norm", r"masknet.dual_mdl.\1.\2_norm"),
    (r"attention\.qkv\.", "self_att.att.in_proj_"),
    (r"attention\.output", "self_att.att.out_proj"),
    ("linear1", "pos_ffn.ffn.0"),
    ("linear2", "pos_ffn.ffn.3"),
    ("attention_norm", "norm1.norm"),
    ("ffn_norm", "norm2.norm"),
    (r"^masker\.projection", "masknet.conv1d"),
    (r"^masker\.split", "masknet.conv2d"),
    (r"^masker\.activation", "masknet.prelu"),
    (r"^masker\.output", "masknet.output.0"),
    (r"^masker\.gate", "masknet.output_gate.0"),
    (r"^masker\.head", "masknet.end_conv1x1"),
    (r"^masker\.norm", "masknet.norm"),
]
# products that are stored as convolutions, with so many axes of one
AXES = {"masker.projection.weight": 1, "masker.split.weight": 2} | dict.fromkeys(
    ("masker.output.weight", "masker.gate.weight", "masker.head.weight"), 1
)

HYPERPARAMETERS = """# written as in the published folders; the classes do not exist here
num_spks: {num_spks}
sample_rate: {sample_rate}
N_encoder_out: {N_encoder_out}
out_channels: {out_channels}
kernel_size: {kernel_size}
kernel_stride: {kernel_stride}

Encoder: !new:speechbrain.lobes.models.dual_path.Encoder
    kernel_size: 16
    out_channels: !ref <N_encoder_out>

SBtfintra: !new:speechbrain.lobes.models.dual_path.SBTransformerBlock
    num_layers: {intra_layers}
    d_model: !ref <out_channels>
    nhead: {nhead}
    d_ffn: {d_ffn}
    dropout: 0
    use_positional_encoding: True
    norm_before: True

SBtfinter: !new:speechbrain.lobes.models.dual_path.SBTransformerBlock
    num_layers: {inter_layers}
    d_model: !ref <out_channels>
    nhead: {nhead}
    d_ffn: {d_ffn}
    dropout: 0
    use_positional_encoding: True
    norm_before: True

MaskNet: !new:speechbrain.lobes.models.dual_path.Dual_Path_Model
    num_spks: !ref <num_spks>
    in_channels: !ref <N_encoder_out>
    out_channels: !ref <out_channels>
    num_layers: {num_layers}
    K: {K}
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
    numbers = json.loads((folder / (f"{case}_meta.json" if case else "meta.json")).read_text())["config"]
    return {"sample_rate": 8_000, **numbers}


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


def tensors_of(model: Any) -> dict[str, Tensor]:
    """The weights of a model of ours by the authors' names."""
    config, state = model.config, dict(model.state_dict())
    for name, axes in AXES.items():
        state[name] = state[name][(..., *[None] * axes)]
    state["encoder.weight"] = state["encoder.weight"][:, None]
    state["decoder.weight"] = state["decoder.weight"].T[:, None].contiguous()
    table = position_table(2_500, config.hidden_size)[None]
    stacks = [f"masknet.dual_mdl.{block}.{path}" for block in range(config.num_blocks) for path in ("intra", "inter")]
    return {**renamed(state, WORDS), **{f"{stack}_mdl.pos_enc.pe": table.clone() for stack in stacks}}


def hyperparameters_of(config: Any) -> str:
    """What the authors' recipe writes for a configuration of ours."""
    return HYPERPARAMETERS.format(
        num_spks=config.num_sources,
        sample_rate=config.sampling_rate,
        N_encoder_out=config.encoder_channels,
        out_channels=config.hidden_size,
        kernel_size=config.encoder_kernel_size,
        kernel_stride=config.encoder_stride,
        num_layers=config.num_blocks,
        K=config.chunk_size,
        intra_layers=config.num_intra_layers,
        inter_layers=config.num_inter_layers,
        nhead=config.num_attention_heads,
        d_ffn=config.intermediate_size,
    )


def folder_of(folder: Path, model: Any) -> Path:
    """The folder that is published of a model of ours."""
    return write_folder(folder, tensors_of(model), hyperparameters_of(model.config))


def assert_golden(model: Any, io: dict[str, Tensor]) -> None:
    """It separates as the original does, of which `io` is a file of vectors."""
    for name in (name for name in io if name.startswith("mix")):
        reference = io[name.replace("mix", "est")].transpose(1, 2)
        with torch.no_grad():
            sources = model(io[name][:, None]).sources[:, :, 0]
        as_trained = model(io[name][:, None]).sources[:, :, 0].detach()
        for estimate in (sources, as_trained):
            assert_same(estimate, reference, **SUMS)
            assert metrics.si_sdr(estimate.double(), reference.double()).min() > 90
