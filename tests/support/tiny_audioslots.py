# SPDX-License-Identifier: Apache-2.0
"""A tiny AudioSlots, for tests that need a model whose sources come in no order."""

from __future__ import annotations

from typing import Any

import torch

from hubsep.models.audioslots.configuration_audioslots import AudioSlotsConfig
from hubsep.models.audioslots.modeling_audioslots import AudioSlotsForAudioSeparation


def tiny_audioslots(**fields: Any) -> tuple[AudioSlotsForAudioSeparation, dict[str, Any]]:
    config = AudioSlotsConfig(
        **{
            "sampling_rate": 8_000,
            "n_fft": 64,
            "hop_length": 16,
            "chunk_samples": 1_024,
            "root_channels": 8,
            "root_kernel": [3, 3],
            "backbone_depths": [1, 1],
            "backbone_channels": [8, 16],
            "backbone_strides": [[1, 1], [2, 2]],
            "norm_groups": 4,
            "hidden_size": 16,
            "num_heads": 2,
            "intermediate_size": 32,
            "encoder_layers": 1,
            "slot_layers": 2,
            "position_frequencies": 4,
            "decoder_hidden_size": 16,
            "decoder_layers": 2,
            "segment_samples": 4_096,
            "overlap_samples": 1_024,
            **fields,
        }
    )
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return AudioSlotsForAudioSeparation(config).eval(), {}
