# SPDX-License-Identifier: Apache-2.0
"""The stages of AudioLDM 2's training in tiny sizes, and what they hand on: for tests here and in other processes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from tiny_audioldm2 import LOA_SIZE, TEXT_SIZE, tiny_components

from hubsep.models.audiomae.configuration_audiomae import AudioMAEConfig
from hubsep.models.audiomae.modeling_audiomae import AudioMAEModel
from hubsep.training.generators import autoencoder, diffusion, loa, vocoder
from hubsep.training.recipe import load_recipe


FRAMES, MELS, TOKENS = 64, 8, 2
UNET = {
    "sample_size": 32, "in_channels": 4, "out_channels": 4, "block_out_channels": [32, 64], "layers_per_block": 1,
    "norm_num_groups": 16,
}  # fmt: skip
VAE = {"block_out_channels": [8, 16], "layers_per_block": 1, "latent_channels": 4, "norm_num_groups": 4}
VOCODER = {
    "upsample_initial_channel": 16, "upsample_rates": [5, 4, 4, 2], "upsample_kernel_sizes": [11, 8, 8, 4],
    "resblock_kernel_sizes": [3], "resblock_dilation_sizes": [[1]],
}  # fmt: skip
SCHEDULER = {"prediction_type": "v_prediction"}
COMPONENTS = {
    "vae": "vae", "vocoder": "vocoder", "audio_mae": "audiomae", "unet": "unet", "text_encoder": "text/text_encoder",
    "tokenizer": "text/tokenizer", "feature_extractor": "text/feature_extractor", "tokenizer_2": "text/tokenizer_2",
    "text_encoder_2": "text/text_encoder_2", "projection_model": "loa/projection_model",
    "language_model": "loa/language_model",
}  # fmt: skip
LOA: dict[str, Any] = {"loa_tokens": TOKENS, "text_tokens": 64, "model": {"n_layer": 1, "n_head": 2}}


def earlier_stages(folder: Path) -> Path:
    """What earlier stages would have made, with random weights."""
    parts = tiny_components()
    for name in ("text_encoder", "tokenizer", "feature_extractor", "text_encoder_2", "tokenizer_2"):
        parts[name].save_pretrained(folder / "text" / name)
    torch.manual_seed(0)
    config = AudioMAEConfig(
        num_frames=256, num_mel_bins=16, hidden_size=LOA_SIZE, num_hidden_layers=1, num_attention_heads=2,
        intermediate_size=16, num_averaged_layers=1, decoder_type="global",
    )  # fmt: skip
    AudioMAEModel(config).save_pretrained(folder / "audiomae")
    vae = autoencoder.build_vae(recipe_of(autoencoder.AutoencoderRecipe, model=VAE), folder / "vae")
    vae.save_pretrained(folder / "vae")
    vocoder.build_vocoder(recipe_of(vocoder.VocoderRecipe, model=VOCODER), folder).save_pretrained(folder / "vocoder")
    unet = diffusion.build_unet(recipe_of(diffusion.DiffusionRecipe, model=UNET), folder / "unet")
    unet.save_pretrained(folder / "unet")
    found = loa.build_language_model(recipe_of(loa.LoaRecipe, **LOA), folder / "loa", (12, TEXT_SIZE, LOA_SIZE))
    for name, part in found.items():
        part.save_pretrained(folder / "loa" / name)
    return folder


def settings(**changes: Any) -> dict[str, Any]:
    fields: dict[str, Any] = {
        "folders": ["."], "seconds": 0.64, "num_mels": MELS, "batch_size": 2, "validation_fraction": 0.3, "steps": 4,
        "save_every": 2, "eval_every": 2, "warmup_steps": 1, "bf16": False, "average_decay": 0.9, "views": 2,
        "validation_clips": 4, "loa_size": LOA_SIZE, "text_size": TEXT_SIZE, **changes,
    }  # fmt: skip
    return fields


def recipe_of(kind: type[Any], **changes: Any) -> Any:
    fields = settings(**changes)
    return load_recipe(kind, None, **{name: value for name, value in fields.items() if hasattr(kind(), name)})


def run(stage: Any, kind: type[Any], data: Path, output: Path, **changes: Any) -> dict[str, float]:
    fields = settings(**changes)
    result: dict[str, float] = stage.main(
        None, data, output, **{name: value for name, value in fields.items() if hasattr(kind(), name)}
    )
    return result
