# SPDX-License-Identifier: Apache-2.0
"""The components of AudioLDM 2 with random weights, at the published base size and tiny, and a folder of them.

A million weights are drawn and repeated, since drawing all 1.1 billion takes longer than what is measured. They are
scaled by how many are summed over, norms are left as they begin. Texts are read letter by letter.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import diffusers
import torch
import transformers
from diffusers.pipelines.audioldm2 import AudioLDM2ProjectionModel, AudioLDM2UNet2DConditionModel


LETTERS = "abcdefghijklmnopqrstuvwxyz"
CLAP_SIZE = {"published": 512, "tiny": 12}
SIZES: dict[str, dict[str, Any]] = {
    "published": {
        "loa": 768,
        "text": 1_024,
        "unet": {"block_out_channels": (128, 256, 384, 640), "layers_per_block": 2, "sample_size": 256, "channels": 8},
        "vae": (128, 256, 512),
        "vocoder": {},
        "gpt2": {},
        "t5": {"d_ff": 2_816, "num_layers": 24, "num_heads": 16, "feed_forward_proj": "gated-gelu"},
        "clap_text": {},
        "clap_audio": {
            "depths": [2, 2, 12, 2],
            "hidden_size": 1_024,
            "patch_embeds_hidden_size": 128,
            "num_attention_heads": [4, 8, 16, 32],
        },
    },
    "tiny": {
        "loa": 32,
        "text": 48,
        "unet": {"block_out_channels": (32, 64), "layers_per_block": 1, "sample_size": 64, "channels": 4},
        "vae": (32, 64),
        "vocoder": {"model_in_dim": 8, "upsample_initial_channel": 64},
        "gpt2": {"n_embd": 32, "n_layer": 2, "n_head": 2, "vocab_size": 64, "bos_token_id": 0, "eos_token_id": 0},
        "t5": {"vocab_size": 64, "d_kv": 8, "d_ff": 40, "num_layers": 1, "num_heads": 4},
        "clap_text": {
            "vocab_size": 64,
            "hidden_size": 16,
            "num_hidden_layers": 1,
            "num_attention_heads": 2,
            "intermediate_size": 16,
        },
        "clap_audio": {
            "hidden_size": 64,
            "patch_embeds_hidden_size": 32,
            "depths": [1, 1],
            "num_hidden_layers": 2,
            "num_attention_heads": [2, 2],
        },
    },
}
MODELS = ("unet", "vae", "vocoder", "gpt2", "t5", "clap", "projection")


def build(size: str, name: str, dtype: torch.dtype = torch.float32) -> Any:
    """One component of a size with random weights."""
    from accelerate import init_empty_weights

    with init_empty_weights(include_buffers=False):
        model = {made.__name__: made for made in (unet, vae, vocoder, gpt2, t5, clap, projection)}[name](size)
    block = torch.randn(1 << 20, generator=torch.Generator().manual_seed(0)).to(dtype)
    for module in model.modules():
        for kind, parameter in list(module._parameters.items()):
            if parameter is not None:
                module._parameters[kind] = torch.nn.Parameter(drawn(parameter.shape, kind, block), requires_grad=False)
    if hasattr(model, "tie_weights"):
        model.tie_weights()
    return torch.nn.Module.to(model, dtype=dtype).eval()  # diffusers' own `to` warns of nothing


def drawn(shape: torch.Size, kind: str, block: torch.Tensor) -> torch.Tensor:
    """A weight of random numbers, or a bias or norm as it begins."""
    if len(shape) < 2:
        return torch.full(shape, 1.0 if "weight" in kind else 0.0, dtype=block.dtype)
    made = torch.empty(shape, dtype=block.dtype)
    scaled = block / (made[0].numel() ** 0.5)
    for piece in made.view(-1).split(len(block)):
        piece.copy_(scaled[: len(piece)])
    return made


def unet(size: str) -> Any:
    """Attention everywhere but at the full resolution, heads of width 32 as in the original."""
    given = SIZES[size]
    settings = dict(given["unet"])
    channels, levels = settings.pop("channels"), len(settings["block_out_channels"])
    return AudioLDM2UNet2DConditionModel(
        in_channels=channels,
        out_channels=channels,
        down_block_types=("DownBlock2D", *("CrossAttnDownBlock2D",) * (levels - 1)),
        up_block_types=(*("CrossAttnUpBlock2D",) * (levels - 1), "UpBlock2D"),
        cross_attention_dim=[[None, given["loa"], given["text"]]] * levels,
        attention_head_dim=[width // 32 for width in settings["block_out_channels"]],
        **settings,
    )


def vae(size: str) -> Any:
    levels = len(SIZES[size]["vae"])
    return diffusers.AutoencoderKL(
        in_channels=1,
        out_channels=1,
        down_block_types=("DownEncoderBlock2D",) * levels,
        up_block_types=("UpDecoderBlock2D",) * levels,
        block_out_channels=SIZES[size]["vae"],
        layers_per_block=2,
        latent_channels=SIZES[size]["unet"]["channels"],
        scaling_factor=0.4,
    )


def vocoder(size: str) -> Any:
    settings = {
        "model_in_dim": 64,
        "sampling_rate": 16_000,
        "upsample_initial_channel": 1_024,
        "upsample_rates": [5, 4, 2, 2, 2],
        "upsample_kernel_sizes": [16, 16, 8, 4, 4],
        "normalize_before": False,
        **SIZES[size]["vocoder"],
    }
    return transformers.SpeechT5HifiGan(transformers.SpeechT5HifiGanConfig(**settings))


def gpt2(size: str) -> Any:
    return transformers.GPT2Model(transformers.GPT2Config(max_new_tokens=8, **SIZES[size]["gpt2"]))


def t5(size: str) -> Any:
    given = SIZES[size]
    config = transformers.T5Config(d_model=given["text"], is_encoder_decoder=False, **given["t5"])
    return transformers.T5EncoderModel(config)


def clap(size: str) -> Any:
    given = SIZES[size]
    config = transformers.ClapConfig(
        text_config=given["clap_text"], audio_config=given["clap_audio"], projection_dim=CLAP_SIZE[size]
    )
    return transformers.ClapModel(config)


def projection(size: str) -> Any:
    return AudioLDM2ProjectionModel(CLAP_SIZE[size], SIZES[size]["text"], SIZES[size]["loa"])


def tokenizers() -> dict[str, Any]:
    """That read letter by letter."""
    words = ["<s>", "<pad>", "</s>", "<unk>", "<mask>", "Ġ", *LETTERS]
    pieces = [("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0), ("▁", -2.0), *((letter, -3.0) for letter in LETTERS)]
    vocabulary = {word: index for index, word in enumerate(words)}
    return {
        "tokenizer": transformers.RobertaTokenizer(vocab=vocabulary, merges=[], model_max_length=512),
        "tokenizer_2": transformers.T5Tokenizer(vocab=pieces, extra_ids=0, model_max_length=128),
    }


def write_folder(size: str, folder: Path, dtype: torch.dtype = torch.float32) -> Path:
    """A folder in the published layout, written component by component, never more than one of them in memory."""
    from hubsep.pipelines.audioldm2.loading.components import COMPONENTS

    parts: dict[str, Any] = {
        **tokenizers(),
        "feature_extractor": transformers.ClapFeatureExtractor(),
        "scheduler": diffusers.DDIMScheduler(
            beta_start=0.0015,
            beta_end=0.0195,
            beta_schedule="scaled_linear",
            clip_sample=False,
            set_alpha_to_one=False,
            steps_offset=1,
        ),
    }
    places = dict(zip(MODELS, ("unet", "vae", "vocoder", "language_model", "text_encoder_2"), strict=False))
    places |= {"clap": "text_encoder", "projection": "projection_model"}
    for name, part in parts.items():
        part.save_pretrained(folder / name)
    index: dict[str, Any] = {"_class_name": "AudioLDM2Pipeline", "_diffusers_version": diffusers.__version__}
    for name, place in places.items():
        model = build(size, name, dtype)
        model.save_pretrained(folder / place, safe_serialization=True)
        parts[place] = type(model)
        del model
    for place, part in parts.items():
        kind = part if isinstance(part, type) else type(part)
        index[place] = [COMPONENTS[place][0][0], kind.__name__]
    (folder / "model_index.json").write_text(json.dumps(index, indent=2) + "\n", encoding="utf-8")
    return folder


__all__ = ["MODELS", "SIZES", "build", "write_folder"]
