# SPDX-License-Identifier: Apache-2.0
"""Whoever replaces or hooks a module is heard: no fast path reads weights of modules that somebody has touched."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import accelerate
import pytest
import torch
import transformers
from promises_model import noise
from tiny_audiosep import tiny_audiosep
from tiny_audioslots import tiny_audioslots
from tiny_conv_tasnet import tiny_conv_tasnet
from tiny_meta_tasnet import tiny_meta_tasnet
from tiny_sepformer import tiny_sepformer
from tiny_spleeter import tiny_spleeter
from torch import Tensor, nn

from hubsep.layers import dtype_of, is_autocast, is_plain, may_overwrite, may_read, nothing_is_learnt


TINY: dict[str, Callable[[], Any]] = {
    "audiosep": tiny_audiosep,
    "audioslots": tiny_audioslots,
    "conv_tasnet": tiny_conv_tasnet,
    "causal conv_tasnet": lambda: tiny_conv_tasnet(norm="cgln", causal=True),
    "meta_tasnet": tiny_meta_tasnet,
    "sepformer": tiny_sepformer,
    "spleeter": tiny_spleeter,
}
every_model = pytest.mark.parametrize("name", TINY)


def inputs(model: Any) -> dict[str, Tensor]:
    config = model.config
    given = {"input_values": 0.3 * noise(1, config.num_channels, max(config.minimum_samples, 3_000))}
    if config.is_text_queried:
        given["query_embeds"] = nn.functional.normalize(noise(1, config.condition_size, seed=1), dim=-1)
    return given


@torch.no_grad()
def decibels(name: str, changed: Callable[[Any], Any]) -> float:
    """How far what a changed model makes is from what the same model made before."""
    model = TINY[name]()[0]
    given = inputs(model)
    before = model(**given).sources.double()
    after = changed(model)(**given).sources.double()
    return float(10 * torch.log10(before.square().sum() / (after - before).square().sum().clamp_min(1e-30)))


class Rectified(nn.Module):
    """Stands in a layer's place, and has none of its attributes."""

    def __init__(self, layer: nn.Module):
        super().__init__()
        self.layer = layer

    def forward(self, x: Tensor) -> Tensor:
        result: Tensor = self.layer(x)
        return result.abs()


@every_model
@torch.no_grad()
def test_every_module_that_is_hooked_is_called(name: str):
    model = TINY[name]()[0]
    kinds = (nn.Linear, nn.Conv2d, nn.PReLU, nn.LayerNorm, nn.BatchNorm2d)
    layers = {n: m for n, m in model.named_modules() if isinstance(m, kinds) and "query_encoder" not in n}
    called: set[str] = set()
    for layer, module in layers.items():
        module.register_forward_hook(lambda *_, layer=layer: called.add(layer))
    model(**inputs(model))
    # stages before the last make no waveforms: nobody reads them
    assert {layer for layer in layers if not layer.startswith("stages.0.decoder")} <= called


@every_model
@torch.no_grad()
def test_what_a_hook_keeps_is_not_overwritten(name: str):
    model = TINY[name]()[0]
    kept: list[tuple[Tensor, Tensor]] = []

    def keep(module: nn.Module, arguments: Any, output: Any) -> None:
        if isinstance(output, Tensor):
            kept.append((output, output.clone()))

    for child in model.modules():
        if child is not model and not isinstance(child, nn.ParameterList | nn.ParameterDict):
            child.register_forward_hook(keep)
    model(**inputs(model))
    assert kept
    assert all(torch.equal(held, copy) for held, copy in kept)


@every_model
@pytest.mark.parametrize("kind", [nn.Linear, nn.Conv2d, nn.PReLU])
def test_what_stands_in_the_place_of_a_layer_is_called(name: str, kind: type):
    def replaced(model: Any) -> Any:
        for module in list(model.modules()):
            for label, child in list(module.named_children()):
                if type(child) is kind:
                    setattr(module, label, Rectified(child))  # type: ignore[arg-type]
        return model

    has = any(type(module) is kind for module in TINY[name]()[0].modules())
    assert (decibels(name, replaced) < 60) == has


