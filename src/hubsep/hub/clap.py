# SPDX-License-Identifier: Apache-2.0
"""Bounds of a CLAP's configuration, which transformers builds modules from as it is.

Fields that this file does not name decide nothing about sizes. The audio tower's maps follow from the size of a
spectrogram; its windows hold a table for each pair of places in them.
"""

from __future__ import annotations

from typing import Any

from ..errors import CheckpointError
from .bounds import bounded, shown
from .fields import Check, Table, choice, flag, items, number, optional, whole


ACTIVATIONS: Check = choice("gelu", "gelu_new", "gelu_pytorch_tanh", "linear", "relu", "selu", "silu", "tanh")
SIZE: Check = whole(1, 16_384)
SHARED: Table = {
    "hidden_size": SIZE,
    "projection_dim": SIZE,
    "hidden_act": ACTIVATIONS,
    "projection_hidden_act": ACTIVATIONS,
    "layer_norm_eps": number(1e-12, 1),
    "attention_probs_dropout_prob": number(0, 0.99),
    "hidden_dropout_prob": number(0, 0.99),
    "num_hidden_layers": whole(1, 128),
    "initializer_factor": number(0, 100),
    "chunk_size_feed_forward": whole(0, 1 << 20),
}
TEXT: Table = {
    **SHARED,
    "vocab_size": whole(1, 1 << 20),
    "num_attention_heads": whole(1, 256),
    "intermediate_size": whole(1, 65_536),
    "max_position_embeddings": whole(4, 8_192),
    "type_vocab_size": whole(1, 64),
    "pad_token_id": optional(whole(0, 1 << 20)),
}
SOUND: Table = {
    **SHARED,
    "window_size": whole(1, 32),
    "num_mel_bins": whole(1, 1_024),
    "spec_size": whole(4, 2_048),
    "patch_size": whole(1, 256),
    "patch_stride": items(whole(1, 256), 2, least=2),
    "patch_embed_input_channels": whole(1, 64),
    "patch_embeds_hidden_size": whole(1, 4_096),
    "depths": items(whole(1, 64), 8, least=1),
    "num_attention_heads": items(whole(1, 256), 8, least=1),
    "num_classes": whole(1, 100_000),
    "mlp_ratio": number(0.1, 64),
    "drop_path_rate": number(0, 0.99),
    "aff_block_r": whole(1, 64),
    "enable_fusion": flag,
    "enable_patch_layer_norm": flag,
    "flatten_patch_embeds": flag,
    "qkv_bias": flag,
}
TOGETHER: Table = {
    "projection_dim": SIZE,
    "projection_hidden_act": ACTIVATIONS,
    "logit_scale_init_value": number(-1e4, 1e4),
    "initializer_factor": number(0, 100),
}
MAX_PATCHES = 1 << 17


def check_clap(config: Any) -> None:
    """Check a CLAP's configuration, as an object of transformers or as what is in its JSON file.

    Raises:
        CheckpointError: naming the field, its value and the limits.
    """
    fields = config if isinstance(config, dict) else config.to_dict()
    _check("query_config" if fields is not config else "clap", fields, TOGETHER)
    parts = {name: fields.get(name) for name in ("text_config", "audio_config")}
    for name, table in (("text_config", TEXT), ("audio_config", SOUND)):
        if parts[name] is not None and not isinstance(parts[name], dict):
            raise CheckpointError(f"{name} must be an object, not {shown(parts[name])}.")
        _check(name, parts[name] or {}, table)
    sound: dict[str, Any] = parts["audio_config"] or {}
    strides = sound.get("patch_stride", [4, 4])
    patches = (sound.get("spec_size", 256) // strides[0] + 1) * (sound.get("spec_size", 256) // strides[1] + 1)
    bounded("audio_config: patches of spec_size and patch_stride", patches, 1, MAX_PATCHES)
    depths, heads = sound.get("depths", [2, 2, 6, 2]), sound.get("num_attention_heads", [4, 8, 16, 32])
    if len(depths) != len(heads):
        raise CheckpointError(f"audio_config: depths are {shown(depths)} and num_attention_heads {shown(heads)}.")


def _check(label: str, content: dict[str, Any], table: Table) -> None:
    for name, check in table.items():
        if name in content:
            check(f"{label}: {name}", list(content[name]) if isinstance(content[name], tuple) else content[name])


__all__ = ["check_clap"]
