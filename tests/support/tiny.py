# SPDX-License-Identifier: Apache-2.0
"""One tiny model with everything the loading and saving code can meet: small enough to load in milliseconds."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedConfig, PreTrainedModel
from transformers import initialization as init

from hubsep.hub import HubsepConfigMixin, HubsepModelMixin
from hubsep.hub.checks import bounded


class TinyConfig(HubsepConfigMixin, PreTrainedConfig):
    """Configuration of `TinyModel`."""

    model_type = "hubsep_tiny"

    hidden_size: int = 8
    num_layers: int = 2
    num_sources: int = 2
    sampling_rate: int = 8_000

    def check_fields(self) -> None:
        bounded("hidden_size", self.hidden_size, 1, 4_096)
        bounded("num_layers", self.num_layers, 1, 64)
        bounded("num_sources", self.num_sources, 1, 16)
        bounded("sampling_rate", self.sampling_rate, 1_000, 768_000)

    def estimated_parameters(self) -> int:
        return self.num_layers * self.hidden_size**2


class TinyModel(HubsepModelMixin, PreTrainedModel):
    """A few linear layers, a bare parameter, and a buffer of whole numbers that is stored with the weights."""

    config_class = TinyConfig
    steps: Tensor
    base_model_prefix = ""
    main_input_name = "input_values"
    _no_split_modules = ["Linear"]

    def __init__(self, config: TinyConfig):
        super().__init__(config)
        self.layers = nn.ModuleList(
            nn.Linear(config.hidden_size, config.hidden_size) for _ in range(config.num_layers)
        )
        self.gains = nn.Parameter(torch.ones(config.num_sources))
        self.register_buffer("steps", torch.zeros(3, dtype=torch.int64))
        self.post_init()

    def forward(self, input_values: Tensor) -> Tensor:
        """Waveform (batch, channels, samples) to sources (batch, num_sources, channels, samples)."""
        hidden = input_values.unflatten(-1, (-1, self.config.hidden_size))
        for layer in self.layers:
            hidden = layer(hidden)
        return hidden.flatten(-2)[:, None] * self.gains[:, None, None]

    def _init_weights(self, module: nn.Module) -> None:
        super()._init_weights(module)
        if isinstance(module, TinyModel):
            init.ones_(module.gains)
            init.zeros_(module.steps)


def tiny_model(value: float | None = None, **fields: Any) -> TinyModel:
    """A model with seeded weights, or with every weight equal to `value` so that a mixture of two saves shows."""
    torch.manual_seed(0)
    model = TinyModel(TinyConfig(**fields)).eval()
    if value is not None:
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.fill_(value)
    return model


def saved_tiny(folder: Path, **fields: Any) -> Path:
    """Save a seeded tiny model to `folder` and return that folder."""
    tiny_model(**fields).save_pretrained(folder)
    return folder


def recompute(model: PreTrainedModel) -> None:
    """Has activations computed again in the backward pass, by the name this release of transformers has for it."""
    if hasattr(model, "activation_checkpointing_enable"):
        model.activation_checkpointing_enable()
    else:  # before 5.23; the old name warns in later ones
        model.gradient_checkpointing_enable()


def hub_cache(root: Path, folder: Path, *, shared: bool = False) -> Path:
    """Lay out a folder as the Hub's cache does, and return the snapshot."""
    repository = root / "models--someone--model"
    snapshot = repository / "snapshots" / ("0" * 40)
    snapshot.mkdir(parents=True)
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text("0" * 40)
    blobs, store = repository / "blobs", root / "blobs" / "ab"
    blobs.mkdir()
    store.mkdir(parents=True)
    for number, path in enumerate(sorted(folder.iterdir())):
        shutil.copy(path, (store if shared else blobs) / f"{number}")
        if shared:
            os.symlink(f"../../blobs/ab/{number}", blobs / f"{number}")
        os.symlink(f"../../blobs/{number}", snapshot / path.name)
    return snapshot
