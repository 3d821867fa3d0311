# SPDX-License-Identifier: Apache-2.0
"""oneDNN's private operators: the same numbers as torch's own, and torch's own where they are not what is expected."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from rounding import assert_same
from tiny_audioldm2 import tiny_components
from tiny_meta_tasnet import tiny_meta_tasnet

from hubsep import AudioLDM2Pipeline, onednn


ROOT = Path(__file__).resolve().parents[2]
OPERATORS = ("_linear_pointwise", "_convolution_pointwise", "_reorder_linear_weight", "_reorder_convolution_weight")


@pytest.fixture(autouse=True)
def _tried_anew() -> Iterator[None]:
    onednn._is_right.cache_clear()
    yield
    onednn._is_right.cache_clear()


class Wrong:
    """An operator that takes what it is called with, and computes something else."""

    def __init__(self, operator: Any):
        self._operator = operator

    def __getattr__(self, overload: str) -> Any:
        return lambda *arguments: self._operator.__getattr__(overload)(*arguments) + 1


class Missing:
    """An operator that is not there."""

    def __getattr__(self, overload: str) -> Any:
        raise AttributeError(f"'_OpNamespace' 'mkldnn' object has no attribute {overload!r}")


class Changed:
    """An operator that takes something else."""

    def __getattr__(self, overload: str) -> Any:
        def refused(*arguments: Any) -> Any:
            raise RuntimeError(f"mkldnn::{overload}() expected at most 2 arguments but received {len(arguments)}")

        return refused


def broken(name: str, kind: str) -> Any:
    return (
        {"missing": Missing, "changed": Changed}[kind]() if kind != "wrong" else Wrong(getattr(torch.ops.mkldnn, name))
    )


def test_it_is_not_there_for_other_dtypes_or_where_it_is_switched_off(monkeypatch: pytest.MonkeyPatch) -> None:
    assert not onednn.available(torch.float64)
    monkeypatch.setattr(torch.backends.mkldnn, "enabled", False)
    assert not onednn.available(torch.float32)
    assert onednn._is_right.cache_info().currsize == 1  # float64: nothing is tried where it is switched off


@pytest.mark.skipif(not onednn.available(torch.float32), reason="this build of PyTorch has no oneDNN")
@pytest.mark.parametrize("kind", ["missing", "changed", "wrong"])
@pytest.mark.parametrize("name", OPERATORS)
def test_an_operator_that_is_not_as_expected_is_left_alone(
    name: str, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    if kind == "wrong" and "reorder" in name:
        pytest.skip("what a laid out weight holds cannot be added to")
    monkeypatch.setattr(torch.ops.mkldnn, name, broken(name, kind))
    assert not onednn.available(torch.float32)


@torch.no_grad()
@pytest.mark.parametrize("kind", ["missing", "changed"])
def test_models_make_the_same_without_the_operators(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """What separates, in float32, and what generates, in bfloat16, whose own rounding is 2^-8."""
    mixture = torch.randn(1, 1, 6_000, generator=torch.Generator().manual_seed(0))
    parts = tiny_components()
    halves = AudioLDM2Pipeline(
        **{name: getattr(part, "bfloat16", lambda part=part: part)() for name, part in parts.items()}
    )
    halves.set_progress_bar_config(disable=True)

    def results() -> tuple[torch.Tensor, torch.Tensor]:
        noise = torch.randn(1, 4, 32, 4, generator=torch.Generator().manual_seed(0))
        latents = halves("rain", latents=noise, num_inference_steps=1, output_type="latent").audios
        return tiny_meta_tasnet()[0](mixture).sources, torch.as_tensor(latents)

    expected = results()
    for name in OPERATORS:
        monkeypatch.setattr(torch.ops.mkldnn, name, broken(name, kind))
    onednn._is_right.cache_clear()
    sources, latents = results()
    assert_same(sources, expected[0], terms=16 * 9, layers=40)
    assert (latents - expected[1]).norm() < 0.05 * expected[1].norm()


@torch.no_grad()
@pytest.mark.parametrize("enabled", [True, False])
@pytest.mark.parametrize("laid_out", [True, False])
def test_products_and_convolutions(enabled: bool, laid_out: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.backends.mkldnn, "enabled", enabled)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        states, weight, bias, other = torch.randn(5, 24), torch.randn(16, 24), torch.randn(16), torch.randn(5, 16)
        layer = torch.nn.Conv1d(8, 12, 3, padding=5, dilation=5)
        maps = torch.randn(2, 8, 1, 40).contiguous(memory_format=torch.channels_last)
        plus = torch.randn(2, 12, 1, 40).contiguous(memory_format=torch.channels_last)
    product, exact = onednn.product(weight, bias, rows=5 if laid_out else None), F.linear(states, weight, bias)
    assert_same(product(states), exact, terms=24)
    assert_same(product(states, plus=other), exact + other, terms=24)
    assert_same(
        product(states, times=other), exact * other, terms=24, peak=float(exact.abs().max() * other.abs().max())
    )
    assert_same(product(states, gelu=True), F.gelu(exact), terms=24, layers=4, peak=float(exact.abs().max()))
    assert_same(product(states, slope=0.1), F.leaky_relu(exact, 0.1), terms=24, peak=float(exact.abs().max()))
    expected = layer(maps[:, :, 0])
    assert_same(onednn.along(layer, maps)[:, :, 0], expected, terms=24)
    assert_same(onednn.along(layer, maps, plus=plus)[:, :, 0], expected + plus[:, :, 0], terms=24)
    peak = float(expected.abs().max())
    assert_same(onednn.along(layer, maps, slope=0.1)[:, :, 0], F.leaky_relu(expected, 0.1), terms=24, peak=peak)


def test_private_operators_are_called_in_one_place() -> None:
    sources = [
        path
        for folder in ("src/hubsep", "pipelines", "conversion", "benchmarks")
        for path in (ROOT / folder).rglob("*.py")
    ]
    callers = {
        path.name
        for path in sources
        if re.search(r"torch\.ops\.(?!load)|torch\._C\._VariableFunctions", path.read_text("utf-8"))
    }
    assert callers == {"onednn.py"}
