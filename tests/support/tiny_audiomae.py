# SPDX-License-Identifier: Apache-2.0
"""Seeded AudioMAEs of a few thousand parameters, with either decoder, and spectrograms for them."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from hubsep.models.audiomae.configuration_audiomae import AudioMAEConfig
from hubsep.models.audiomae.modeling_audiomae import AudioMAEForPreTraining, AudioMAEModel


FRAMES, BINS, PATCH = 96, 64, 8  # 12 x 8 patches: three windows in time


def tiny_config(**fields: Any) -> AudioMAEConfig:
    return AudioMAEConfig(
        **{
            "num_frames": FRAMES,
            "num_mel_bins": BINS,
            "patch_size": PATCH,
            "hidden_size": 16,
            "num_hidden_layers": 3,
            "num_attention_heads": 2,
            "intermediate_size": 24,
            "num_averaged_layers": 2,
            "decoder_hidden_size": 12,
            "decoder_num_layers": 2,
            "decoder_num_attention_heads": 3,
            "decoder_intermediate_size": 20,
            "decoder_bias_hidden_size": 8,
            **fields,
        }
    )


def tiny_audiomae(**fields: Any) -> AudioMAEModel:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return AudioMAEModel(tiny_config(**fields)).eval()


def tiny_pretraining(**fields: Any) -> AudioMAEForPreTraining:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return AudioMAEForPreTraining(tiny_config(**fields)).eval()


def spectrograms(batch: int = 2, frames: int = FRAMES, bins: int = BINS) -> Tensor:
    return torch.randn(batch, 1, frames, bins, generator=torch.Generator().manual_seed(1))
