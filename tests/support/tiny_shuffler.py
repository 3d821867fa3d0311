# SPDX-License-Identifier: Apache-2.0
"""A model whose sources come in any order and at any level, which hang on the samples of a segment."""

from __future__ import annotations

from typing import Any

import torch
import transformers
from torch import Tensor, nn
from transformers import PreTrainedConfig, PreTrainedModel
from transformers import initialization as init

from hubsep import AutoModelForAudioSeparation
from hubsep.hub import HubsepConfigMixin, HubsepModelMixin
from hubsep.modeling import AudioSeparationOutput
from hubsep.pipelines import AudioSeparationPipeline


RATE = 8_000


class ShufflerConfig(HubsepConfigMixin, PreTrainedConfig):
    """A low and a high voice, told apart by a filter, and a third output that nobody uses."""

    model_type = "tiny_shuffler"
    sampling_rate: int = RATE
    num_channels: int = 1
    taps: int = 101
    segment_samples: int = 24_000
    overlap_samples: int = 6_000
    minimum_samples: int = 16
    leak: float = 1e-3
    sort: bool = False

    is_text_queried = False
    unordered_sources = True
    free_scale = True
    known_sounds = ()
    source_names = ("speaker 1", "speaker 2", "speaker 3")


class ShufflerForAudioSeparation(HubsepModelMixin, PreTrainedModel):
    """Puts the voices out in an order and at a scale that hang on the samples of the segment, unless it is to sort."""

    config_class = ShufflerConfig
    main_input_name = "input_values"
    input_modalities: Any = ("audio",)

    def __init__(self, config: ShufflerConfig):
        super().__init__(config)
        self.low = nn.Conv1d(1, 1, config.taps, padding="same", bias=False)
        self.post_init()

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        if isinstance(module, nn.Conv1d):
            init.constant_(module.weight, 0.0)
            steps = torch.arange(self.config.taps) - self.config.taps // 2
            cutoff = 800 / RATE
            init.copy_(
                module.weight,
                (2 * cutoff * torch.sinc(2 * cutoff * steps) * torch.hann_window(len(steps)))[None, None],
            )

    def forward(self, input_values: Tensor, labels: Tensor | None = None) -> AudioSeparationOutput:
        rows = input_values.to(self.low.weight.dtype)
        low = self.low(rows)
        sources = torch.stack([low, rows - low, self.config.leak * rows], dim=1)
        if not self.config.sort:
            keys = (rows.float().abs().sum(dim=(1, 2)) * 1e4).long() % 6
            orders = torch.tensor([[0, 1, 2], [1, 0, 2], [2, 1, 0], [0, 2, 1], [1, 2, 0], [2, 0, 1]])[keys]
            sources = torch.stack(
                [one[order] * 10.0 ** (float(key) - 2) for one, order, key in zip(sources, orders, keys, strict=True)]
            )
        return AudioSeparationOutput(sources=sources)


transformers.AutoConfig.register(ShufflerConfig.model_type, ShufflerConfig)


AutoModelForAudioSeparation.register(ShufflerConfig, ShufflerForAudioSeparation)


def shuffler(**fields: Any) -> AudioSeparationPipeline:
    model = ShufflerForAudioSeparation(ShufflerConfig(**fields)).eval()
    return AudioSeparationPipeline(model=model, device="cpu", check_voices=False)  # its voices are hums
