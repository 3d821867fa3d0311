# SPDX-License-Identifier: Apache-2.0
"""A seeded Spleeter of some ten thousand parameters, for tests that need a stereo model with named sources."""

from __future__ import annotations

from typing import Any

import torch

from hubsep import SpleeterConfig, SpleeterForAudioSeparation


TINY: dict[str, Any] = {
    "n_fft": 512,
    "segment_frames": 64,
    "num_bins": 128,
    "segment_samples": 7_680,
    "overlap_samples": 1_024,
}


def tiny_spleeter(**fields: Any) -> tuple[SpleeterForAudioSeparation, dict[str, Any]]:
    """The model, in evaluation mode, and what its forward needs beside the mixture, which is nothing."""
    config = SpleeterConfig(**{**TINY, "conv_channels": [4, 6, 8, 10, 12, 14], **fields})
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = SpleeterForAudioSeparation(config).eval()
        for name, tensor in model.state_dict().items():  # norms and biases as after some training
            if "norm" in name or name.endswith("bias"):
                tensor.add_(torch.rand_like(tensor) * 0.3)
    return model, {}
