# SPDX-License-Identifier: Apache-2.0
"""What every conversion does with the tensors it has read: it needs the memory of its source once."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import nn

from hubsep.conversion.common import fill, hold, read_tensors


def places(model: nn.Module) -> list[int]:
    return [tensor.data_ptr() for tensor in model.state_dict().values()]


def test_only_tensors_that_share_memory_are_copied(tmp_path: Path) -> None:
    one = torch.rand(8, 8)
    torch.save({"one": one, "again": one, "pair": torch.rand(16), "turned": torch.rand(8, 8)}, tmp_path / "x.pth")
    tensors = read_tensors(tmp_path / "x.pth")
    state = {
        "0.weight": tensors["one"], "0.bias": tensors["pair"][:8], "1.weight": tensors["again"],
        "1.bias": tensors["pair"][8:], "2.weight": tensors["turned"].T, "2.bias": torch.rand(8, dtype=torch.float64),
    }  # fmt: skip
    with torch.device("meta"):
        model = nn.Sequential(*(nn.Linear(8, 8) for _ in range(3)))
    fill(model, state)
    for name, tensor in model.state_dict().items():
        assert torch.equal(tensor, state[name].to(torch.float32))
        assert tensor.is_contiguous()
    assert len(set(places(model))) == 6, "saving would take them for tied weights"
    assert places(model)[0] == tensors["one"].data_ptr(), "a whole tensor is not copied"
    before = places(model)
    hold(model)
    assert not set(before) & set(places(model))
