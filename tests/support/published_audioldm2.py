# SPDX-License-Identifier: Apache-2.0
"""AudioLDM 2's checkpoints as their authors publish them, from tiny random weights."""

from __future__ import annotations

import functools
from pathlib import Path
from typing import Any

import original_audioldm2 as original
import published_audiomae
import tiny_audioldm2 as tiny
import torch
from renaming import renamed
from torch import Tensor, nn


LATENT_FRAMES = 32
SCALE_FACTOR = 0.7
COND = "cond_stage_models.0."
CLAP_WORDS = [
    ("text_model.", "text_branch."),
    ("audio_model.audio_encoder.", "audio_branch."),
    (r"_projection\.linear1", "_projection.0"),
    (r"_projection\.linear2", "_projection.2"),
    ("batch_norm", "bn0"),
    (r"(audio_branch.*)attention\.output\.dense", r"\1attn.proj"),
    (r"(audio_branch.*)intermediate\.dense", r"\1mlp.fc1"),
    (r"(audio_branch.*)output\.dense", r"\1mlp.fc2"),
    (r"(audio_branch.*)attention\.self\.relative", r"\1attn.relative"),
    (r"(audio_branch.*)layernorm_before", r"\1norm1"),
    (r"(audio_branch.*)layernorm_after", r"\1norm2"),
]
VITS_WORDS = [
    ("embed_tokens", "emb"),
    ("project", "proj"),
    (r"encoder\.layers\.(\d+)\.attention\.([kqv])_proj", r"encoder.attn_layers.\1.conv_\2"),
    (r"encoder\.layers\.(\d+)\.attention\.out_proj", r"encoder.attn_layers.\1.conv_o"),
    (r"encoder\.layers\.(\d+)\.attention\.emb", r"encoder.attn_layers.\1.emb"),
    (r"encoder\.layers\.(\d+)\.feed_forward", r"encoder.ffn_layers.\1"),
    (r"encoder\.layers\.(\d+)\.layer_norm\.weight", r"encoder.norm_layers_1.\1.gamma"),
    (r"encoder\.layers\.(\d+)\.layer_norm\.bias", r"encoder.norm_layers_1.\1.beta"),
    (r"encoder\.layers\.(\d+)\.final_layer_norm\.weight", r"encoder.norm_layers_2.\1.gamma"),
    (r"encoder\.layers\.(\d+)\.final_layer_norm\.bias", r"encoder.norm_layers_2.\1.beta"),
]
# what no shape of the tiny model tells
TOLD: dict[str, Any] = {
    "unet": {"sample_size": LATENT_FRAMES},
    "vocoder": {"upsample_rates": [5, 4], "sampling_rate": tiny.SAMPLING_RATE},
    "language_model": {"n_head": 2},
    "text_encoder": {
        "text_config": {"num_attention_heads": 2},
        "audio_config": {"spec_size": 64},
    },
    "audio_mae": {
        "num_mel_bins": 16,
        "num_attention_heads": 2,
        "num_averaged_layers": 1,
        "decoder_type": "global",
    },
}
CONTEXTS: dict[str, tuple[int | None, ...]] = {
    "base": (tiny.LOA_SIZE, tiny.TEXT_SIZE),
    "large": (tiny.LOA_SIZE, tiny.TEXT_SIZE, None),
    "speech": (tiny.LOA_SIZE,),
    "48k": (None,),
    "t5": (tiny.TEXT_SIZE,),
}
MULTIPLES = {**dict.fromkeys(CONTEXTS, (1, 2)), "large": (1, 2, 3)}  # channels of the levels, by those of the first


@functools.cache
def components(speech: bool) -> dict[str, Any]:
    return tiny.tiny_components(speech=speech)


@functools.cache
def modules(kind: str = "base") -> dict[str, nn.Module]:
    """U-Net, VAE and vocoder with seeded weights, none of them zero."""
    with torch.random.fork_rng():
        torch.manual_seed(2)
        depth, film = (2 if kind == "large" else 1), (12 if kind == "48k" else None)
        made = {
            "unet": original.UNet(multiples=MULTIPLES[kind], contexts=CONTEXTS[kind], depth=depth, film=film),
            "vae": original.VAE(),
            "vocoder": original.Vocoder(),
        }
        for module in made.values():
            for name, parameter in module.named_parameters():
                if "norm" in name or parameter.dim() == 1:
                    parameter.data += 0.2 * torch.randn_like(parameter)
        for parameter in made["vocoder"].parameters():
            parameter.data *= 1.5
    return {name: module.eval() for name, module in made.items()}


def clap(model: Any) -> dict[str, Tensor]:
    """By LAION's names, with what is in their files and of no use."""
    state = dict(model.state_dict())
    for name in [name for name in state if "audio_encoder" in name and ".attention.self.query." in name]:
        parts = [state.pop(name.replace("query", part)) for part in ("query", "key", "value")]
        state[name.replace("attention.self.query", "attn.qkv")] = torch.cat(parts)
    del state["text_model.embeddings.token_type_ids"]
    return {
        **renamed(state, CLAP_WORDS),
        "text_transform.sequential.0.weight": torch.ones(2, 2),
        "audio_branch.logmel_extractor.melW": torch.ones(3, 2),
        "audio_branch.tscam_conv.weight": torch.ones(2),
        "audio_branch.layers.0.blocks.0.attn_mask": torch.ones(2),
    }


