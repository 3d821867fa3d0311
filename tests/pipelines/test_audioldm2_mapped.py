# SPDX-License-Identifier: Apache-2.0
"""Weights that stay in their file: the same numbers, in memory only while a block works."""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from hubsep.errors import CheckpointError
from hubsep.hub.tensors import read_header
from hubsep.pipelines.audioldm2.loading import mapped as audioldm2_mapped
from hubsep.pipelines.audioldm2.loading.mapped import Span, converted, mapped, release_after_use


WIDTH, LAYERS = 512, 6
LAYER_KB = WIDTH * WIDTH * 4 // 1024
needs_smaps = pytest.mark.skipif(sys.platform != "linux", reason="what of a file is in memory is read from /proc")


def resident_kb(name: str) -> int:
    """How much of mapped files with this in their path is in memory."""
    total, inside = 0, False
    for line in Path("/proc/self/smaps").read_text().splitlines():
        first = line.split(maxsplit=1)[0]
        if "-" in first and not first.endswith(":"):
            inside = name in line
        elif inside and first == "Rss:":
            total += int(line.split()[1])
    return total


class Tower(nn.Module):
    """Layers one after the other."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleList(nn.Linear(WIDTH, WIDTH, bias=False) for _ in range(LAYERS))

    def forward(self, states: torch.Tensor) -> torch.Tensor:
        for layer in self.layers:
            states = layer(states)
        return states


@pytest.fixture
def stored(tmp_path: Path) -> tuple[Tower, Path]:
    torch.manual_seed(0)
    tower, path = Tower(), tmp_path / "tower-of-layers.safetensors"
    save_file({name: tensor.contiguous() for name, tensor in tower.state_dict().items()}, path)
    return tower, path


def filled(path: Path, read: Any) -> tuple[Tower, dict[int, Span]]:
    """A tower with weights that are mapped, and where they are."""
    tower, spans = Tower(), {}
    for entry, (tensor, span) in zip(read_header(path), read, strict=True):
        layer: Any = tower.get_submodule(entry.name.rpartition(".")[0])
        layer.weight = nn.Parameter(tensor, requires_grad=False)
        spans[id(layer.weight)] = span
    return tower, spans


@needs_smaps
@torch.no_grad()
def test_a_block_lets_go_of_its_weights(stored: tuple[Tower, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    expected_of, path = stored
    monkeypatch.setattr(audioldm2_mapped, "BLOCK_BYTES", LAYER_KB * 1024)
    tower, spans = filled(path, mapped(path, read_header(path)))
    given, seen = torch.randn(2, WIDTH), []
    expected = expected_of(given)
    assert torch.equal(tower(given), expected)
    assert resident_kb(path.name) >= LAYERS * LAYER_KB  # nothing lets go by itself
    next(iter(spans.values())).file.release()
    hooks = release_after_use(tower, spans)
    assert len(hooks) == LAYERS
    for layer in tower.layers:
        layer.register_forward_hook(lambda *_: seen.append(resident_kb(path.name)))  # after it has let go
    for _ in range(2):
        assert torch.equal(tower(given), expected)
    # where layers meet within a page, or the system maps the pages beside one that is touched
    assert max(seen) <= LAYER_KB // 2
    for hook in hooks:
        hook.remove()
    tower(given)
    assert resident_kb(path.name) >= LAYERS * LAYER_KB


@torch.no_grad()
def test_small_models_are_one_block(stored: tuple[Tower, Path]) -> None:
    tower, spans = filled(stored[1], mapped(stored[1], read_header(stored[1])))
    assert len(release_after_use(tower, spans)) == 1
    assert release_after_use(tower, {}) == []


@torch.no_grad()
@pytest.mark.parametrize("kind", [torch.bfloat16, torch.float16, torch.float64])
@pytest.mark.parametrize("piece", [1 << 22, 1_000])
def test_other_precisions(
    stored: tuple[Tower, Path], kind: torch.dtype, piece: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(audioldm2_mapped, "PIECE", piece)
    tower, path = stored
    entries = read_header(path)
    found, spans = filled(path, converted(path, entries, [kind] * len(entries)))
    for name, tensor in tower.state_dict().items():
        assert torch.equal(found.state_dict()[name], tensor.to(kind))
    assert all(span.start % audioldm2_mapped.ALIGNMENT == 0 for span in spans.values())
    span = next(iter(spans.values()))
    span.file.release()
    last, own = f"layers.{LAYERS - 1}.weight", tower.state_dict()
    assert torch.equal(found.state_dict()[last], own[last].to(kind))
    mapped_weight(path, last).zero_()  # a copy of the page, never the file's
    assert torch.equal(mapped_weight(path, last), own[last])


def mapped_weight(path: Path, name: str) -> torch.Tensor:
    entries = [entry for entry in read_header(path) if entry.name == name]
    return next(iter(mapped(path, entries)))[0]


def test_no_room_for_another_precision(
    stored: tuple[Tower, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "gone"))
    entries = read_header(stored[1])
    with pytest.raises(CheckpointError, match="TMPDIR"):
        converted(stored[1], entries, [torch.bfloat16] * len(entries))
