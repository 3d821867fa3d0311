# SPDX-License-Identifier: Apache-2.0
"""Bounds of a CLAP's configuration, which transformers builds modules from as it is.

Fields that this file does not name decide nothing about sizes. The audio tower's maps follow from the size of a
spectrogram; its windows hold a table for each pair of places in them.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ..errors import CheckpointError
from .bounds import bounded, shown
from .fields import Check, Table, choice, flag, items, number, optional, whole


if TYPE_CHECKING:
    from transformers import ClapFeatureExtractor


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
    "logit_scale_init_value": number(1e-4, 1e4),  # its logarithm is taken
    "initializer_factor": number(0, 100),
}
MAX_PATCHES = 1 << 17


def check_clap(label: str, fields: dict[str, Any]) -> None:
    """Check a CLAP's configuration, as it is in its JSON file or as `to_dict` gives it.

    Args:
        label: what an error calls the configuration.
        fields: of it.

    Raises:
        CheckpointError: naming the field, its value and the limits.
    """
    _check(label, fields, TOGETHER)
    parts = {name: fields.get(name) for name in ("text_config", "audio_config")}
    for name, table in (("text_config", TEXT), ("audio_config", SOUND)):
        if parts[name] is not None and not isinstance(parts[name], dict):
            raise CheckpointError(f"{label}: {name} must be an object, not {shown(parts[name])}.")
        _check(f"{label}: {name}", parts[name] or {}, table)
    sound: dict[str, Any] = parts["audio_config"] or {}
    strides = sound.get("patch_stride", [4, 4])
    patches = (sound.get("spec_size", 256) // strides[0] + 1) * (sound.get("spec_size", 256) // strides[1] + 1)
    bounded(f"{label}: audio_config: patches of spec_size and patch_stride", patches, 1, MAX_PATCHES)
    depths, heads = sound.get("depths", [2, 2, 6, 2]), sound.get("num_attention_heads", [4, 8, 16, 32])
    if len(depths) != len(heads):
        raise CheckpointError(
            f"{label}: audio_config: depths are {shown(depths)} and num_attention_heads {shown(heads)}; there must be "
            "as many of the one as of the other."
        )


def check_sounds(extractor: ClapFeatureExtractor, tower: dict[str, Any]) -> None:
    """Check that the spectrograms of a feature extractor are those that an audio tower takes.

    Args:
        extractor: makes the spectrograms.
        tower: the fields of the tower's configuration, `audio_config`.

    Raises:
        CheckpointError: naming the extractor's field, its value and what the tower takes.
    """
    mels, size, fusing = tower.get("num_mel_bins", 64), tower.get("spec_size", 256), tower.get("enable_fusion", False)
    frames, place = extractor.nb_max_samples // extractor.hop_length, size * (size // mels)
    for name, value, wanted, fits in (
        ("feature_size", extractor.feature_size, f"its {mels} mel bins", extractor.feature_size == mels),
        ("truncation", extractor.truncation, "rand_trunc", extractor.truncation != "fusion" or fusing),
        ("frames of max_length_s", frames, f"at most {place}", frames <= place),
    ):
        if not fits:
            raise CheckpointError(f"the feature extractor: {name} is {value}; the audio tower takes {wanted}.")


def _check(label: str, content: dict[str, Any], table: Table) -> None:
    for name, check in table.items():
        if name in content:
            check(f"{label}: {name}", list(content[name]) if isinstance(content[name], tuple) else content[name])


__all__ = ["check_clap", "check_sounds"]