def phonemes(model: Any) -> dict[str, Tensor]:
    state = renamed(model.text_encoder.state_dict(), VITS_WORDS)
    return {
        name: tensor[..., None] if ".conv_" in name and "attn" in name and "weight" in name else tensor
        for name, tensor in state.items()
    }


def betas() -> Tensor:
    return torch.linspace(0.0015**0.5, 0.0195**0.5, 1_000, dtype=torch.float64).square().float()


@functools.cache
def _state(kind: str) -> dict[str, Tensor]:
    own = modules(kind)
    parts = components(kind == "speech")
    ranking = clap(parts["text_encoder"])
    state = {
        **under("model.diffusion_model.", own["unet"].state_dict()),
        **under("first_stage_model.", own["vae"].state_dict()),
        **under("first_stage_model.vocoder.", own["vocoder"].state_dict()),
        **under("clap.model.", ranking),
        "clap.mel_transform.spectrogram.window": torch.ones(4),
        "betas": betas(),
        "alphas_cumprod": (1 - betas()).cumprod(0),
        "posterior_mean_coef1": betas(),
        "logvar": torch.zeros(1_000),
        "scale_factor": torch.tensor(SCALE_FACTOR),
    }
    if kind in ("48k", "t5"):
        condition = ranking if kind == "48k" else parts["text_encoder_2"].state_dict()
        return {**state, **under(f"{COND}model.", condition)}
    return {**state, **_language(kind, parts, ranking)}


def _language(kind: str, parts: dict[str, Any], ranking: dict[str, Tensor]) -> dict[str, Tensor]:
    """GPT-2 and its conditions."""
    projection = parts["projection_model"].state_dict()
    marks = torch.Generator().manual_seed(3)
    state = {
        **under(f"{COND}model.", parts["language_model"].state_dict()),
        f"{COND}model.h.0.attn.bias": torch.ones(1, 1, 4, 4),
        **under(f"{COND}cond_stage_models.0.model.", ranking),
        f"{COND}cond_stage_models.0.mel_transform.mel_scale.fb": torch.ones(2, 2),
        **under(f"{COND}cond_stage_models.2.audiomae.model.", published_audio_mae()),
    }
    for number, name in enumerate(("projection", "projection_1")):
        for leaf in ("weight", "bias"):
            state[f"{COND}input_sequence_embed_linear.{number}.{leaf}"] = projection[f"{name}.{leaf}"]
    for mark in ("start", "end"):
        state[f"{COND}{mark}_of_sequence_tokens.weight"] = torch.randn(32, tiny.LOA_SIZE, generator=marks)
    second, place = parts["text_encoder_2"], f"{COND}cond_stage_models.1."
    if kind == "speech":
        positions = torch.randn(1, 16, tiny.PHONEMES, generator=marks)
        state[f"{place}learnable_positional_embedding"] = positions
        return {**state, **under(f"{place}text_encoder.", phonemes(second))}
    t5 = second.state_dict()
    return {**state, **under(f"{place}model.", t5), **under("cond_stage_models.1.model.", t5)}


def published_audio_mae() -> dict[str, Tensor]:
    """The tiny encoder by AudioMAE's names, and a decoder nobody trained."""
    words = [(ours.removeprefix("audiomae."), theirs) for ours, theirs in published_audiomae.WORDS]
    state = {}
    for name, tensor in tiny.tiny_audio_mae().state_dict().items():
        for ours, theirs in words:
            name = name.replace(ours, theirs)
        state[name] = tensor
    return {**state, "decoder_embed.weight": torch.ones(3, 3), "mask_token": torch.ones(1, 1, 3)}


def under(prefix: str, state: dict[str, Tensor]) -> dict[str, Tensor]:
    return {f"{prefix}{name}": tensor.detach() for name, tensor in state.items()}


def tensors(kind: str = "base") -> dict[str, Tensor]:
    """By the authors' names."""
    return {name: tensor.clone() for name, tensor in _state(kind).items()}


def averaged(kind: str = "base") -> dict[str, Tensor]:
    """What a file with averaged weights holds beside the others: here, each is larger by one."""
    averages = {"model_ema.decay": torch.tensor(0.9999), "model_ema.num_updates": torch.tensor(3)}
    for name, tensor in modules(kind)["unet"].named_parameters():
        averages[f"model_ema.diffusion_model{name.replace('.', '')}"] = tensor.detach() + 1
    return averages


def write(path: Path, state: dict[str, Tensor]) -> Path:
    torch.save({"state_dict": state, "epoch": 3, "global_step": 7}, path)
    return path


def tokenizers(folder: Path, *, speech: bool = False) -> dict[str, Any]:
    """Folders of the tokenizers, as overrides."""
    parts = components(speech)
    for name in ("tokenizer", "tokenizer_2"):
        parts[name].save_pretrained(folder / name)
    return {name: str(folder / name) for name in ("tokenizer", "tokenizer_2")}


def told(kind: str = "base") -> dict[str, Any]:
    """What no shape of one kind tells."""
    needed = {"unet", "vocoder", "text_encoder"} if kind == "48k" else TOLD.keys()
    return {name: dict(table) for name, table in TOLD.items() if name in needed}