@every_model
def test_offloaded_weights_are_fetched(name: str):
    assert decibels(name, lambda model: accelerate.cpu_offload(model, execution_device="cpu")) > 110


@every_model
def test_linear_layers_of_integers(name: str):
    def quantised(model: Any) -> Any:
        return torch.ao.quantization.quantize_dynamic(model, {nn.Linear}, dtype=torch.qint8)

    assert decibels(name, quantised) > 15  # measured: 23 and more


class Sources(nn.Module):
    """A model from tensors to a tensor, as a trace wants it."""

    def __init__(self, model: Any, names: list[str]):
        super().__init__()
        self.model, self.names = model, names

    def forward(self, *given: Tensor) -> Tensor:
        sources: Tensor = self.model(**dict(zip(self.names, given, strict=True))).sources
        return sources


@pytest.mark.slow
@every_model
@pytest.mark.filterwarnings("ignore::torch.jit.TracerWarning", "ignore:.*torch.jit.*:DeprecationWarning")
def test_a_trace_makes_the_same_each_time(name: str):
    def traced(model: Any) -> Any:
        given = inputs(model)
        trace = torch.jit.trace(Sources(model, list(given)), tuple(given.values()), check_trace=False)
        trace(*given.values())
        return lambda **given: SimpleNamespace(sources=trace(*given.values()))

    assert decibels(name, traced) > 100


@every_model
@torch.no_grad()
def test_float64(name: str):
    model = TINY[name]()[0]
    given = inputs(model)
    before = model(**given).sources
    wide = model.double()(**{label: tensor.double() for label, tensor in given.items()}).sources
    torch.testing.assert_close(wide.float(), before, atol=1e-5, rtol=0)


def test_nothing_is_learnt():
    layer = nn.Linear(3, 4)
    assert not nothing_is_learnt()
    with torch.no_grad():
        assert nothing_is_learnt()
        assert may_overwrite()
        assert not nothing_is_learnt(layer)
        assert not may_overwrite(layer)
        assert nothing_is_learnt(layer.eval())
        assert not is_autocast()
        with torch.autocast("cpu", dtype=torch.bfloat16):
            assert is_autocast()


def test_what_may_be_read():
    layer = nn.Linear(3, 4)
    assert is_plain(layer, nn.Linear)
    assert not is_plain(layer, nn.PReLU)
    assert not is_plain(Rectified(layer), nn.Linear)
    assert dtype_of(Rectified(nn.Linear(3, 4).bfloat16())) == torch.bfloat16
    both = nn.Sequential(layer, nn.PReLU()).eval()
    assert not may_read(both)  # something may be learnt
    with torch.no_grad():
        assert may_read(both)
        assert not may_read(both, {"1": (nn.Identity,)})
        handle = layer.register_forward_pre_hook(lambda *_: None)
        assert not may_read(both)
        handle.remove()
        assert not may_read(both.double())
        assert not may_read(nn.Sequential(nn.Linear(3, 4), nn.Linear(4, 3).bfloat16()).eval())


@every_model
def test_weights_of_torchao(name: str):
    """Its tensors are parameters that are no plain tensors; embeddings are left out, as it does by default."""
    torchao = pytest.importorskip("torchao.quantization")

    def quantised(model: Any) -> Any:
        torchao.quantize_(model, torchao.Int8WeightOnlyConfig())
        return model

    assert decibels(name, quantised) > 15


@every_model
def test_a_model_is_opened_with_weights_of_torchao(name: str, tmp_path: Path):
    torchao = pytest.importorskip("torchao.quantization")
    model = TINY[name]()[0]
    model.save_pretrained(tmp_path)
    settings = transformers.TorchAoConfig(torchao.Int8WeightOnlyConfig())
    opened = type(model).from_pretrained(tmp_path, quantization_config=settings)
    has_linear = any(type(module) is nn.Linear for module in model.modules())
    assert any(type(parameter.data) is not Tensor for parameter in opened.parameters()) == has_linear
    given = inputs(model)
    with torch.no_grad():
        before, after = model(**given).sources, opened(**given).sources
    noise = (after - before).square().sum()
    assert 10 * torch.log10(before.square().sum() / noise) > 15
