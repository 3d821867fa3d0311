# SPDX-License-Identifier: Apache-2.0
"""A seeded Conv-TasNet of a few thousand parameters, for tests that need a model with sources of its own."""

from __future__ import annotations

from typing import Any

import torch

from hubsep import ConvTasNetConfig, ConvTasNetForAudioSeparation


def tiny_conv_tasnet(**fields: Any) -> tuple[ConvTasNetForAudioSeparation, dict[str, Any]]:
    """The model, in evaluation mode, and what its forward needs beside the mixture, which is nothing."""
    config = ConvTasNetConfig(
        **{
            "num_filters": 32,
            "pad_edges": True,
            "bottleneck_channels": 16,
            "hidden_channels": 24,
            "skip_channels": 12,
            "num_blocks": 3,
            "num_repeats": 2,
            "segment_samples": 4_096,
            "overlap_samples": 1_024,
            **fields,
        }
    )
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return ConvTasNetForAudioSeparation(config).eval(), {}
