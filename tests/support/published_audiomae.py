# SPDX-License-Identifier: Apache-2.0
"""AudioMAE's checkpoint, and AudioLDM 2's with an AudioMAE in it, as their authors publish them, from tiny weights."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import torch
from rounding import assert_same
from tiny_audiomae import tiny_pretraining
from torch import Tensor


PREFIX = "cond_stage_models.0.cond_stage_models.2.audiomae.model."
GOLDEN_SUMS = {"terms": 512, "layers": 12 * 6}  # patches of the published length; twelve layers of six sums
# our words in the authors', in the order they are replaced
WORDS = [
    ("audiomae.embeddings.class_token", "cls_token"),
    ("audiomae.embeddings.positions", "pos_embed"),
    ("audiomae.embeddings.patches", "patch_embed.proj"),
    ("audiomae.layers", "blocks"),
    ("audiomae.norm", "norm"),
    ("decoder.mask_token", "mask_token"),
    ("decoder.positions", "decoder_pos_embed"),
    ("decoder.embedding", "decoder_embed"),
    ("decoder.layers", "decoder_blocks"),
    ("decoder.norm", "decoder_norm"),
    ("decoder.head", "decoder_pred"),
    ("attention_norm", "norm1"),
    ("ffn_norm", "norm2"),
    ("attention.qkv", "attn.qkv"),
    ("attention.output", "attn.proj"),
    ("attention.temperature", "attn.tau"),
    ("attention.bias1", "attn.meta_mlp.fc1"),
    ("attention.bias2", "attn.meta_mlp.fc2"),
    ("linear1", "mlp.fc1"),
    ("linear2", "mlp.fc2"),
]
# what no shape of the tiny model tells
TOLD: dict[str, Any] = {"num_mel_bins": 64, "num_attention_heads": 2, "num_averaged_layers": 2}


def tensors(**fields: Any) -> dict[str, Tensor]:
    """By the authors' names."""
    state = {}
    for name, tensor in tiny_pretraining(**fields).state_dict().items():
        for ours, theirs in WORDS:
            name = name.replace(ours, theirs)
        state[name] = tensor.clone()
    return state


def write(path: Path, state: dict[str, Tensor], **settings: Any) -> Path:
    """AudioMAE's own checkpoint."""
    content = {
        "model": state,
        "optimizer": {"state": {0: {"step": 3, "exp_avg": torch.zeros(2)}}, "param_groups": [{"lr": 1e-3}]},
        "epoch": 32,
        "scaler": {"scale": 65_536.0, "growth_factor": 2.0},
        "args": argparse.Namespace(**{"norm_pix_loss": True, "mask_ratio": 0.8, "model": "mae_vit", **settings}),
    }
    torch.save(content, path)
    return path


def write_inside(path: Path, state: dict[str, Tensor], prefix: str = PREFIX) -> Path:
    """AudioLDM 2's checkpoint, with a little of its other parts."""
    others = {
        "model.diffusion_model.time_embed.0.weight": torch.ones(4, 4),
        "cond_stage_models.0.model.wpe.weight": torch.ones(4, 4),
        "clap.model.logit_scale_a": torch.ones(()),
        "scale_factor": torch.ones(()),
    }
    torch.save({"state_dict": {**others, **{f"{prefix}{name}": part for name, part in state.items()}}}, path)
    return path


@torch.no_grad()
def assert_language(model: Any, golden: dict[str, Tensor], pools: list[list[int]]) -> None:
    """Features and language of audio are those of the original, of which `golden` is a file of vectors."""
    features = model(golden["fbank"]).last_hidden_state
    assert_same(features, golden["features"], **GOLDEN_SUMS)
    for pair in pools:
        expected = golden["loa_t{}_f{}".format(*pair)]
        assert_same(model.loa(golden["fbank"], *pair), expected, **GOLDEN_SUMS)


@torch.no_grad()
def assert_patches(model: Any, golden: dict[str, Tensor]) -> None:
    """It is pre-trained as the original is, of which `golden` is a file of vectors."""
    output = model(golden["fbank"], noise=golden["noise"])
    assert torch.equal(output.mask, golden["mask"])
    assert torch.equal(output.ids_restore, golden["ids_restore"])
    assert_same(output.last_hidden_state, golden["encoded"], **GOLDEN_SUMS)
    assert_same(output.logits, golden["pred"], **GOLDEN_SUMS)
    assert_same(output.loss, golden["loss_norm_pix"].squeeze(), **GOLDEN_SUMS)
    model.config.normalize_targets = False
    assert_same(model(golden["fbank"], noise=golden["noise"]).loss, golden["loss_raw"].squeeze(), **GOLDEN_SUMS)
    model.config.normalize_targets, model.config.masking = True, "time_frequency"
    output = model(golden["fbank"], noise=torch.cat([golden["noise_t"], golden["noise_f"]], dim=1))
    assert torch.equal(output.mask, golden["mask_2d"])
    assert torch.equal(output.ids_restore, golden["ids_restore_2d"])
    assert_same(output.last_hidden_state, golden["encoded_2d"], **GOLDEN_SUMS)
    assert_same(output.loss, golden["loss_2d_norm_pix"].squeeze(), **GOLDEN_SUMS)
