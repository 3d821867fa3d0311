# SPDX-License-Identifier: Apache-2.0
"""A seeded SepFormer of a few thousand parameters, for tests that need a model that separates speakers."""

from __future__ import annotations

from typing import Any

import torch

from hubsep.models.sepformer.configuration_sepformer import SepFormerConfig
from hubsep.models.sepformer.modeling_sepformer import SepFormerForAudioSeparation


def tiny_sepformer(**fields: Any) -> tuple[SepFormerForAudioSeparation, dict[str, Any]]:
    config = SepFormerConfig(
        **{
            "encoder_channels": 16,
            "hidden_size": 16,
            "num_blocks": 2,
            "num_intra_layers": 1,
            "num_inter_layers": 1,
            "num_attention_heads": 2,
            "intermediate_size": 24,
            "chunk_size": 20,
            "segment_samples": 4_096,
            "overlap_samples": 1_024,
            **fields,
        }
    )
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return SepFormerForAudioSeparation(config).eval(), {}
