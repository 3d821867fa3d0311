# SPDX-License-Identifier: Apache-2.0
"""Bounds of every number in the configurations of AudioLDM 2's components, checked before a component is built.

The classes are those of diffusers and transformers, which check little: a scheduler makes a table of as many steps as
it is told, a vocoder's stride costs no weight but a thousand times the samples. A name means the same in every class,
so one table serves all; numbers that it does not know are bounded too. The published folders are far inside: at most
1,280 channels, 24 layers, 1,000 steps. Sizes that weights have are compared with the stored ones besides, see
`hubsep.hub.budget`.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from hubsep.errors import CheckpointError
from hubsep.hub.bounds import bounded, bounded_list, one_of, shown
from hubsep.hub.json_files import check_code_keys, read_json, walk


CONFIGS = ("config.json", "scheduler_config.json")
MAX_NUMBER, MAX_ENTRIES, MAX_TEXT, MAX_HOP = 1 << 20, 4_096, 4_096, 4_096
MAX_LEVELS = 64  # entries of a list of sizes
TABLE = "trained_betas"  # the one long list: as many entries as training had steps
# range: the fields that are whole numbers in it, or lists of such, or null
WHOLE: dict[tuple[int, int], str] = {
    (1, 64): """
        layers_per_block transformer_layers_per_block n_layer num_layers num_decoder_layers num_hidden_layers depths
        num_blocks num_repeats prior_encoder_num_flows duration_predictor_num_flows depth_separable_num_layers
        depth_separable_channels posterior_encoder_num_wavenet_layers prior_encoder_num_wavenet_layers
        aff_block_r patch_embed_input_channels type_vocab_size resblock_dilation_sizes
        wavenet_dilation_rate duration_predictor_flow_bins conv_in_kernel conv_out_kernel resblock_kernel_sizes
        ffn_kernel_size wavenet_kernel_size duration_predictor_kernel_size""",
    (0, 32): "window_size downsample_padding",
    (1, 16): "solver_order",
    (1, 256): "upsample_kernel_sizes patch_size patch_stride",
    (1, 1_024): """
        attention_head_dim num_attention_heads num_heads n_head d_kv in_channels out_channels latent_channels
        norm_num_groups num_mel_bins model_in_dim spec_size relative_attention_num_buckets""",
    (1, 4_096): "n_positions max_new_tokens upsample_rates",
    (1, 8_192): """
        block_out_channels cross_attention_dim hidden_size d_model n_embd projection_dim
        text_encoder_dim text_encoder_1_dim langauge_model_dim max_seq_length patch_embeds_hidden_size
        upsample_initial_channel flow_size spectrogram_bins duration_predictor_filter_channels
        max_position_embeddings""",
    (0, 8_192): "speaker_embedding_size",
    (1, 65_536): """
        sample_size time_embedding_dim num_class_embeds projection_class_embeddings_input_dim
        intermediate_size d_ff ffn_dim n_inner num_classes relative_attention_max_distance""",
    (1, 100_000): "num_train_timesteps original_inference_steps",
    (0, 100_000): "steps_offset num_speakers",
    (1_000, 768_000): "sampling_rate",
    (1, MAX_NUMBER): "vocab_size",
}
# range: the fields that are numbers in it
FRACTIONS: dict[tuple[float, float], str] = {
    (0, 0.999): "beta_start beta_end trained_betas",
    (0, 1): """
        norm_eps layer_norm_eps layer_norm_epsilon leaky_relu_slope dropout dropout_rate attention_dropout
        hidden_dropout hidden_dropout_prob attention_probs_dropout_prob activation_dropout layerdrop embd_pdrop
        attn_pdrop resid_pdrop drop_path_rate classifier_dropout dynamic_thresholding_ratio""",
    (1e-6, 1e6): "scaling_factor speaking_rate",
    (-1e3, 1e3): """
        shift_factor freq_shift mid_block_scale_factor logit_scale_init_value noise_scale noise_scale_duration
        initializer_factor initializer_range duration_predictor_tail_bound""",
    (0, 256): "mlp_ratio",
    (0, 1e6): "sample_max_value sigma_min sigma_max",
}
BOUNDS: dict[str, tuple[float, float, type]] = {
    **{name: (*limits, int) for limits, names in WHOLE.items() for name in names.split()},
    **{name: (*limits, float) for limits, names in FRACTIONS.items() for name in names.split()},
}
CHOICES = {
    "timestep_spacing": ("leading", "linspace", "trailing"),
    "prediction_type": ("epsilon", "sample", "v_prediction", "flow_prediction"),
}


def check_component(folder: Path) -> None:
    """Checks the numbers of a component's configuration.

    Raises:
        CheckpointError: naming the component, the field, its value and the limits.
    """
    for name in CONFIGS:
        if (folder / name).is_file():
            label = f"{shown(folder.name)}: {name}"
            content = read_json(folder / name, name=label)
            check_code_keys(content, label)
            _check_numbers(label, content)
            _check_products(label, content.get("upsample_rates"))


def _check_numbers(label: str, content: dict[str, Any]) -> None:
    for _, key, value in walk(content):
        name = f"{label}: {shown(key)}"
        if isinstance(value, dict) or value is None:
            continue
        if isinstance(value, list):
            most = MAX_NUMBER if key == TABLE else MAX_LEVELS if key in BOUNDS else MAX_ENTRIES
            if len(value) > most:
                raise CheckpointError(f"{name} has {len(value)} entries; at most {most} are accepted.")
        elif key in BOUNDS:
            low, high, kind = BOUNDS[key]
            bounded(name, value, low, high, kind=kind)
        elif key in CHOICES:
            one_of(name, value, CHOICES[key])
        elif isinstance(value, str):
            if len(value) > MAX_TEXT:
                raise CheckpointError(f"{name} has {len(value)} characters; at most {MAX_TEXT} are accepted.")
        elif not isinstance(value, bool):
            limit = MAX_NUMBER if isinstance(value, int) else 1e9
            bounded(name, value, -limit, limit, kind=float)


def _check_products(label: str, rates: Any) -> None:
    """A frame of a vocoder has as many samples as its rates multiply to."""
    if rates is not None:
        bounded_list(f"{label}: upsample_rates", rates, 1, MAX_HOP, max_items=8)
        bounded(f"{label}: the product of upsample_rates", math.prod(rates), 1, MAX_HOP)


def stored(headers: Iterable[Iterable[Any]]) -> tuple[int, int]:
    """How many tensors, and numbers in them, some files with weights hold; `headers` are `read_header`'s."""
    sizes = [tensor.elements for header in headers for tensor in header]
    return len(sizes), sum(sizes)


__all__ = ["BOUNDS", "check_component", "stored"]
