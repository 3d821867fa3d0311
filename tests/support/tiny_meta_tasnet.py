# SPDX-License-Identifier: Apache-2.0
"""A seeded Meta-TasNet of a few thousand parameters, for tests that need a model with instruments of its own."""

from __future__ import annotations

from typing import Any

import torch

from hubsep import MetaTasNetConfig, MetaTasNetForAudioSeparation


def tiny_meta_tasnet(**fields: Any) -> tuple[MetaTasNetForAudioSeparation, dict[str, Any]]:
    """The model, in evaluation mode, and what its forward needs beside the mixture, which is nothing."""
    config = MetaTasNetConfig(
        **{
            "instruments": ("drums", "bass", "vocals"),
            "num_stages": 2,
            "sampling_rate": 16_000,
            "num_filters": 16,
            "n_fft": 128,
            "hop_length": 32,
            "num_mels": 8,
            "bottleneck_channels": 16,
            "hidden_channels": 24,
            "num_blocks": 2,
            "num_repeats": 2,
            "embedding_size": 4,
            "generator_size": 3,
            "segment_samples": 4_096,
            "overlap_samples": 1_024,
            **fields,
        }
    )
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return MetaTasNetForAudioSeparation(config).eval(), {}
