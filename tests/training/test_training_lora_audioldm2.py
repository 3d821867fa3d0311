# SPDX-License-Identifier: Apache-2.0
"""Adapters of AudioLDM 2 learn the same whether activations are kept or computed again."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from tiny_audioldm2 import LOA_SIZE, TEXT_SIZE, tiny_components

from hubsep.training.generators.diffusion import diffusion_loss, make_scheduler
from hubsep.training.generators.lora import LoraRecipe, add_adapters


def gradients(recompute: bool) -> tuple[dict[str, torch.Tensor], int]:
    """Of the adapters, and how often a block ran."""
    torch.manual_seed(0)
    adapted: Any = add_adapters(tiny_components()["unet"], LoraRecipe(rank=2, gradient_checkpointing=recompute))
    for name, weight in adapted.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(weight)
    calls: list[int] = []
    block = adapted.base_model.model.down_blocks[1].attentions[0].transformer_blocks[0]
    block.register_forward_pre_hook(lambda *_: calls.append(1))
    mask = torch.ones(2, 5)
    mask[1, 3:] = 0  # captions of different length
    told = torch.randn(2, 8, LOA_SIZE), torch.randn(2, 5, TEXT_SIZE), mask
    diffusion_loss(adapted, make_scheduler({}), torch.randn(2, 4, 32, 4), *told).backward()
    return {name: weight.grad for name, weight in adapted.named_parameters() if weight.grad is not None}, len(calls)


@pytest.mark.slow
def test_gradients_of_what_is_computed_again() -> None:
    pytest.importorskip("peft")
    (kept, once), (again, twice) = gradients(recompute=False), gradients(recompute=True)
    assert (once, twice) == (1, 2)
    assert kept.keys() == again.keys()
    assert any(gradient.abs().max() > 0 for gradient in kept.values())
    assert all(torch.equal(kept[name], again[name]) for name in kept)
